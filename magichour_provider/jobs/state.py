"""The state of a paid job, by which a new attempt re-attaches to the job instead of paying for another.

`intent` is written before the create, `submitted` as soon as the create is answered, `done` when Airflow has
accepted the task's success. A state without a job id means that it is not known whether the create was
received: the task then fails, and submits again only if a user clears it after that.

Exactly one backend keeps the state. `TaskStateBackend` is the task state store of Airflow 3.3: one for each
task instance, and closed to an attempt that Airflow has given up. `FileBackend` is a file (`state_path`),
which other runs find too and which needs no Airflow 3.3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from magichour_provider.client import library_url
from magichour_provider.exceptions import (
    InvalidRequestError,
    MagicHourError,
    SubmissionUnknownError,
    TaskKilledError,
)
from magichour_provider.jobs.arguments import parse_id, parse_path
from magichour_provider.jobs.state_backends import (
    JOBS_KEY,
    FileBackend,
    StateBackend,
    StateConflictError,
    TaskStateBackend,
    build_unreadable_error,
)
from magichour_provider.version_compat import AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

INTENT_SECONDS = 120.0
"""A create ends within 65 seconds. An intent that is older than this has lost its task."""

_MAX_JOBS_IN_FILE = 1000


class Stage(str, Enum):
    """How far a submission has come. `unknown`: an intent without a job id, reported to the user."""

    INTENT = "intent"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    DONE = "done"


@dataclass(frozen=True)
class JobState:
    """One submission: ids, numbers and a hash.

    :param fingerprint: hash of everything that changes the video.
    :param at: when the create was about to be sent, ISO 8601.
    :param max_tries: the task's own when this was written. A Clear changes it, a retry does not.
    :param balance: the account's credits before the create.
    :param cost: credits by the catalogue.
    :param spent: credits of this task's earlier jobs in this run that were not refunded.
    :param elsewhere: another task instance has paid for the job.
    :param run: Dag and run of the task instance that wrote this; with `task`, its id and map index.
    :param attempt: the try number of the attempt that wrote this.
    :param intent_id: a random id for each time that a create is sent.
    """

    stage: Stage
    fingerprint: str
    at: str
    max_tries: int
    name: str | None = None
    balance: int | None = None
    cost: int | None = None
    spent: int = 0
    project_id: str | None = None
    credits_charged: int | None = None
    elsewhere: bool = False
    run: str | None = None
    task: str | None = None
    attempt: int = 1
    intent_id: str | None = None

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> JobState:
        """Read what this version or a later one has written. Raises LookupError, TypeError or ValueError."""
        datetime.fromisoformat(stored["at"])
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in stored.items() if key in known}
        return cls(**{**values, "stage": Stage(values.get("stage"))})

    @property
    def own_credits(self) -> int:
        """Credits of the job, if this task instance has paid for it."""
        return 0 if self.elsewhere else self.credits_charged or 0


class JobStateStore:
    """The state of the running task's job. Without a backend it remembers nothing.

    A file may hold the jobs of several requests, by their fingerprints: a task never replaces the state of a
    job that another one has paid for.

    `available`: whether a new attempt finds what this one writes. `where`: where the state is, for a user.
    `spent`: credits of all jobs of this task in this run that are known and not refunded.
    """

    def __init__(self, backend: StateBackend | None, ti: Any, clock: Callable[[], float] = time.time) -> None:
        index, task_id = getattr(ti, "map_index", None), getattr(ti, "task_id", None)
        self._backend = backend
        self._is_shared = backend is not None and backend.is_shared
        self.available = backend is not None
        self.where = "nowhere" if backend is None else backend.where
        self.how_to_clear = "" if backend is None else backend.how_to_clear
        self._clock = clock
        self._run = f"{getattr(ti, 'dag_id', None)}/{getattr(ti, 'run_id', None)}"
        self._task = task_id if not isinstance(index, int) or index < 0 else f"{task_id}[{index}]"
        self._attempt = int(getattr(ti, "try_number", 1) or 1)
        self._max_tries = int(getattr(ti, "max_tries", 0) or 0)
        self._states: dict[str, JobState] = {}
        self._version: Any = None
        self._state: JobState | None = None
        self._replaced: JobState | None = None
        self._own_intents: set[str] = set()
        self.spent = 0
        self._unsaved = False

    @classmethod
    def from_context(
        cls, context: Context, *, durable: bool, state_path: Any = None, state_conn_id: Any = None
    ) -> JobStateStore:
        """Choose the backend: the file if there is a `state_path`, else the task state store, else none.

        Raises InvalidRequestError.
        """
        ti, path = context.get("ti"), parse_path("state_path", state_path)
        store: Any = context.get("task_state_store")
        if path is not None and not durable:
            raise InvalidRequestError("state_path is given and durable is False: only one of them can hold.")
        if path is not None:
            return cls(FileBackend(path, parse_id("state_conn_id", state_conn_id)), ti)
        if durable and store is not None:
            names = (getattr(ti, name, None) for name in ("dag_id", "run_id", "task_id", "map_index"))
            copied_for = "/".join(map(str, names)) if AIRFLOW_V_3_4_PLUS else None
            attempt = int(getattr(ti, "try_number", 1) or 1)
            return cls(TaskStateBackend(store, attempt, copied_for=copied_for), ti)
        reason = "durable is False" if not durable else "this Airflow has no task state store"
        log.info("A retry cannot re-attach to the job of this attempt, because %s.", reason)
        return cls(None, ti)

    @property
    def unknown_credits(self) -> int:
        """Credits of a create of this task whose outcome is unknown."""
        state = self._state
        return state.cost or 0 if state is not None and state.project_id is None and self.is_own(state) else 0

    @property
    def has_own(self) -> bool:
        """Whether this task instance has written a state."""
        return any(map(self.is_own, self._states.values()))

    def is_own(self, state: JobState) -> bool:
        """Whether this task instance wrote the state, in this attempt or an earlier one."""
        if state.run is None and not self._is_shared:  # written by 0.1
            return True
        return (state.run, state.task) == (self._run, self._task)

    def is_in_flight(self, state: JobState) -> bool:
        """Whether another task, or a later attempt of this one, may be sending its create at this moment."""
        by_another = not self.is_own(state) or state.attempt > self._attempt
        is_young = self._clock() - datetime.fromisoformat(state.at).timestamp() < INTENT_SECONDS
        return state.stage is Stage.INTENT and by_another and is_young

    def cleared_since(self, state: JobState) -> bool:
        """Whether a user has cleared the task since it wrote the state.

        Airflow's Clear sets `max_tries` to the try number plus the task's retries; nothing else changes it.
        If both numbers happen to be the same, a Clear is taken for a retry, and pays nothing.
        """
        return self.is_own(state) and self._max_tries != state.max_tries

    def read(self, fingerprint: str | None = None) -> JobState | None:
        """The state to go by. Raises SubmissionUnknownError if what is stored cannot be used.

        This task's own create of unknown outcome comes first, also if another video is asked for. Then comes
        the job of this request, also if another task has paid. Then this task's last job, or, if the request
        is not known, the only job there is.

        :param fingerprint: the request; None if it is not known.
        """
        if self._backend is None:
            return None
        self._states, self._version = self._load()
        newest_first = sorted(self._states.values(), key=lambda state: state.at, reverse=True)
        own = [state for state in newest_first if self.is_own(state)]
        unknown = [state for state in own if state.project_id is None]
        same = [state for state in newest_first if state.fingerprint == fingerprint]
        anybodys = newest_first if fingerprint is None and len(newest_first) == 1 else []
        self._state = next(iter([*unknown, *same, *own, *anybodys]), None)
        if own:
            self.spent = own[0].spent + own[0].own_credits
        return self._state

    def set_credits(self, credits_charged: int | None) -> None:
        """Take in what the job costs by now: 0 after a refund; None changes nothing."""
        state = self._state
        if state is None or credits_charged is None or state.credits_charged == credits_charged:
            return
        self._state, self._unsaved = replace(state, credits_charged=credits_charged), True
        if self.is_own(state):
            self.spent += self._state.own_credits - state.own_credits

    def recovered_job_id(self) -> str | None:
        """The id that a user has found for a create of unknown outcome."""
        found = self._backend.recovered_job_id() if self._backend is not None else None
        return None if found is None else str(found).strip()

    def attach_recovered(self, state: JobState, project_id: str, credits_charged: int | None) -> JobState:
        """Make the job that a user has found the state's own."""
        attached = self._claim(
            state, stage=Stage.SUBMITTED, project_id=project_id, credits_charged=credits_charged
        )
        self._replace(attached)
        if self.is_own(state):
            self.spent += attached.own_credits
        if self._backend is not None:
            self._backend.forget_recovered_job_id()
        return attached

    def write_intent(
        self, fingerprint: str, name: str | None, balance: int | None, cost: int | None
    ) -> JobState:
        """Write that a create is about to be sent.

        Raises StateConflictError if another task was faster, TaskKilledError if this attempt may not write
        any more.
        """
        at = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="seconds")
        intent = JobState(Stage.INTENT, fingerprint, at, self._max_tries, name, balance, cost)
        intent = self._claim(intent, elsewhere=False, spent=self.spent, intent_id=uuid4().hex)
        if self._backend is None:
            return intent
        earlier, current = self._state, self._states.get(self._key(intent))
        if current is None or current.intent_id not in self._own_intents:
            self._replaced = current
        self._own_intents.add(str(intent.intent_id))
        try:
            written = self._put(intent, expected=current)
        except Exception as error:
            # The task state store refuses an attempt that Airflow has given up. Any error may hide a write.
            self._state = intent
            self.retract_intent()
            if isinstance(error, MagicHourError) and not error.retryable:
                raise
            raise TaskKilledError(
                f"The intent to submit a job cannot be recorded ({type(error).__name__}: {error})."
            ) from error
        if not written:
            raise StateConflictError(self.where)
        self._state = intent
        if earlier is not None:
            self._backend.forget_recovered_job_id()
        return intent

    def retract_intent(self) -> None:
        """Put back what was stored before an intent whose create was refused."""
        if self._state is None:
            return
        try:
            self._put(self._replaced, expected=self._state)
        except Exception:
            log.exception("The intent to submit could not be taken back in %s.", self.where)
        self._state = self._replaced

    def mark_unknown(self, error: SubmissionUnknownError) -> None:
        """Tell the user of the unknown outcome, then record that: a Clear from now on is the user's answer.

        In this order, so that a kill in between tells again. A store that fails does so too.
        """
        log.error("%s", error)
        if self._state is None:
            return
        try:
            self._replace(self._claim(self._state, stage=Stage.UNKNOWN))
        except Exception:
            log.exception("The unknown outcome of the create could not be recorded in %s.", self.where)

    def write_job(self, project_id: str, credits_charged: int | None) -> None:
        """Write the paid job's id. A store that fails is no reason to give up a paid job."""
        if self._state is None:
            return
        job = replace(
            self._state, stage=Stage.SUBMITTED, project_id=project_id, credits_charged=credits_charged
        )
        self.spent = job.spent + job.own_credits
        self._save(job)

    def update(self, project_id: str, credits_charged: int | None) -> None:
        """Write what is known of the job by now, if the stored state does not say so yet. Raises nothing."""
        try:
            if self._state is None and self._find(project_id) is None:
                return
        except Exception:
            log.exception(
                "The job state in %s could not be read; continuing with %s.", self.where, project_id
            )
            return
        self.set_credits(credits_charged)
        state = self._state
        if state is not None and state.project_id is None:
            self._save(replace(state, stage=Stage.SUBMITTED, project_id=project_id))
        elif state is not None and self._unsaved:
            self._save(state)

    def mark_done(self, project_id: str | None) -> None:
        """Write that the task has succeeded with this job: from now on a Clear means a new video."""
        state = self._find(project_id) if project_id is not None else None
        if state is not None and state.project_id is not None:
            self._replace(self._claim(state, stage=Stage.DONE))

    def _find(self, project_id: str) -> JobState | None:
        """The stored state of a job; else this task's own intent, if its job's id could not be written."""
        found = self.read()
        if found is not None and (found.project_id is not None or not self.is_own(found)):
            found = None
        self._state = next((each for each in self._states.values() if each.project_id == project_id), found)
        return self._state

    def _claim(self, state: JobState, **changes: Any) -> JobState:
        """The state as this task instance writes it."""
        own = self.is_own(state)
        written = {
            "run": self._run,
            "task": self._task,
            "attempt": self._attempt,
            "max_tries": self._max_tries,
        }
        written |= {"elsewhere": state.elsewhere or not own, "spent": state.spent if own else self.spent}
        return replace(state, **{**written, **changes})

    def _save(self, job: JobState) -> None:
        self._unsaved = True
        try:
            self._unsaved = not self._replace(job)
            if self._unsaved:
                log.error("Job %s is submitted, and its state in %s is gone.", job.project_id, self.where)
        except Exception:
            self._state = job
            log.exception(
                "Job %s (%s credits, %s) is submitted and could not be recorded; continuing with it.",
                job.project_id,
                job.credits_charged,
                library_url(str(job.project_id)),
            )

    def _replace(self, state: JobState) -> bool:
        """Write over the current state, also if its stage has changed; False if it is another job's."""
        expected, self._state = self._state, state
        return self._put(state, expected=expected)

    def _load(self) -> tuple[dict[str, JobState], Any]:
        """What is stored, by fingerprint; the task state store holds one state."""
        assert self._backend is not None
        stored, version = self._backend.read()
        try:
            found = [] if stored is None else stored.get(JOBS_KEY, [stored])
            states = [JobState.from_stored(each) for each in found]
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            what = f"The job state of an earlier attempt cannot be read ({error!s:.200})."
            raise build_unreadable_error(what, self.where) from None
        return {self._key(state): state for state in states}, version

    def _key(self, state: JobState) -> str:
        return state.fingerprint if self._is_shared else ""

    def _put(self, new: JobState | None, *, expected: JobState | None) -> bool:
        """Replace `expected` by `new`, each may be None; False if another task has changed it meanwhile.

        The states of other requests stay as they are. A write that the driver has sent twice counts as one.
        """
        assert self._backend is not None
        states, version = dict(self._states), self._version
        either = expected or new
        assert either is not None
        key = self._key(either)
        while True:
            before = states.pop(key, None)
            # Each state is of one create: by its time if 0.1 has written it.
            creates = [state and (state.intent_id or state.at) for state in (before, expected, new)]
            if creates[0] not in creates[1:]:
                return False
            if before and new and creates[0] == creates[2] and before.project_id and not new.project_id:
                return False  # it was answered meanwhile
            if new is not None:
                states[key] = new
            by_age = sorted(states.values(), key=lambda state: state.at)
            if len(by_age) > _MAX_JOBS_IN_FILE:
                log.warning(
                    "%s holds more than %s jobs: the oldest is forgotten, and its video would be paid for "
                    "again. Use one file for each video.",
                    self.where,
                    _MAX_JOBS_IN_FILE,
                )
            jobs = [{**asdict(state), "stage": state.stage.value} for state in by_age[-_MAX_JOBS_IN_FILE:]]
            stored = None if not jobs else {JOBS_KEY: jobs} if self._is_shared else jobs[0]
            try:
                self._version = self._backend.write(stored, version)
            except StateConflictError:
                states, version = self._load()
            else:
                self._states = states
                return True
