"""Download videos: fetch with resuming, check, publish atomically.

`download_videos` saves all videos of a job, `download_video` one. Below them, `ResumableDownload` fetches
the bytes over as many connections as it takes, and `AtomicDownload` checks and publishes them.

Invariant, not to be relaxed: at every moment, the target's name shows either what stood there before or a
whole mp4. Only a killed process leaves its temporary file. Memory stays flat at any size of the
video.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from magichour_provider.client.downloads import (
    DownloadHeaders,
    LinkExpiredError,
    ResumeNotPossibleError,
    ResumePoint,
)
from magichour_provider.exceptions import (
    ConfigurationError,
    DestinationError,
    DownloadError,
    JobDeletedError,
    MagicHourError,
    NotAVideoError,
    NotFoundError,
    TransferError,
)
from magichour_provider.storage.existing import (
    IfExists,
    SavedVideo,
    VideoDigest,
    existing_video,
    is_same_video,
    read_back,
    verify_saved_video,
)
from magichour_provider.storage.locations import format_bytes
from magichour_provider.storage.publish import Writer, open_writer, remove_temporary_files
from magichour_provider.storage.targets import Target, resolve_target

if TYPE_CHECKING:
    from typing_extensions import Self

    from magichour_provider.client.downloads import DownloadStream
    from magichour_provider.client.models import DownloadUrl, VideoProject
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

Sleep = Callable[[float], object]
CONTENT_TYPE = "video/mp4"
MAX_VIDEO_BYTES = 16 << 30
"""No video of at most a minute comes near; a storage that never ends its response does."""
_MAX_CHECKSUM_ATTEMPTS = 3
_MAX_STALLED_FAILURES = 5
"""Failures without `_PROGRESS_RESET_BYTES` between them, after which the download fails."""
_PROGRESS_RESET_BYTES = 1 << 20
_MAX_LOGGED_BREAKS = 20
_MAX_RESTARTS = 4
"""How often fetched bytes may be discarded because nothing says that the rest is of the same file."""
_LONGEST_PAUSE_SECONDS = 8.0
_PROGRESS_EVERY_SECONDS = 5.0


def download_videos(
    client: MagicHourClient,
    get_job: Callable[[], VideoProject],
    project_id: str,
    path: PathArgument,
    *,
    path_conn_id: str | None = None,
    if_exists: IfExists = "skip",
    file_name: str = "{project_id}.mp4",
    sleep: Sleep = time.sleep,
) -> dict[str, Any]:
    """Save every video of a job; arguments as those of `DownloadVideoOperator`.

    :param get_job: reads the job with fresh URLs of its videos; raises the error of a job without a video.
    :return: the fields of the first video, and `videos`: those of each.

    Raises what `get_job` raises; TransferError and its kinds.
    """

    def target_of(name: str | None = None, index: int = 1) -> Target:
        return resolve_target(path, project_id, path_conn_id, file_name=file_name, name=name, index=index)

    first = target_of()  # a target that cannot be used fails before any request
    try:
        job = get_job()
    except (NotFoundError, JobDeletedError):
        saved: list[SavedVideo] = []
        while if_exists == "skip" and first.names_project:
            video = existing_video(target_of(index=len(saved) + 1))
            if video is None:
                break
            log.warning("Job %s does not exist at Magic Hour any more; %s exists.", project_id, video.path)
            saved.append(video)
        if not saved:
            raise
        return _result(saved, project_id)

    def urls(index: int) -> Iterator[DownloadUrl]:
        yield job.downloads[index]
        while True:  # the last one has expired
            fresh = get_job().downloads
            if index >= len(fresh):
                raise TransferError(f"Job {project_id} has fewer videos than a moment ago.")
            yield fresh[index]

    saved = [
        download_video(
            client,
            partial(next, urls(index)),
            target_of(job.name, index + 1),
            if_exists=if_exists,
            sleep=sleep,
        )
        for index in range(len(job.downloads))
    ]
    return _result(saved, project_id)


def verify_download(result: Mapping[str, Any], path_conn_id: str | None = None) -> None:
    """Read back the videos of `download_videos`' result. Raises TransferError unless all are unchanged."""
    for video in result["videos"]:
        target = resolve_target(video["path"], str(video["project_id"]), path_conn_id)
        verify_saved_video(target, size=video["size"], sha256=video["sha256"])


