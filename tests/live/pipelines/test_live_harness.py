"""The harness itself: a live Airflow that can be driven, broken and ended without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import psutil
import pytest
from airflow_rest import UnexpectedStateError
from live_airflow import PARTS, LiveAirflow, LiveAirflowError

pytestmark = pytest.mark.live

DAGS = Path(__file__).parent / "harness_dags"
SCRIPTS = Path(processes.__file__).parent

LIVE_SCRIPT = """
import sys, time
from pathlib import Path
from live_airflow import LiveAirflow

with LiveAirflow(Path(sys.argv[1]), Path(sys.argv[2])) as airflow:
    print("healthy", *(child.pid for child in airflow.processes.values()), flush=True)
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


@pytest.fixture
def heed_sigint() -> Iterator[None]:
    """SIGINT as Python has it by default, here and in children, also in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(DAGS / "harness.py", dags)
    with LiveAirflow(tmp_path_factory.mktemp("airflow"), dags) as airflow:
        yield airflow


def test_a_run_is_seen_through_rest_from_deferral_to_its_results(airflow: LiveAirflow) -> None:
    changes: list[tuple[str, int, str | None]] = []
    run_id = airflow.trigger("harness", {"seconds": 4}, run_id="seen-through")

    assert run_id == "seen-through"
    assert airflow.wait_for_task_state("harness", run_id, "nap", "deferred")["trigger"] is not None
    state = airflow.wait_for_run(
        "harness",
        run_id,
        on_change=lambda task, _before: changes.append((task["task_id"], task["map_index"], task["state"])),
    )

    assert state == "success"
    assert ("nap", -1, "success") in changes
    assert {("double", index, "success") for index in range(3)} <= set(changes)
    assert airflow.xcom("harness", run_id, "greet") == {"greeting": "hello"}
    assert [airflow.xcom("harness", run_id, "double", map_index=index) for index in range(3)] == [2, 4, 6]
    assert airflow.xcom("harness", run_id, "greet", key="nothing") is None
    assert airflow.rendered_fields("harness", run_id, "nap") == {"seconds": "4"}
    assert airflow.extra_links("harness", run_id, "nap") == {}
    assert "hello from greet" in airflow.log("harness", run_id, "greet")
    assert "trigger" in airflow.log("harness", run_id, "nap")


def test_a_deferred_task_outlives_the_triggerer_that_was_killed(airflow: LiveAirflow) -> None:
    run_id = airflow.trigger("harness", {"seconds": 5})
    airflow.wait_for_task_state("harness", run_id, "nap", "deferred")
    killed = airflow.processes["triggerer"].pid

    airflow.kill("triggerer")
    assert processes.session_members(killed) == []
    airflow.restart("triggerer")

    assert airflow.processes["triggerer"].pid != killed
    assert airflow.wait_for_run("harness", run_id) == "success"


def test_a_second_triggerer_is_known_frozen_thawed_and_killed_by_itself(airflow: LiveAirflow) -> None:
    airflow.start("triggerer-2")
    second = airflow.processes["triggerer-2"].pid
    members = [psutil.Process(pid) for pid in processes.session_members(second)]
    ids = {airflow.triggerer_id("triggerer"), airflow.triggerer_id("triggerer-2")}
    assert len(ids - {None}) == 2

    airflow.freeze("triggerer-2")
    assert len(members) > 1, "the triggerer and its runner"
    assert {member.status() for member in members} == {psutil.STATUS_STOPPED}
    assert airflow.processes["triggerer"].poll() is None
    airflow.thaw("triggerer-2")
    assert psutil.STATUS_STOPPED not in {member.status() for member in members}

    airflow.kill("triggerer-2")
    assert processes.session_members(second) == []
    airflow.wait_until_healthy()


def test_a_task_marked_as_failed_runs_again_after_it_was_cleared(airflow: LiveAirflow) -> None:
    run_id = airflow.trigger("harness", {"seconds": 600})
    airflow.wait_for_task_state("harness", run_id, "nap", "deferred")

    airflow.set_state("harness", run_id, "nap", "failed")
    with pytest.raises(UnexpectedStateError, match="ended as failed"):
        airflow.wait_for_task_state("harness", run_id, "nap", "success")
    assert airflow.wait_for_run("harness", run_id) == "failed"

    cleared = airflow.clear("harness", run_id, ["nap"])
    assert [task["task_id"] for task in cleared] == ["nap"]
    assert airflow.wait_for_task_state("harness", run_id, "nap", "deferred")["try_number"] == 2
    airflow.set_state("harness", run_id, "nap", "success")
    assert airflow.wait_for_task_state("harness", run_id, "nap", "success")


def test_a_file_that_does_not_import_ends_the_wait_for_its_dag(airflow: LiveAirflow) -> None:
    broken = Path(airflow.env["AIRFLOW__CORE__DAGS_FOLDER"]) / "broken.py"
    broken.write_text("# airflow dag\nraise ValueError('broken on purpose')\n")
    try:
        with pytest.raises(UnexpectedStateError, match="broken on purpose"):
            airflow.wait_for_dag("broken")
    finally:
        broken.unlink()
    assert processes.wait_until(lambda: not airflow.import_errors(), timeout=60)


def test_a_terminated_harness_leaves_no_process_and_no_file_outside_its_home(tmp_path: Path) -> None:
    home, user_home = tmp_path / "airflow-home", tmp_path / "user"
    user_home.mkdir()
    env = os.environ | {"HOME": str(user_home), "PYTHONPATH": str(SCRIPTS), "PYTHONDONTWRITEBYTECODE": "1"}
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

    assert script.returncode == 128 + signal.SIGTERM
    assert all(alive)
    assert [processes.session_members(int(pid)) for pid in leaders] == [[]] * len(PARTS)
    assert list(user_home.iterdir()) == []


@pytest.mark.usefixtures("heed_sigint")
def test_an_airflow_interrupted_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-c", LIVE_SCRIPT, str(tmp_path / "home"), str(DAGS)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as script:
        children: list[int] = []

        def has_parts() -> bool:
            children[:] = [child.pid for child in psutil.Process(script.pid).children()]
            return len(children) > 1

        assert processes.wait_until(has_parts, timeout=120, every=0.01)
        script.send_signal(signal.SIGINT)
        script.wait()

    assert script.returncode == -signal.SIGINT
    assert [processes.session_members(pid) for pid in children] == [[]] * len(children)


def test_a_part_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    nowhere = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////no/such/folder/airflow.db"}

    with (
        pytest.raises(LiveAirflowError, match="unable to open database file"),
        LiveAirflow(tmp_path, DAGS, env=nowhere),
    ):
        pass


def test_the_callers_airflow_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/elsewhere")
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", "magichour://:key@elsewhere")

    airflow = LiveAirflow(tmp_path, DAGS, env={"AIRFLOW__CORE__PARALLELISM": "2"})

    assert airflow.env["AIRFLOW__CORE__DAGS_FOLDER"] == str(DAGS)
    assert "AIRFLOW_CONN_MAGICHOUR_DEFAULT" not in airflow.env
    assert airflow.env["AIRFLOW__CORE__PARALLELISM"] == "2"
    airflow.close()


def test_the_children_of_a_part_that_was_killed_alone_end_with_airflow(tmp_path: Path) -> None:
    log = tmp_path / "orphan.log"
    airflow = LiveAirflow(tmp_path, DAGS)
    part = processes.start([sys.executable, "-c", STUBBORN_SCRIPT], env=os.environ, log=log, cwd=tmp_path)
    airflow.processes["scheduler"] = part
    assert processes.wait_until(lambda: log.read_text().count("ready") == 2, timeout=30)

    airflow.kill("scheduler", with_children=False)
    assert part.returncode == -signal.SIGKILL
    assert len(processes.session_members(part.pid)) == 1
    airflow.stop()

    assert processes.session_members(part.pid) == []


def test_stop_ends_a_frozen_child_without_force(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    script = "import time; print('ready', flush=True); time.sleep(600)"
    child = processes.start([sys.executable, "-c", script], env=os.environ, log=log, cwd=tmp_path)
    assert processes.wait_until(lambda: "ready" in log.read_text(), timeout=30)

    processes.freeze(child)
    processes.stop([child])

    assert child.returncode == -signal.SIGTERM


def test_stop_ends_children_in_other_groups_and_those_that_ignore_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    command = [sys.executable, "-c", STUBBORN_SCRIPT]
    child = processes.start(command, env=os.environ, log=log, cwd=tmp_path)
    assert processes.wait_until(lambda: log.read_text().count("ready") == 2, timeout=30)
    assert len(processes.session_members(child.pid)) == 2

    processes.stop([child], grace=0.3)

    assert processes.session_members(child.pid) == []
    assert child.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("heed_sigint")
def test_a_signal_that_is_held_arrives_after_the_work() -> None:
    done: list[str] = []

    def work() -> None:
        with processes.signals_held():
            signal.raise_signal(signal.SIGINT)
            done.append("work")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work"]


@pytest.mark.usefixtures("heed_sigint")
def test_an_ignored_signal_stays_ignored_and_hides_no_other() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def work() -> None:
        with processes.sigterm_raises(), processes.signals_held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("heed_sigint")
def test_a_child_heeds_sigint_though_its_parent_ignores_it(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = tmp_path / "child.log"
    command = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"]

    with processes.signals_held():
        processes.start(command, env=os.environ, log=log, cwd=tmp_path).wait()

    assert "default_int_handler" in log.read_text()


def test_free_ports_are_different_and_free() -> None:
    ports = processes.free_ports(3)

    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as each:
            each.bind(("127.0.0.1", port))
