"""One way to break things: a run of its own, a sandbox of its own, and what became of both."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from airflow_rest import FINISHED_RUN, Json
from live_airflow import LiveAirflow
from processes import wait_until
from report import Row

from magichour_provider.sandbox import Behaviour, SandboxServer, Settings

IMAGE = Path(__file__).parents[3] / "dags_examples" / "images" / "grace_hopper.jpg"
TASK = "render"
PATIENCE = 150.0
"""Seconds within which what is waited for must come true, on a machine that does a dozen things at once."""

UPLOAD = {"path": "/v1/files/upload-urls", "method": "POST"}
PUT = {"path": "/api-assets/*", "method": "PUT", "origin": "storage"}
CREATE = {"path": "/v1/image-to-video", "method": "POST"}

SYNCHRONOUS, DEFERRABLE, MAPPED = "synchronous", "deferrable", "mapped, deferrable"
TIMED = "synchronous, with a timeout"
_DAGS = {
    SYNCHRONOUS: "breaking_synchronous",
    DEFERRABLE: "breaking_deferrable",
    MAPPED: "breaking_mapped",
    TIMED: "breaking_timed",
    "mapped, many": "breaking_budget_many",
    "mapped, few": "breaking_budget_few",
}
_GOES_ON = ("queued", "rendering")


@dataclass(frozen=True)
class Seen:
    """What became of the task.

    :param row: the row for the page.
    :param said: what the task told the person in its last try, with its ids.
    :param unnamed: the jobs that no try's log names.
    """

    row: Row
    said: str
    unnamed: tuple[str, ...]


@dataclass
class Scene:
    """A run of one of the breaking Dags; `play` functions drive it through REST, signals and the sandbox."""

    airflow: LiveAirflow
    sandbox: SandboxServer
    name: str
    mode: str
    signs: Path
    dag_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.dag_id = _DAGS[self.mode]

    # -- Beginning

    def begin(self, *, stop_at: str = "", hold: dict[str, str] | None = None, times: int = 1) -> None:
        """Start the run; `hold` is a fault rule for so many of its first such requests."""
        if hold is not None:
            self.sandbox.control.faults([{**hold, "times": times}])
        connection = {"connection_id": self.name, "conn_type": "magichour", "host": self.sandbox.url}
        self.airflow.request("POST", "/connections", json={**connection, "password": self.sandbox.api_key})
        conf = {"conn_id": self.name, "image": str(IMAGE), "signs": str(self.signs), "stop_at": stop_at}
        self.airflow.trigger(self.dag_id, conf, run_id=self.name)

    # -- Waiting

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition; TimeoutError that says what did not come."""
        if not wait_until(lambda: bool(condition()), timeout=PATIENCE, every=0.2):
            states = [(task["state"], task["try_number"]) for task in self.tasks()]
            raise TimeoutError(f"{self.name}: waited in vain until {what}; tasks: {states}")

    def until_held(self) -> None:
        """Wait until the sandbox holds a request."""
        self.until(lambda: self.sandbox.control.state()["held"], "a request is held")

    def until_signed(self, sign: str) -> None:
        """Wait until the task has left this sign."""
        self.until((self.signs / sign).exists, f"the task is {sign}")

    def until_in(self, state: str) -> Json:
        """Wait until the only task is in this state; the task instance."""
        self.until(lambda: [task["state"] for task in self.tasks()] == [state], f"the task is {state}")
        return self.tasks()[0]

    def until_waiting_in_the_worker(self) -> None:
        """Wait until the task has looked at its job more than once."""
        self.until(lambda: [job["polls"] > 1 for job in self.jobs()] == [True], "the job is looked at")

    def until_others_are_deferred(self) -> Json:
        """Wait until all mapped tasks but one are deferred; the one that runs."""

        def is_so() -> bool:
            states = [task["state"] for task in self.tasks()]
            return states.count("running") == 1 and states.count("deferred") == len(states) - 1

        self.until(is_so, "all but one are deferred")
        return next(task for task in self.tasks() if task["state"] == "running")

    def finish(self) -> None:
        """Wait for the end of the run; a job completes once it is looked at from now on, or at the end."""
        looks = {job["id"]: job["polls"] for job in self.jobs()}

        def is_over() -> bool:
            self.complete_jobs(lambda job: job["polls"] > looks.get(job["id"], 0))
            return self.airflow.run(self.dag_id, self.name)["state"] in FINISHED_RUN

        self.until(is_over, "the run is over")
        self.complete_jobs()

    # -- Doing

    def complete_jobs(self, which: Callable[[Json], bool] = lambda job: True) -> None:
        """Let the jobs complete that go on, or those of them that are chosen."""
        for job in self.jobs():
            if job["status"] in _GOES_ON and which(job):
                self.sandbox.control.set_job(job["id"], "complete")

    def kill(self, task: Json, *, with_supervisor: bool = False) -> None:
        """SIGKILL for the task's own process, and for the supervisor above it where that is asked for."""
        victims = task_process(task) if with_supervisor else task_process(task)[:1]
        for victim in victims:
            victim.kill()
        self.until(lambda: not any(_runs(victim) for victim in victims), "the processes are gone")

    def freeze(self, task: Json) -> list[psutil.Process]:
        """SIGSTOP for the supervisor and the task's process; the processes, the task's own first."""
        processes = task_process(task)
        for process in reversed(processes):
            process.suspend()
        return processes

    def mark(self, state: str) -> None:
        """Mark the task, as a person does in the UI."""
        self.airflow.set_state(self.dag_id, self.name, TASK, state)

    def clear(self) -> None:
        """Clear the task, as a person does in the UI."""
        self.airflow.clear(self.dag_id, self.name, [TASK])

    def store(self, key: str, value: str) -> None:
        """Put something into the task's state store, as a person does in the UI."""
        path = f"/dags/{self.dag_id}/dagRuns/{self.name}/taskInstances/{TASK}/state-store/{key}"
        self.airflow.request("PUT", path, json={"value": value})

    def until_done(self) -> None:
        """Wait until the only task has written, after its success, that it is done."""
        path = f"/dags/{self.dag_id}/dagRuns/{self.name}/taskInstances/{TASK}/state-store/magichour_job"
        self.until(lambda: self.airflow.request("GET", path)["value"]["stage"] == "done", "the task is done")

    def until_gone(self, task: Json) -> None:
        """Wait until the process of a task instance has ended."""
        self.until(lambda: not _exists(task["pid"]), "the task's process is gone")

    # -- Looking

    def tasks(self) -> list[Json]:
        """The task instances, in the order of their map index."""
        found = self.airflow.task_instances(self.dag_id, self.name)
        return sorted(found, key=lambda task: int(task["map_index"]))

    def jobs(self) -> list[Json]:
        """The ledger's jobs, oldest first."""
        jobs: list[Json] = self.sandbox.control.state()["jobs"]
        return jobs

    def seen(self, what: str, *, clips: int = 1, map_index: int = -1) -> Seen:
        """What became of the task, and of the money."""
        task = self.airflow.task_instance(self.dag_id, self.name, TASK, map_index)
        jobs = self.jobs()
        said = self.said(task)
        row = Row(
            what=what,
            mode=self.mode,
            ends=f"{task['state']}, try {task['try_number']}",
            clips=clips,
            paid=sum(job["credits_charged"] > 0 for job in jobs),
            rendered=sum(job["status"] == "complete" for job in jobs),
            message=_without_balances(anonymous(said, self.name), self.mode),
        )
        if task["state"] == "success" and self._result(map_index) is not None:
            assert self._result(map_index)["project_id"] in {job["id"] for job in jobs}
        log = " ".join(self.log(task, number) for number in range(1, task["try_number"] + 1))
        return Seen(row, said, tuple(job["id"] for job in jobs if job["id"] not in log))

    def said(self, task: Json) -> str:
        """What the provider told the person in the task's last try: the error, else what it noticed."""
        messages = self._messages(task, task["try_number"])
        errors = [error for message in messages for error in message.get("error_detail") or ()]
        ours = [error["exc_value"] for error in errors if error["exc_type"] != _AIRFLOWS_OWN]
        if ours:
            return str(ours[0])
        return " ".join(dict.fromkeys(message["event"] for message in messages if _is_telling(message)))

    def log(self, task: Json, try_number: int) -> str:
        """All that one try has logged."""
        return self.airflow.log(self.dag_id, self.name, TASK, try_number, task["map_index"])

    def _messages(self, task: Json, try_number: int) -> list[Json]:
        path = f"/dags/{self.dag_id}/dagRuns/{self.name}/taskInstances/{TASK}/logs/{try_number}"
        params = {"map_index": task["map_index"], "full_content": True}
        messages: list[Json] = self.airflow.request("GET", path, params=params)["content"]
        return messages

    def _result(self, map_index: int) -> Any:
        return self.airflow.xcom(self.dag_id, self.name, TASK, map_index=map_index)


