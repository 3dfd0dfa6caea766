"""Where a clip goes: a file, or one named after the project in a folder; on a disk or in an object store."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from magichour_provider.api.errors import TargetError, TransferError
from magichour_provider.storage.place import StorePath, diagnose, display, locate

_MAX_NAME_CHARS = 120


@dataclass(frozen=True)
class Target:
    """The file that a clip is to become.

    `path` is what downstream tasks open: an absolute local path, or a URL without the connection's id;
    `display` is what logs and errors show; `names_project`: the file's name is the project's own.
    """

    path: str
    display: str
    place: Path | StorePath = field(repr=False)
    names_project: bool = False

    def failure(self, error: Exception) -> TransferError:
        """The error of the tree for what the file system or the store raised."""
        trouble = diagnose(error, self.place)
        if trouble.permanent:
            return TargetError(f"{self.display} cannot be written: {trouble.cause}.", remedy=trouble.remedy)
        return TransferError(f"{self.display} could not be written: {trouble.cause}.")

    def exists_already(self) -> TargetError:
        """The error where something stands under the name that may not be replaced."""
        return TargetError(
            f"{self.display} exists already, and only if_exists='overwrite' replaces it.",
            remedy="Remove it, choose another target, or pass if_exists='overwrite', then clear this task.",
        )


def resolve_target(path: str, project_id: str, conn_id: str | None = None) -> Target:
    """The target that `path` means for the clip of `project_id`.

    `path` is a folder if it ends with a slash or is an existing folder (in a store, a path with an extension
    is taken for a file unasked); the clip is then `<project_id>.mp4` in it. Writes nothing.
    Raises TargetError, or TransferError where a store is out of reach for now.
    """
    shown = display(path)
    if path.strip() in ("", "None"):
        raise TargetError("No target was given: the path is empty.")
    try:
        place = locate(path, conn_id)
    except ValueError as error:
        raise TargetError(f"{shown} cannot be written: {error}.") from error
    target = _target(place)
    try:
        is_folder = path.endswith("/") or _is_folder(place)
    except Exception as error:
        raise target.failure(error) from error
    if not is_folder:
        return target
    return replace(_target(_within(place, file_name(project_id))), names_project=True)


def file_name(project_id: str) -> str:
    """`<project_id>.mp4`, safe in any folder: what is not a letter, digit, `.`, `_` or `-` is replaced.

    A hash then keeps different ids apart. Project ids are opaque, and come from outside.
    """
    if not project_id:
        raise TargetError("A folder was given as the target, and no project id to name the file after.")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", project_id)[:_MAX_NAME_CHARS]
    safe = re.sub(r"^[.-]", "_", safe)
    if safe != project_id:
        safe += "-" + hashlib.sha256(project_id.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe}.mp4"


def _target(place: Path | StorePath) -> Target:
    if isinstance(place, Path):
        place = place.absolute()
        return Target(str(place), str(place), place)
    return Target(place.url, display(place.url), place)


def _within(place: Path | StorePath, name: str) -> Path | StorePath:
    if isinstance(place, Path):
        return place / name
    return StorePath(place.scheme, f"{place.url.rstrip('/')}/{name}", place.conn_id)


def _is_folder(place: Path | StorePath) -> bool:
    if isinstance(place, Path):
        return place.is_dir()
    if "." in place.url.rpartition("/")[2]:
        return False
    filesystem, path = place.connect()
    return bool(filesystem.isdir(path))
