"""The state of a batch: one JSONL file, in which the last line of a key says what became of its item.

A line is written before the create of an item (`intent`), after its answer, and at its end. The lines of a
group of items are written together. A line without a job id, whose create may have been sent, is an unknown
outcome.

On a disk, lines are appended under an exclusive lock that ends with the process, so a new attempt need not
wait for a killed one. An object store cannot append: there the file is replaced as a whole, only if no other
task has changed it, and holds a lease that its writer renews. So of two tasks with one state only one can
pay: the other waits, then fails.

A task that waits in the triggerer holds neither. Its claim is in the file: until its deadline, or until
Airflow says that it has ended, no other task submits. One with other prompts would replace its jobs, and it
would pay for them again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import has_ended
from magichour_provider.client import is_project_id
from magichour_provider.exceptions import (
    InvalidRequestError,
    MagicHourError,
    ModerationError,
    TaskKilledError,
)
from magichour_provider.jobs.state_backends import (
    RECOVERED_KEY,
    StateConflictError,
    StateFile,
    build_unreadable_error,
)
from magichour_provider.storage.locations import sync_to_disk

if TYPE_CHECKING:
    from io import FileIO

    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

STATE_NAME, MANIFEST_NAME = "magichour_batch.jsonl", "manifest.jsonl"
"""Names of the state and of the result manifest in the folder of the videos."""
CREATE_SECONDS = 70.0
"""A create ends within 65 seconds: it is sent only if the lease lasts longer."""
LEASE_SECONDS = 300.0
CREATES_AT_ONCE = 2
"""On a disk, a kill leaves so many creates of unknown outcome at most: their intents are written alone."""
_MIN_STORE_GROUP, _MAX_STORE_WRITES = 5, 200
"""An object store gets the intents of a group by one write: a kill may leave as many creates unknown."""
_WAIT_SECONDS = 60.0
"""How long a task waits for another one with the same state."""
_WRITE_EVERY_ITEMS, _WRITE_EVERY_SECONDS = 25, 60.0
"""To an object store: lines that can wait are written together."""
_MAX_FILE_BYTES = 256 << 20
_KEPT_VERSIONS, _KEPT_RUNS = 5, 5
_JOBS_CONTINUE = "Nothing was submitted now. Jobs that were submitted before continue at Magic Hour."


class ItemStage(str, Enum):
    """How far an item has come. `open`: nothing is paid. `unknown`: an intent whose outcome is reported."""

    OPEN = "open"
    INTENT = "intent"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class ItemState:
    """One item: ids, numbers and hashes.

    :param fingerprint: hash of everything that changes the video.
    :param stamp: hash by which an unchanged item is recognised without reading its image; None: there is
        none.
    :param at: when the create was about to be sent, ISO 8601.
    :param run: Dag and run that paid for the job.
    :param by: the task instance that wrote this, with its `attempt` and `max_tries`. A Clear changes the
        latter.
    :param spent: runs, with the credits that each has spent on jobs of this item that nothing else names.
    :param reported: tasks that have reported an unknown outcome, with their `max_tries` then.
    :param earlier: paid jobs of earlier versions, the newest last: one counts again if the item is as then.
    :param error: the class of the error, with Magic Hour's `code` and the `message`; None: there is none.
    :param retryable: whether another attempt can help.
    """

    key: str
    stage: ItemStage
    fingerprint: str = ""
    stamp: str | None = None
    at: str = ""
    run: str = ""
    by: str = ""
    attempt: int = 1
    max_tries: int = 0
    name: str | None = None
    cost: int | None = None
    spent: tuple[tuple[str, int], ...] = ()
    reported: tuple[tuple[str, int], ...] = ()
    project_id: str | None = None
    credits_charged: int | None = None
    earlier: tuple[ItemState, ...] = ()
    path: str | None = None
    size: int | None = None
    sha256: str | None = None
    error: str | None = None
    code: str | None = None
    message: str | None = None
    retryable: bool = False

    @property
    def credits(self) -> int:
        """Credits of the job: what was charged; if that is not known, what it costs by the catalogue."""
        if self.stage is ItemStage.OPEN:
            return 0
        return (self.cost or 0) if self.credits_charged is None else self.credits_charged

    @property
    def is_paid(self) -> bool:
        """Whether a job is known that has not failed."""
        return self.stage in (ItemStage.SUBMITTED, ItemStage.DONE)

    def as_earlier(self) -> ItemState:
        """This job as one of the earlier versions."""
        return replace(self, earlier=(), spent=())

    @property
    def status(self) -> str:
        """`complete`, `failed`, `refused` by moderation, `unknown`, `submitted` or `not_submitted`."""
        if self.stage is ItemStage.FAILED:
            return "refused" if self.error == ModerationError.__name__ else "failed"
        if self.stage is ItemStage.SUBMITTED:  # an error: its download failed
            return "failed" if self.error else "submitted"
        return {ItemStage.OPEN: "not_submitted", ItemStage.DONE: "complete"}.get(self.stage, "unknown")

    def result(self) -> dict[str, Any]:
        """The entry of the item in the result manifest."""
        status = self.status
        is_paid, is_complete = status != "not_submitted", status == "complete"
        failed = status in ("failed", "refused", "unknown")
        return {
            "key": self.key,
            "status": status,
            "project_id": self.project_id if is_paid else None,
            "name": self.name,
            "credits": self.credits_charged if is_paid else None,
            **{name: getattr(self, name) if is_complete else None for name in ("path", "size", "sha256")},
            **{name: getattr(self, name) if failed else None for name in ("error", "code", "message")},
        }

    def as_json(self) -> dict[str, Any]:
        """The values that are not the default."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        kept = {each.name: values[each.name] for each in fields(self) if values[each.name] != each.default}
        if self.earlier:
            kept["earlier"] = [each.as_json() for each in self.earlier]
        return {**kept, "stage": self.stage.value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ItemState:
        """Read it back. Raises LookupError, ValueError or TypeError."""
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        known["earlier"] = tuple(map(cls.from_json, known.get("earlier", ())))
        for name in ("spent", "reported"):
            known[name] = tuple((str(key), int(number)) for key, number in known.get(name, ()))
        return cls(**{**known, "stage": ItemStage(values["stage"])})

    def line(self) -> str:
        """One line of the state."""
        return json.dumps(self.as_json()) + "\n"


class BatchInUseError(MagicHourError):
    """Another task is working with the state of this batch, or waits for its jobs."""

    title = "Another task is working on this batch"
    retryable = True
    default_consequence = _JOBS_CONTINUE
    default_remedy = "Let one task at a time work on it (max_active_runs=1), and clear this one after that."


class BatchState:
    """The states of all items of a batch, by their keys, in `items`.

    :param ti: the running task instance.
    """

    def __init__(
        self,
        path: PathArgument,
        conn_id: str | None = None,
        ti: Any = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        index = getattr(ti, "map_index", None)
        self.run = f"{getattr(ti, 'dag_id', None)}/{getattr(ti, 'run_id', None)}"
        mapped = f"[{index}]" if isinstance(index, int) and index >= 0 else ""
        self.task = f"{self.run}/{getattr(ti, 'task_id', None)}{mapped}"
        self.attempt = int(getattr(ti, "try_number", 1) or 1)
        self.max_tries = int(getattr(ti, "max_tries", 0) or 0)
        names = ("dag_id", "run_id", "task_id", "map_index")
        self._owner = {"owner": self.task, **{name: getattr(ti, name, None) for name in names}}
        self.items: dict[str, ItemState] = {}
        self._unsaved: dict[str, ItemState] = {}
        self._file = StateFile(path, conn_id, _MAX_FILE_BYTES, _JOBS_CONTINUE)
        self.where, self.place = self._file.where, self._file.place
        self._clock, self._sleep = clock, sleep
        self._log: _LocalLog | _StoreLog | None = None

    @contextmanager
    def opened(self, *, may_write: bool = True) -> Iterator[None]:
        """Read the states, and hold the right to write until the end of the block.

        Raises BatchInUseError; NetworkError, or InvalidRequestError if no retry can help.
        """
        if not may_write:
            self.items, _ = _parse(self._file.read_bytes()[0], self.where)
            yield
            return
        kind = _LocalLog if isinstance(self._file.place, Path) else _StoreLog
        self._log = kind(self._file, self.task, self.attempt, self._clock, self._sleep)
        try:
            self.items = self._log.open()
            yield
        finally:
            self._log.close()
            self._log = None

    @property
    def group_items(self) -> int:
        """How many intents are written together, before their creates."""
        if isinstance(self.place, Path):
            return CREATES_AT_ONCE
        return max(_MIN_STORE_GROUP, len(self.items) // _MAX_STORE_WRITES)

    def write(self, states: Iterable[ItemState], *, at_once: bool = False) -> None:
        """Write states in the name of this attempt.

        :param at_once: an intent: nothing may be sent before the store has it. Other lines may wait for more.

        Raises TaskKilledError if another task works with this state; NetworkError or InvalidRequestError.
        """
        assert self._log is not None
        mine: dict[str, Any] = {"by": self.task, "attempt": self.attempt, "max_tries": self.max_tries}
        lines = self._unsaved | {state.key: replace(state, **mine) for state in states}
        try:
            completed = self._log.write(lines, at_once=at_once)
        except MagicHourError:
            if not at_once:
                self._unsaved, self.items = lines, self.items | lines
            raise
        self._unsaved = {}
        self.items.update(lines | completed)

    def intend(self, state: ItemState) -> ItemState:
        """The intent to submit an item. `state`: its key, fingerprint, stamp, name and cost."""
        before = self.items.get(state.key) or ItemState(state.key, ItemStage.OPEN)
        return replace(
            state,
            stage=ItemStage.INTENT,
            at=datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="seconds"),
            run=self.run,
            spent=self.supersede(before).spent,
            earlier=self.supersede(before).earlier,
        )

    def supersede(self, before: ItemState, version: ItemState | None = None) -> ItemState:
        """The state of an item that has changed; its paid job is kept.

        :param version: one of the earlier versions, which the item is again; None: it is a new one.
        """
        versions = (*before.earlier, before.as_earlier()) if before.is_paid else before.earlier
        versions = tuple(each for each in versions if each != version)
        spent = dict(before.spent)
        for job in (*versions[:-_KEPT_VERSIONS], *(() if before.is_paid else (before,))):
            if job.credits:
                spent[job.run] = spent.get(job.run, 0) + job.credits
        return replace(
            version or ItemState(before.key, ItemStage.OPEN),
            spent=tuple(spent.items())[-_KEPT_RUNS:],
            earlier=versions[-_KEPT_VERSIONS:],
        )

    def claim(self, until: float, *, submits: bool) -> None:
        """Keep other tasks from submitting until then, in epoch seconds, also while this one is deferred.

        Raises BatchInUseError if another task has done so, and this one `submits`.
        """
        assert self._log is not None
        claim = self._log.claim
        is_others = claim is not None and claim["owner"] != self.task
        if claim is not None and is_others and claim["until"] > self._clock() and not has_ended(claim):
            if not submits:
                return  # it waits for the same jobs
            end = datetime.fromtimestamp(claim["until"], timezone.utc).isoformat(timespec="minutes")
            raise BatchInUseError(
                f"Task {claim['owner']} has submitted this batch, and may wait for its jobs until {end}."
            )
        mine = {**self._owner, "until": until}
        if claim != mine:
            self._log.write_claim(mine)

    @property
    def is_claimed(self) -> bool:
        """Whether the last claim is that of this task: then no other one has submitted since."""
        return self._log is not None and (self._log.claim or {}).get("owner") == self.task

    def release(self) -> None:
        """Let other tasks submit again."""
        if self._log is not None and self.is_claimed:
            self._log.write_claim(None)

    def may_create(self) -> bool:
        """Whether a create that is sent now ends before another task may take this state."""
        return self._log is not None and self._log.lasts(CREATE_SECONDS)

    def is_cleared(self, state: ItemState) -> bool:
        """Whether a user has cleared the task since it wrote this; see `JobStateStore.cleared_since`."""
        reported = dict(state.reported).get(self.task, self.max_tries)
        return reported != self.max_tries or (state.by == self.task and state.max_tries != self.max_tries)

    def report(self, state: ItemState) -> ItemState:
        """The state of an unknown outcome that this task has reported, perhaps after others."""
        reported = tuple({**dict(state.reported), self.task: self.max_tries}.items())
        return replace(state, stage=ItemStage.UNKNOWN, reported=reported)

    def spent(self) -> int:
        """Credits that this run has spent on the batch, by what is known."""
        states = self.items.values()
        jobs = (job for state in states for job in (state, *state.earlier) if job.run == self.run)
        return sum(job.credits for job in jobs) + sum(
            credits for state in states for run, credits in state.spent if run == self.run
        )

    def statuses(self) -> Counter[str]:
        """How many items have each status, also of those that are in the list no more."""
        return Counter(state.status for state in self.items.values())


def parse_states(lines: Iterable[bytes], where: str) -> tuple[dict[str, ItemState], dict[str, Any]]:
    """The last state of each key; and `lease` and `claim`. A last line without an end was not written whole.

    Raises SubmissionUnknownError for a line of another file, InvalidRequestError for a user's wrong one.
    """
    items: dict[str, ItemState] = {}
    header: dict[str, Any] = {"lease": {}, "claim": None}
    for number, line in enumerate(lines, 1):
        is_users = RECOVERED_KEY.encode() in line and not line.startswith(b'{"lease"')
        if (
            not line.endswith(b"\n")
            and line[:2] == b'{"'[: len(line)]
            and not _is_json(line)
            and not is_users
        ):
            break  # a kill has cut it; without such a beginning, the file is another one
        try:
            values = json.loads(line) if line.strip() else {}
            if "lease" in values or "claim" in values:
                header |= values
            elif RECOVERED_KEY in values:
                recovered = _recovered(values, items, f"Line {number} of {where}")
                items[recovered.key] = recovered
            elif values:
                items[values["key"]] = ItemState.from_json(values)
        except (LookupError, ValueError, TypeError, RecursionError):
            if is_users:
                raise _wrong_line(f"Line {number} of {where} is no JSON object") from None
            raise build_unreadable_error(f"Line {number} of {where} is no state of a batch.", where) from None
    return items, header


def _recovered(values: Mapping[str, Any], items: Mapping[str, ItemState], place: str) -> ItemState:
    """The state of an item whose job a user has found."""
    key, project_id = values.get("key"), str(values[RECOVERED_KEY]).strip()
    what = None
    if key not in items:
        what = f"{place} names the item {key!r:.140}, which was never submitted"
    elif not is_project_id(project_id):
        what = f"{place} gives the item {key!r:.140} the id {project_id!r:.80}, which is none of Magic Hour's"
    if what is not None:
        raise _wrong_line(what)
    before = items[str(key)]
    found = ItemState(before.key, ItemStage.SUBMITTED, run=before.run, at=before.at, name=before.name)
    if before.project_id in (None, project_id):
        found = before
    elif before.is_paid:  # another job of the item
        found = replace(found, spent=before.spent, earlier=(*before.earlier, before.as_earlier()))
    found = replace(found, stage=ItemStage.SUBMITTED, project_id=project_id)
    return replace(found, error=None, message=None, reported=())


def _wrong_line(what: str) -> InvalidRequestError:
    remedy = "Correct this line, and leave the others as they are. Then clear this task."
    return InvalidRequestError(f"{what}.", consequence=_JOBS_CONTINUE, remedy=remedy)


def _is_json(line: bytes) -> bool:
    """Whether a line is whole: no beginning of an object is JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(content: bytes | None, where: str) -> tuple[dict[str, ItemState], dict[str, Any]]:
    return parse_states(BytesIO(content or b""), where)


class _LocalLog:
    """On a disk: lines are appended. They survive a kill at once, and a power cut if they were `at_once`."""

    def __init__(
        self,
        file: StateFile,
        owner: str,
        attempt: int,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        assert isinstance(file.place, Path)
        self._state_file, self._path, self._sleep = file, file.place, sleep
        self._file: FileIO | None = None
        self.claim: Mapping[str, Any] | None = None

    def open(self) -> dict[str, ItemState]:
        with self._state_file.explained("read"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
            self._lock(self._file)
            size = os.fstat(self._file.fileno()).st_size
            content = os.pread(self._file.fileno(), size, 0) if size <= _MAX_FILE_BYTES else b"\0\n"
        items, header = _parse(content, self._state_file.where)
        self.claim = header["claim"]
        with self._state_file.explained("written"):
            whole = content.rfind(b"\n") + 1
            if _is_json(content[whole:]):  # a user's line without an end
                self._file.write(b"\n")
            elif whole < size:  # the last line of a killed task
                self._file.truncate(whole)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                sync_to_disk(folder)
            finally:
                os.close(folder)
        return items

    def write(self, lines: Mapping[str, ItemState], *, at_once: bool) -> dict[str, ItemState]:
        self._append("".join(state.line() for state in lines.values()).encode(), at_once=at_once)
        return {}

    def write_claim(self, claim: Mapping[str, Any] | None) -> None:
        self._append(json.dumps({"claim": claim}).encode() + b"\n", at_once=False)
        self.claim = claim

    def _append(self, content: bytes, *, at_once: bool) -> None:
        assert self._file is not None
        with self._state_file.explained("written"):
            before = os.fstat(self._file.fileno()).st_size
            try:
                view = memoryview(content)
                while view:
                    view = view[self._file.write(view) :]
                if at_once:
                    sync_to_disk(self._file.fileno())
            except BaseException:
                self._file.truncate(before)  # half a line would hide the next one
                raise

    def lasts(self, _seconds: float) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _lock(self, file: FileIO) -> None:
        waited = 0.0
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waited >= _WAIT_SECONDS:
                    raise BatchInUseError(f"Another task is writing {self._state_file.where}.") from None
            except OSError:  # a share without locks
                return self._state_file.warn_unconditional()
            if waited == 0:
                log.info("Another task is writing %s; waiting for it.", self._state_file.where)
            self._sleep(1.0)
            waited += 1.0


class _StoreLog:
    """In an object store: the whole file is replaced, if no other task has changed it; with a lease."""

    def __init__(
        self,
        file: StateFile,
        owner: str,
        attempt: int,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        self._file, self._owner, self._attempt = file, owner, attempt
        self._clock, self._sleep = clock, sleep
        self._lines: dict[str, str] = {}
        self._waiting: dict[str, ItemState] = {}
        self._version: Any = None
        self._until = 0.0
        self._written_at = 0.0
        self._is_lost = False
        self.claim: Mapping[str, Any] | None = None

    def open(self) -> dict[str, ItemState]:
        began = self._clock()
        while True:
            content, self._version = self._file.read_bytes()
            items, header = _parse(content, self._file.where)
            lease, self.claim = header["lease"], header["claim"]
            now = self._clock()
            is_own = lease.get("owner") == self._owner and lease.get("attempt", 0) <= self._attempt
            if lease.get("until", 0.0) > now and not is_own:
                if now - began >= _WAIT_SECONDS:
                    raise BatchInUseError(f"Task {lease.get('owner')} is writing {self._file.where}.")
                if now == began:
                    log.info("Task %s is writing %s; waiting.", lease.get("owner"), self._file.where)
                self._sleep(2.0)
                continue
            self._lines = {key: state.line() for key, state in items.items()}
            try:
                self._flush(now + LEASE_SECONDS)
            except StateConflictError:
                continue
            return items

    def write(self, lines: Mapping[str, ItemState], *, at_once: bool) -> dict[str, ItemState]:
        """Write now, or with later lines; returns the states that another attempt has completed."""
        self._waiting |= lines
        is_due = self._clock() - self._written_at >= _WRITE_EVERY_SECONDS
        if not (at_once or is_due or len(self._waiting) >= _WRITE_EVERY_ITEMS):
            return {}
        completed: dict[str, ItemState] = {}
        while True:
            try:
                self._flush(self._clock() + LEASE_SECONDS)
            except StateConflictError as conflict:
                content, self._version = self._file.read_bytes()
                theirs, header = _parse(content, self._file.where)
                lease = header["lease"]
                if (lease.get("owner"), lease.get("attempt")) != (self._owner, self._attempt):
                    self._is_lost = True
                    raise TaskKilledError(f"{conflict.what} This attempt may not submit any more.") from None
            else:
                return completed
            # An earlier attempt has left the ids of its jobs here, or the driver has sent a write twice.
            ours, _ = _parse("".join(self._lines.values()).encode(), self._file.where)
            ours |= self._waiting
            for key, state in theirs.items():
                mine = ours.get(key, state)
                if state.project_id is not None and mine.project_id is None and mine.at == state.at:
                    completed[key] = self._waiting[key] = state

    def write_claim(self, claim: Mapping[str, Any] | None) -> None:
        self.claim = claim  # with the next intents, or at the end: before another task can read it

    def lasts(self, seconds: float) -> bool:
        return not self._is_lost and self._clock() + seconds < self._until

    def close(self) -> None:
        """Give the lease back; a kill leaves it, and the next attempt of the same task takes it."""
        if self._is_lost:
            self._hand_over()
            return
        try:
            if self._until:
                self._flush(0.0)
        except StateConflictError:
            self._hand_over()
        except MagicHourError:
            log.exception("The last changes of %s could not be written.", self._file.where)

    def _flush(self, until: float) -> None:
        lines = self._lines | {key: state.line() for key, state in self._waiting.items()}
        lease = {"owner": self._owner, "attempt": self._attempt, "until": until}
        header = json.dumps({"lease": lease, "claim": self.claim})
        content = "".join([header, "\n", *lines.values()]).encode()
        self._version = self._file.write_bytes(content, self._version)
        self._lines, self._until, self._written_at = lines, until, self._clock()
        self._waiting = {}

    def _hand_over(self) -> None:
        """Write the ids of paid jobs into the state of the task that has taken it."""
        paid = {key: state for key, state in self._waiting.items() if state.project_id is not None}
        self._waiting = {}
        for _ in range(20 if paid else 0):
            try:
                content, version = self._file.read_bytes()
                items, header = _parse(content, self._file.where)
                for key, state in paid.items():
                    theirs = items.get(key)
                    if theirs is None or (theirs.project_id is None and theirs.at == state.at):
                        items[key] = state
                    elif all(each.project_id != state.project_id for each in (theirs, *theirs.earlier)):
                        items[key] = replace(theirs, earlier=(*theirs.earlier, state.as_earlier()))
                lines = [json.dumps(header), "\n", *(each.line() for each in items.values())]
                self._file.write_bytes("".join(lines).encode(), version)
            except StateConflictError:
                self._sleep(0.5)
            except MagicHourError:
                break
            else:
                return
        if paid:
            ids = ", ".join(f"{key}: {state.project_id}" for key, state in paid.items())
            log.error("These paid jobs could not be recorded in %s: %s", self._file.where, ids)
