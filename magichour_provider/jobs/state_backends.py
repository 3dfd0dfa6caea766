"""Where the state of a paid job is kept: in Airflow's task state store, or in a file.

A write to a file is conditional: it fails if the file is not what was read before. So of two tasks that start
at the same moment one submits, and a stale attempt that wakes up late cannot write its intent over a newer
one. The condition does not stop a process that is frozen between its intent and its create for longer than
`INTENT_SECONDS`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import NEVER_EXPIRE
from magichour_provider.exceptions import (
    LIBRARY_URL,
    InvalidRequestError,
    MagicHourError,
    NetworkError,
    SubmissionUnknownError,
)
from magichour_provider.storage.locations import (
    AZURE_SCHEMES,
    GCS_SCHEMES,
    S3_NO_CONDITIONS,
    S3_SCHEMES,
    LocationError,
    ObjectPath,
    address_of,
    classify_error,
    file_name_at,
    parse_writable,
    redact,
    require_shared,
    s3_error_code,
    sync_to_disk,
)

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

KEY = "magichour_job"
RECOVERED_KEY = "magichour_recovered_job_id"
"""Where a user puts the id of a job whose create had an unknown outcome: a key of the store, or the file."""

JOBS_KEY = "magichour_jobs"
"""The key of the file's states."""

_CONDITIONAL_SCHEMES = S3_SCHEMES | GCS_SCHEMES | AZURE_SCHEMES
_NO_ETAG = f'"{"0" * 32}"'
"""Of no object: a write on the condition that this is its ETag must fail."""
_MAX_FILE_BYTES = 4 << 20
"""More than any state file has: a `state_path` that names a video by mistake must not fill the memory."""


class StateConflictError(MagicHourError):
    """Another task has changed the state since it was read."""

    retryable = True
    default_remedy = "Trying again can help."

    def __init__(self, where: str) -> None:
        super().__init__(f"Another task has changed {where}.")


def build_unreadable_error(what: str, where: str) -> SubmissionUnknownError:
    """The error of a state that cannot be read."""
    remedy = f"Search the Magic Hour library ({LIBRARY_URL}) for its job. If there is none, remove {where}."
    return SubmissionUnknownError(what, remedy=remedy)


class TaskStateBackend:
    """Airflow's task state store. Without versions: only the last attempt of one task instance may write.

    From Airflow 3.4 a Clear empties the store. So the state of a job with which the task has not succeeded is
    in an Airflow variable, too, written after the store, which refuses an attempt that Airflow has given up.

    `where`: the place, for a user. `is_shared`: whether other task instances find the states too.
    `how_to_clear`: what a user must choose for a Clear that keeps the store.

    :param copied_for: the task instance, for the name of the variable; None: no copy is needed.
    """

    where = "this task's state store"
    is_shared = False

    def __init__(
        self,
        store: Any,
        try_number: int,
        sleep: Callable[[float], None] = time.sleep,
        copied_for: str | None = None,
    ) -> None:
        self._store = store
        self._try_number = try_number
        self._sleep = sleep
        self._copied_for = copied_for
        self._variable = f"{KEY}_{hashlib.sha256((copied_for or '').encode()).hexdigest()[:40]}"
        self.how_to_clear = " with 'Keep task state and resume'" if copied_for else ""

    def read(self) -> tuple[Mapping[str, Any] | None, None]:
        """What is stored. Airflow's client takes any 404 for "nothing", so a later attempt reads again."""
        stored = self._store.get(KEY)
        for pause_seconds in (1.0, 2.0) if self._try_number > 1 else ():
            if stored is None:
                self._sleep(pause_seconds)
                stored = self._store.get(KEY)
        if stored is None and self._copied_for and self._try_number > 1:
            from airflow.sdk import Variable

            stored = Variable.get(self._variable, default=None, deserialize_json=True)
        return stored, None

    def write(self, stored: Mapping[str, Any] | None, version: Any) -> None:
        """Replace what is stored. Airflow raises for an attempt that it has given up."""
        if stored is None:
            self._store.delete(KEY)
        else:
            self._store.set(KEY, dict(stored), retention=NEVER_EXPIRE)
        if not self._copied_for:
            return
        from airflow.sdk import Variable

        stage = "done" if stored is None else stored["stage"]
        try:
            if stage == "done":  # from now on a Clear means a new video
                Variable.delete(self._variable)
            else:
                text = f"Job state of {self._copied_for}, for a Clear; removed when the task succeeds."
                Variable.set(self._variable, dict(stored or {}), text, serialize_json=True)
        except Exception:
            if stage == "intent":  # nothing is paid for yet
                raise
            log.warning("The copy of the job state in a variable was not written.", exc_info=True)

    def recovered_job_id(self) -> Any:
        """What a user has stored under RECOVERED_KEY."""
        return self._store.get(RECOVERED_KEY)

    def forget_recovered_job_id(self) -> None:
        """Remove that id."""
        self._store.delete(RECOVERED_KEY)


