"""Save all videos of a job: fetch, check, compare with what exists, publish atomically.

Invariant, not to be relaxed: at every moment, the target's name shows either what stood there before or a
whole mp4. Only a killed process leaves its temporary file. Memory stays flat at any size of the video.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magichour_provider.exceptions import (
    DestinationError,
    DownloadError,
    JobDeletedError,
    NotAVideoError,
    NotFoundError,
    TransferError,
)
from magichour_provider.storage.locations import get_hostname, open_for_reading
from magichour_provider.storage.publish import Writer, open_writer, remove_temporary_files
from magichour_provider.storage.targets import IfExists, Target, resolve_target
from magichour_provider.storage.transfer import ResumableDownload, SavedVideo, Sleep, VideoDigest

if TYPE_CHECKING:
    from typing_extensions import Self

    from magichour_provider.client.downloads import DownloadHeaders
    from magichour_provider.client.models import DownloadUrl, VideoProject
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

_ALGORITHMS = ("md5", "sha1")
"""Of the checksums that storages give, besides SHA-256."""
_MAX_CHECKSUM_ATTEMPTS = 3
_READ_BACK_BYTES = 1 << 20


def download_videos(
    client: MagicHourClient,
    get_job: Callable[[], VideoProject],
    project_id: str,
    path: PathArgument,
    *,
    path_conn_id: str | None = None,
    if_exists: IfExists = "skip",
    replaces: str | None = None,
    file_name: str = "{project_id}.mp4",
    sleep: Sleep = time.sleep,
) -> dict[str, Any]:
    """Save every video of a job; arguments as those of `DownloadVideoOperator`.

    :param replaces: a path at which a file is overwritten, also if `if_exists` is "skip" or "fail".
    :param get_job: reads the job with fresh URLs of its videos; raises the error of a job without a video.
    :return: the fields of the first video, and `videos`: those of each.

    Raises what `get_job` raises; TransferError and its kinds.
    """

    def target_of(name: str | None = None, index: int = 1) -> Target:
        return resolve_target(path, project_id, path_conn_id, file_name=file_name, name=name, index=index)

    def result() -> dict[str, Any]:
        more = {"content_type": "video/mp4", "project_id": project_id, "poster": None}
        more["hostname"] = get_hostname() if isinstance(first.place, Path) else None
        videos = [
            {**asdict(video), "duration": video.duration or None, "fps": video.fps or None, **more}
            for video in saved
        ]
        return {**videos[0], "videos": videos}

    saved: list[SavedVideo] = []
    first = target_of()  # a target that cannot be used fails before any request
    try:
        job = get_job()
    except (NotFoundError, JobDeletedError):
        while if_exists == "skip" and first.names_project:
            target = target_of(index=len(saved) + 1)
            found = read_back(target)
            if found is None:
                break
            log.warning("Job %s does not exist at Magic Hour any more; %s exists.", project_id, target.path)
            saved.append(found.saved_at(target.path))
        if not saved:
            raise
        return result()

    def urls(index: int) -> Iterator[DownloadUrl]:
        yield job.downloads[index]
        while True:  # the last one has expired
            fresh = get_job().downloads
            if index >= len(fresh):
                raise TransferError(f"Job {project_id} has fewer videos than a moment ago.")
            yield fresh[index]

    for index in range(len(job.downloads)):
        target, get_url = target_of(job.name, index + 1), partial(next, urls(index))
        policy: IfExists = "overwrite" if target.path == replaces else if_exists
        saved.append(download_video(client, get_url, target, if_exists=policy, sleep=sleep))
    return result()


def verify_download(result: Mapping[str, Any], path_conn_id: str | None = None) -> None:
    """Read back the videos of `download_videos`' result. Raises TransferError unless all are unchanged."""
    for video in result["videos"]:
        target = resolve_target(video["path"], str(video["project_id"]), path_conn_id)
        found = read_back(target)
        if found is None or (found.size, found.hexdigest()) != (video["size"], video["sha256"]):
            raise TransferError(f"{target.display} is not the video that was saved there.")


def download_video(
    client: MagicHourClient,
    get_url: Callable[[], DownloadUrl],
    target: Target,
    *,
    if_exists: IfExists,
    sleep: Sleep = time.sleep,
) -> SavedVideo:
    """Save one video, and remove what killed attempts have left. `get_url` gives a fresh signed URL.

    With `if_exists='skip'`, this video under the target's name is kept; anything else there is refused.
    Raises TransferError and its kinds.
    """
    remove_temporary_files(target)
    if if_exists == "skip":
        saved = _find_same_video(client, get_url, target, sleep)
        if saved is not None:
            log.info("%s exists already (%d bytes).", target.display, saved.size)
            return saved
    with AtomicDownload(target, if_exists=if_exists) as file:
        fetch = ResumableDownload(client, get_url, file, f"Downloading {target.display}", sleep=sleep)
        headers = _fetch_verified(fetch, file)
        try:
            saved = file.publish(headers.size)
        except NotAVideoError as error:
            if headers.size is None or not headers.checksums:
                raise
            raise NotAVideoError(error.what, is_final=True) from error  # the storage has these very bytes
    log.info("Saved %s (%d bytes, %.2f s of video).", target.display, saved.size, saved.duration)
    return saved