def stage(airflow: LiveAirflow, name: str, mode: str, folder: Path) -> Scene:
    """Make a scene with a sandbox whose jobs go on until a test completes them; the caller stops it."""
    signs = folder / name
    signs.mkdir()
    sandbox = SandboxServer(Settings(quick=True, behaviour=Behaviour(render_seconds=3600)))
    sandbox.start()
    return Scene(airflow, sandbox, name, mode, signs)


def task_process(task: Json) -> list[psutil.Process]:
    """The process that runs the task's code, and its supervisor, which is a worker of the LocalExecutor."""
    runner = psutil.Process(task["pid"])
    supervisor = runner.parent()
    assert supervisor is not None
    assert "LocalExecutor" in " ".join(supervisor.cmdline()), supervisor.cmdline()
    assert os.getpgid(runner.pid) == runner.pid, "the task's process leads a group of its own"
    return [runner, supervisor]


def awaken(process: psutil.Process) -> None:
    """SIGCONT."""
    process.send_signal(signal.SIGCONT)


def anonymous(said: str, run_id: str) -> str:
    """A message without what differs from run to run."""
    text = said.replace(run_id, "...")
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    return text.replace("\n", " ")


_RECORDS = ("magichour_provider.jobs.state", "magichour_provider.jobs.reattach")
"""Who says what a record of an earlier try has led to."""
_AIRFLOWS_OWN = "AirflowRuntimeError"
"""What a task meets that has no business to run any more."""
_VARIABLE = [
    (re.compile(r" It is complete: .* renders another clip\."), ""),  # or not yet: whoever looks first
    (re.compile(r" ?\(?https?://\S*/my-library\?\S*\)?"), ""),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.+Z]+"), "..."),
    (re.compile(r"(?<=named )'[^']*'"), "..."),
    (re.compile(r"(?<=[Jj]ob )[a-z0-9]{20,}"), "..."),
    (re.compile(r"127\.0\.0\.1:\d+"), "..."),
]


def _without_balances(said: str, mode: str) -> str:
    """Mapped tasks share an account, and spend in whatever order they come."""
    return re.sub(r"had \d+ credits.*? now, [^;]+", "had ...", said) if mode == MAPPED else said


def _is_telling(message: Json) -> bool:
    logger = str(message.get("logger") or "")
    if logger.startswith(_RECORDS):
        return True
    is_ours = logger.startswith("magichour_provider") or "BreakableOperator" in logger
    return is_ours and message.get("level") in ("warning", "error", "critical")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _exists(pid: int | None) -> bool:
    try:
        return pid is not None and _runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
