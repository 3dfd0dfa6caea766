"""The record of a paid job in a file, where the tasks of other runs find it, too.

The task state store knows one run only. A Dag that meets the same image again in a later run takes up by
this file what an earlier run has paid for and did not bring home. One task at a time: of two that read it at
the same moment, both would pay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magichour_provider.exceptions import (
    LIBRARY_URL,
    InvalidRequestError,
    NetworkError,
    SubmissionUnknownError,
)
from magichour_provider.jobs.coercion import text
from magichour_provider.storage.locations import ObjectPath, diagnose, display, locate

_CONSEQUENCE = "This try has paid nothing."


@dataclass(frozen=True)
class RecordFile:
    """A small JSON file, on a disk or in an object store; it is replaced as a whole.

    Every method raises NetworkError where a retry may help, and InvalidRequestError where none can.
    """

    place: Path | ObjectPath
    display: str

    @classmethod
    def of(cls, path: Any, conn_id: Any) -> RecordFile | None:
        """Read the operator's arguments as templates render them; None where no file is asked for."""
        given = text("state_path", path)
        if given is None:
            return None
        try:
            return cls(locate(given, text("state_conn_id", conn_id)), display(given))
        except ValueError as error:
            raise InvalidRequestError(f"state_path {display(given)} cannot be used: {error}.") from error

    def read(self) -> dict[str, Any] | None:
        """What is in the file; None where there is none. SubmissionUnknownError where it makes no sense."""
        with self._explained("read"):
            content = self._read()
        try:
            stored = None if content is None else json.loads(content)
        except ValueError:
            stored = content
        if stored is None or isinstance(stored, dict):
            return stored
        raise SubmissionUnknownError(
            f"The record {self.display} is not one of this provider.",
            remedy=f"Look for its job in the Magic Hour library ({LIBRARY_URL}); if none, remove it.",
        )

    def write(self, stored: Mapping[str, Any]) -> None:
        """Put `stored` in the place of what was there."""
        with self._explained("written"):
            self._write(json.dumps(stored, indent=2).encode())

    def delete(self) -> None:
        """Remove the file, where there is one."""
        with self._explained("removed"):
            if isinstance(self.place, Path):
                self.place.unlink(missing_ok=True)
            else:
                filesystem, path = self.place.connect()
                if filesystem.exists(path):
                    filesystem.rm_file(path)

    def _read(self) -> bytes | None:
        try:
            if isinstance(self.place, Path):
                return self.place.read_bytes()
            filesystem, path = self.place.connect()
            return bytes(filesystem.cat_file(path))
        except FileNotFoundError:
            return None

    def _write(self, content: bytes) -> None:
        if not isinstance(self.place, Path):
            filesystem, path = self.place.connect()
            filesystem.pipe_file(path, content)
            return
        self.place.parent.mkdir(parents=True, exist_ok=True)
        beside = self.place.with_name(f".{self.place.name}.{os.getpid()}")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.place)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            trouble = diagnose(error, self.place)
            what = f"The record {self.display} cannot be {done}: {trouble.cause}."
            if trouble.permanent:
                raise InvalidRequestError(what, consequence=_CONSEQUENCE, remedy=trouble.remedy) from error
            raise NetworkError(what, consequence=_CONSEQUENCE) from error
