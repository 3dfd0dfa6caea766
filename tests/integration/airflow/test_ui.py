"""The pages in Airflow's UI, as Airflow's own application serves them: real runs, users and videos."""

from __future__ import annotations

import json
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
from ui_stage import words

from magichour_provider.ui.plugin import MagicHourPlugin
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 has no place for pages")

RANGE = {"Range": "bytes=100-299"}
ROUTES = ("", "balances", "task", "video", "poster")


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
    ui.set_roots("")
    assert "ui_video_roots" in words(ui.get("task", "sheet"))
    assert ui.get("poster", "sheet").status_code == 404


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


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{root}/../secret.mp4", "{root}/link.mp4", "{root}/other/video.mp4", "video.mp4"]
)
def test_forged_path_opens_no_other_file(ui, path):
    secret = b"\0\0\0\x18ftypmp42" + b"another user's video" * 50
    root = ui.video.parent
    for place in ("../secret.mp4", "other/video.mp4"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(secret)
    if not (root / "link.mp4").is_symlink():
        (root / "link.mp4").symlink_to(root / "../secret.mp4")
    ui.forge("download", path=path.format(root=root), poster=path.format(root=root))
    for task in ("download", "render"):
        response = ui.get("video", task)
        assert response.status_code == 307 or b"another user" not in response.content
        assert response.content == b"" or response.status_code == 404
    poster = ui.get("poster", "download")
    assert poster.status_code == 404
    assert b"root:" not in poster.content


def test_fresh_link_is_in_no_page_header_or_log(ui, caplog, capfd):
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
    query = link.partition("?")[2]
    assert query
    assert query not in page.text + str(page.headers) + caplog.text + "".join(capfd.readouterr())
    origin = "/".join(link.split("/")[:3])
    assert f"media-src 'self' {origin};" in page.headers["content-security-policy"]


def test_running_job_is_read_from_magic_hour(ui):
    ui.set_roots("")
    ui.forge("download", path=None)
    ui.forge("render", status="queued")
    ui.sandbox.control.set_job(ui.project_id, status="rendering")
    page = ui.get("task", "render")
    assert "Rendering" in words(page)
    assert 'data-refresh-seconds="5"' in page.text, "the task has ended, its job has not"
    assert ui.get("video", "render").status_code == 404


def test_job_that_failed_after_its_submission_is_explained(ui):
    ui.set_roots("")
    ui.forge("download", path=None)
    ui.forge("render", status="queued")
    ui.sandbox.control.set_job(ui.project_id, status="error", code="nsfw")
    page = words(ui.get("task", "render"))
    assert "moderation" in page
    assert "would be refused again" in page


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


def test_page_without_magic_hour_is_shown(ui):
    ui.set_roots("")
    broken = {"conn_type": "magichour", "host": "http://127.0.0.1:9", "password": "a-key-of-ours"}
    ui.patch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(broken))
    page = ui.get("task", "download")
    assert page.status_code == 200
    assert "Magic Hour could not be asked. http://127.0.0.1:9 gave no answer" in words(page)
    assert "clear the task" not in words(page), "this would pay for another video"


def test_invalid_addresses(ui):
    assert ui.get("task").status_code == 422
    assert ui.get("task", "download", map_index="{MAP_INDEX}").status_code == 200
    for path, task in (("task", "x' OR 1=1 --"), ("static/../app.py", None), ("static/%2e%2e/app.py", None)):
        assert ui.get(path, task).status_code == 404
    assert ui.get("task", "download", map_index="7").status_code == 404
    assert ui.get("no-such-page").status_code == 404


def test_documented_addresses_are_those_of_the_pages(ui):
    text = (Path(__file__).parents[3] / "docs" / "ui.md").read_text().partition("## Addresses")[2]
    listed = re.findall(r"^\| `/magichour/([^`]*)` \|", text, re.MULTILINE)
    pages = {path.partition("?")[0] for path in listed}
    assert pages == {*ROUTES, "static/"}
    for path in listed:
        task = "download" if path.endswith("?TASK") else None
        assert (
            ui.get("static/page.js" if path == "static/" else path.partition("?")[0], task).status_code == 200
        )
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
