"""A worker that comes back after Airflow has given it up, and a task whose time is up at the worst moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psutil
import pytest
from airflow_rest import Json
from report import Report
from scene import CREATE, PUT, SYNCHRONOUS, TIMED, Scene, Seen, awaken

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

SECTION = "killed"
EXECUTION_TIMEOUT = 20
"""Seconds from the start of the process by which the 15 of the Dag are over."""
PLACE = 1000
"""Below the rows of the kills."""


@dataclass(frozen=True)
class Frozen:
    """The worker stops between upload and create until another try has succeeded, and then goes on."""

    id: str = "frozen"
    mode: str = SYNCHRONOUS

    def play(self, scene: Scene) -> list[Seen]:
        """Freeze, let Airflow's heartbeat timeout pass and the next try succeed, and thaw."""
        scene.begin(hold={**PUT, "hold": "after"})
        scene.until_held()
        task = scene.until_in("running")
        runner, supervisor = scene.freeze(task)
        try:
            scene.finish()
        finally:
            scene.sandbox.control.release()
            awaken(runner)
            scene.until(lambda: not _talks_to_the_sandbox(scene, runner), "the upload's answer is read")
            awaken(supervisor)
        scene.until_gone(task)
        scene.complete_jobs()
        what = "frozen with its supervisor between upload and create, until the next try has succeeded"
        return [scene.seen(f"not killed, but {what}")]


@dataclass(frozen=True)
class Late:
    """`execution_timeout` passes while the create is in flight and taken; it is answered later, or never.

    :param answered: whether it is, within the 30 seconds that the provider gives it.
    """

    answered: bool
    mode: str = TIMED

    @property
    def id(self) -> str:
        """A name that no other has."""
        return "answered late" if self.answered else "never answered"

    def play(self, scene: Scene) -> list[Seen]:
        """Let the time run out, and where nobody can tell, clear the task as its message says."""
        what = "not killed: `execution_timeout` passes while the create is in flight and taken"
        scene.begin(hold={**CREATE, "hold": "after"})
        if self.answered:
            scene.until_held()
            task = scene.until_in("running")
            scene.until(lambda: _age(task) > EXECUTION_TIMEOUT, "its time is up")
            scene.sandbox.control.release()
            scene.finish()
            return [scene.seen(f"{what}, which is then answered")]
        scene.finish()
        first = scene.seen(what)
        scene.clear()
        scene.finish()
        return [first, scene.seen(f"{what}; then cleared by a person", clips=2)]


Played = Callable[[object], list[Seen]]


@pytest.mark.parametrize("scenario", [pytest.param(Frozen(), id="frozen")])
def test_a_worker_that_comes_back_after_its_task_was_given_up_pays_nothing(
    scenario: Frozen, played: Played, report: Report
) -> None:
    (seen,) = played(scenario)
    assert (seen.row.ends, seen.row.paid, seen.row.rendered) == ("success, try 2", 1, 1)
    report.add(SECTION, seen.row, place=PLACE)


@pytest.mark.parametrize("scenario", [pytest.param(Late(answered=True), id="answered late")])
def test_an_answer_that_comes_shortly_after_a_timeout_is_recorded(
    scenario: Late, played: Played, report: Report
) -> None:
    (seen,) = played(scenario)
    assert (seen.row.ends, seen.row.paid, seen.row.rendered) == ("success, try 2", 1, 1)
    assert "Taking up job" in seen.said
    report.add(SECTION, seen.row, place=PLACE)


@pytest.mark.parametrize("scenario", [pytest.param(Late(answered=False), id="never answered")])
def test_a_timeout_inside_the_create_says_that_nobody_can_tell_and_is_not_retried(
    scenario: Late, played: Played, report: Report
) -> None:
    told, cleared = played(scenario)
    assert (told.row.ends, told.row.paid) == ("failed, try 1", 1)
    assert "may have been" in told.said
    assert (cleared.row.ends, cleared.row.paid, cleared.row.rendered) == ("success, try 2", 2, 2)
    report.add(SECTION, told.row, place=PLACE)
    report.add(SECTION, cleared.row, place=PLACE)


def _age(task: Json) -> float:
    """Seconds since the start of a task."""
    return time.time() - datetime.fromisoformat(task["start_date"].replace("Z", "+00:00")).timestamp()


def _talks_to_the_sandbox(scene: Scene, process: psutil.Process) -> bool:
    ports = {int(url.rpartition(":")[2]) for url in (scene.sandbox.url, scene.sandbox.storage_url)}
    return any(link.raddr and link.raddr.port in ports for link in process.net_connections("tcp"))
