"""The pages in Airflow's UI, as Airflow's own application serves them: real runs, real users, real clips."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape

import httpx
import pytest
from ui_stage import words

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow shows no pages before 3.1")

RANGE = {"Range": "bytes=100-299"}


def test_the_tab_of_each_of_a_clips_tasks_shows_what_is_known_and_plays_the_landed_file(ui):
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
        assert part.content == ui.clip.read_bytes()[100:300]
    assert ui.get("video", "download").content == ui.clip.read_bytes()
    assert ui.get("poster", "download").content == ui.poster.read_bytes()


def test_the_tab_of_a_failed_task_says_in_plain_words_why_and_what_to_do(ui):
    page = words(ui.get("task", "refused"))
    assert "moderation refused the image or the prompt" in page
    assert "Choose another image or another prompt" in page
    assert "credits were refunded" in page
    assert ui.get("video", "refused").status_code == 404


def test_the_tab_of_any_other_task_says_that_it_is_none_of_ours(ui):
    page = ui.get("task", "something_else")
    assert page.status_code == 200
    assert 'data-testid="not-ours"' in page.text
    assert ui.get("video", "something_else").status_code == 404


def test_the_tab_of_a_contact_sheet_shows_the_sheet(ui):
    page = ui.get("task", "sheet")
    assert 'data-testid="sheet"' in page.text
    (sheet,) = (ui.folder / "sheets").iterdir()
    assert ui.get("poster", "sheet").content == sheet.read_bytes()
    assert ui.get("video", "sheet").status_code == 404
    ui.roots("")
    assert "ui_video_roots" in words(ui.get("task", "sheet"))
    assert ui.get("poster", "sheet").status_code == 404


def test_the_gallery_shows_each_clip_once_and_what_it_has_cost(ui):
    page = ui.get("")
    mine = [card for card in page.text.split('data-testid="card"')[1:] if ui.is_of_this_run(card)]
    assert len(mine) == 2
    spent = sum(job["credits_charged"] for job in ui.sandbox.control.state()["jobs"])
    assert spent == 120
    page = ui.get("", dag_id="pages", state="success")
    runs = page.text.count('data-testid="card"')  # of other tests, too
    assert f"Credits in the last 30 days: {runs * spent:,}" in words(page)


def test_the_gallery_can_be_narrowed_to_a_dag_and_a_state(ui):
    def cards(**query):
        page = ui.get("", **query)
        return [card for card in page.text.split('data-testid="card"')[1:] if ui.is_of_this_run(card)]

    (success,) = cards(dag_id="pages", state="success")
    assert "grace_hopper.jpg" in success
    (failed,) = cards(state="failed")
    assert "moderation" in failed
    assert cards(state="in progress") == []
    assert cards(dag_id="another") == []
    assert cards(before="2020-01-01T00:00:00") == []
    assert ui.get("", state="no such state").status_code == 422
    assert ui.get("", before="never").status_code == 422


def test_the_gallery_says_why_it_shows_no_landed_clip(ui):
    assert "ui_video_roots" not in words(ui.get(""))
    ui.roots("")
    assert "ui_video_roots" in words(ui.get("", dag_id="pages"))


def test_balances_are_shown_to_those_who_may_read_the_connection(ui):
    page = ui.get("balances")
    balance = ui.sandbox.control.state()["account"]["credits"]
    assert "magichour_default" in page.text
    assert f"{balance:,} credits" in words(page)
    assert "magichour_default" not in ui.get("balances", user="bob").text
    ui.set.setenv("AIRFLOW_CONN_BROKEN", json.dumps({"conn_type": "magichour"}))
    assert "has no password" in words(ui.get("balances"))


def test_nobody_sees_anything_without_a_session(ui):
    for path in ("", "balances", "task", "video", "poster"):
        assert ui.get(path, "download", user=None).status_code == 401


def test_a_dag_that_a_user_may_not_read_looks_like_one_that_is_not_there(ui):
    for path in ("task", "video", "poster"):
        hidden = ui.get(path, "download", user="mallory")
        absent = ui.get(path, "download", user="alice", run_id="no_such_run")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text == absent.text
    gallery = ui.get("", user="mallory")
    assert "pages" not in words(gallery).lower().replace("pages of clips", "")
    assert ui.run_id not in gallery.text
    assert ui.run_id not in ui.get("", user="mallory", dag_id="pages").text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{root}/../secret.mp4",
        "{root}/link.mp4",
        "{root}/other/clip.mp4",
        "{root}-secret/clip.mp4",
        "file://{root}/../secret.mp4",
        "s3://bucket/clip.mp4",
        "clip.mp4",
        "",
    ],
)
def test_a_forged_path_opens_no_other_file(ui, path):
    secret = b"\0\0\0\x18ftypmp42" + b"another user's clip" * 50
    root = ui.clip.parent
    for place in ("../secret.mp4", "other/clip.mp4", f"../{root.name}-secret/clip.mp4"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(secret)
    if not (root / "link.mp4").is_symlink():
        (root / "link.mp4").symlink_to(root / "../secret.mp4")
    ui.forge("download", path=path.format(root=root), poster=path.format(root=root))
    for task in ("download", "render"):
        answer = ui.get("video", task)
        assert answer.status_code == 307 or b"another user" not in answer.content
        assert answer.content == b"" or answer.status_code == 404
    poster = ui.get("poster", "download")
    assert poster.status_code == 404
    assert b"root:" not in poster.content


def test_a_file_in_a_root_that_is_no_clip_is_not_shown(ui):
    ui.clip.write_text("root:x:0:0")
    answer = ui.get("video", "download")
    assert answer.status_code == 307
    assert b"root:x" not in answer.content


def test_without_a_root_the_clip_comes_by_a_fresh_link_that_no_page_and_no_log_holds(ui, caplog, capfd):
    ui.roots("")
    page = ui.get("task", "download")
    assert "does not lie below a folder" in words(page)
    assert 'data-testid="player"' in page.text
    answer = ui.get("video", "download")
    assert answer.status_code == 307
    link = answer.headers["location"]
    assert httpx.get(link, headers=RANGE, trust_env=False).content == ui.clip.read_bytes()[100:300]
    assert answer.headers["cache-control"] == "private, no-store"
    query = link.partition("?")[2]
    assert query
    said = page.text + str(page.headers) + caplog.text + "".join(capfd.readouterr())
    assert query not in said
    origin = "/".join(link.split("/")[:3])
    assert f"media-src 'self' {origin};" in page.headers["content-security-policy"]


def test_a_job_that_goes_on_is_asked_for_at_magic_hour(ui):
    ui.roots("")
    ui.forge("download", path=None)
    ui.forge("render", status="queued")
    ui.sandbox.control.set_job(ui.project_id, status="rendering")
    page = ui.get("task", "render")
    assert "Rendering" in words(page)
    assert 'data-refresh-seconds="5"' in page.text, "the task has ended, its job has not"
    assert ui.get("video", "render").status_code == 404


def test_the_tab_looks_no_more_where_nothing_will_change(ui):
    for task in ("render", "download", "refused"):
        assert "data-refresh-seconds" not in ui.get("task", task).text
    ui.roots("")
    assert "data-refresh-seconds" not in ui.get("task", "download").text


def test_a_job_that_has_failed_since_it_was_submitted_is_explained_by_magic_hour_itself(ui):
    ui.roots("")
    ui.forge("download", path=None)
    ui.forge("render", status="queued")
    ui.sandbox.control.set_job(ui.project_id, status="error", code="nsfw")
    page = words(ui.get("task", "render"))
    assert "moderation refused the image or the prompt" in page
    assert "Choose another image or another prompt" in page


def test_a_job_that_is_gone_is_said_to_be(ui):
    ui.roots("")
    for task in ("render", "download"):
        ui.forge(task, project_id="gone0000000000000000")
    page = ui.get("task", "download")
    assert "does not have this job any more" in words(page)
    assert 'data-testid="player"' not in page.text
    assert ui.get("video", "download").status_code == 404


def test_magic_hour_out_of_reach_is_no_reason_for_no_page(ui):
    ui.roots("")
    broken = {"conn_type": "magichour", "host": "http://127.0.0.1:9", "password": "a-key-of-ours"}
    ui.set.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(broken))
    page = ui.get("task", "download")
    assert page.status_code == 200
    assert "Magic Hour could not be asked" in words(page)


def test_the_key_is_in_no_answer(ui, caplog):
    for path in ("", "balances", "task", "video", "poster"):
        for task in ("render", "download", "refused"):
            answer = ui.get(path, task)
            assert ui.sandbox.api_key not in answer.text + str(answer.headers)
    assert ui.sandbox.api_key not in caplog.text


def test_an_odd_address_is_refused_and_breaks_nothing(ui):
    assert ui.get("task").status_code == 422
    assert ui.get("task", "download", map_index="{MAP_INDEX}").status_code == 200
    assert ui.get("task", "download", map_index="7").status_code == 404
    assert ui.get("task", "x' OR 1=1 --").status_code == 404
    assert ui.get("static/../app.py").status_code == 404
    assert ui.get("static/%2e%2e/app.py").status_code == 404
    assert ui.get("no-such-page").status_code == 404


def test_a_run_with_a_plus_in_its_id_is_found_also_where_airflow_writes_it_as_it_is(ui):
    assert "+" in ui.run_id
    address = f"task?dag_id=pages&run_id={ui.run_id}&task_id=download&map_index={{MAP_INDEX}}"
    assert ui.get(address).status_code == 200
    assert ui.get(address.replace("+", "%2B")).status_code == 200
    player = re.search(r'src="(video\?[^"]*)"', ui.get(address).text)[1]
    assert ui.get(unescape(player), headers=RANGE).status_code == 206


def plugins(**config):
    """Where an API server of this configuration has our pages."""
    program = (
        "import json; from airflow import plugins_manager as m\n"
        "if hasattr(m, 'get_fastapi_plugins'): apps, _ = m.get_fastapi_plugins()\n"
        "else: m.initialize_fastapi_plugins(); apps = m.fastapi_apps  # Airflow 3.1\n"
        "print('\\n' + json.dumps([a['url_prefix'] for a in apps if 'magichour' in a['url_prefix']]))"
    )
    env = {**os.environ, **config}
    env.pop("AIRFLOW__CORE__AUTH_MANAGER", None)  # the stage's own, which no other process finds
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert "'magichour' already registered" not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_airflow_loads_the_plugin_once_however_it_looks_for_providers():
    assert plugins() == ["/magichour"]
    assert plugins(AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS="False") == ["/magichour"]


def test_a_setting_removes_the_pages():
    assert plugins(AIRFLOW__MAGICHOUR__UI_ENABLED="False") == []


def test_below_a_path_of_airflows_own_the_pages_and_what_they_need_are_found():
    program = (
        "import json, re; from airflow.api_fastapi.app import create_app\n"
        "from fastapi.testclient import TestClient\n"
        "from magichour_provider.ui.plugin import MagicHourPlugin\n"
        "get = TestClient(create_app(apps='core')).get\n"
        "page = get('/prefix/magichour/')\n"
        'links = re.findall(r\'(?:href|src)="(/[^"]*)"\', page.text)\n'
        "ours = [link for link in links if '/static/' in link]\n"
        "icons = [view['icon'] for view in MagicHourPlugin.external_views]\n"
        "found = [get(link).status_code for link in (*ours, *icons)]\n"
        "places = [view['href'].partition('?')[0] for view in MagicHourPlugin.external_views]\n"
        "print('\\n' + json.dumps([page.status_code, links[-1], places, len(ours), sorted(set(found))]))"
    )
    env = {
        **os.environ,
        "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080/prefix",
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    status, all_clips, places, ours, found = json.loads(done.stdout.splitlines()[-1])
    assert (status, all_clips) == (401, "/prefix/plugin/magichour")
    assert places == ["/prefix/magichour/", "/prefix/magichour/task"]
    assert (ours, found) == (2, [200])


def test_a_part_of_airflow_that_serves_no_pages_imports_nothing_for_them():
    program = (
        "import sys; from magichour_provider.ui.plugin import MagicHourPlugin\n"
        "print([m for m in sys.modules if m.startswith(('magichour_provider.ui.app', 'httpx', 'aiohttp'))"
        " and m.partition('.')[0] == 'magichour_provider'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
