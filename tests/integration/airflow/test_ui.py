"""The pages in Airflow's UI, as Airflow's own application serves them: real runs, users and attacks."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from ui_stage import words

from magichour_provider.ui.plugin import MagicHourPlugin
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 has no place for pages")

RANGE = {"Range": "bytes=100-299"}
TASK_ROUTES = ("task", "video", "poster")
ROUTES = ("", "balances", *TASK_ROUTES)


def test_tab_shows_the_job_and_plays_the_downloaded_file(ui):
    for task in ("render", "download"):
        page = ui.get("task", task)
        assert page.status_code == 200
        for expected in ("Success", "Rendered", "ltx-2.3", "480p", "120 credits", "5 s", ui.project_id):
            assert expected in words(page)
        assert "She <b>smiles</b>" in words(page)
        assert "<b>smiles" not in page.text
        assert 'data-testid="player"' in page.text
        part = ui.get("video", task, headers=RANGE)
        assert (part.status_code, part.headers["content-type"]) == (206, "video/mp4")
        assert part.content == ui.video.read_bytes()[100:300]
    assert ui.get("video", "download").content == ui.video.read_bytes()
    assert ui.get("poster", "download").content == ui.poster.read_bytes()


def test_tab_of_a_failed_task_says_why_and_what_to_do(ui):
    page = ui.get("task", "refused")
    assert 'data-testid="failure"' in page.text
    for expected in ("moderation", "What to do", "would be refused again", "are refunded", "nsfw"):
        assert expected in words(page)
    assert ui.get("video", "refused").status_code == 404


def test_tab_of_another_operator_says_so(ui):
    page = ui.get("task", "something_else")
    assert page.status_code == 200
    assert 'data-testid="not-ours"' in page.text
    assert ui.get("video", "something_else").status_code == 404


def test_tab_of_a_contact_sheet_shows_the_sheet(ui):
    assert 'data-testid="sheet"' in ui.get("task", "sheet").text
    (sheet,) = (ui.folder / "sheets").iterdir()
    assert ui.get("poster", "sheet").content == sheet.read_bytes()
    assert ui.get("video", "sheet").status_code == 404


def test_gallery_shows_each_video_once_with_its_credits(ui):
    assert len(ui.cards()) == 2
    charged = sum(job["credits_charged"] for job in ui.sandbox.control.state()["jobs"])
    assert charged == 120
    page = ui.get("", dag_id="pages", state="success")
    videos = page.text.count('data-testid="card"')  # other tests may have run the Dag, too
    assert f"Credits in the last 30 days: {videos * charged:,}" in words(page)


def test_gallery_is_filtered_by_dag_and_state(ui):
    (success,) = ui.cards(dag_id="pages", state="success")
    assert "grace_hopper.jpg" in success
    (failed,) = ui.cards(state="failed")
    assert "moderation" in failed
    assert ui.cards(state="in progress") == ui.cards(dag_id="another") == []
    assert ui.cards(before="2020-01-01T00:00:00") == []
    assert "No video matches these filters" in words(ui.get("", before="2020-01-01T00:00:00", state="failed"))
    assert ui.get("", state="no such state").status_code == 422
    assert ui.get("", before="never").status_code == 422


def test_setting_that_is_missing_or_cannot_be_used_is_named_on_the_page(ui):
    assert "ui_video_roots" not in words(ui.get(""))
    ui.set_roots("")
    assert "ui_video_roots" in words(ui.get("", dag_id="pages"))
    assert "ui_video_roots" in words(ui.get("task", "sheet"))
    assert ui.get("poster", "sheet").status_code == 404
    ui.set_roots("/videos/{run_id}")
    assert "the only placeholder is {dag_id}" in words(ui.get("task", "download"))
    assert ui.get("", dag_id="pages").status_code == 200


def test_balances_need_the_right_to_read_the_connection(ui):
    page = ui.get("balances")
    balance = ui.sandbox.control.state()["account"]["credits"]
    assert "magichour_default" in page.text
    assert f"{balance:,} credits" in words(page)
    assert "magichour_default" not in ui.get("balances", user="bob").text
    ui.patch.setenv("AIRFLOW_CONN_BROKEN", json.dumps({"conn_type": "magichour"}))
    assert "has no password" in words(ui.get("balances"))


def test_each_route_needs_a_login(ui):
    for path in ROUTES:
        assert ui.get(path, "download", user=None).status_code == 401


def test_hidden_dag_answers_like_a_missing_one(ui):
    for path in ("task", "video", "poster"):
        hidden = ui.get(path, "download", user="mallory")
        absent = ui.get(path, "download", user="alice", run_id="no_such_run")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text == absent.text
    gallery = ui.get("", user="mallory")
    assert "pages" not in words(gallery).lower().replace("pages of videos", "")
    assert ui.run_id not in gallery.text
    assert ui.run_id not in ui.get("", user="mallory", dag_id="pages").text


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../secret.mp4", "{root}/link.mp4", "video.mp4"])
def test_forged_path_opens_no_other_file(ui, path):
    root = ui.video.parent
    (root / "../secret.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"another user's video" * 50)
    if not (root / "link.mp4").is_symlink():
        (root / "link.mp4").symlink_to(root / "../secret.mp4")
    ui.forge("download", path=path.format(root=root), poster=path.format(root=root))
    for task in ("download", "render"):
        response = ui.get("video", task)
        assert (response.status_code, response.content) == (307, b"")
    poster = ui.get("poster", "download")
    assert poster.status_code == 404
    assert b"root:" not in poster.content


def test_video_outside_the_roots_is_played_by_a_fresh_link(ui):
    assert "data-refresh-seconds" not in ui.get("task", "refused").text, "nothing will change"
    ui.set_roots("")
    page = ui.get("task", "download")
    assert "data-refresh-seconds" not in page.text
    assert "The file is not below a folder of [magichour] ui_video_roots" in words(page)
    assert 'data-testid="player"' in page.text
    response = ui.get("video", "download")
    assert response.status_code == 307
    link = response.headers["location"]
    assert httpx.get(link, headers=RANGE, trust_env=False).content == ui.video.read_bytes()[100:300]
    assert response.headers["cache-control"] == "private, no-store"
    origin = "/".join(link.split("/")[:3])
    assert f"media-src 'self' {origin};" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"status": "rendering"}, ["Rendering"]),
        ({"status": "error", "code": "nsfw"}, ["moderation", "would be refused again"]),
    ],
)
def test_job_without_a_result_is_read_from_magic_hour(ui, job, expected):
    ui.set_roots("")
    ui.forge("download", path=None)
    ui.forge("render", status="queued")
    ui.sandbox.control.set_job(ui.project_id, **job)
    page = ui.get("task", "render")
    assert all(text in words(page) for text in expected)
    is_running = job["status"] == "rendering"
    assert ('data-refresh-seconds="5"' in page.text) == is_running, "the task has ended, its job may have not"
    assert ui.get("video", "render").status_code == 404


@pytest.mark.parametrize("answer", ["disabled", "not_found"])
def test_deleted_video_is_not_advised_to_be_rendered_again(ui, answer):
    ui.set_roots("")
    body = {"assets": {"image_file_path": "saved-items/a.png"}, "end_seconds": 5}
    api = httpx.Client(base_url=ui.sandbox.url, headers={"Authorization": "Bearer a-key"}, trust_env=False)
    job = api.post("/v1/image-to-video", json=body).json()["id"]
    ui.sandbox.control.set_job(job, "complete")
    ui.sandbox.control.behaviour(deleted=answer)
    assert api.delete(f"/v1/video-projects/{job}").status_code == 204
    for task in ("render", "download"):
        ui.forge(task, project_id=job)
    saved = ui.get("task", "download")
    assert "deleted at Magic Hour after it was saved. Its file is named below" in words(saved)
    assert ui.get("video", "download").status_code == 404
    ui.forge("download", path=None)
    gone = ui.get("task", "render")
    assert "a user or a task with delete_remote deleted it" in words(gone)
    for page in (saved, gone):
        assert 'data-testid="player"' not in page.text
        assert 'data-testid="failure"' not in page.text
        assert "data-refresh-seconds" not in page.text
        assert "submit it again" not in words(page)
    refusal = words(ui.get("video", "render"))
    assert f"Job {job} was deleted at Magic Hour." in refusal
    assert "again" not in refusal


def test_file_that_another_worker_saved_is_named_as_that(ui):
    ui.video.unlink()
    ui.forge("download", hostname="w1")
    page = words(ui.get("task", "download"))
    assert "The file was saved by worker w1. Airflow's API server has no such file." in page


def test_page_without_magic_hour_is_shown(ui):
    ui.set_roots("")
    broken = {"conn_type": "magichour", "host": "http://127.0.0.1:9", "password": "a-key-of-ours"}
    ui.patch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(broken))
    page = ui.get("task", "download")
    assert page.status_code == 200
    assert "Magic Hour could not be asked. http://127.0.0.1:9 gave no answer" in words(page)
    assert "clear the task" not in words(page), "this would pay for another video"


def test_documented_addresses_are_those_of_the_pages(ui):
    text = (Path(__file__).parents[3] / "docs" / "ui.md").read_text().partition("## Addresses")[2]
    listed = re.findall(r"^\| `/magichour/([^`]*)` \|", text, re.MULTILINE)
    pages = {path.partition("?")[0] for path in listed}
    assert pages == {*ROUTES, "static/"}
    for path in listed:
        task = "download" if path.endswith("?TASK") else None
        address = "static/page.js" if path == "static/" else path.partition("?")[0]
        assert ui.get(address, task).status_code == 200
    views = {view["destination"]: view["url_route"] for view in MagicHourPlugin.external_views}
    assert f"| `/plugin/{views['nav']}` |" in text
    assert f"/tasks/TASK/plugin/{views['task_instance']}` |" in text


def test_plus_in_a_run_id_may_be_unescaped(ui):
    """Airflow 3.1 writes the run id into the address as it is."""
    assert "+" in ui.run_id
    address = f"task?dag_id=pages&run_id={ui.run_id}&task_id=download&map_index={{MAP_INDEX}}"
    assert ui.get(address).status_code == 200
    assert ui.get(address.replace("+", "%2B")).status_code == 200
    player = re.search(r'src="(video\?[^"]*)"', ui.get(address).text)[1]
    assert ui.get(unescape(player), headers=RANGE).status_code == 206


class _Document(HTMLParser):
    """Elements that are not closed in order, ids, references to ids, and levels of headings."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.ids, self.references, self.headings, self.inline = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [attrs[name] for name in ("aria-labelledby", "for") if name in attrs]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.inline += [name for name in attrs if name == "style" or name.startswith("on")]
        if tag not in {"meta", "link", "img", "br", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def test_pages_are_valid_and_accessible(ui):
    pages = [ui.get("task", task) for task in ("render", "download", "refused", "sheet", "something_else")]
    pages += [ui.get(""), ui.get("", state="in progress", dag_id="pages"), ui.get("no-such-page")]
    for page in pages:
        document = _Document(page.text)
        assert (document.open, document.faults, document.inline) == ([], [], [])
        assert len(set(document.ids)) == len(document.ids)
        assert set(document.references) <= set(document.ids)
        assert document.headings[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(document.headings))
        assert '<html lang="en">' in page.text
        assert page.text.index("page.js") < page.text.index("<body>"), "the theme is known before the body"
        used = {name for names in re.findall(r'class="([^"]*)"', page.text) for name in names.split()}
        styles = ui.get("static/page.css").text
        assert used <= set(re.findall(r"\.([a-z][\w-]*)", styles)) | {"state-none"}


# What users with few rights, forged XComs and odd addresses do not get


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
        try:
            ui.forge(task, **values)
        except OperationalError:
            pytest.skip("MySQL stores no such value")
    assert 'data-testid="card"' in ui.get("", dag_id="pages").text
    for task in ("render", "download"):
        assert ui.get("task", task).status_code == 200
        assert ui.get("video", task).status_code in (200, 307, 404)
        assert ui.get("poster", task).status_code in (200, 404)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        *[("task", {"map_index": index}, 200) for index in ("{MAP_INDEX}", "--5", "9" * 5000, "9" * 30, "٣")],
        *[("task", {"dag_id": dag_id}, 404) for dag_id in ("pages\0", "x' OR 1=1 --")],
        *[("video", query, 404) for query in ({"task_id": "download\0"}, {"map_index": "7"})],
        ("", {"dag_id": "\0"}, 200),
        ("", {"before": "0001-01-01T00:00:00+14:00"}, 422),
        ("", {"before": "9999-12-31T23:59:59-14:00"}, 422),
        ("", {"before": "1e300"}, 422),
        ("", {"before": "9999-12-31T23:59:59"}, 200),
        *[(path, {}, 404) for path in ("no-such-page", "static/../app.py", "static/%2e%2e/app.py")],
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


def test_incomplete_address_other_methods_and_a_trailing_slash_are_refused(ui):
    assert ui.get("task").status_code == 422
    for path in ROUTES:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert ui.get(path, "download", method=method).status_code == 405
    for path in ("task/", "video/", "/evil.example/"):
        response = ui.get(path, "download", headers={"Host": "evil.example"})
        assert response.status_code == 404
        assert "location" not in response.headers


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


# The plugin


def run_python(program, **env):
    """The last line that a Python program prints in a process of its own, as JSON."""
    command, env = [sys.executable, "-c", program], {**os.environ, **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "'magichour' already registered" not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
FIND_APPS = """
import json; from airflow import plugins_manager as m
if hasattr(m, 'get_fastapi_plugins'): apps, _ = m.get_fastapi_plugins()
else: m.initialize_fastapi_plugins(); apps = m.fastapi_apps  # Airflow 3.1
print(); print(json.dumps([app['url_prefix'] for app in apps if 'magichour' in app['url_prefix']]))
"""
READ_BELOW_A_PREFIX = """
import json, re; from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient
from magichour_provider.ui.plugin import MagicHourPlugin
get = TestClient(create_app(apps='core')).get
page = get('/prefix/magichour/')
links = re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
static = [link for link in links if '/static/' in link]
icons = [view['icon'] for view in MagicHourPlugin.external_views]
found = {get(link).status_code for link in (*static, *icons)}
places = [view['href'].partition('?')[0] for view in MagicHourPlugin.external_views]
print(); print(json.dumps([page.status_code, links[-1], places, len(static), list(found)]))
"""


@pytest.mark.parametrize(
    ("setting", "apps"),
    [
        ({}, ["/magichour"]),
        ({"AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS": "False"}, ["/magichour"]),
        ({"AIRFLOW__MAGICHOUR__UI_ENABLED": "False"}, []),
    ],
)
def test_airflow_loads_the_plugin_once(setting, apps):
    assert run_python(FIND_APPS, AIRFLOW__CORE__AUTH_MANAGER=AUTH_MANAGER, **setting) == apps


def test_pages_below_a_path_of_the_api_server():
    env = {"AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER}
    env["AIRFLOW__API__BASE_URL"] = "http://127.0.0.1:8080/prefix"
    status, all_videos, places, static, found = run_python(READ_BELOW_A_PREFIX, **env)
    assert (status, all_videos) == (401, "/prefix/plugin/magichour")
    assert places == ["/prefix/magichour/", "/prefix/magichour/task"]
    assert (static, found) == (2, [200])


def test_plugin_imports_neither_pages_nor_http_clients():
    modules = run_python(
        "import json, sys; from magichour_provider.ui.plugin import MagicHourPlugin\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('magichour_provider.ui')]))"
    )
    assert sorted(modules) == ["magichour_provider.ui", "magichour_provider.ui.plugin"]
