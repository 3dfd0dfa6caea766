"""Targets: the file that a video is written to, and how it is named.

Ids and names come from outside: what could leave the folder, hide the file or break a shell is replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Literal

from magichour_provider.exceptions import DestinationError, MagicHourError
from magichour_provider.storage.locations import (
    Location,
    LocationError,
    ObjectPath,
    file_name_at,
    is_folder,
    join,
    parse_writable,
    redact,
    require_shared,
    write_error,
)

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

IfExists = Literal["skip", "overwrite", "fail"]
"""If the target exists: keep it if it is this video, replace it, or refuse.

`skip` never replaces anything. Without a checksum, in a file whose name contains the project id, an equal
length is enough.
"""
_NAME_FIELDS = ("project_id", "name", "index")
_MAX_ID_CHARS = 120
_MAX_NAME_BYTES = 80
_MAX_FILE_NAME_BYTES = 250


@dataclass(frozen=True)
class Target:
    """The file to write.

    `path` is what downstream tasks open: an absolute local path, or a URL without connection id. `display`
    is for logs and errors. `names_project`: the file's name contains the project id. `consequence`: what a
    failure means, if the file is not a video.
    """

    path: str
    display: str
    place: Location = field(repr=False)
    names_project: bool = False
    consequence: str | None = None

    @classmethod
    def from_location(
        cls, place: Location, *, names_project: bool = False, consequence: str | None = None
    ) -> Target:
        """The target at this place."""
        path = str(place := place.absolute()) if isinstance(place, Path) else place.url
        return cls(path, redact(path), place, names_project, consequence)

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Raise DestinationError for the errors of the place, or TransferError if a retry can help."""
        try:
            yield
        except MagicHourError:
            raise
        except Exception as error:
            raise write_error(error, self.display, self.place, self.consequence) from error

    def exists_error(self) -> DestinationError:
        """The error if an existing file may not be replaced."""
        return DestinationError(
            f"{self.display} exists already and is not known to be this video.",
            remedy="Remove it, choose another target, or pass if_exists='overwrite', then clear this task.",
        )


def resolve_target(
    path: PathArgument,
    project_id: str,
    conn_id: str | None = None,
    *,
    file_name: str = "{project_id}.mp4",
    name: str | None = None,
    index: int = 1,
) -> Target:
    """The target that `path` means for a video of `project_id`. Writes nothing.

    If `path` means a folder (see `is_folder`), the template `file_name` names the video.

    :param name: the project's name in the library.
    :param index: which of the project's videos, from 1 on; beside a file, each gets its number in its name.

    Raises DestinationError, or TransferError if a store cannot be reached now.
    """
    place = None
    try:
        place = parse_writable(path, conn_id)
        if is_folder(path, place):
            made = video_file_name(project_id, template=file_name, name=name, index=index)
            return Target.from_location(join(place, made), names_project=True)
        numbered = add_number(file_name_at(place), index)
        if isinstance(place, Path):
            return Target.from_location(place if index == 1 else place.with_name(numbered))
        folder = place.url.rpartition("/")[0]
        return Target.from_location(ObjectPath(place.scheme, f"{folder}/{numbered}", place.conn_id))
    except Exception as error:
        raise write_error(error, redact(path), place) from error


def require_shared_target(path: PathArgument, conn_id: str | None = None) -> None:
    """Raise DestinationError if only one machine would have the videos at `path`.

    With `delete_remote` that would be the only copy, and other tasks, or a later pod, could not read it.
    """
    try:
        require_shared(parse_writable(path, conn_id))
    except LocationError as error:
        raise DestinationError(
            f"{redact(path)} cannot be used with delete_remote: {error}.",
            consequence="Nothing was downloaded or deleted.",
            remedy=error.remedy,
        ) from error


def video_file_name(
    project_id: str, *, template: str = "{project_id}.mp4", name: str | None = None, index: int = 1
) -> str:
    """The file name of a project's video number `index`, from 1 on.

    The second and later ones get their number before the extension, unless the template contains `{index}`.
    Raises LocationError unless the template keeps videos apart, or for a name that gets too long.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise LocationError(f"file_name {template!r} cannot be read: {error}.") from None
    fields = [field for _, field, _, _ in parts if field is not None]
    if set(fields) - set(_NAME_FIELDS) or any(spec or conversion for _, _, spec, conversion in parts):
        allowed = ", ".join(f"{{{field}}}" for field in _NAME_FIELDS)
        raise LocationError(f"file_name {template!r} may contain only plain text and {allowed}.")
    if "project_id" not in fields:
        raise LocationError(
            f"file_name {template!r} does not contain {{project_id}}, which keeps videos apart."
        )
    if re.search(r"[/\\\0]", template) or template.startswith("."):
        raise LocationError(f"file_name {template!r} must name a file: no slash, and no dot at the start.")
    safe_name = re.sub(r"[^\w.-]+", "_", name or "").strip("_.")  # letters and digits of any script
    safe_name = safe_name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") or "video"
    made = template.format(project_id=safe_id(project_id), name=safe_name, index=index)
    made = re.sub(r"^[.-]", "_", made)
    if len(made.encode()) > _MAX_FILE_NAME_BYTES:
        raise LocationError(f"file_name {template!r} gives a name of more than {_MAX_FILE_NAME_BYTES} bytes.")
    return made if "index" in fields else add_number(made, index)


def add_number(file_name: str, index: int) -> str:
    """`a.mp4` for 1, `a-2.mp4` for 2, `a-3.mp4` for 3."""
    if index == 1:
        return file_name
    stem, dot, extension = file_name.rpartition(".")
    return f"{stem}-{index}{dot}{extension}" if stem else f"{file_name}-{index}"


def safe_id(project_id: str) -> str:
    """The id, if it is safe; else its safe characters and a hash, which keeps different ids apart."""
    if not project_id:
        raise LocationError("there is no project id to name the video after.")
    safe = re.sub(r"^[.-]|[^A-Za-z0-9._-]", "_", project_id[:_MAX_ID_CHARS])
    digest = hashlib.sha256(project_id.encode(errors="surrogatepass")).hexdigest()
    return safe if safe == project_id else f"{safe}-{digest[:8]}"
