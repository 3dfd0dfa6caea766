"""A poster frame: one picture of a clip, beside it."""

from __future__ import annotations

import logging

from magichour_provider.exceptions import InvalidRequestError, PictureError
from magichour_provider.storage.frames import read_stills
from magichour_provider.storage.locations import display
from magichour_provider.storage.picture_publishing import encode, picture_target, publish

log = logging.getLogger(__name__)

MIDDLE = 0.5
"""The first frame is the image, which everybody knows; the middle shows what became of it."""

LONGEST_SIDE = 1280
"""In pixels: sharp on any screen, and small enough for a mail."""


def make_poster(
    clip: str, *, conn_id: str | None = None, at: float | None = None, path: str | None = None
) -> str:
    """Write a frame of `clip` as a JPEG or PNG, whole or not at all, and return its path or URL.

    :param clip: a local path, `file://`, or an object store's URL.
    :param conn_id: Airflow connection of the object store, for clip and poster.
    :param at: the moment as a fraction of the clip, 0 for the first frame, 1 for the last; None: the middle.
    :param path: the file to write; None: the clip's name, beside it, ending in `.jpg`. What stands there is
        replaced.

    Raises PictureError or DestinationError, which no retry fixes; NetworkError or TransferError, retryable.
    """
    if at is not None and not 0 <= at <= 1:
        raise InvalidRequestError(f"at={at!r} is not a fraction of the clip, from 0 to 1.", consequence="")
    target = picture_target(beside(clip) if path is None else path, conn_id)
    stills = read_stills(
        clip, [MIDDLE if at is None else at], within=(LONGEST_SIDE, LONGEST_SIDE), conn_id=conn_id
    )
    publish(encode(stills.images[0], target), target)
    log.info("Made the poster %s.", target.display)
    return target.path


def beside(clip: str) -> str:
    """The clip's path with `.jpg` in place of its extension."""
    folder, slash, name = clip.rpartition("/")
    stem, _, extension = name.rpartition(".")
    if not name or extension.lower() in ("jpg", "jpeg"):
        raise PictureError(f"{display(clip)!r} is not the name of a clip.")
    return f"{folder}{slash}{stem or name}.jpg"
