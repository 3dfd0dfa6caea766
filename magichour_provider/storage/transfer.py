"""Bytes on their way: an image to Magic Hour, a clip to its target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magichour_provider.api.errors import DownloadError, LinkExpiredError, NetworkError, TargetError
from magichour_provider.choices import IfExists
from magichour_provider.storage.landing import LandedFile, Landing, existing
from magichour_provider.storage.source import Remote, Upload
from magichour_provider.storage.target import Target

if TYPE_CHECKING:
    from magichour_provider.api.client import MagicHourClient
    from magichour_provider.api.models import ClipLink

log = logging.getLogger(__name__)

CONTENT_TYPE = "video/mp4"
MAX_CLIP_BYTES = 16 << 30
"""No clip of at most a minute comes near; a storage that never ends its answer does."""
_ATTEMPTS = 3


def upload(client: MagicHourClient, source: Remote | Upload) -> str:
    """Bring an image to Magic Hour and return its `file_path`; a remote one is returned as it is.

    A broken upload is begun again, with a new URL: it costs nothing. Raises NetworkError when that does
    not help, ImageError when the file changes on the way.
    """
    if isinstance(source, Remote):
        return source.file_path
    for attempt in range(1, _ATTEMPTS + 1):
        (target,) = client.create_upload_targets([source.extension])
        try:
            client.put_upload(target, source.iter_chunks(), source.size)
        except NetworkError as error:
            if attempt == _ATTEMPTS:
                raise
            log.warning("%s Beginning the upload of %s again.", error.what, source.display)
        else:
            log.info("Uploaded %s (%d bytes).", source.display, source.size)
            return target.file_path
    raise AssertionError("unreachable")


def land(
    client: MagicHourClient, ask_link: Callable[[], ClipLink], target: Target, *, if_exists: IfExists
) -> LandedFile:
    """Land a clip; `ask_link` gives a link to it, asked again once if the first is no longer good.

    With `if_exists='skip'` this clip under the target's name is taken as it is; anything else there is
    refused, not replaced.
    """
    landed = existing(target) if if_exists == "skip" else None
    if landed is not None:
        _check_same_clip(client, ask_link, target, landed)
        log.info("%s is there already (%d bytes).", target.display, landed.size)
        return landed
    try:
        return _fetch(client, ask_link(), target, if_exists)
    except LinkExpiredError:
        log.info("The link to the clip had expired; asking for a new one.")
        return _fetch(client, ask_link(), target, if_exists)


def describe(landed: LandedFile, project_id: str) -> dict[str, Any]:
    """What the download operator returns: bytes, seconds, pixels; plain JSON."""
    return {
        "path": landed.path,
        "size": landed.size,
        "sha256": landed.sha256,
        "content_type": CONTENT_TYPE,
        "project_id": project_id,
        "duration": landed.duration,
        "width": landed.width,
        "height": landed.height,
        "fps": landed.fps,
    }


def _check_same_clip(
    client: MagicHourClient, ask_link: Callable[[], ClipLink], target: Target, landed: LandedFile
) -> None:
    """Refuse another job's clip: a name with the project's id is taken at its word, another by its size."""
    if target.names_project:
        return
    with client.open_clip(ask_link()) as clip:
        if clip.size is not None and clip.size != landed.size:
            raise TargetError(
                f"{target.display} holds another clip ({landed.size} bytes, and this one has {clip.size}), "
                "and if_exists is 'skip'.",
                remedy="Give a folder, a path with the project id in it, or if_exists='overwrite'.",
            )


def _fetch(client: MagicHourClient, link: ClipLink, target: Target, if_exists: IfExists) -> LandedFile:
    with Landing(target, if_exists=if_exists) as landing, client.open_clip(link) as clip:
        for chunk in clip.chunks():
            landing.write(chunk)
            if landing.size > MAX_CLIP_BYTES:
                raise DownloadError(f"The clip's storage sent more than {MAX_CLIP_BYTES} bytes.")
        if landing.size == 0:
            raise DownloadError("The clip's storage sent nothing.")
        landed = landing.publish(clip.size)
    log.info("Landed %s (%d bytes, %.2f s).", target.display, landed.size, landed.duration)
    return landed
