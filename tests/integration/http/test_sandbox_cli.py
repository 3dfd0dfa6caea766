"""The command, as a process of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from magichour_provider.sandbox import SandboxControl
from magichour_provider.sandbox.cli import main

FIRST_LINE = "magichour-sandbox listening on http://127.0.0.1:"


@contextlib.contextmanager
def running(*arguments):
    """A sandbox on ports that the system chose, and the address that it printed."""
    command = [sys.executable, "-m", "magichour_provider.sandbox.cli", "--port", "0", "--quick", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(FIRST_LINE), process.stderr.read()
        yield process, line.rpartition(" ")[2].strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_where_it_listens_and_ends_cleanly_on_a_signal(number):
    with running() as (process, url):
        assert httpx.get(f"{url}/v1/account", headers={"Authorization": "Bearer k"}).status_code == 200
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
        assert "/__sandbox__/" in process.stdout.read()


def test_its_options_hold(tmp_path):
    options = ["--api-key", "mine", "--api-key", "yours", "--tier", "free", "--credits", "7"]
    options += ["--behaviour", "expired_status=404", "--behaviour", "error_shape=message"]
    options += ["--render-seconds", "9", "--data-dir", str(tmp_path)]
    with running(*options) as (_, url), SandboxControl(url) as control:
        statuses = {key: status_of(url, key) for key in ("mine", "yours", "other")}
        assert statuses == {"mine": 200, "yours": 200, "other": 401}
        account = control.state()["account"]
        assert (account["tier"], account["credits"]) == ("free", 7)
        behaviour = control.behaviour()
        assert (behaviour["expired_status"], behaviour["error_shape"]) == (404, "message")
        assert behaviour["render_seconds"] == 9


def status_of(url, key):
    return httpx.get(f"{url}/v1/account", headers={"Authorization": f"Bearer {key}"}).status_code


def test_files_stay_in_the_directory_that_was_given(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with running("--data-dir", str(tmp_path)) as (process, url), SandboxControl(url) as control:
        answer = httpx.post(
            f"{url}/v1/image-to-video",
            json={"assets": {"image_file_path": "saved-items/a.png"}, "end_seconds": 1},
            headers={"Authorization": "Bearer k"},
        )
        control.set_job(answer.json()["id"], "complete")
        process.terminate()
        process.wait(30)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mp4", ".txt"]


@pytest.mark.parametrize("which", ["--port", "--storage-port"])
def test_a_port_that_is_taken_is_said_so(capsys, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", "0", which, str(port)]) == 1
    errors = capsys.readouterr().err
    assert "in use" in errors
    assert str(port) in errors
    assert "--port 0" in errors


@pytest.mark.parametrize("pair", ["expired_status=500", "colour=red", "novalue"])
def test_a_wrong_switch_is_said_so(capsys, pair):
    assert main(["--port", "0", "--behaviour", pair]) == 1
    assert pair.partition("=")[0] in capsys.readouterr().err
