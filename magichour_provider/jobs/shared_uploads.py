"""One upload for all map indexes of a task that have the same image, and for the task's next runs.

Airflow gives its tasks no lock, so each writes a claim of its own, an XCom, leaves those that are on their
way a moment to arrive, and only then reads the others'. Who claimed first uploads the image and writes down
where it is; the others wait for that. What must not be relaxed: this never decides whether a job is
submitted, only whether an image is uploaded once more, which costs nothing. So whatever goes wrong here, the
image is uploaded; and a path is used only for the very bytes, the account and the days that it is good for.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from typing import Any, Protocol

from magichour_provider.exceptions import MagicHourError
from magichour_provider.storage.images import CHUNK_BYTES, UPLOADED_PREFIXES, Upload

log = logging.getLogger(__name__)

TRUSTED_SECONDS = 6 * 86400.0
"""Magic Hour removes uploads after seven days (docs: integration/inputs-and-outputs); one day is a margin."""

_SKEW_SECONDS = 600.0
_PATIENCE_SECONDS = 60.0
_SLOWEST_UPLOAD = 1e6
"""Bytes per second; who uploads more slowly is not waited for."""
_ARRIVAL_PAUSE = 0.2, 1.0
_PAUSE_FOR_EACH_BEFORE = 0.2
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.3, 10.0
"""Seconds between looks. Who has many before it looks seldom: an API server of Airflow with its fifteen
connections to the database stands still when thirty tasks ask at once, be it that they wait or go on."""
_LOOKS_PER_CENSUS = 4
_NAP_SECONDS = 0.1


@dataclass(frozen=True)
class Uploaded:
    """Where an image is at Magic Hour since `at`, in epoch seconds; nowhere, if `file_path` is None.

    :param map_index: the task that has uploaded it.
    """

    file_path: str | None
    at: float
    map_index: int = -1

    @classmethod
    def of(cls, stored: Any) -> Uploaded | None:
        """Read what a task has written; None where it cannot be used."""
        if not isinstance(stored, Mapping):
            return None
        path, at = stored.get("file_path"), stored.get("at")
        if isinstance(at, (int, float)) and (path is None or str(path).startswith(UPLOADED_PREFIXES)):
            return cls(path, at, stored.get("map_index", -1))
        return None


@dataclass(frozen=True, order=True)
class Claim:
    """That a task is about to upload an image; the first one by time, then by map index, does."""

    at: float
    map_index: int

    def is_settled(self, uploads: Iterable[Uploaded]) -> bool:
        """Whether the task has come to its upload's end."""
        return any(each.map_index == self.map_index and each.at >= self.at for each in uploads)


class Board(Protocol):
    """Where the map indexes of a task write for each other, and read; `image` names an image."""

    def claim(self, image: str, claim: dict[str, Any]) -> None:
        """Write this task's claim over its last one."""

    def claims(self, image: str) -> Iterable[Any]:
        """The claims of this run, this task's included."""

    def publish(self, image: str, uploaded: dict[str, Any]) -> None:
        """Write where the image is."""

    def uploads(self, image: str, *, earlier_runs: bool) -> Iterable[Any]:
        """What was published in this run, and before it."""

    def running(self) -> set[int]:
        """The map indexes that run at this moment."""


