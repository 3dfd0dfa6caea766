"""Bytes on their way: an image to Magic Hour, a clip to its target."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from magichour_provider.exceptions import DownloadError, NetworkError, TransferError
from magichour_provider.jobs.request import IfExists
from magichour_provider.storage.cleanup import remove_leftovers
from magichour_provider.storage.download import AtomicDownload, DownloadedFile, existing
from magichour_provider.storage.existing import same_clip_at
from magichour_provider.storage.fetching import ResumableDownload
from magichour_provider.storage.images import Remote, Upload
from magichour_provider.storage.progress import Progress
from magichour_provider.storage.target import Target, resolve_target

if TYPE_CHECKING:
    from magichour_provider.client.downloads import DownloadHeaders
    from magichour_provider.client.models import DownloadUrl
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)

CONTENT_TYPE = "video/mp4"
_ATTEMPTS = 3
_CHECKS = 3


def upload(client: MagicHourClient, source: Remote | Upload) -> str:
    """Bring an image to Magic Hour and return its `file_path`; a remote one is returned as it is.

    A broken upload is begun again, with a new URL: it costs nothing. Raises NetworkError when that does
    not help, ImageError when the file changes on the way.
    """
    from magichour_provider.client.sync import send_with_retries

    if isinstance(source, Remote):
        return source.file_path
    for attempt in range(1, _ATTEMPTS + 1):
        (target,) = send_with_retries(
            lambda: client.create_upload_targets([source.extension]), client.retry_policy
        )
        try:
            client.put_upload(target, _watched(source), source.size)
        except NetworkError as error:
            if attempt == _ATTEMPTS:
                raise
            log.warning("%s Beginning the upload of %s again.", error.what, source.display)
        else:
            log.info("Uploaded %s (%d bytes).", source.display, source.size)
            return target.file_path
    raise AssertionError("unreachable")


def _watched(source: Upload) -> Iterator[bytes]:
    progress, done = Progress(f"Uploading {source.display}", source.size), 0
    for chunk in source.iter_chunks():
        yield chunk
        done += len(chunk)
        progress.reached(done)


def land(
    client: MagicHourClient, ask_link: Callable[[], DownloadUrl], target: Target, *, if_exists: IfExists
) -> DownloadedFile:
    """Land a clip, and remove what killed landings of it have left; `ask_link` gives a fresh link to it.

    With `if_exists='skip'` this clip under the target's name is taken as it is; anything else there is
    refused, not replaced. Raises TransferError and its kinds.
    """
    remove_leftovers(target)
    if if_exists == "skip":
        landed = same_clip_at(target, client, ask_link)
        if landed is not None:
            log.info("%s is there already (%d bytes).", target.display, landed.size)
            return landed
    with AtomicDownload(target, if_exists=if_exists) as landing:
        fetch = ResumableDownload(client, ask_link, landing, Progress(f"Landing {target.display}"))
        landed = landing.publish(_fetch_right(fetch, landing).size)
    log.info("Landed %s (%d bytes, %.2f s).", target.display, landed.size, landed.duration)
    return landed


def check_landed(path: str, project_id: str, conn_id: str | None, *, size: int, sha256: str) -> None:
    """Read a landed clip back; TransferError unless it is whole and as it was."""
    target = resolve_target(path, project_id, conn_id)
    found = existing(target)
    if found is None or (found.size, found.sha256) != (size, sha256):
        raise TransferError(f"{target.display}, read back, is not the clip that landed there.")


def describe(landed: DownloadedFile, project_id: str) -> dict[str, Any]:
    """One clip of what the download operator returns: bytes, seconds, pixels; plain JSON."""
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
        "poster": None,
    }


def _fetch_right(fetch: ResumableDownload, landing: AtomicDownload) -> DownloadHeaders:
    """Fetch until the bytes have the checksums that the storage gives.

    What only looks like a checksum, as an ETag may, is not one where two downloads agree against it.
    """
    seen = set[str]()
    for _ in range(_CHECKS):
        head = fetch.again() if seen else fetch.run()
        wrong = [sum for sum in head.checksums if landing.digest(sum.algorithm) != sum.digest]
        content = landing.digest("sha256")
        if not wrong:
            return head
        name = wrong[0].algorithm.upper()
        if content in seen and not any(sum.certain for sum in wrong):
            log.info("Two downloads agree: what looked like the clip's %s was none.", name)
            return head
        seen.add(content)
        log.warning("The clip's %s is not the one that its storage gives. Fetching it again.", name)
    raise DownloadError(f"The clip has arrived {_CHECKS} times with another checksum than its storage gives.")