def read_back(target: Target, algorithms: Iterable[str] = ()) -> VideoDigest | None:
    """Read the video under the target's name; None if there is none, or it is not a whole mp4.

    :param algorithms: as those of `VideoDigest`.

    Raises DestinationError, or TransferError (retryable).
    """
    digest = VideoDigest(algorithms)
    digest.mp4.is_lenient = True  # it was checked when it was saved
    with target.explain_errors():
        try:
            with open_for_reading(target.place) as file:
                while chunk := file.read(_READ_BACK_BYTES):
                    digest.write(chunk)
            digest.mp4.finish()
        except FileNotFoundError:
            return None
        except NotAVideoError as error:
            log.warning("%s exists, but is not a whole video. %s", target.display, error.what)
            return None
    return digest


def _find_same_video(
    client: MagicHourClient, get_url: Callable[[], DownloadUrl], target: Target, sleep: Sleep
) -> SavedVideo | None:
    """This video under the target's name; None if nothing whole has it. DestinationError for another video.

    Compared by size and checksum; if the storage gives none that is certain, by the project id in the name,
    else by the content, which is fetched for that.
    """
    found = read_back(target, _ALGORITHMS)
    if found is None:
        return None
    content = VideoDigest()
    fetch = ResumableDownload(client, get_url, content, "Fetching the video to compare it", sleep=sleep)
    headers = fetch.read_headers()
    agree = [found.hexdigest(sum.algorithm) == sum.digest for sum in headers.checksums]
    if headers.size is not None and headers.size != found.size:
        is_same = False
    elif any(agree) or any(sum.certain for sum in headers.checksums):
        is_same = all(agree)
    elif target.names_project and not headers.checksums:
        is_same = True
    else:
        fetch.run()
        is_same = content.hexdigest() == found.hexdigest()
    if is_same:
        return found.saved_at(target.path)
    raise DestinationError(
        f"{target.display} is another video ({found.size} bytes), and if_exists is 'skip'.",
        remedy="Give a folder, a path with the project id in it, or if_exists='overwrite'.",
    )


def _fetch_verified(fetch: ResumableDownload, file: VideoDigest) -> DownloadHeaders:
    """Fetch until the bytes have the checksums that the storage gives.

    An ETag may look like an MD5 and be none, e.g. with KMS encryption. Two downloads that agree are then
    right: refusing the video forever would lose a paid file. They are as right if the storage announces no
    length, and the file does not show its own end.
    """
    seen = set[str]()
    for _ in range(_MAX_CHECKSUM_ATTEMPTS):
        headers = fetch.run()
        wrong = [sum for sum in headers.checksums if file.hexdigest(sum.algorithm) != sum.digest]
        if wrong:
            doubt = f"The video's {wrong[0].algorithm.upper()} differs from that of its storage"
        elif headers.size is None and not headers.checksums and file.mp4.is_open_ended:
            doubt = "The video's storage announces no length, and the video does not show its own end"
        else:
            return headers
        content = file.hexdigest()
        if content in seen and not any(sum.certain for sum in wrong):
            log.info("Two downloads of the video agree, so it is whole.")
            file.mp4.is_lenient = False  # its checksum does not prove that
            return headers
        seen.add(content)
        log.warning("%s. Downloading it again.", doubt)
    raise DownloadError(f"{doubt}, in each of {_MAX_CHECKSUM_ATTEMPTS} downloads.")


class AtomicDownload(VideoDigest):
    """A video on its way to `target`; use it in a `with` block.

    Unless `if_exists` is "overwrite", an existing target is refused at the start and at `publish`; on a
    disk and in S3 only one of two writers wins. If "skip", the same video from another writer is accepted
    then. Leaving the block without `publish` leaves nothing. Raises DestinationError, or TransferError
    (retryable).
    """

    def __init__(self, target: Target, *, if_exists: IfExists = "overwrite") -> None:
        super().__init__()
        self._target, self._if_exists = target, if_exists
        self._writer: Writer | None = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def restart(self, algorithms: Iterable[str] = ()) -> None:
        """Discard what was written, and expect the first byte next."""
        has_written = self.size > 0
        super().restart(algorithms)
        if has_written or self._writer is None:
            self._discard()
            self._open()

    def write(self, chunk: bytes) -> None:
        """Write the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        with self._writing() as writer:
            super().write(chunk)
            writer.write(chunk)

    def publish(self, expected_size: int | None = None) -> SavedVideo:
        """Check the whole video, and publish it under the target's name.

        :param expected_size: the announced length in bytes; None if there was none.

        Raises DownloadError for another length, NotAVideoError for anything but a whole mp4.
        """
        try:
            with self._writing() as writer:
                if expected_size not in (None, self.size):
                    raise DownloadError(f"{self.size} of {expected_size} announced bytes arrived.")
                saved = self.saved_at(self._target.path)
                writer.commit()
        except DestinationError:
            other = read_back(self._target) if self._if_exists == "skip" else None
            if other is None or other.hexdigest() != self.hexdigest():
                raise
        self._writer = None
        return saved

    def __exit__(self, *exc_info: object) -> None:
        self._discard()

    def _open(self) -> None:
        with self._target.explain_errors():
            self._writer = open_writer(self._target, exclusive=self._if_exists != "overwrite")

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """The writer; after a failed step the bytes have a gap, so none of them may be published."""
        if self._writer is None:
            raise RuntimeError("AtomicDownload is written to inside its `with` block, and published once")
        try:
            with self._target.explain_errors():
                yield self._writer
        except BaseException:
            self._discard()
            raise