def _result(saved: list[SavedVideo], project_id: str) -> dict[str, Any]:
    videos = [
        {
            **asdict(video),
            "duration": video.duration or None,
            "fps": video.fps or None,
            "content_type": CONTENT_TYPE,
            "project_id": project_id,
            "poster": None,
        }
        for video in saved
    ]
    return {**videos[0], "videos": videos}


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
        progress = Progress(f"Downloading {target.display}")
        fetch = ResumableDownload(client, get_url, file, progress, sleep=sleep)
        headers = _fetch_verified(fetch, file)
        try:
            saved = file.publish(headers.size)
        except NotAVideoError as error:
            if headers.size is None or not headers.checksums:
                raise
            raise NotAVideoError(error.what, is_final=True) from error  # the storage has these very bytes
    log.info("Saved %s (%d bytes, %.2f s of video).", target.display, saved.size, saved.duration)
    return saved


def _find_same_video(
    client: MagicHourClient, get_url: Callable[[], DownloadUrl], target: Target, sleep: Sleep
) -> SavedVideo | None:
    """This video under the target's name; None if nothing whole has it. DestinationError for another video.

    Compared by size and checksum; if the storage gives none that is certain, by the project id in the name,
    else by the content, which is fetched for that.
    """
    if not target.exists():
        return None
    content = VideoDigest()
    progress = Progress("Fetching the video to compare it")
    fetch = ResumableDownload(client, get_url, content, progress, sleep=sleep)
    headers = fetch.read_headers()
    found = read_back(target, [checksum.algorithm for checksum in headers.checksums])
    if found is None:
        return None
    is_same = is_same_video(headers, found, target)
    if is_same is None:
        fetch.run()
        is_same = content.hexdigest() == found.hexdigest()
    if is_same:
        return found.saved_at(target.path)
    raise DestinationError(
        f"{target.display} is another video ({found.size} bytes), and if_exists is 'skip'.",
        remedy="Give a folder, a path with the project id in it, or if_exists='overwrite'.",
    )


def _fetch_verified(fetch: ResumableDownload, file: AtomicDownload) -> DownloadHeaders:
    """Fetch until the bytes have the checksums that the storage gives.

    An ETag may look like an MD5 and be none, e.g. with KMS encryption. Two downloads that agree are then
    right: refusing the video forever would lose a paid file. They are as right if the storage announces no
    length, and the file does not show its own end.
    """
    seen = set[str]()
    for _ in range(_MAX_CHECKSUM_ATTEMPTS):
        headers = fetch.restart() if seen else fetch.run()
        wrong = [sum for sum in headers.checksums if file.hexdigest(sum.algorithm) != sum.digest]
        if wrong:
            doubt = f"The video's {wrong[0].algorithm.upper()} differs from that of its storage"
        elif headers.size is None and not headers.checksums and file.is_open_ended:
            doubt = "The video's storage announces no length, and the video does not show its own end"
        else:
            return headers
        content = file.hexdigest()
        if content in seen and not any(sum.certain for sum in wrong):
            log.info("Two downloads of the video agree, so it is whole.")
            return headers
        seen.add(content)
        log.warning("%s. Downloading it again.", doubt)
    raise DownloadError(f"{doubt}, in each of {_MAX_CHECKSUM_ATTEMPTS} downloads.")


