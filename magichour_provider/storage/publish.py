"""Write a file so that its name shows all of it or nothing, and remove what killed attempts have left.

On a disk: a temporary file beside the target, then a rename. In S3: a multipart upload; in Google Cloud
Storage and Azure that of fsspec, which publishes at its end and can be given up before. In other stores: a
temporary name, then the store's move, which is as atomic as the store makes it.

Writers let errors of the file system and the store through; `Target.explain_errors` explains them.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import logging
import mimetypes
import os
import secrets
import stat
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from magichour_provider.storage.locations import (
    PUBLISH_ON_CLOSE_SCHEMES,
    S3_NO_CONDITIONS,
    S3_SCHEMES,
    ObjectPath,
    s3_error_code,
    short_error,
    sync_to_disk,
)
from magichour_provider.storage.targets import Target

log = logging.getLogger(__name__)

PART_BYTES = 6 << 20
"""Of an S3 upload: more than the minimum of 5 MiB; 10,000 parts, the maximum, are more than any video."""
_PARALLEL_PARTS = 4
_SYNC_EVERY_BYTES = 64 << 20
_MAX_LOCK_ATTEMPTS = 5
_ABANDONED_AFTER_SECONDS = 24 * 3600.0
"""Age of a temporary file without a writer, on file systems without locks."""


class Writer(Protocol):
    """Opened on construction; then `write`s, and one `commit` or `abort`. `abort` never raises."""

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""

    def commit(self) -> None:
        """Publish what was written under the target's name; durable when it returns."""

    def abort(self) -> None:
        """Discard what was written; what had the target's name before stays."""


def open_writer(target: Target, *, exclusive: bool) -> Writer:
    """A writer for `target`. An exclusive one refuses an existing target, when opened and at `commit`."""
    if isinstance(target.place, Path):
        return LocalWriter(target, target.place, exclusive=exclusive)
    if target.place.scheme in S3_SCHEMES:
        return S3Writer(target, target.place, exclusive=exclusive)
    return FsspecWriter(target, target.place, exclusive=exclusive)


