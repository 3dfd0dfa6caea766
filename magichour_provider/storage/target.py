"""Where a clip goes: a file, or one named after the project in a folder; on a disk or in an object store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from magichour_provider.exceptions import DestinationError, TransferError
from magichour_provider.storage.locations import ObjectPath, diagnose, display, locate, within
from magichour_provider.storage.naming import DEFAULT_FILE_NAME, numbered, video_file_name


@dataclass(frozen=True)
class Target:
    """The file that a clip is to become.

    `path` is what downstream tasks open: an absolute local path, or a URL without the connection's id;
    `display` is what logs and errors show; `names_project`: the file's name is the project's own;
    `consequence`: what a failure means for job and credits, where it is no clip that is written.
    """

    path: str
    display: str
    place: Path | ObjectPath = field(repr=False)
    names_project: bool = False
    consequence: str | None = None

    @classmethod
    def at(cls, place: Path | ObjectPath, *, consequence: str | None = None) -> Target:
        """The file that stands, or is to stand, at this place."""
        if isinstance(place, Path):
            place = place.absolute()
            return cls(str(place), str(place), place, consequence=consequence)
        return cls(place.url, display(place.url), place, consequence=consequence)

    def exists(self) -> bool:
        """Whether something stands under its name; raises the errors of the tree."""
        try:
            if isinstance(self.place, Path):
                return self.place.exists()
            filesystem, path = self.place.connect()
            return bool(filesystem.exists(path))
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> TransferError:
        """The error of the tree for what the file system or the store raised."""
        trouble = diagnose(error, self.place)
        if trouble.permanent:
            what = f"{self.display} cannot be written: {trouble.cause}."
            return DestinationError(what, consequence=self.consequence, remedy=trouble.remedy)
        what = f"{self.display} could not be written: {trouble.cause}."
        return TransferError(what, consequence=self.consequence)

    def exists_already(self) -> DestinationError:
        """The error where something stands under the name that may not be replaced."""
        return DestinationError(
            f"{self.display} exists already and is not known to be this clip; only if_exists='overwrite' "
            "replaces it.",
            remedy="Remove it, choose another target, or pass if_exists='overwrite', then clear this task.",
        )


def resolve_target(
    path: str,
    project_id: str,
    conn_id: str | None = None,
    *,
    file_name: str = DEFAULT_FILE_NAME,
    name: str | None = None,
    index: int = 1,
) -> Target:
    """The target that `path` means for a clip of `project_id`.

    `path` is a folder if it ends with a slash or is an existing folder (in a store, a path with an extension
    is taken for a file unasked); the clip is then named by the template `file_name` in it. Writes nothing.
    Raises DestinationError, or TransferError where a store is out of reach for now.

    :param name: the project's name in the library.
    :param index: which one of the project's clips, from 1 on; each has a name of its own, also beside a file.
    """
    shown = display(path)
    if path.strip() in ("", "None"):
        raise DestinationError("No target was given: the path is empty.")
    try:
        place = locate(path, conn_id)
    except ValueError as error:
        raise DestinationError(f"{shown} cannot be written: {error}.") from error
    target = Target.at(place)
    try:
        is_folder = path.endswith("/") or _is_folder(place)
    except Exception as error:
        raise target.failure(error) from error
    if not is_folder:
        return Target.at(_beside(place, index))
    try:
        made = video_file_name(project_id, template=file_name, name=name, index=index)
    except ValueError as error:
        raise DestinationError(f"Nothing can be written to {shown}: {error}") from None
    return replace(Target.at(within(place, made)), names_project=True)


def _beside(place: Path | ObjectPath, index: int) -> Path | ObjectPath:
    if index == 1:
        return place
    if isinstance(place, Path):
        return place.with_name(numbered(place.name, index))
    folder, slash, name = place.url.rpartition("/")
    return ObjectPath(place.scheme, f"{folder}{slash}{numbered(name, index)}", place.conn_id)


def _is_folder(place: Path | ObjectPath) -> bool:
    if isinstance(place, Path):
        return place.is_dir()
    if "." in place.url.rpartition("/")[2]:
        return False
    filesystem, path = place.connect()
    return bool(filesystem.isdir(path))
