"""One Dag run at a sandbox, driven through Airflow's REST API, signals and the sandbox's control pages."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import airflow
import psutil
import pytest
from airflow_rest import FINISHED_RUN, Json
from live_airflow import LiveAirflow
from processes import wait_until
from report import Row

from magichour_provider.sandbox import Behaviour, SandboxControl, SandboxServer, Settings
from magichour_provider.version_compat import AIRFLOW_V_3_4_PLUS

EXAMPLES = Path(__file__).parents[2] / "dags_examples"
IMAGE = EXAMPLES / "images" / "grace_hopper.jpg"
API_KEY = "mhk_live_DISTINCTIVE"
PATIENCE_SECONDS = 300.0
"""Limit for what a test waits for, on a machine that does a dozen things at once."""
HELD_SECONDS = 3600.0
"""Render time of a job that ends only when a test completes it."""

UPLOAD = {"path": "/v1/files/upload-urls", "method": "POST"}
PUT = {"path": "/api-assets/*", "method": "PUT", "origin": "storage"}
CREATE = {"path": "/v1/image-to-video", "method": "POST"}
POLL = {"path": "/v1/video-projects/*", "method": "GET"}

SYNCHRONOUS, DEFERRABLE, MAPPED = "synchronous", "deferrable", "mapped, deferrable"
SCHEDULER_DIES = [
    pytest.mark.skip(reason="the scheduler of Airflow 3.4.0b2 dies as it gives up a task without heartbeat")
] * (airflow.__version__ == "3.4.0b2")
"""It sends a callback first, which closes its session, so the attempt is not archived: UniqueViolation."""
_AIRFLOW_ERROR = "AirflowRuntimeError"
"""Raised in a task that Airflow does not let write any more."""
_RUNNING = ("queued", "rendering")


@dataclass(frozen=True)
class Run:
    """A Dag run, its jobs at the sandbox, and what it left in the logs."""

    airflow: LiveAirflow
    sandbox: SandboxControl
    dag_id: str
    run_id: str
    folder: Path
    task_id: str = "render"
    ports: frozenset[int] = frozenset()
    """Those of a sandbox that only this run uses."""

    def until(self, condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for a condition; TimeoutError names it. LiveAirflowError if a part of Airflow dies."""

        def is_so() -> bool:
            self.airflow.check_alive()
            return bool(condition())

        if not wait_until(is_so, timeout=seconds, every=0.3):
            raise TimeoutError(f"{self.run_id}: not within {seconds:g} s: {what}; tasks: {self.ends()}")

    def until_held(self, count: int = 1) -> None:
        self.until(lambda: len(self.sandbox.state()["held"]) >= count, "a request is held")

    def until_signed(self, sign: str) -> None:
        self.until((self.folder / sign).exists, f"the task is {sign}")

    def until_in(self, state: str, task_id: str | None = None) -> Json:
        """Wait until the task is in this state, and in no final one before it; the task instance."""
        task_id = task_id or self.task_id
        where = (self.dag_id, self.run_id, task_id, state)
        self.airflow.check_alive()
        return self.airflow.wait_for_task_state(*where, timeout=PATIENCE_SECONDS)

    def until_counts(self, **counts: int) -> None:
        self.until(lambda: self.counts() == counts, f"the states are {counts}")

    def until_polled(self) -> None:
        before = {job["id"]: job["polls"] for job in self.jobs() if job["status"] in _RUNNING}

        def all_are() -> bool:
            polls = {job["id"]: job["polls"] for job in self.jobs()}
            return all(polls[job_id] > count for job_id, count in before.items())

        self.until(all_are, "every job is polled")

    def until_one_runs(self) -> Json:
        """Wait until all mapped tasks but one are deferred; the one that runs."""

        def is_so() -> bool:
            counts = self.counts()
            return counts == {"running": 1, "deferred": len(self.tasks()) - 1}

        self.until(is_so, "all but one are deferred")
        return next(task for task in self.tasks() if task["state"] == "running")

    def until_recorded(self, *stages: str, map_index: int = -1) -> Json:
        """Wait until the task's job state is in one of these stages; the job state."""
        self.until(lambda: self.job_state(map_index).get("stage") in stages, f"the job state is {stages}")
        return self.job_state(map_index)

    def until_gone(self, task: Json) -> None:
        self.until(lambda: not _is_alive(task["pid"]), "the task's process has ended")

    def wait(self) -> str:
        """Wait for the end of the run; its state."""
        self.until(lambda: self.state() in FINISHED_RUN, "the run has ended", seconds=2 * PATIENCE_SECONDS)
        return self.state()

    def finish(self) -> str:
        """Complete each job that is polled from now on, wait for the end of the run, complete the others."""
        polls = {job["id"]: job["polls"] for job in self.jobs()}

        def has_ended() -> bool:
            self.complete(lambda job: job["polls"] > polls.get(job["id"], 0))
            return self.state() in FINISHED_RUN

        self.until(has_ended, "the run has ended")
        self.complete()
        return self.state()

    def complete(self, which: Callable[[Json], bool] = lambda job: True) -> None:
        for job in self.jobs():
            if job["status"] in _RUNNING and which(job):
                self.sandbox.set_job(job["id"], "complete")

    def complete_half(self) -> None:
        older = {job["id"] for job in self.jobs()[: len(self.jobs()) // 2]}
        self.complete(lambda job: job["id"] in older)

    def mark(self, state: str, task_id: str | None = None, map_index: int = -1) -> None:
        self.airflow.set_state(self.dag_id, self.run_id, task_id or self.task_id, state, map_index)

    def clear(self, *task_ids: str, keeps_state: bool = False) -> None:
        """Clear tasks; from 3.4 that empties the task state store unless the user keeps it."""
        options = {"keep_task_state": True} if keeps_state and AIRFLOW_V_3_4_PLUS else {}
        self.airflow.clear(self.dag_id, self.run_id, task_ids or None, **options)

    def store(self, key: str, value: str) -> None:
        self.airflow.request("PUT", f"{self._task_path}/state-store/{key}", json={"value": value})

    def kill(self, task: Json, *, with_supervisor: bool = False) -> None:
        """SIGKILL for the task's own process, and for its supervisor."""
        victims = self.processes(task) if with_supervisor else self.processes(task)[:1]
        for victim in victims:
            victim.kill()
        self.until(lambda: not any(_is_alive(victim.pid) for victim in victims), "the processes are gone")

    @staticmethod
    def processes(task: Json) -> list[psutil.Process]:
        """The process that runs the task's code, and its supervisor, a worker of the LocalExecutor."""
        runner = psutil.Process(task["pid"])
        supervisor = runner.parent()
        assert supervisor is not None
        assert "LocalExecutor" in " ".join(supervisor.cmdline()), supervisor.cmdline()
        return [runner, supervisor]

    def state(self) -> str:
        return str(self.airflow.run(self.dag_id, self.run_id)["state"])

    def jobs(self) -> list[Json]:
        """The jobs of this run, oldest first; if it shares the sandbox, those that are named after it."""
        jobs: list[Json] = self.sandbox.state()["jobs"]
        return jobs if self.ports else [job for job in jobs if job["name"].endswith(f" {self.run_id}")]

    def only_job(self) -> Json:
        """The one job of this run; ValueError if there are more, or none."""
        (job,) = self.jobs()
        return job

    def tasks(self) -> list[Json]:
        """The task instances, in the order of their map index."""
        found = self.airflow.task_instances(self.dag_id, self.run_id)
        return sorted(found, key=lambda task: int(task["map_index"]))

    def task(self, task_id: str | None = None, map_index: int = -1) -> Json:
        return self.airflow.task_instance(self.dag_id, self.run_id, task_id or self.task_id, map_index)

    def ends(self) -> dict[tuple[str, int], tuple[str | None, int]]:
        """State and attempt of each task, by its id and map index."""
        return {
            (task["task_id"], task["map_index"]): (task["state"], task["try_number"]) for task in self.tasks()
        }

    def counts(self) -> dict[str, int]:
        return dict(Counter(str(task["state"]) for task in self.tasks()))

    def triggerers(self) -> dict[int, int]:
        """How many triggers each triggerer has, by its id."""
        ids = [task["trigger"]["triggerer_id"] for task in self.tasks() if task["trigger"]]
        return dict(Counter(each for each in ids if each is not None))

    def xcom(self, task_id: str | None = None, key: str = "return_value", map_index: int = -1) -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id or self.task_id, key, map_index)

    def links(self, task_id: str) -> dict[str, str]:
        return self.airflow.extra_links(self.dag_id, self.run_id, task_id)

    def job_state(self, map_index: int = -1) -> Json:
        """What the task's state store has under `magichour_job`; empty if there is nothing."""
        path = f"{self._task_path}/state-store"
        found = self.airflow.request("GET", path, params={"map_index": map_index})["task_state_store"]
        states = [entry["value"] for entry in found if entry["key"] == "magichour_job"]
        return states[0] if states else {}

    def log(self, task_id: str | None = None, attempt: int = 1, map_index: int = -1) -> str:
        return self.airflow.log(self.dag_id, self.run_id, task_id or self.task_id, attempt, map_index)

    def log_files(self) -> str:
        """All that this run's tasks and their triggers have logged, read from the files."""
        folder = self.airflow.logs_dir / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.log*")))

    def workers(self, task_id: str) -> int:
        """How many workers have run a task: each writes a log of its own."""
        folder = self.airflow.logs_dir / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        paths = (folder / f"task_id={task_id}").iterdir()
        count = sum(re.fullmatch(r"attempt=\d+\.log", path.name) is not None for path in paths)
        task = self.task(task_id)
        assert (count == 0) == (not task["hostname"] and task["pid"] is None)
        return count

    def errors(self, task: Json) -> dict[str, str]:
        """Errors in the task's last attempt, but for Airflow's own: messages by name of the class."""
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task['task_id']}/logs"
        params = {"map_index": task["map_index"], "full_content": True}
        content = self.airflow.request("GET", f"{path}/{task['try_number']}", params=params)["content"]
        errors = [error for line in content for error in line.get("error_detail") or ()]
        return {each["exc_type"]: each["exc_value"] for each in errors if each["exc_type"] != _AIRFLOW_ERROR}

    def row(self, what: str, mode: str, *, requested: int | None = None, map_index: int | None = None) -> Row:
        """What became of the videos and of the credits: of one of the tasks, or of all."""
        tasks, jobs = self.tasks(), self.jobs()
        chosen = tasks if map_index is None else [task for task in tasks if task["map_index"] == map_index]
        ends = {f"{task['state']}, attempt {task['try_number']}" for task in chosen}
        return Row(
            what=what,
            mode=mode,
            ends=" / ".join(sorted(ends)),
            requested=len(tasks) if requested is None else requested,
            paid=sum(job["credits_charged"] > 0 for job in jobs),
            rendered=sum(job["status"] == "complete" for job in jobs),
            job=", ".join(sorted({self.job_code(task) for task in chosen})),
        )

    def job_code(self, task: Json) -> str:
        """Which of the codes of `docs/reliability.md` a task's last attempt has come to."""
        result = self.xcom(map_index=task["map_index"])
        if task["state"] == "success" and result is not None:
            jobs = {job["id"]: job for job in self.jobs()}
            if _time(jobs[result["project_id"]]["created_at"]) < _time(task["start_date"]):
                return "reattached"
            return "resubmitted" if task["map_index"] == -1 and len(jobs) > 1 else "submitted"
        log = self.log(attempt=task["try_number"], map_index=task["map_index"])
        index = f"[{task['map_index']}]"
        jobs = [job for job in self.jobs() if task["map_index"] == -1 or index in job["name"]]
        if any(job["id"] in log for job in jobs):
            return "job-reported"
        if f"{self.dag_id} {self.task_id}" in log and "https://magichour.ai/my-library" in log:
            return "unknown-reported"
        assert not jobs, f"a job is lost: nothing in the log names it:\n{log}"
        return "not-submitted"

    @property
    def _task_path(self) -> str:
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{self.task_id}"


