"""A video is charged at most once: a state machine of attempts, kills, lost answers and Clears.

The same rules hold for both backends: a task state store for each task instance, or one file for three runs.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import Clock, Killed, MagicHour, Steps, Task, Variables, killed

from magichour_provider.exceptions import APIError, NetworkError, SubmissionUnknownError, TaskKilledError
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.jobs.state_backends import KEY

AMBIGUOUS = {502, "lost on the way", "answer lost", "unreadable"}
FAULTS = [None, None, 429, 503, 402, 422, "never connected", *sorted(AMBIGUOUS, key=str)]
RUNS = 3
MARK_UNKNOWN = JobStateStore.mark_unknown


class PaidOnce(RuleBasedStateMachine):
    """Tasks that want one video. `excused`: jobs that a user has given up by a Clear."""

    with_file = False
    with_variables = False

    @initialize()
    def begin(self):
        variables = Variables() if self.with_variables else None
        self.patch = patch("airflow.sdk.Variable", variables)
        self.patch.start()
        self.magic, self.clock = MagicHour(), Clock()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "cat.json" if self.with_file else None
        self.tasks = [
            Task(self.magic, self.clock, path=path, run=f"run_{number}", variables=variables)
            for number in range(RUNS if self.with_file else 1)
        ]
        self.excused = set()
        self.returned = {}
        self.succeeded = {}
        self.reported = set()
        self.in_doubt = False

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()
            self.patch.stop()

    def live(self):
        return {job["id"] for job in self.magic.jobs.values() if self.costs(job)} - self.excused

    @staticmethod
    def costs(job):
        return job["status"] not in ("error", "canceled") and job["enabled"]

    @rule(
        number=st.integers(0, RUNS - 1),
        faults=st.lists(st.sampled_from(FAULTS), max_size=4),
        at=st.none() | st.integers(0, 14),
        after=st.booleans(),
    )
    def attempt(self, number, faults, at, after):
        self.magic.faults = list(faults)
        self.run(self.tasks[number % len(self.tasks)], Steps(at, after=after), faults)

    @precondition(lambda self: self.with_file)
    @rule(
        number=st.integers(0, RUNS - 1),
        other=st.integers(1, RUNS - 1),
        faults=st.lists(st.sampled_from(FAULTS), max_size=2),
        at=st.integers(0, 8),
        after=st.booleans(),
    )
    def two_attempts_at_once(self, number, other, faults, at, after):
        """A whole attempt of another run between two steps of this one; it is killed if it must wait."""
        self.magic.faults = list(faults)
        intruder = self.tasks[(number + other) % RUNS]
        steps = Steps(at, after=after, event=lambda: self.run(intruder, Steps(), faults, on_sleep=killed))
        self.run(self.tasks[number], steps, faults)

    def run(self, task, steps, faults, **options):
        if task in self.succeeded:
            return  # Airflow starts no attempt of a task that has succeeded, unless a user clears it
        self.returned.pop(task, None)

        def report(store, error):
            self.reported.add(task)  # it is in the log, also if the attempt ends before it is recorded
            MARK_UNKNOWN(store, error)

        try:
            with patch.object(JobStateStore, "mark_unknown", report):
                job = task.attempt(steps, **options)
        except SubmissionUnknownError:
            self.in_doubt |= bool(AMBIGUOUS & set(faults))
            assert self.in_doubt, "a create that was refused leaves nothing to search for"
        except (APIError, NetworkError):
            pass
        except Killed:
            self.in_doubt = True
        else:
            assert job.id in self.magic.jobs
            assert self.costs(self.magic.jobs[job.id]), "no failed job is returned"
            self.returned[task] = job.id

    @rule(number=st.integers(0, RUNS - 1))
    def clear(self, number):
        task = self.tasks[number % len(self.tasks)]
        if task in self.reported:  # the user was asked to check whether there is a job
            self.excused |= self.live()
        if task in self.succeeded:
            self.excused.add(self.succeeded.pop(task))
        self.reported.discard(task)
        task.clear()

    @precondition(lambda self: self.with_file or self.with_variables)
    @rule(
        number=st.integers(0, RUNS - 1),
        faults=st.lists(st.sampled_from(FAULTS), max_size=2),
        at=st.integers(0, 14),
        after=st.booleans(),
    )
    def attempt_that_is_cleared(self, number, faults, at, after):
        """Airflow kills the attempt, which continues for some seconds and may write (from Airflow 3.4)."""
        self.magic.faults = list(faults)
        task = self.tasks[number % len(self.tasks)]

        def clear():
            task.cancellation.cancelled = True
            self.clear(number)

        with suppress(TaskKilledError):
            self.run(task, Steps(at, after=after, event=clear), faults)
        if task not in self.succeeded and task.cancellation.cancelled:
            self.returned.pop(task, None)

    @precondition(lambda self: self.returned)
    @rule(data=st.data())
    def succeed(self, data):
        task = data.draw(st.sampled_from(sorted(self.returned, key=self.tasks.index)))
        job_id = self.returned.pop(task)
        if self.costs(self.magic.jobs[job_id]):
            self.magic.end(job_id, "complete")
            task.succeed(job_id)
            self.succeeded[task] = job_id

    @precondition(lambda self: self.live())
    @rule(data=st.data(), status=st.sampled_from(["error", "canceled", "deleted", "complete"]))
    def job_ends(self, data, status):
        job_id = data.draw(st.sampled_from(sorted(self.live())))
        if job_id not in self.succeeded.values():
            self.magic.end(job_id, status)

    @rule(seconds=st.sampled_from([10, 130, 4000]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @invariant()
    def charged_at_most_once(self):
        if hasattr(self, "magic"):
            assert len(self.live()) <= 1, self.magic.jobs


class PaidOnceByVariable(PaidOnce):
    """A Clear empties the task state store (Airflow 3.4)."""

    with_variables = True


class PaidOnceByFile(PaidOnce):
    """Three runs share one file."""

    with_file = True


def test_kill_before_a_create_is_resent_sends_no_second_create():
    magic, clock = MagicHour(), Clock()
    task = Task(magic, clock)
    magic.faults = [429, None]

    def kill(_seconds):
        task.cancellation.cancelled = True

    with pytest.raises(TaskKilledError, match="killed"):
        task.attempt(on_sleep=kill)
    assert magic.faults == [None], "one create was sent"
    assert not magic.jobs
    assert KEY not in task.store, "a create that was refused leaves no intent"
    assert task.attempt().id in magic.jobs


@pytest.mark.parametrize("at", range(5))
def test_clear_before_the_outcome_is_reported_answers_nothing(at):
    magic = MagicHour()
    task = Task(magic, Clock())

    def clear():
        task.cancellation.cancelled = True
        task.clear()

    magic.faults = ["answer lost"]
    for steps in (Steps(at, after=True, event=clear), Steps()):
        with suppress(TaskKilledError, SubmissionUnknownError):
            task.attempt(steps)
    assert len(magic.jobs) <= 1


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTaskStateStore = PaidOnce.TestCase
TestTaskStateStore.settings = SETTINGS
TestTaskStateStoreThatAClearEmpties = PaidOnceByVariable.TestCase
TestTaskStateStoreThatAClearEmpties.settings = SETTINGS
TestFile = PaidOnceByFile.TestCase
TestFile.settings = SETTINGS
