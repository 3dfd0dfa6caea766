"""The sandbox's control API, its command and its pytest plugin, and what importing them costs."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from magichour_provider.sandbox import SandboxControl
from magichour_provider.sandbox.cli import main

FIRST_LINE = "magichour-sandbox listening on http://127.0.0.1:"


# The control API


def test_state_has_jobs_uploads_and_request_counts(magic, photo):
    job = magic.complete(name="one", model="ltx-2.3", audio=True, end_seconds=5)
    for _ in range(2):
        magic.files.get(job["download"]["url"])
    state = magic.control.state()
    [entry], [upload] = state["jobs"], state["uploads"]
    assert state["account"]["credits"] == 12_000 - 240
    assert entry == {
        **{
            name: job[name]
            for name in ("id", "name", "status", "end_seconds", "fps", "enabled", "created_at")
        },
        **{"requested_model": "ltx-2.3", "model": "ltx-2.3", "resolution": "720p", "audio": True},
        **{"image_file_path": upload["file_path"], "credits_charged": 240, "polls": 1, "downloads": 2},
        "charges": [{"at": entry["created_at"], "credits": 240, "reason": "create"}],
    }
    assert upload.items() >= {"bytes": len(photo), "put_count": 1}.items()
    counts = {(r["origin"], r["method"], r["path"], r["status"]): r["count"] for r in state["requests"]}
    assert counts == {
        ("api", "POST", "/v1/files/upload-urls", 200): 1,
        ("storage", "PUT", "/api-assets/{upload_id}/{name}", 200): 1,
        ("api", "POST", "/v1/image-to-video", 200): 1,
        ("api", "GET", "/v1/video-projects/{id}", 200): 1,
        ("storage", "GET", "/{project_id}/output.mp4", 200): 2,
    }


def test_state_has_no_secret(magic):
    job = magic.complete(image="https://example.com/a.jpg?token=hush-hush")
    magic.files.get(job["download"]["url"])
    magic.api.get("/secret-path")
    text = json.dumps(magic.control.state())
    for secret in (magic.server.api_key, "signature", "hush-hush", "secret-path"):
        assert secret not in text


def test_reset_restores_the_settings_while_videos_are_rendered(magic):
    magic.control.account(tier="pro", credits=10**6)
    for _ in range(8):
        magic.create(model="ltx-2.5", end_seconds=60)
    magic.control.behaviour(unknown_model="accept")
    magic.control.faults([{"path": "*", "status": 500}])
    magic.control.advance_clock(10**6)
    magic.control.reset()
    state = magic.control.state()
    assert (state["account"]["tier"], state["account"]["credits"]) == ("creator", 12_000)
    assert [state[part] for part in ("jobs", "uploads", "requests", "faults")] == [[], [], [], []]
    assert magic.control.behaviour()["unknown_model"] == "refuse"
    assert magic.complete()["status"] == "complete"


@pytest.mark.parametrize(
    ("page", "body"),
    [
        *[("account", body) for body in ({"tier": "gold"}, {"credits": -1}, {"colour": "red"}, [])],
        *[("clock", body) for body in ({"advance": -1}, {})],
        *[("behaviour", body) for body in ({"expired_status": 500}, {"no_such_switch": True}, [])],
        *[("faults", body) for body in ({}, "nonsense")],
    ],
)
def test_wrong_control_request_is_422_and_says_why(magic, page, body):
    answer = magic.files.post(f"{magic.server.url}/__sandbox__/{page}", json=body)
    assert answer.status_code == 422
    assert "Invalid value for field" in answer.text or "Missing required field" in answer.text


# The command


@contextlib.contextmanager
def running(*arguments):
    """A sandbox on free ports, and the address that it printed."""
    command = [sys.executable, "-m", "magichour_provider.sandbox.cli", "--port", "0", "--quick", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(FIRST_LINE), process.stderr.read()
        yield process, line.rpartition(" ")[2].strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_takes_options_and_stops_on_a_signal(number):
    options = ["--api-key", "mine", "--api-key", "yours", "--tier", "free", "--credits", "77"]
    options += ["--behaviour", "expired_status=404", "--behaviour", "unknown_model=accept"]
    options += ["--render-seconds", "9"]
    with running(*options) as (process, url), SandboxControl(url) as control:
        keys = {key: status_with(url, key) for key in ("mine", "yours", "other")}
        assert keys == {"mine": 200, "yours": 200, "other": 401}
        account, behaviour = control.state()["account"], control.behaviour()
        assert (account["tier"], account["credits"]) == ("free", 77)
        assert (behaviour["expired_status"], behaviour["unknown_model"]) == (404, "accept")
        assert behaviour["render_seconds"] == 9
        process.send_signal(number)
        assert (process.wait(30), process.stderr.read()) == (0, "")
        assert f"{url}/__sandbox__/state" in process.stdout.read()


def status_with(url, key):
    return httpx.get(f"{url}/v1/account", headers={"Authorization": f"Bearer {key}"}).status_code


@pytest.mark.parametrize("which", ["--port", "--storage-port"])
def test_port_in_use_is_an_error_with_advice(which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=r"in use.*--port 0"):
            main(["--port", "0", which, port])


@pytest.mark.parametrize("pair", ["expired_status=500", "colour=red", "novalue"])
def test_wrong_switch_is_an_error_that_names_it(pair):
    with pytest.raises(SystemExit, match=pair.partition("=")[0]):
        main(["--port", "0", "--behaviour", pair])


# Imports


def loaded_by(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_pytest_plugin_loads_three_small_modules_besides_pytest():
    plugin = "magichour_provider.sandbox.pytest_plugin"
    loaded = loaded_by(f"import pytest, typing; old = set(sys.modules); import {plugin}")
    assert {name for name in loaded if name.startswith("magichour_provider")} == {
        "magichour_provider",
        "magichour_provider.sandbox",
        plugin,
    }
    assert not loaded & {"httpx", "pydantic", "starlette", "uvicorn", "av", "PIL", "airflow"}


def test_fixture_without_the_extra_says_what_to_install(tmp_path):
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    (tmp_path / "test_it.py").write_text("def test_it(magichour_sandbox):\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "pip install 'airflow-provider-magichour[sandbox]'" in ended.stdout
