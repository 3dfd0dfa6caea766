"""Posters: one frame of a video, as a picture beside it."""

from __future__ import annotations

import io
import logging
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from magichour_provider.exceptions import InvalidRequestError, PictureError
from magichour_provider.storage.locations import (
    Location,
    LocationError,
    address_of,
    file_name_at,
    join,
    parse_writable,
    reading,
    redact,
    write_error,
)
from magichour_provider.storage.publish import publish_bytes
from magichour_provider.storage.targets import Target

if TYPE_CHECKING:
    from PIL import Image

    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

LONGEST_SIDE_PIXELS = 1280
JPEG_QUALITY = 85
"""More is not visible; a frame of 720p has some 150 kB."""
_CONSEQUENCE = "The videos are untouched, and no credits were spent."


def require_pictures() -> None:
    """Raise InvalidRequestError unless PyAV and Pillow can be imported; call it before any work is done."""
    for module in ("av", "PIL.Image"):
        try:
            import_module(module)
        except ImportError as error:
            raise InvalidRequestError(
                f"Pictures of videos need PyAV and Pillow, and {module.partition('.')[0]} cannot be imported "
                f"({error}).",
                consequence="Nothing was done, and no credits were spent.",
                remedy="Run: pip install 'airflow-provider-magichour[pictures]' on the workers. "
                "A retry cannot help before that.",
            ) from error


def make_poster(
    video: PathArgument,
    *,
    conn_id: str | None = None,
    at: float | None = None,
    path: PathArgument | None = None,
) -> str:
    """Write a frame of `video` as a JPEG or PNG, atomically, and return its path or URL.

    :param video: a local path, `file://`, or an object store's URL.
    :param conn_id: Airflow connection of the object store, for video and poster.
    :param at: the moment as a fraction of the video, 0 for the first frame, 1 for the last; None: the middle.
    :param path: the file to write, replacing an existing one; None: the video's name with `.jpg`, beside it.

    Raises PictureError or DestinationError, which no retry fixes; NetworkError or TransferError, retryable.
    """
    from magichour_provider.storage.frames import read_frames

    if at is not None and not 0 <= at <= 1:
        raise InvalidRequestError(f"at={at!r} is not a fraction of the video, from 0 to 1.", consequence="")
    target = picture_target(poster_path(video) if path is None else path, conn_id)
    # The first frame is the image, which is known; the middle shows what became of it.
    fraction = 0.5 if at is None else at
    size = (LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS)
    frames = read_frames(video, [fraction], within=size, conn_id=conn_id)
    publish_bytes(encode_picture(frames.images[0], target), target)
    log.info("Made the poster %s.", target.display)
    return target.path


def poster_path(video: PathArgument) -> str:
    """The video's path with `.jpg` in place of its extension. Raises PictureError."""
    with reading(PictureError, f"Video {redact(video)}"):
        folder, slash, name = address_of(video).rpartition("/")
        stem, _, extension = name.rpartition(".")
        if not name or extension.lower() in ("jpg", "jpeg"):
            raise LocationError("this is not the name of a video")
        return f"{folder}{slash}{stem or name}.jpg"


def picture_target(
    path: PathArgument, conn_id: str | None = None, *, folder_name: str | None = None
) -> Target:
    """The file that `path` means; it ends in .jpg, .jpeg or .png. Raises DestinationError.

    :param folder_name: the file's name if `path` is a folder: it ends with a slash, its last part has no
        dot, or it exists on this machine; None if only a file is accepted.
    """
    place = None
    try:
        place = parse_writable(path, conn_id)
        if folder_name is not None:
            is_folder = address_of(path).endswith("/") or "." not in file_name_at(place)
            if is_folder or (isinstance(place, Path) and place.is_dir()):
                place = join(place, folder_name)
        if _suffix(place) not in (".jpg", ".jpeg", ".png"):
            raise LocationError("its name does not end in .jpg or .png (a folder ends with a slash)")  # noqa: TRY301
        return Target.from_location(place, consequence=_CONSEQUENCE)
    except Exception as error:
        raise write_error(error, redact(path), place, _CONSEQUENCE) from error


def encode_picture(picture: Image.Image, target: Target) -> bytes:
    """The picture as JPEG or PNG, by the target's name."""
    buffer = io.BytesIO()
    if _suffix(target.place) == ".png":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, progressive=True)
    return buffer.getvalue()


def _suffix(place: Location) -> str:
    return PurePosixPath(file_name_at(place)).suffix.lower()