class StateFile:
    """A file on a disk or in an object store, replaced as a whole, and only if no other task has changed it.

    Local: under an exclusive lock (`flock` on a file beside it), and compared with what was read. S3 and
    Azure: by `If-None-Match` and `If-Match`. Google Cloud Storage: by `ifGenerationMatch`. Other stores have
    no such condition, so that two writers at the same moment could both pay: they are refused. So is a store
    that resembles S3 and ignores the condition: before the first write it is asked for one that must fail.

    Methods raise NetworkError if a retry may help, InvalidRequestError if none can.
    """

    def __init__(
        self,
        path: PathArgument,
        conn_id: str | None = None,
        max_bytes: int = _MAX_FILE_BYTES,
        consequence: str = "This attempt has paid nothing.",
    ) -> None:
        self.where, self._consequence = redact(path), consequence
        self._warned = False
        self._has_conditions = False
        self._content = b""
        self._max_bytes = max_bytes
        try:
            self.place = parse_writable(path, conn_id)
            require_shared(self.place)
        except LocationError as error:
            what = f"state_path {self.where} cannot be used: {error}."
            raise InvalidRequestError(what, remedy=error.remedy) from error
        if not file_name_at(self.place) or address_of(path).endswith("/"):
            raise InvalidRequestError(f"state_path {self.where} names a folder: name a file in it.")
        if isinstance(self.place, ObjectPath) and self.place.scheme not in _CONDITIONAL_SCHEMES:
            raise self._unconditional_error(f"{self.place.scheme}:// has no conditional writes")

    def read_bytes(self) -> tuple[bytes | None, Any]:
        """The content, None if there is no file; and its version."""
        with self.explained("read"):
            content, version = self._get()
        if content is not None and len(content) > self._max_bytes:
            raise build_unreadable_error(f"{self.where} holds no state of this provider.", self.where)
        return content, version

    def write_bytes(self, content: bytes | None, version: Any) -> Any:
        """Replace the file, or remove it; the new version. Raises StateConflictError."""
        with self.explained("written"):
            if isinstance(self.place, Path):
                return self._write_local(self.place, content, version)
            if self.place.scheme in S3_SCHEMES:
                return self._write_s3(self.place, content or b"", version)
            if self.place.scheme in GCS_SCHEMES:
                return self._write_gcs(self.place, content or b"", version)
            return self._write_azure(self.place, content or b"", version)

    def _get(self) -> tuple[bytes | None, Any]:
        if isinstance(self.place, Path):
            try:
                mode = self.place.stat().st_mode  # once: another task may remove the file meanwhile
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise LocationError("it is no regular file")  # reading a pipe would never end
                with self.place.open("rb") as file:
                    content: bytes | None = file.read(self._max_bytes + 1)
            except FileNotFoundError:
                content = None
            return content, content
        if self.place.scheme in S3_SCHEMES:
            client, address = self.place.s3_client()
            try:
                answer = client.get_object(**address)
            except Exception as error:
                if s3_error_code(error) in ("NoSuchKey", "404"):
                    self._content = b""
                    return None, None
                raise
            self._content = answer["Body"].read(self._max_bytes + 1)
            return self._content, answer["ETag"]
        filesystem, path = self.place.connect()
        try:  # the version first: if the content is newer, the next write fails
            version = filesystem.info(path)["generation" if self.place.scheme in GCS_SCHEMES else "etag"]
            return bytes(filesystem.cat_file(path, end=self._max_bytes + 1)), version
        except FileNotFoundError:
            return None, None

    def _write_local(self, path: Path, content: bytes | None, version: bytes | None) -> bytes | None:
        path = Path(os.path.realpath(path))  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
                    raise
                self.warn_unconditional()
            if self._get()[0] != version:
                raise StateConflictError(self.where)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                beside = path.with_name(f".{path.name}.new")
                with beside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    sync_to_disk(file.fileno())
                beside.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                sync_to_disk(folder)
            finally:
                os.close(folder)
        return content

    def _write_s3(self, place: ObjectPath, content: bytes, etag: str | None) -> str:
        client, address = place.s3_client()

        def put(body: bytes, **condition: str) -> dict[str, Any] | None:
            """The answer; None if the store refuses the write because of its condition."""
            try:
                answer: dict[str, Any] = client.put_object(
                    **address, Body=body, ContentType="application/json", **condition
                )
            except Exception as error:
                code = s3_error_code(error)
                if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404"):
                    return None
                if code in S3_NO_CONDITIONS:  # a store that resembles S3
                    what = f"the store knows no conditional writes ({code})"
                    raise self._unconditional_error(what) from error
                raise
            return answer

        if not self._has_conditions:  # what was read is written, so that a store without them loses nothing
            if put(self._content or b"{}", IfMatch=_NO_ETAG) is not None:
                raise self._unconditional_error("the store ignores the conditions of conditional writes")
            self._has_conditions = True
        answer = put(content, IfNoneMatch="*") if etag is None else put(content, IfMatch=etag)
        if answer is None:
            raise StateConflictError(self.where)
        return str(answer["ETag"])

    def _write_gcs(self, place: ObjectPath, content: bytes, generation: str | None) -> str:
        filesystem, path = place.connect()
        bucket, _, name = path.partition("/")
        try:  # gcsfs's own writes know one condition alone: that there is no object
            answer = filesystem.call(
                "POST",
                filesystem.base.replace("/storage/", "/upload/storage/") + "b/{}/o",
                bucket,
                uploadType="media",
                name=name,
                ifGenerationMatch=generation or "0",
                headers={"Content-Type": "application/json"},
                data=content,
                json_out=True,
            )
        except FileExistsError:  # so gcsfs raises 412
            raise StateConflictError(self.where) from None
        return str(answer["generation"])

    def _write_azure(self, place: ObjectPath, content: bytes, etag: str | None) -> str:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        filesystem, path = place.connect()
        condition: dict[str, Any] = {"overwrite": False}
        if etag is not None:
            condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        try:
            answer = filesystem.pipe_file(path, content, **condition)
        except (FileExistsError, ResourceModifiedError):
            raise StateConflictError(self.where) from None
        return str(answer["etag"])

    def _unconditional_error(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"state_path {self.where} cannot be used: {why}, so two tasks at the same moment could both pay.",
            remedy="Name a file on a disk, in Amazon S3, in Google Cloud Storage or in Azure.",
        )

    def warn_unconditional(self) -> None:
        """Warn once that two writers at the same moment are not kept apart."""
        if not self._warned:
            self._warned = True
            log.warning(
                "This disk has no locks, so it has no conditional writes. If two tasks with state_path %s "
                "start at the same moment, both may submit and pay. Let only one run at a time "
                "(max_active_runs=1).",
                self.where,
            )

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Raise NetworkError or InvalidRequestError for errors of the place. `done`: `read` or `written`."""
        try:
            yield
        except MagicHourError:
            raise
        except Exception as error:
            diagnosis = classify_error(error, self.place)
            kind = InvalidRequestError if diagnosis.permanent else NetworkError
            raise kind(
                f"The job state {self.where} cannot be {done}: {diagnosis.cause}.",
                consequence=self._consequence,
                remedy=diagnosis.remedy if diagnosis.permanent else None,
            ) from error


class FileBackend(StateFile):
    """A small JSON file."""

    is_shared = True
    how_to_clear = ""

    def read(self) -> tuple[Mapping[str, Any] | None, Any]:
        """What is in the file. Raises SubmissionUnknownError if it is no state of this provider."""
        content, version = self.read_bytes()
        if content is None:
            return None, version
        try:
            stored = json.loads(content)
        except (ValueError, RecursionError):
            stored = None
        if isinstance(stored, dict):  # empty after `_write_s3` has refused the store
            return stored or None, version
        raise build_unreadable_error(f"The file {self.where} holds no state of this provider.", self.where)

    def write(self, stored: Mapping[str, Any] | None, version: Any) -> Any:
        """Replace the file, or remove it; in a store, empty it."""
        if stored is None and isinstance(self.place, ObjectPath):
            stored = {JOBS_KEY: []}  # conditional deletes are young; another request's state may be new
        return self.write_bytes(None if stored is None else json.dumps(stored, indent=2).encode(), version)

    def recovered_job_id(self) -> Any:
        """What a user has written under RECOVERED_KEY."""
        return (self.read()[0] or {}).get(RECOVERED_KEY)

    def forget_recovered_job_id(self) -> None:
        """Nothing to do: each write drops the id."""


StateBackend = TaskStateBackend | FileBackend
