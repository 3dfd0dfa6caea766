"""The PostgreSQL of the live tests: it serves, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import psutil
import pytest
import sqlalchemy
from postgres import folder_of, postgres

pytestmark = pytest.mark.live

SCRIPT = """
import time
from postgres import postgres

with postgres() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_it_serves_over_a_socket_that_only_its_owner_can_reach() -> None:
    with postgres() as url:
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SHOW listen_addresses")).scalar() == ""
        engine.dispose()
        folder = folder_of(url)
        assert folder.stat().st_mode & 0o077 == 0
        server = psutil.Process(_server_of(folder))
        assert server.uids().effective != 0

    assert not server.is_running()
    assert not folder.exists()


def test_a_terminated_test_leaves_no_server_and_no_folder() -> None:
    env = os.environ | {"PYTHONPATH": str(Path(processes.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        url = script.stdout.readline().strip()
        folder = folder_of(url)
        server = psutil.Process(_server_of(folder))
        engine = sqlalchemy.create_engine(url)
        with engine.connect():  # a client that is still there
            served = server.children()
            script.send_signal(signal.SIGTERM)
            script.wait()

    assert script.returncode == 128 + signal.SIGTERM
    assert served
    assert not any(process.is_running() for process in (server, *served))
    assert not folder.exists()


def _server_of(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
