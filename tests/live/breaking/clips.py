"""The clips of one Dag run, at a sandbox of their own that renders until it is told to end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_rest import FINISHED_RUN, Json
from live_airflow import LiveAirflow
from processes import wait_until
from report import Row
from scene import anonymous

from magichour_provider.jobs.state import KEY
from magichour_provider.sandbox import SandboxServer

SECTION = "moving parts"
TASK = "render"
MANY, ONE = "moving_many", "moving_one"
CREATE = {"path": "/v1/image-to-video", "method": "POST", "times": 1}
"""A fault rule for the next create."""

_IMAGE = Path(__file__).parents[3] / "dags_examples" / "images" / "grace_hopper.jpg"
_PATIENCE = 120.0
LOOK = {"path": "/v1/video-projects/*", "method": "GET"}
"""A fault rule for every look at a job."""
_GOES_ON = ("queued", "rendering")


@dataclass(frozen=True)
class Clips:
    """A run of one of the moving Dags, the jobs that it ordered, and what it left in the logs."""

    airflow: LiveAirflow
    sandbox: SandboxServer
    dag_id: str
    run_id: str

    def begin(self, *, hold_create: str | None = None) -> None:
        """Start the run; its first create may be held, `before` it is taken or `after`."""
        if hold_create is not None:
            self.sandbox.control.faults([{**CREATE, "hold": hold_create}])
        connection = {"connection_id": self.run_id, "conn_type": "magichour", "host": self.sandbox.url}
        self.airflow.request("POST", "/connections", json={**connection, "password": self.sandbox.api_key})
        conf = {"conn_id": self.run_id, "image": str(_IMAGE)}
        self.airflow.trigger(self.dag_id, conf, run_id=self.run_id)

    # -- Waiting

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition; TimeoutError that says what did not come."""
        if not wait_until(lambda: bool(condition()), timeout=_PATIENCE, every=0.3):
            raise TimeoutError(f"{self.run_id}: waited in vain until {what}.")

    def until_held(self) -> None:
        """Wait until the sandbox holds a create."""
        self.until(lambda: self.sandbox.control.state()["held"], "a create is held")

    def until_all(self, state: str, count: int) -> None:
        """Wait until there are so many tasks, all of them in this state."""
        self.until(lambda: self.states() == {state: count}, f"all are {state}")

    def until_rendering(self, count: int) -> None:
        """Wait until so many tasks are deferred and the triggerer has looked at each job."""
        self.until_all("deferred", count)
        self.until_watched()

    def until_watched(self) -> None:
        """Wait until the triggerer looks at every job, again from now on."""
        before = {job["id"]: job["polls"] for job in self.jobs() if job["status"] in _GOES_ON}

        def all_are_looked_at() -> bool:
            polls = {job["id"]: job["polls"] for job in self.jobs()}
            return all(polls[each] > count for each, count in before.items())

        self.until(all_are_looked_at, "every job is looked at")

    def finish(self) -> str:
        """Let every job complete and wait for the end of the run; its state."""

        def is_over() -> bool:
            self.complete()
            return self._state() in FINISHED_RUN

        self.until(is_over, "the run is over")
        return self._state()

    # -- Doing

    def complete(self, jobs: slice = slice(None)) -> None:
        """Let jobs complete that go on, all of them or a part."""
        for job in self.jobs()[jobs]:
            if job["status"] in _GOES_ON:
                self.sandbox.control.set_job(job["id"], "complete")

    # -- Looking

    def jobs(self) -> list[Json]:
        """The ledger's jobs, oldest first."""
        jobs: list[Json] = self.sandbox.control.state()["jobs"]
        return jobs

    def tasks(self) -> list[Json]:
        """The task instances."""
        return self.airflow.task_instances(self.dag_id, self.run_id)

    def watchers(self) -> dict[int, int]:
        """How many triggers each triggerer has, by its id."""
        ids = [task["trigger"]["triggerer_id"] for task in self.tasks() if task["trigger"]]
        return {each: ids.count(each) for each in ids if each is not None}

    def states(self) -> dict[str, int]:
        """How many tasks are in each state."""
        found = [str(task["state"]) for task in self.tasks()]
        return {state: found.count(state) for state in found}

    def log(self, *, try_number: int = 1) -> str:
        """The log of the only task's try, as Airflow shows it."""
        return self.airflow.log(self.dag_id, self.run_id, TASK, try_number)

    def written(self) -> str:
        """All that this run's tasks and their triggers have written, read from the files."""
        folder = self.airflow.logs_dir / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.log*")))

    def error(self, *, try_number: int) -> str:
        """The last error of the only task's try, without what differs from run to run."""
        said = re.findall(r"^    \w+: (.*)", self.log(try_number=try_number), re.MULTILINE)
        return anonymous(said[-1], self.run_id) if said else ""

    def row(self, what: str, *, message: str = "") -> Row:
        """What became of the clips and of the money, for the page."""
        tasks, jobs = self.tasks(), self.jobs()
        ends = sorted({f"{task['state']}, try {task['try_number']}" for task in tasks})
        return Row(
            what=what,
            mode="deferrable" if self.dag_id == ONE else "mapped, deferrable",
            ends=" / ".join(ends),
            clips=len(tasks),
            paid=sum(job["credits_charged"] > 0 for job in jobs),
            rendered=sum(job["status"] == "complete" for job in jobs),
            message=message,
        )

    def assert_each_has_its_own_job(self, *, workers_killed: bool = False) -> None:
        """Every task returned and recorded a job of this run, paid and rendered, and no two the same.

        A worker that was killed after its task's success may not have written that the task is done.
        """
        indexes = [task["map_index"] for task in self.tasks()]
        results = [self.airflow.xcom(self.dag_id, self.run_id, TASK, map_index=each) for each in indexes]
        if not workers_killed:
            self.until(lambda: {self._record(each)[0] for each in indexes} == {"done"}, "all are done")
        recorded = [self._record(each)[1] for each in indexes]
        jobs = {job["id"]: job for job in self.jobs()}
        assert sorted(result["project_id"] for result in results) == sorted(jobs)
        assert recorded == [result["project_id"] for result in results]
        assert all(job["credits_charged"] > 0 and job["status"] == "complete" for job in jobs.values())

    def _record(self, map_index: int) -> tuple[str, str | None]:
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{TASK}/state-store"
        found = self.airflow.request("GET", path, params={"map_index": map_index})["task_state_store"]
        (record,) = [entry["value"] for entry in found if entry["key"] == KEY]
        return record["stage"], record["project_id"]

    def _state(self) -> str:
        return str(self.airflow.run(self.dag_id, self.run_id)["state"])