def publish_bytes(data: bytes, target: Target) -> None:
    """Write a small file in place of what had its name.

    Raises DestinationError, or TransferError (retryable).
    """
    with target.explain_errors():
        writer = open_writer(target, exclusive=False)
        try:
            writer.write(data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise


# --- disks


class LocalWriter:
    """Writes a temporary file beside the target, then renames it.

    A link is followed. The file keeps mode and owner of the one that it replaces; a new one gets the mode
    that the umask gives. A thread syncs what is written while more arrives, so that the end need not wait
    for all of it.
    """

    def __init__(self, target: Target, path: Path, *, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._path = path = _follow_link(path)
        self._check_replaced()
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempts_left in reversed(range(_MAX_LOCK_ATTEMPTS)):
            self._temporary = path.with_name(temporary_name(path.name))
            self._file = self._temporary.open("xb", buffering=0)
            if _lock(self._file) is not False and self._temporary.exists():  # no cleanup came in between
                break
            if attempts_left:  # else this share locks no file, or shows a new one late: do without a lock
                self._file.close()
                self._temporary.unlink(missing_ok=True)
        self._unsynced_bytes = 0
        self._sync: Future[None] | None = None
        self._syncer = ThreadPoolExecutor(1, "magichour-sync")

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._unsynced_bytes += len(chunk)
        if self._unsynced_bytes >= _SYNC_EVERY_BYTES and (self._sync is None or self._sync.done()):
            if self._sync is not None:
                self._sync.result()
            self._sync = self._syncer.submit(sync_to_disk, self._file.fileno(), data_only=True)
            self._unsynced_bytes = 0

    def commit(self) -> None:
        """Sync the bytes to the disk, then rename the file."""
        descriptor = self._file.fileno()
        replaced = self._check_replaced()
        if replaced is not None:
            for owner in ((-1, replaced.st_gid), (replaced.st_uid, -1)):
                with suppress(OSError):  # only root may give a file to another user
                    os.fchown(descriptor, *owner)
            with suppress(OSError):
                os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
        if self._sync is not None:
            self._sync.result()
        sync_to_disk(descriptor)
        is_linked = False
        if self._exclusive:
            try:  # a hard link refuses an existing name: only one of two writers wins
                os.link(self._temporary, self._path)
                is_linked = True
            except OSError:  # not possible here: shares refuse it with many errors
                self._check_replaced()
        if is_linked:
            with suppress(OSError):  # the video is published: a temporary file must not fail the download
                self._temporary.unlink()
        else:
            self._temporary.replace(self._path)
        self._close()
        with suppress(OSError):  # some file systems cannot sync a folder; the file itself is synced
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def abort(self) -> None:
        """Remove the temporary file. It is closed first: some shares remove no open file."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _check_replaced(self) -> os.stat_result | None:
        """What is to be replaced. Raises an error for what must not be, such as a device."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if self._exclusive:
            raise self._target.exists_error()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found

    def _close(self) -> None:
        """Last of all: closing the file gives up its lock."""
        self._syncer.shutdown()
        self._file.close()


def _follow_link(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


# --- S3


class S3Writer:
    """A multipart upload with parallel parts. Nothing shows before `commit`.

    Through the boto3 client of Airflow's S3Hook. s3fs sends one part after the other, waits for each, and
    takes twice the CPU time and memory (measured against a local server); s3transfer does not pass on
    `IfNoneMatch`.
    """

    def __init__(self, target: Target, place: ObjectPath, *, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._client, self._object = place.s3_client()
        self._type = {"ContentType": mimetypes.guess_type(target.path)[0] or "application/octet-stream"}
        self._refuse_existing()
        self._part, self._part_bytes = bytearray(), 0
        self._upload_id: str | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._pool = ThreadPoolExecutor(_PARALLEL_PARTS, "magichour-s3")

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        view = memoryview(chunk)
        while view:  # all parts but the last have one length, as some stores require
            if self._part_bytes == 0:
                self._part = bytearray(PART_BYTES)  # one that grows takes twice the memory
            begin, self._part_bytes = self._part_bytes, min(self._part_bytes + len(view), PART_BYTES)
            self._part[begin : self._part_bytes] = view[: self._part_bytes - begin]
            view = view[self._part_bytes - begin :]
            if self._part_bytes == PART_BYTES:
                self._send_part()

    def commit(self) -> None:
        """Send the rest and complete the upload."""
        self._refuse_existing()
        if self._upload_id is None:
            self._call_if_absent("put_object", **self._type, Body=self._part[: self._part_bytes])
        else:
            if self._part_bytes:
                self._send_part()
            parts = [part.result() for part in self._parts]
            self._call_if_absent(
                "complete_multipart_upload", UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )
        self._pool.shutdown()

    def abort(self) -> None:
        """Abort the upload, which frees its parts."""
        self._pool.shutdown(cancel_futures=True)
        self._part = bytearray()
        if self._upload_id is not None:
            with suppress(Exception):  # the next download to this name aborts it
                self._call("abort_multipart_upload", UploadId=self._upload_id)

    def _send_part(self) -> None:
        if self._upload_id is None:
            self._upload_id = str(self._call("create_multipart_upload", **self._type)["UploadId"])
        pending = [part for part in self._parts if not part.done()]
        if len(pending) >= _PARALLEL_PARTS:
            wait(pending, return_when=FIRST_COMPLETED)
        for part in self._parts:
            if part.done():
                part.result()
        number, body = len(self._parts) + 1, self._part
        del body[self._part_bytes :]
        self._part, self._part_bytes = bytearray(), 0

        def upload() -> dict[str, Any]:
            response = self._call("upload_part", UploadId=self._upload_id, PartNumber=number, Body=body)
            checksums = {name: value for name, value in response.items() if name.startswith("Checksum")}
            checksums.pop("ChecksumType", None)
            return {"PartNumber": number, "ETag": response["ETag"], **checksums}

        self._parts.append(self._pool.submit(upload))

    def _call_if_absent(self, method: str, **arguments: Any) -> None:
        """If exclusive, with `If-None-Match: *`, unless the store does not support it."""
        if not self._exclusive:
            self._call(method, **arguments)
            return
        try:
            self._call(method, IfNoneMatch="*", **arguments)
        except Exception as error:
            code = s3_error_code(error)
            if code in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise self._target.exists_error() from None
            if code not in S3_NO_CONDITIONS:
                raise
            self._call(method, **arguments)

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        response: dict[str, Any] = getattr(self._client, method)(**self._object, **arguments)
        return response

    def _refuse_existing(self) -> None:
        if not self._exclusive:
            return
        try:
            self._call("head_object")
        except Exception as error:
            if s3_error_code(error) not in ("404", "NoSuchKey", "NotFound"):
                raise
        else:
            raise self._target.exists_error()


# --- other stores


class FsspecWriter:
    """Writes through fsspec. Only `commit` publishes: neither `close` nor the garbage collector may.

    Google Cloud Storage and Azure refuse an exclusive writer (mode `x`) if the name exists when it commits.
    """

    def __init__(self, target: Target, place: ObjectPath, *, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._filesystem, self._path = place.connect()
        self._refuse_existing()
        self._temporary: str | None = None
        if place.scheme not in PUBLISH_ON_CLOSE_SCHEMES:
            folder, _, name = self._path.rpartition("/")
            if folder:
                self._filesystem.makedirs(folder, exist_ok=True)
            self._temporary = f"{folder}/{temporary_name(name)}"
        mode = "xb" if exclusive and self._temporary is None else "wb"
        self._file: Any = self._filesystem.open(self._temporary or self._path, mode, block_size=8 << 20)

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        self._file.write(chunk)

    def commit(self) -> None:
        """Finish the upload; the store then shows the object."""
        from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

        self._refuse_existing()
        try:
            self._file.close()
        except FileExistsError:
            if not self._exclusive:
                raise
            raise self._target.exists_error() from None
        if self._temporary is None:
            return
        if type(self._filesystem).mv is AbstractFileSystem.mv:  # which treats names as patterns
            self._filesystem.cp_file(self._temporary, self._path)
            self._filesystem.rm_file(self._temporary)
        else:
            self._filesystem.mv(self._temporary, self._path)
        self._temporary = None

    def abort(self) -> None:
        """Discard the upload."""
        from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

        try:
            if isinstance(self._file, AbstractBufferedFile):
                self._file.closed = True  # else close() and __del__ upload the rest and publish
                self._file.discard()
            else:
                self._file.close()
        except Exception as error:
            log.debug("The upload to %s could not be discarded: %s", self._target.display, error)
        if self._temporary is not None:
            with suppress(Exception):
                self._filesystem.rm_file(self._temporary)

    def _refuse_existing(self) -> None:
        if self._exclusive and self._filesystem.exists(self._path):
            raise self._target.exists_error()


# --- cleanup of killed attempts. On a disk the writer holds a lock on its temporary file, which ends with
# its process. Object stores have no such lock: a download aborts what others have begun under the same
# name. Waiting for an age would leave the parts of a killed S3 upload, which cost money, until another
# download comes later.


def temporary_name(file_name: str) -> str:
    """A new hidden name beside `file_name`."""
    return f"{_temporary_prefix(file_name)}{secrets.token_hex(6)}.part"


def remove_temporary_files(target: Target) -> None:
    """Remove what earlier downloads to this target have left; if that fails, it is only logged."""
    place = target.place
    try:
        if isinstance(place, Path):
            path = _follow_link(place)
            for part in path.parent.glob(f"{glob.escape(_temporary_prefix(path.name))}*.part"):
                with suppress(OSError), part.open("rb") as file:
                    is_abandoned = _lock(file)
                    if is_abandoned is None:
                        is_abandoned = time.time() - part.stat().st_mtime > _ABANDONED_AFTER_SECONDS
                    if is_abandoned:
                        part.unlink()
                        log.info("Removed %s, which an earlier attempt left.", part.name)
        elif place.scheme in S3_SCHEMES:
            client, name = place.s3_client()
            listed = client.list_multipart_uploads(Bucket=name["Bucket"], Prefix=name["Key"])
            for upload in listed.get("Uploads", ()):
                if upload["Key"] == name["Key"]:
                    client.abort_multipart_upload(**name, UploadId=upload["UploadId"])
                    log.info("Aborted an upload of %s that an earlier attempt left.", name["Key"])
        elif place.scheme not in PUBLISH_ON_CLOSE_SCHEMES:
            filesystem, inner = place.connect()
            folder, _, file_name = inner.rpartition("/")
            prefix = f"{folder}/{_temporary_prefix(file_name)}"
            for temporary in filesystem.ls(folder, detail=False):
                if temporary.startswith(prefix) and temporary.endswith(".part"):
                    filesystem.rm_file(temporary)  # `rm` treats the name as a pattern
                    log.info("Removed %s, which an earlier attempt left.", temporary)
    except Exception as error:  # e.g. no right to list; the download itself reports what matters
        log.debug("Temporary files beside %s could not be listed: %s", target.display, short_error(error))


def _temporary_prefix(file_name: str) -> str:
    return f".{file_name[:40]}.{hashlib.sha256(file_name.encode(errors='surrogatepass')).hexdigest()[:8]}."


def _lock(file: IO[bytes]) -> bool | None:
    """Lock an open file. False if another process holds the lock; None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
