"""Which downloaded files the pages may show, and how they are opened: below `[magichour] ui_video_roots`.

The path of a video comes from an XCom, and every user who may edit XComs can forge it. So a path must be
written below a root, part by part, and something that cannot be forged must confirm it: the Dag's id in the
root, or the task's rendered `path`, which its worker wrote. A local file is opened folder by folder without
following links, so a file that is exchanged after the check is noticed. Only mp4 and JPEG files, and those of
a batch, are opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from magichour_provider.exceptions import ConfigurationError
from magichour_provider.storage.locations import (
    Location,
    LocationError,
    ObjectPath,
    address_of,
    classify_error,
    parse_location,
    redact,
    url_scheme,
)

Kind = Literal["video", "poster", "batch"]
"""A batch: its state, or its result manifest."""

SETTING = "[magichour] ui_video_roots"
DAG_ID = "{dag_id}"
"""The placeholder for the Dag's id in a root."""
LOCAL_BLOCK_BYTES = 1 << 20
STORE_BLOCK_BYTES = 4 << 20
"""Bytes of one request to an object store: most videos need one to five, and a seek wastes little."""

_VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")
"""The names that drivers of object stores give to the version and the time of an object."""
_BEGINNINGS: Mapping[str, tuple[str, str]] = {
    "video": ("mp4", ".{4}ftyp"),
    "poster": ("JPEG", "\xff\xd8\xff"),
    "batch": ("file of a batch", r'\Z|\{"(key|lease|claim)": '),
}
"""What a file of each kind is called, and the first characters of its bytes."""
_NOT_DOWN = frozenset({"", ".", ".."})
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class MediaError(Exception):
    """A file that is not shown; the message says why, for the page."""


class MediaRefusedError(MediaError):
    """The file may not be shown, or does not exist."""


class MediaMissingError(MediaRefusedError):
    """The file does not exist on this machine."""


class MediaUnavailableError(MediaError):
    """Its file system or object store does not answer now; it may answer later."""


@dataclass(frozen=True)
class AllowedFile:
    """A file that may be opened, by the root's own connection.

    :param folder: the root, with the Dag's id in it.
    :param anchor: the part of `folder` before the part with the Dag's id.
    """

    location: Location
    folder: str
    anchor: str


@dataclass(frozen=True)
class MediaRoot:
    """A folder below which files may be shown. Its path may contain `{dag_id}`.

    An object store's URL has the connection that reads it. A Dag or an XCom cannot choose another.
    """

    location: Location

    @property
    def is_per_dag(self) -> bool:
        """Whether the root by itself confirms that a file is of a Dag."""
        return DAG_ID in _as_text(self.location)

    def allow(self, path: str, dag_id: str) -> AllowedFile | None:
        """The file of this path, for a task of this Dag; None if it is not below this root.

        This is a comparison of texts: `path` must begin as the root does, and then only go down.
        """
        if self.is_per_dag and (re.fullmatch(r"[\w.-]+", dag_id) is None or dag_id in _NOT_DOWN):
            return None
        root = _as_text(self.location)
        folder = root.replace(DAG_ID, dag_id)
        if not path.startswith(f"{folder}/") or _CONTROL.search(path):
            return None
        if not _NOT_DOWN.isdisjoint(path[len(folder) + 1 :].split("/")):
            return None
        anchor = root.partition(DAG_ID)[0].rpartition("/")[0] if self.is_per_dag else root
        if isinstance(self.location, Path):
            return AllowedFile(Path(path), folder, anchor)
        location = replace(self.location, url=path)
        return None if location.has_version else AllowedFile(location, folder, anchor)


def parse_roots(setting: str) -> tuple[MediaRoot, ...]:
    """Read the setting: comma-separated folders and object storage URLs. Raises ConfigurationError."""
    return tuple(_parse_root(entry.strip()) for entry in setting.split(",") if entry.strip())


