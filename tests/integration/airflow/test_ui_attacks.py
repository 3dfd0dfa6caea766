"""What people with few rights, and things that may not be as they should, do not get out of the pages."""

from __future__ import annotations

import logging

import pytest
from ui_stage import words

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow shows no pages before 3.1")

PAGES = ("task", "video", "poster")
EVERYTHING = ("", "balances", *PAGES)


@pytest.fixture
def auth(ui):
    """Replace a method of the auth manager."""
    from airflow.api_fastapi.app import get_auth_manager

    def replace(name, method):
        ui.set.setattr(get_auth_manager(), name, method)

    replace.manager = get_auth_manager()
    return replace


@pytest.mark.parametrize("hidden", ["XCOM", "TASK_INSTANCE"])
def test_a_dag_of_which_a_user_may_not_read_a_part_that_the_pages_show_is_hidden_whole(ui, auth, hidden):
    really = auth.manager.is_authorized_dag

    def is_authorized_dag(*, access_entity=None, **kwargs):
        return (access_entity is None or access_entity.name != hidden) and really(
            access_entity=access_entity, **kwargs
        )

    auth("is_authorized_dag", is_authorized_dag)
    for path in PAGES:
        assert ui.get(path, "download", user="bob").status_code == 404
    gallery = ui.get("", user="bob").text
    assert ui.run_id not in gallery
    assert "pages" not in gallery.lower().replace("pages of clips", "")


@pytest.mark.parametrize("method", ["is_authorized_dag", "is_authorized_connection"])
def test_an_auth_manager_that_breaks_lets_nobody_in_and_tells_nothing(ui, auth, method):
    def broken(**kwargs):
        raise RuntimeError("the-auth-managers-secret")

    auth(method, broken)
    for path in EVERYTHING:
        if (path == "balances") is (method == "is_authorized_connection"):
            answer = ui.get(path, "download")
            assert answer.status_code == 500
            assert "the-auth-managers-secret" not in answer.text
            assert ui.project_id not in answer.text


def test_no_connection_to_the_database_is_held_while_somebody_else_is_asked(ui, auth):
    from airflow import settings
    from airflow.api_fastapi.app import get_auth_manager
    from sqlalchemy import event

    from magichour_provider.ui import media as magic_hour

    held, asked = set(), []
    listeners = {
        "checkout": lambda connection, record, proxy: held.add(id(record)),
        "checkin": lambda connection, record: held.discard(id(record)),
    }

    def watched(really):
        def watch(*args, **kwargs):
            asked.append(len(held))
            return really(*args, **kwargs)

        return watch

    for name in ("get_authorized_dag_ids", "is_authorized_connection"):
        auth(name, watched(getattr(get_auth_manager(), name)))
    ui.set.setattr(magic_hour, "_client", watched(magic_hour._client))
    ui.roots("")
    for name, listener in listeners.items():
        event.listen(settings.engine, name, listener)
    try:
        for path in EVERYTHING:
            ui.get(path, "download")
    finally:
        for name, listener in listeners.items():
            event.remove(settings.engine, name, listener)
    assert len(asked) >= len(EVERYTHING)
    assert set(asked) == {0}


@pytest.mark.parametrize(
    "values",
    [
        {"duration": "5 s", "end_seconds": [5]},
        {"duration": float("nan"), "credits_charged": float("inf"), "size": float("inf")},
        {"credits_charged": "many", "width": {}, "height": True, "fps": -1},
        {"credits_charged": 10**400, "end_seconds": 10**400, "rendering_seconds": 10**400},
        {"credits_charged": -120, "queued_seconds": "nan"},
        {"project_id": ["a", "list"], "path": 7, "poster": {"a": 1}, "sha256": 3},
        {"status": ["complete"], "model": {"a": 1}, "resolution": 480, "name": ["x"]},
    ],
)
def test_an_xcom_that_holds_anything_at_all_breaks_no_page(ui, values):
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
        ("task", {"map_index": "--5"}, 200),
        ("task", {"map_index": "9" * 5000}, 200),
        ("task", {"map_index": "9" * 30}, 200),
        ("task", {"map_index": "٣"}, 200),
        ("task", {"dag_id": "pages\0"}, 404),
        ("video", {"task_id": "download\0"}, 404),
        ("", {"dag_id": "\0"}, 200),
        ("", {"before": "0001-01-01T00:00:00+14:00"}, 422),
        ("", {"before": "9999-12-31T23:59:59-14:00"}, 422),
        ("", {"before": "9999-12-31T23:59:59"}, 200),
        ("", {"before": "1e300"}, 422),
    ],
)
def test_no_address_breaks_a_page(ui, path, query, status):
    assert ui.get(path, "download", **query).status_code == status


@pytest.mark.parametrize(
    "project_id", ["../account", "..%2faccount", "x/../../account", "x?y", "x#y", "x\r\ny", "a b", "None"]
)
def test_a_forged_job_asks_magic_hour_for_nothing_but_a_job(ui, project_id):
    ui.roots("")
    for task in ("render", "download"):
        ui.forge(task, project_id=project_id)
    before = ui.sandbox.control.state()
    assert ui.get("task", "download").status_code == 200
    assert ui.get("video", "download").status_code in (307, 404)
    assert ui.sandbox.control.state() == before


def test_markup_and_scripts_in_what_is_told_stay_text(ui):
    told = "\"'><script src=//evil.example></script><img src=x onerror=alert(1)>javascript:alert(1)"
    ui.forge("render", name=told, model=told, resolution=told, project_id=told, path=told, status=told)
    ui.forge("download", name=told, model=told, project_id=told, path=told, poster=told)
    for page in (ui.get("task", "render"), ui.get("task", "download"), ui.get("")):
        assert page.status_code == 200
        assert "<script src=//evil" not in page.text
        assert "<img src=x" not in page.text
        assert 'href="javascript:' not in page.text
    assert "evil.example" in words(ui.get("task", "render"))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_takes_another_method(ui, method):
    for path in EVERYTHING:
        assert ui.get(path, "download", method=method).status_code == 405


def test_a_log_of_everything_holds_neither_key_nor_link(ui, caplog, capfd):
    for logger in (None, "httpx", "httpcore", "asyncio"):
        caplog.set_level(logging.DEBUG, logger)
    ui.roots("")
    answers = [ui.get(path, "download") for path in EVERYTHING]
    ui.sandbox.control.set_job(ui.project_id, status="rendering")
    answers += [ui.get(path, "download") for path in PAGES]
    signature = next(filter(None, (answer.headers.get("location") for answer in answers))).partition("?")[2]
    logged = caplog.text + "".join(capfd.readouterr())
    assert signature
    assert signature not in logged
    assert ui.sandbox.api_key not in logged
    for answer in answers:
        said = answer.text + str({**answer.headers, "location": ""})
        assert signature not in said
        assert ui.sandbox.api_key not in said


def test_an_address_with_a_slash_too_many_leads_nowhere(ui):
    for path in ("task/", "clip/", "/evil.example/"):
        answer = ui.get(path, "download", headers={"Host": "evil.example"})
        assert answer.status_code == 404
        assert "location" not in answer.headers