class UploadCache:
    """One task's part in sharing uploads.

    :param map_index: this task.
    :param make_sure: called where it waits for another task and was killed, or is not running any more; what
        it raises ends the wait.
    :param is_killed: whether it was told to stop, as far as this process knows.
    :param trusted_from: epoch seconds; nothing is used that was uploaded before.
    """

    def __init__(
        self,
        board: Board,
        map_index: int,
        make_sure: Callable[[], None],
        *,
        is_killed: Callable[[], bool] = lambda: False,
        trusted_from: float = 0.0,
    ) -> None:
        self._board = board
        self._map_index = map_index
        self._make_sure = make_sure
        self._trusted_from = trusted_from
        self._is_killed = is_killed
        self._own: dict[str, str] = {}
        self._used: set[str] = set()
        self._refused: set[str] = set()

    def trust_from(self, at: float) -> None:
        """Use nothing that was uploaded before `at`, in epoch seconds."""
        self._trusted_from = max(self._trusted_from, at)

    def bring(self, image: str, source: Upload, sha256: str, send: Callable[[Upload], str]) -> str:
        """The `file_path` of an image: one that another task has uploaded, or its own upload's.

        :param image: names these bytes in this account, and no others.
        :param sha256: of the bytes, in hex.
        :param send: uploads the image, and returns its `file_path`.
        """
        if image in self._own:
            return self._own[image]
        path = self._find(image, source)
        if path is not None:
            log.info("%s is at Magic Hour already, for another task: not uploading it.", source.display)
            self._used.add(path)
            return path
        began = time.time()
        sent = _Sent(**{each.name: getattr(source, each.name) for each in fields(Upload)})
        self._own[image] = path = send(sent)
        if sent.sha256 == [sha256]:
            self._publish(image, Uploaded(path, began, self._map_index))
        return path

    def give_up_used(self) -> bool:
        """Use no path any more that came from another task; whether there was any."""
        self._refused |= self._used
        found = bool(self._used)
        self._used.clear()
        return found

    def disown(self, image: str) -> None:
        """Tell the others not to use what was uploaded until now."""
        self._publish(image, Uploaded(None, time.time()))

    def _find(self, image: str, source: Upload) -> str | None:
        try:
            path = self._usable(self._uploads(image, earlier_runs=True))
            return self._take_turn(image, source.size) if path is None else path
        except MagicHourError:
            raise
        except Exception as error:
            log.info("Whether %s is at Magic Hour cannot be asked (%s).", source.display, _brief(error))
            return None

    def _publish(self, image: str, uploaded: Uploaded) -> None:
        try:
            self._board.publish(image, asdict(uploaded))
        except Exception as error:
            log.info("Other tasks cannot be told of an upload (%s).", _brief(error))

    def _take_turn(self, image: str, size: int) -> str | None:
        """Where the task whose turn it is has uploaded the image; None: it is this one's turn."""
        mine = Claim(time.time(), self._map_index)
        self._board.claim(image, asdict(mine))
        # The others' claims may take as long to arrive as this one did.
        shortest, longest = _ARRIVAL_PAUSE
        self._pause(min(longest, max(shortest, 2 * (time.time() - mine.at))))
        before = self._claimed_before(mine, image)
        if not before:
            return None
        log.info("Another task is uploading this image: waiting for it.")
        return self._wait_for(before, mine, image, _PATIENCE_SECONDS + size / _SLOWEST_UPLOAD)

    def _wait_for(self, before: list[Claim], mine: Claim, image: str, patience: float) -> str | None:
        for look in count():
            if look % _LOOKS_PER_CENSUS == _LOOKS_PER_CENSUS - 1:
                before = self._that_run(self._claimed_before(mine, image))
            # Read after the states: a task writes where its upload is before it stops running.
            uploads = self._uploads(image)
            path = self._usable(uploads)
            is_under_way = any(not claim.is_settled(uploads) for claim in before)
            if path is not None or not is_under_way or time.time() > mine.at + patience:
                return path
            pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, _PAUSE_FOR_EACH_BEFORE * len(before)))
            self._pause(pause * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    def _that_run(self, claims: list[Claim]) -> list[Claim]:
        running = self._board.running()
        if self._map_index not in running:
            self._make_sure()
        return [claim for claim in claims if claim.map_index in running]

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._is_killed():
                self._make_sure()
            time.sleep(min(left, _NAP_SECONDS))

    def _claimed_before(self, mine: Claim, image: str) -> list[Claim]:
        claims = (Claim(**stored) for stored in self._board.claims(image))
        return [claim for claim in claims if claim < mine and claim.map_index != mine.map_index]

    def _uploads(self, image: str, *, earlier_runs: bool = False) -> list[Uploaded]:
        read = map(Uploaded.of, self._board.uploads(image, earlier_runs=earlier_runs))
        return [each for each in read if each is not None]

    def _usable(self, uploads: Iterable[Uploaded]) -> str | None:
        """The `file_path` that was written last, if it is still good; an older one is no better."""
        now = time.time()
        oldest = max(self._trusted_from, now - TRUSTED_SECONDS)
        good = [each for each in uploads if oldest < each.at < now + _SKEW_SECONDS]
        last = max(good, key=lambda each: each.at, default=None)
        return None if last is None or last.file_path in self._refused else last.file_path


@dataclass(frozen=True)
class _Sent(Upload):
    """An image that notes the hash of what is sent of it, should the file change meanwhile."""

    sha256: list[str] = field(default_factory=list)

    def iter_chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in super().iter_chunks(chunk_bytes):
            digest.update(chunk)
            yield chunk
        self.sha256[:] = [digest.hexdigest()]


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