Played = Callable[[Any], Any]
"""Waits for a scenario, one way to break things as data, and returns the result of its `play`."""


class Starter:
    """Starts runs at an Airflow; each run of `start` has a sandbox of its own, open until `close`."""

    def __init__(self, airflow: LiveAirflow, folder: Path) -> None:
        self.airflow = airflow
        self.folder = folder
        self._sandboxes = ExitStack()

    def start(
        self, dag_id: str, run_id: str, *, hold: dict[str, Any] | None = None, times: int = 1, **conf: Any
    ) -> Run:
        """Start a run whose jobs end when the test completes them; `hold` is a rule for some requests."""
        sandbox = self._sandboxes.enter_context(own_sandbox())
        if hold is not None:
            sandbox.control.faults([{**hold, "times": times}])
        connection = {"connection_id": run_id, "conn_type": "magichour", "host": sandbox.url}
        self.airflow.request("POST", "/connections", json={**connection, "password": API_KEY})
        conf = {"conn_id": run_id, "image": str(IMAGE), **conf}
        run = self.start_at(sandbox.control, dag_id, run_id, **conf)
        ports = {int(url.rpartition(":")[2]) for url in (sandbox.url, sandbox.storage_url)}
        return replace(run, ports=frozenset(ports))

    def start_at(self, sandbox: SandboxControl, dag_id: str, run_id: str, **conf: Any) -> Run:
        """Start a run at a sandbox that its Dag's connection knows."""
        folder = self.folder / run_id
        folder.mkdir()
        self.airflow.trigger(dag_id, {"folder": str(folder), **conf}, run_id=run_id)
        return Run(self.airflow, sandbox, dag_id, run_id, folder)

    def close(self) -> None:
        self._sandboxes.close()


@contextmanager
def own_sandbox() -> Iterator[SandboxServer]:
    """A sandbox in this process whose jobs render until a test completes them."""
    behaviour = Behaviour(render_seconds=HELD_SECONDS)
    with SandboxServer(Settings(api_keys=(API_KEY,), quick=True, behaviour=behaviour)) as sandbox:
        yield sandbox


def thaw(process: psutil.Process) -> None:
    process.send_signal(signal.SIGCONT)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _is_alive(pid: int | None) -> bool:
    try:
        process = psutil.Process(pid) if pid is not None else None
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