class ResumableDownload:
    """One download into `sink`, over as many connections as it takes.

    A broken connection is resumed at the last byte (`Range`), if the storage confirms that the file is the
    same (`If-Range`); otherwise the download restarts. An expired URL is requested again.
    """

    def __init__(
        self,
        client: MagicHourClient,
        get_url: Callable[[], DownloadUrl],
        sink: AtomicDownload | VideoDigest,
        progress: Progress,
        *,
        max_bytes: int = MAX_VIDEO_BYTES,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._client, self._get_url, self._sink = client, get_url, sink
        self._progress, self._max_bytes, self._sleep = progress, max_bytes, sleep
        self._url: DownloadUrl | None = None
        self._headers: DownloadHeaders | None = None
        self._restarts = self._breaks = self._failures = self._failed_at_bytes = 0

    def run(self) -> DownloadHeaders:
        """Fetch every byte. Raises TransferError if the connections lead nowhere; what the sink raises."""
        return self._with_retries(self._receive)

    def read_headers(self) -> DownloadHeaders:
        """What the storage says of the file, without fetching it. Raises TransferError."""

        def read() -> DownloadHeaders:
            with self._open() as stream:
                return stream.headers

        return self._with_retries(read)

    def restart(self) -> DownloadHeaders:
        """Fetch every byte again, from the first one on."""
        self._headers = None
        return self.run()

    def _with_retries(self, step: Callable[[], DownloadHeaders]) -> DownloadHeaders:
        while True:
            try:
                return step()
            except DownloadError as error:
                self._pause_after(error)
            except ConfigurationError as error:  # of the environment's proxy for this storage
                consequence = TransferError.default_consequence
                raise ConfigurationError(error.what, consequence=consequence, remedy=error.remedy) from None

    def _open(self, resume_from: ResumePoint | None = None) -> AbstractContextManager[DownloadStream]:
        if self._url is None:
            self._url = self._get_url()
        return self._client.open_download(self._url, resume_from)

    def _receive(self) -> DownloadHeaders:
        known, resume_from = self._headers, None
        if known is not None and 0 < self._sink.size == known.size:
            return known  # the connection broke after the last byte
        if known is not None and known.validator is not None and self._sink.size:
            resume_from = ResumePoint(self._sink.size, known.validator)
        with self._open(resume_from) as stream:
            headers = self._resume_or_restart(stream.headers)
            for chunk in stream.chunks():
                self._sink.write(chunk)
                self._progress.update(self._sink.size)
                if max(self._sink.size, headers.size or 0) > self._max_bytes:
                    raise TransferError(
                        f"The video's storage sends more than {self._max_bytes} bytes, which no video has."
                    )
        if headers.size is not None and self._sink.size < headers.size:
            raise DownloadError(f"The video's storage sent {self._sink.size} of {headers.size} bytes.")
        if self._sink.size == 0:
            raise DownloadError("The video's storage sent nothing.")
        return headers

    def _resume_or_restart(self, headers: DownloadHeaders) -> DownloadHeaders:
        """Resume where the last connection broke, or restart if the storage starts at the first byte."""
        self._progress.total = headers.size
        known = self._headers
        if known is not None and headers.start:
            if None not in (headers.size, known.size) and headers.size != known.size:
                raise ResumeNotPossibleError("The video's storage sent a part of a file of another size.")
            if headers.validator is None and known.has_etag and not known.checksums:
                raise ResumeNotPossibleError("The video's storage does not say of which file its part is.")
            return known
        self._restarts += bool(self._sink.size)
        if self._restarts >= _MAX_RESTARTS:
            raise TransferError(f"The video's download broke {_MAX_RESTARTS} times and could not be resumed.")
        self._sink.restart(checksum.algorithm for checksum in headers.checksums)
        self._headers = headers
        return headers

    def _pause_after(self, error: DownloadError) -> None:
        """Wait before the next connection, or raise if there is no progress any more.

        A download that breaks every 64 MiB is slow, not broken.
        """
        if not error.retryable:
            raise error
        if abs(self._sink.size - self._failed_at_bytes) >= _PROGRESS_RESET_BYTES:
            self._failures, self._failed_at_bytes = 0, self._sink.size
        self._failures += 1
        if self._failures >= _MAX_STALLED_FAILURES:
            raise DownloadError(error.what) from error
        if isinstance(error, ResumeNotPossibleError):
            log.info("%s Restarting the download.", error.what)
            self._headers = None
            return
        if isinstance(error, LinkExpiredError):
            log.info("The URL of the video has expired; requesting a new one.")
            self._url = None
            if self._failures == 1:
                return
        else:
            self._breaks += 1
            if self._breaks <= _MAX_LOGGED_BREAKS:
                last = " Further breaks are not logged." if self._breaks == _MAX_LOGGED_BREAKS else ""
                log.warning("%s Resuming at byte %d.%s", error.what, self._sink.size, last)
        seconds = min(_LONGEST_PAUSE_SECONDS, 2.0 ** (self._failures - 3))
        self._sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311


class AtomicDownload:
    """A video on its way to `target`; use it in a `with` block.

    Unless `if_exists` is "overwrite", an existing target is refused at the start and at `publish`; on a
    disk and in S3 only one of two writers wins. If "skip", the same video from another writer is accepted
    then. Leaving the block without `publish` leaves nothing. Raises DestinationError, or TransferError
    (retryable).
    """

    def __init__(self, target: Target, *, if_exists: IfExists = "overwrite") -> None:
        self._target = target
        self._if_exists = if_exists
        self._digest = VideoDigest()
        self._writer: Writer | None = None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._digest.size

    @property
    def is_open_ended(self) -> bool:
        """Whether a part of these bytes may look like the whole video."""
        return self._digest.is_open_ended

    def __enter__(self) -> Self:
        self._open()
        return self

    def restart(self, algorithms: Iterable[str] = ()) -> None:
        """Discard what was written, and expect the first byte next."""
        self._digest = VideoDigest(algorithms)
        if self._writer is None or self._has_written:
            self._discard()
            self._open()

    def write(self, chunk: bytes) -> None:
        """Write the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        writer = self._current_writer()
        with self._discarding_on_error():
            self._digest.write(chunk)
            self._has_written = True
            writer.write(chunk)

    def hexdigest(self, algorithm: str = "sha256") -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest(algorithm)

    def publish(self, expected_size: int | None = None) -> SavedVideo:
        """Check the whole video, and publish it under the target's name.

        :param expected_size: the announced length in bytes; None if there was none.

        Raises DownloadError for another length, NotAVideoError for anything but a whole mp4.
        """
        writer = self._current_writer()
        try:
            with self._discarding_on_error():
                if expected_size not in (None, self.size):
                    raise DownloadError(f"{self.size} of {expected_size} announced bytes arrived.")
                saved = self._digest.saved_at(self._target.path)
                writer.commit()
        except DestinationError:
            other = existing_video(self._target) if self._if_exists == "skip" else None
            if other is None or other.sha256 != self.hexdigest():
                raise
            return other
        self._writer = None
        return saved

    def __exit__(self, *exc_info: object) -> None:
        self._discard()

    def _open(self) -> None:
        with self._discarding_on_error():
            self._writer = open_writer(self._target, exclusive=self._if_exists != "overwrite")
            self._has_written = False

    def _current_writer(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("AtomicDownload is written to inside its `with` block, and published once")
        return self._writer

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    @contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        """After a failed step the bytes have a gap, so none of them may be published."""
        try:
            yield
        except BaseException as error:
            self._discard()
            if isinstance(error, MagicHourError) or not isinstance(error, Exception):
                raise
            raise self._target.write_error(error) from error


class Progress:
    """Logs the progress of one transfer every few seconds, and nothing for a short one.

    :param what: how the line begins, e.g. `Downloading s3://videos/a.mp4`.
    :param total: length of the whole in bytes; None if unknown.
    """

    def __init__(
        self, what: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self.total, self._clock = what, total, clock
        self._logged_at = clock()
        self._logged_bytes = 0

    def update(self, done: int) -> None:
        """`done` bytes have been transferred; fewer than before after a restart."""
        now = self._clock()
        seconds = now - self._logged_at
        if seconds < _PROGRESS_EVERY_SECONDS or done == self.total:
            return
        rate = max(done - self._logged_bytes, 0) / seconds
        self._logged_at, self._logged_bytes = now, done
        share, left = format_bytes(done), ""
        if self.total:
            share += f" of {format_bytes(self.total)} ({100 * done // self.total} %)"
            left = f", {timedelta(seconds=round((self.total - done) / rate))} left" if rate else ""
        log.info("%s: %s, %s/s%s.", self._what, share, format_bytes(rate), left)

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass chunks on, and log how many bytes have passed."""
        done = 0
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            self.update(done)
