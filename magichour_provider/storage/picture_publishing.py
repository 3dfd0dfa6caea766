"""Turn a picture into a file that is there whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from magichour_provider.exceptions import DestinationError, MagicHourError
from magichour_provider.storage.locations import ObjectPath, display, locate, within
from magichour_provider.storage.publish import open_writer
from magichour_provider.storage.target import Target

JPEG_QUALITY = 85
"""Where more is not seen any more, and a 720p frame has some 150 kB."""

_CONSEQUENCE = "The clips are untouched, and no credits were spent."
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def picture_target(path: str, conn_id: str | None = None, *, folder_name: str | None = None) -> Target:
    """The file that `path` means; it ends in .jpg, .jpeg or .png.

    :param folder_name: the file's name where `path` is a folder: it ends with a slash, or its last part has
        no dot, or it exists on this machine; None where only a file will do.

    Raises DestinationError.
    """
    if path.strip() in ("", "None"):
        raise _refused("No target was given for the picture: the path is empty.")
    try:
        place = locate(path, conn_id)
    except ValueError as error:
        raise _refused(f"{display(path)} cannot be written: {error}.") from error
    if folder_name is not None and _is_folder(path, place):
        place = within(place, folder_name)
    if _suffix(place) not in _FORMATS:
        raise _refused(
            f"{display(path)} does not end in .jpg or .png (a folder ends with a slash).",
            remedy="Correct the path; trying again cannot help before that.",
        )
    return Target.at(place, consequence=_CONSEQUENCE)


def encode(picture: Image.Image, target: Target) -> bytes:
    """The picture as JPEG or PNG, as the target's name says."""
    buffer = io.BytesIO()
    if _FORMATS[_suffix(target.place)] == "PNG":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, progressive=True)
    return buffer.getvalue()


def publish(data: bytes, target: Target) -> None:
    """Put `data` under the target's name at once, in place of what stood there.

    Raises DestinationError, or TransferError where a retry may help.
    """
    try:
        writer = open_writer(target, exclusive=False)
        try:
            writer.write(data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise
    except MagicHourError:
        raise
    except Exception as error:
        raise target.failure(error) from error


def _refused(what: str, remedy: str | None = None) -> DestinationError:
    return DestinationError(what, consequence=_CONSEQUENCE, remedy=remedy)


def _is_folder(path: str, place: Path | ObjectPath) -> bool:
    if path.endswith("/") or "." not in _name(place):
        return True
    return isinstance(place, Path) and place.is_dir()


def _name(place: Path | ObjectPath) -> str:
    return place.name if isinstance(place, Path) else place.url.rpartition("/")[2]


def _suffix(place: Path | ObjectPath) -> str:
    stem, dot, extension = _name(place).rpartition(".")
    return dot + extension.lower() if stem else ""
