"""The harness: a live Airflow and a PostgreSQL that can be driven, broken and ended without a trace."""

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
from live_airflow import PARTS, LiveAirflow
from postgres import folder_of, postgres

DAGS = Path(__file__).parent / "dags"
LIVE_SCRIPT = """
import sys, time
from pathlib import Path
from live_airflow import LiveAirflow

with LiveAirflow(Path(sys.argv[1]), Path(sys.argv[2])) as airflow:
    print("healthy", *(child.pid for child in airflow.processes.values()), flush=True)
    time.sleep(600)
"""
POSTGRES_SCRIPT = """
import time
from postgres import postgres

with postgres() as url:
    print(url, flush=True)
    time.sleep(600)
"""
STUBBORN_SCRIPT = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
print("ready", flush=True)
time.sleep(600)
"""
TERMINATED = 128 + signal.SIGTERM


@pytest.fixture
def default_sigint():
    """SIGINT as Python handles it by default, here and in children, also in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_terminated_harness_leaves_no_process_and_no_file(tmp_path, script_env):
    home, user_home = tmp_path / "airflow-home", tmp_path / "user"
    user_home.mkdir()
    env = script_env | {"HOME": str(user_home)}
    env.pop("AIRFLOW_HOME", None)
    command = [sys.executable, "-c", LIVE_SCRIPT, str(home), str(DAGS)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        word, *leaders = script.stdout.readline().split()
        assert word == "healthy"
        assert len(leaders) == len(PARTS)
        alive = [processes.session_members(int(pid)) for pid in leaders]
        script.send_signal(signal.SIGTERM)
        script.wait()

    assert script.returncode == TERMINATED
    assert all(alive)
    assert [processes.session_members(int(pid)) for pid in leaders] == [[]] * len(PARTS)
    assert list(user_home.iterdir()) == []


@pytest.mark.usefixtures("default_sigint")
def test_interrupted_start_leaves_no_process(tmp_path, script_env):
    command = [sys.executable, "-c", LIVE_SCRIPT, str(tmp_path / "home"), str(DAGS)]
    with subprocess.Popen(command, env=script_env, stdout=subprocess.PIPE) as script:
        children: list[int] = []

        def has_parts():
            children[:] = [child.pid for child in psutil.Process(script.pid).children()]
            return len(children) > 1

        assert processes.wait_until(has_parts, timeout=120, every=0.01)
        script.send_signal(signal.SIGINT)
        script.wait()

    assert script.returncode == -signal.SIGINT
    assert [processes.session_members(pid) for pid in children] == [[]] * len(children)


def test_callers_airflow_variables_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/elsewhere")
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", "magichour://:key@elsewhere")

    airflow = LiveAirflow(tmp_path, DAGS, env={"AIRFLOW__CORE__PARALLELISM": "2"})

    assert airflow.env["AIRFLOW__CORE__DAGS_FOLDER"] == str(DAGS)
    assert "AIRFLOW_CONN_MAGICHOUR_DEFAULT" not in airflow.env
    assert airflow.env["AIRFLOW__CORE__PARALLELISM"] == "2"
    airflow.close()


def test_stop_ends_children_in_other_groups_and_those_that_ignore_sigterm(tmp_path):
    child = stubborn(tmp_path)
    assert len(processes.session_members(child.pid)) == 2

    processes.stop([child], grace=0.3)

    assert processes.session_members(child.pid) == []
    assert child.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("default_sigint")
def test_held_signal_arrives_after_the_work():
    done: list[str] = []

    def work():
        with processes.signals_held():
            signal.raise_signal(signal.SIGINT)
            done.append("work")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work"]


def test_postgres_is_private_and_removed_at_its_end():
    with postgres() as url:
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SHOW listen_addresses")).scalar() == ""
        engine.dispose()
        folder = folder_of(url)
        assert folder.stat().st_mode & 0o077 == 0
        server = postgres_process(folder)
        assert server.uids().effective != 0

    assert not server.is_running()
    assert not folder.exists()


def test_terminated_script_leaves_no_postgres(script_env):
    with subprocess.Popen(
        [sys.executable, "-c", POSTGRES_SCRIPT], env=script_env, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        url = script.stdout.readline().strip()
        folder = folder_of(url)
        server = postgres_process(folder)
        with sqlalchemy.create_engine(url).connect():  # a client that is still there
            children = server.children()
            script.send_signal(signal.SIGTERM)
            script.wait()

    assert script.returncode == TERMINATED
    assert children
    assert not any(process.is_running() for process in (server, *children))
    assert not folder.exists()


def postgres_process(folder):
    return psutil.Process(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]))


def stubborn(folder):
    """A process and its child, in a group of its own, that both ignore SIGTERM."""
    log = folder / "stubborn.log"
    child = processes.start([sys.executable, "-c", STUBBORN_SCRIPT], env=os.environ, log=log, cwd=folder)
    assert processes.wait_until(lambda: log.read_text().count("ready") == 2, timeout=30)
    return child