def _parse_root(entry: str) -> MediaRoot:
    def reject(reason: str) -> NoReturn:
        what = f"{SETTING} cannot be used: {redact(entry)!r}: {reason}."
        raise ConfigurationError(what, consequence="", remedy="Correct the setting.")

    if re.search(r"[{}]", entry.replace(DAG_ID, "")):
        reject(f"the only placeholder is {DAG_ID}")
    try:
        location = parse_location(entry)
    except LocationError as error:
        reject(str(error))
    if isinstance(location, ObjectPath):
        if re.search(r"[@{}]", location.conn_id or ""):
            reject("the part before the '@' must be the id of an Airflow connection")
        if location.has_version:
            reject("it must name no version of an object")
        location = replace(location, url=location.url.removesuffix("/"))
        parts = location.url.partition("://")[2].split("/")
    elif url_scheme(entry) is None and not entry.startswith("/"):
        reject("it must be absolute")
    else:
        parts = str(location).lstrip("/").split("/")
    if not parts[0]:
        reject("it must name a folder, or a bucket")
    if DAG_ID in parts[0]:
        reject(f"{DAG_ID} must be below a folder, or in a bucket, that the setting itself names")
    if _CONTROL.search(entry) or not _NOT_DOWN.isdisjoint(parts):
        reject("it must have no '.', '..' or empty parts")
    return MediaRoot(location)


def authorize(
    path: str, *, dag_id: str, rendered_path: str | None, roots: Iterable[MediaRoot]
) -> AllowedFile:
    """The file at `path`, if a user who may read this task may see it. Raises MediaRefusedError.

    :param path: where the task says that it put the file; may be forged.
    :param rendered_path: the task's own rendered field `path`; None if Airflow does not have it any more.
    """
    below = [(root, file) for root in roots if (file := root.allow(path, dag_id))]
    if not below:
        raise MediaRefusedError(
            f"The file is not below a folder of {SETTING}. So Airflow does not show it from its own storage."
        )
    is_confirmed = rendered_path is not None and _confirms(rendered_path, path)
    for root, file in below:
        if root.is_per_dag or is_confirmed:
            return file
    if rendered_path is None:
        raise MediaRefusedError(
            "Airflow keeps the rendered fields of the latest runs only ([core] "
            "max_num_rendered_ti_fields_per_task). Those of this run, which would confirm the path of its "
            f"video, were deleted. A folder with {DAG_ID} in {SETTING} does not need them."
        )
    raise MediaRefusedError(
        "The file is not at the path of the task's rendered field `path`, which must be absolute. "
        f"A folder with {DAG_ID} in {SETTING} does not need this field."
    )


def _confirms(rendered_path: str, path: str) -> bool:
    """Whether a task with this rendered `path` can have written a video or a poster at `path`."""
    try:
        target = _as_text(parse_location(rendered_path)).rstrip("/")
    except LocationError:
        return False
    folder, _, name = path.rpartition("/")
    target_folder, _, target_name = target.rpartition("/")
    if folder == target:
        return True
    if folder != target_folder or address_of(rendered_path).endswith("/"):
        return False
    # The other videos of a project are called `name-2.mp4`, ..., and posters have the extension `.jpg`.
    stem, dot, extension = target_name.rpartition(".")
    if not stem:
        stem, dot, extension = target_name, "", ""
    ending = f"({re.escape(dot + extension)}|\\.jpg)"
    return re.fullmatch(f"{re.escape(stem)}(-[0-9]+)?{ending}", name) is not None


def _as_text(location: Location) -> str:
    return str(location) if isinstance(location, Path) else location.url


# Open files


