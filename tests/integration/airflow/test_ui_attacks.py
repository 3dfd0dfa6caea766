"""What users with few rights, forged XComs and odd addresses do not get from the pages."""

from __future__ import annotations

import logging

import pytest
from ui_stage import words

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 has no place for pages")

TASK_ROUTES = ("task", "video", "poster")
ROUTES = ("", "balances", *TASK_ROUTES)


@pytest.fixture
def auth_manager(ui):
    from airflow.api_fastapi.app import get_auth_manager

    return get_auth_manager()


@pytest.mark.parametrize("hidden", ["XCOM", "TASK_INSTANCE"])
def test_dag_with_one_hidden_entity_is_hidden(ui, auth_manager, hidden):
    original = auth_manager.is_authorized_dag

    def is_authorized_dag(*, access_entity=None, **kwargs):
        is_hidden = access_entity is not None and access_entity.name == hidden
        return not is_hidden and original(access_entity=access_entity, **kwargs)

    ui.patch.setattr(auth_manager, "is_authorized_dag", is_authorized_dag)
    for path in TASK_ROUTES:
        assert ui.get(path, "download", user="bob").status_code == 404
    gallery = ui.get("", user="bob").text
    assert ui.run_id not in gallery
    assert "pages" not in gallery.lower().replace("pages of videos", "")


@pytest.mark.parametrize("method", ["is_authorized_dag", "is_authorized_connection"])
def test_broken_auth_manager_lets_nothing_through(ui, auth_manager, method):
    def broken(**kwargs):
        raise RuntimeError("the-auth-managers-secret")

    ui.patch.setattr(auth_manager, method, broken)
    for path in ROUTES:
        if (path == "balances") is (method == "is_authorized_connection"):
            response = ui.get(path, "download")
            assert response.status_code == 500
            assert "the-auth-managers-secret" not in response.text
            assert ui.project_id not in response.text


def test_no_database_connection_is_held_during_other_requests(ui, auth_manager):
    from airflow import settings
    from sqlalchemy import event

    from magichour_provider.ui import media

    held, counts = set(), []
    listeners = {
        "checkout": lambda connection, record, proxy: held.add(id(record)),
        "checkin": lambda connection, record: held.discard(id(record)),
    }

    def count(original):
        def counting(*args, **kwargs):
            counts.append(len(held))
            return original(*args, **kwargs)

        return counting

    for name in ("get_authorized_dag_ids", "is_authorized_connection"):
        ui.patch.setattr(auth_manager, name, count(getattr(auth_manager, name)))
    ui.patch.setattr(media, "_client", count(media._client))
    ui.set_roots("")
    for name, listener in listeners.items():
        event.listen(settings.engine, name, listener)
    try:
        for path in ROUTES:
            ui.get(path, "download")
    finally:
        for name, listener in listeners.items():
            event.remove(settings.engine, name, listener)
    assert len(counts) >= len(ROUTES)
    assert set(counts) == {0}


@pytest.mark.parametrize(
    "values",
    [
        {"duration": "5 s", "end_seconds": [5]},
        {"duration": 1e300, "credits_charged": 10**18, "size": 1e300},
        {"credits_charged": "many", "width": {}, "height": True, "fps": -1},
        {"credits_charged": 10**400, "end_seconds": 10**400, "duration": 10**400},
        {"credits_charged": -120, "end_seconds": "nan"},
        {"project_id": ["a", "list"], "path": 7, "poster": {"a": 1}, "sha256": 3},
        {"status": ["complete"], "model": {"a": 1}, "resolution": 480, "name": ["x"]},
        {"name": "a\udcff.jpg", "model": "\ud800", "path": "/videos/\udcff.mp4", "project_id": "\udcff"},
    ],
)
def test_any_xcom_breaks_no_page(ui, values):
    for task in ("render", "download"):
        ui.forge(task, **values)
    assert 'data-testid="card"' in ui.get("", dag_id="pages").text
    for task in ("render", "download"):
        assert ui.get("task", task).status_code == 200
        assert ui.get("video", task).status_code in (200, 307, 404)
        assert ui.get("poster", task).status_code in (200, 404)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        *[("task", {"map_index": index}, 200) for index in ("--5", "9" * 5000, "9" * 30, "٣")],
        ("task", {"dag_id": "pages\0"}, 404),
        ("video", {"task_id": "download\0"}, 404),
        ("", {"dag_id": "\0"}, 200),
        ("", {"before": "0001-01-01T00:00:00+14:00"}, 422),
        ("", {"before": "9999-12-31T23:59:59-14:00"}, 422),
        ("", {"before": "9999-12-31T23:59:59"}, 200),
        ("", {"before": "1e300"}, 422),
    ],
)
def test_any_address_breaks_no_page(ui, path, query, status):
    assert ui.get(path, "download", **query).status_code == status


@pytest.mark.parametrize(
    "project_id", ["../account", "..%2faccount", "x/../../account", "x?y", "x#y", "x\r\ny", "a b", "None"]
)
def test_forged_job_id_reaches_no_other_endpoint(ui, project_id):
    ui.set_roots("")
    for task in ("render", "download"):
        ui.forge(task, project_id=project_id)

    def api_requests():
        return [each for each in ui.sandbox.control.state()["requests"] if "/v1/" in each["path"]]

    before = api_requests()
    assert ui.get("task", "download").status_code == 200
    assert ui.get("video", "download").status_code in (307, 404)
    assert api_requests() == before


def test_markup_in_xcoms_stays_text(ui):
    evil = "\"'><script src=//evil.example></script><img src=x onerror=alert(1)>javascript:alert(1)"
    ui.forge("render", name=evil, model=evil, resolution=evil, project_id=evil, path=evil, status=evil)
    ui.forge("download", name=evil, model=evil, project_id=evil, path=evil, poster=evil)
    for page in (ui.get("task", "render"), ui.get("task", "download"), ui.get("")):
        assert page.status_code == 200
        assert "<script src=//evil" not in page.text
        assert "<img src=x" not in page.text
        assert 'href="javascript:' not in page.text
    assert "evil.example" in words(ui.get("task", "render"))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_return_405(ui, method):
    for path in ROUTES:
        assert ui.get(path, "download", method=method).status_code == 405


def test_debug_log_has_neither_key_nor_link(ui, caplog, capfd):
    for logger in (None, "httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger)
    responses = [ui.get(path, task) for path in ROUTES for task in ("render", "download", "refused")]
    ui.set_roots("")
    responses += [ui.get(path, "download") for path in ROUTES]
    ui.sandbox.control.set_job(ui.project_id, status="rendering")
    responses += [ui.get(path, "download") for path in TASK_ROUTES]
    links = filter(None, (response.headers.get("location") for response in responses))
    signature = next(links).partition("?")[2]
    assert signature
    texts = [response.text + str({**response.headers, "location": ""}) for response in responses]
    for text in (caplog.text, *capfd.readouterr(), *texts):
        assert signature not in text
        assert ui.sandbox.api_key not in text


def test_trailing_slash_is_not_redirected(ui):
    for path in ("task/", "video/", "/evil.example/"):
        response = ui.get(path, "download", headers={"Host": "evil.example"})
        assert response.status_code == 404
        assert "location" not in response.headers