@dataclass(frozen=True)
class OpenFile:
    """An open file, to be read once or closed; its size in bytes.

    :param etag: strong and quoted, as HTTP writes it.
    """

    location: Location = field(repr=False)
    size: int
    etag: str
    media_type: str
    block_bytes: int
    handle: Any = field(repr=False)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, exclusive, in blocks. Closes the file.

        Raises MediaError if they cannot be read.
        """
        with self.handle:
            while start < end:
                try:
                    self.handle.seek(start)
                    block = bytes(self.handle.read(min(end - start, self.block_bytes)))
                except Exception as error:
                    raise _media_error(error, self.location) from None
                if not block:
                    raise MediaUnavailableError("The file became shorter while it was read.")
                start += len(block)
                yield block

    def lines(self) -> Iterator[bytes]:
        """The lines of a text, with their ends. Closes the file. Raises MediaError."""
        rest = b""
        for block in self.read(0, self.size):
            *whole, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in whole)
        if rest:
            yield rest


def open_media(file: AllowedFile, kind: Kind = "video") -> OpenFile:
    """Open a video, a poster, or a file of a batch. Blocks.

    Raises MediaRefusedError, or MediaUnavailableError if it cannot be read now.
    """
    location = file.location
    with ExitStack() as stack:
        try:
            if isinstance(location, Path):
                handle: Any = stack.enter_context(_open_below(file, location))
                status, block_bytes = os.fstat(handle.fileno()), LOCAL_BLOCK_BYTES
                size, version = status.st_size, (status.st_size, status.st_mtime_ns)
            else:
                filesystem, path = location.connect()
                # Without a cache, each read is one request for just its bytes. If the driver can, it asks for
                # the version of the object that it opened.
                block_bytes = STORE_BLOCK_BYTES
                handle = filesystem.open(path, "rb", block_size=block_bytes, cache_type="none")
                stack.enter_context(handle)
                # The driver has asked the store on opening; this saves a second request.
                details = getattr(handle, "details", None) or filesystem.info(path)
                if details.get("type") != "file":
                    raise MediaRefusedError("This is no regular file.")  # noqa: TRY301
                size, version = int(details["size"]), (details["size"], *map(details.get, _VERSION_KEYS))
            head = handle.read(12)
        except MediaError:
            raise
        except Exception as error:
            raise _media_error(error, location) from None
        name, beginning = _BEGINNINGS[kind]
        if re.match(beginning, head.decode("latin-1"), re.DOTALL) is None:
            raise MediaRefusedError(
                f"The file is no {name}. Nothing else is shown from the folders of {SETTING}."
            )
        stack.pop_all()
    etag = f'"{hashlib.sha256(repr(version).encode()).hexdigest()[:32]}"'
    media_type = {"video": "video/mp4", "poster": "image/jpeg"}.get(kind, "application/jsonl")
    return OpenFile(location, size, etag, media_type, block_bytes, handle)


def _media_error(error: Exception, location: Location) -> MediaError:
    diagnosis = classify_error(error, location)
    kind: type[MediaError] = MediaRefusedError if diagnosis.permanent else MediaUnavailableError
    if isinstance(error, FileNotFoundError):
        kind = MediaMissingError
    return kind(f"Airflow's API server cannot read the file: {diagnosis.cause}.")


def _open_below(file: AllowedFile, path: Path) -> io.FileIO:
    """Open a regular file whose real folder is below its root.

    `anchor` may be a link. The rest of `folder` may not: a Dag's author may have made the folder of its id.
    """
    start, inner = os.path.realpath(file.anchor), os.path.realpath(path.parent)
    top = start + file.folder.removeprefix(file.anchor)
    if os.path.commonpath((top, inner)) != top:
        raise MediaRefusedError(f"A link leads out of the folder of {SETTING}. It is not followed.")
    with ExitStack() as stack:
        folder = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        for part in Path(inner).relative_to(start).parts:
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            stack.callback(os.close, folder)
        # The status is read first, because to open a device or a pipe may have effects.
        before = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(before.st_mode):
            raise MediaRefusedError("This is no regular file.")
        # Without O_NONBLOCK, a pipe that was put there since would wait for its other end.
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        handle = os.fdopen(descriptor, "rb", buffering=0)
        if not os.path.samestat(before, os.fstat(descriptor)):
            handle.close()
            raise MediaRefusedError("The file was replaced while it was opened. Load the page again.")
        return handle
