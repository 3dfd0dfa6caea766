"""Files that exist already: read them back, compare them with a video, remember what was saved.

`skip` never replaces anything, and accepts only this very video. Without a checksum, in a file whose name
contains the project id, the length is enough.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magichour_provider.exceptions import MagicHourError, NotAVideoError, TransferError
from magichour_provider.storage.locations import open_for_reading
from magichour_provider.storage.mp4 import Mp4Scanner
from magichour_provider.storage.targets import Target

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.downloads import DownloadHeaders

log = logging.getLogger(__name__)

IfExists = Literal["skip", "overwrite", "fail"]
"""If the target exists: keep it if it is this video, replace it, or refuse."""

DOWNLOAD_STATE_KEY = "magichour_download"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SavedVideo:
    """A whole video under its name. `size` in bytes, `duration` in seconds, `width`, `height` in pixels."""

    path: str
    size: int
    sha256: str
    duration: float
    width: int
    height: int
    fps: float


class VideoDigest:
    """Length, digests and mp4 structure of the bytes of a stream.

    :param algorithms: the digests to compute besides SHA-256, by their names in hashlib.
    """

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self.restart(algorithms)

    def restart(self, algorithms: Iterable[str] = ()) -> None:
        """Forget all bytes."""
        self.size = 0
        names = {"sha256", *algorithms}
        self._digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        self._mp4 = Mp4Scanner()

    def write(self, chunk: bytes) -> None:
        """Add the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        self._mp4.feed(chunk)
        for digest in self._digests.values():
            digest.update(chunk)
        self.size += len(chunk)

    def hexdigest(self, algorithm: str = "sha256") -> str:
        """The digest so far."""
        return self._digests[algorithm].hexdigest()

    @property
    def is_open_ended(self) -> bool:
        """Whether a part of this file may look like the whole."""
        return self._mp4.is_open_ended

    def saved_at(self, path: str) -> SavedVideo:
        """The stream as a whole video at `path`. Raises NotAVideoError if it is none."""
        info = self._mp4.finish()
        return SavedVideo(path, self.size, self.hexdigest(), info.duration, info.width, info.height, info.fps)


def read_back(target: Target, algorithms: Iterable[str] = ()) -> VideoDigest | None:
    """Read the file under the target's name; None if there is none, or it is not a whole mp4.

    Raises DestinationError, or TransferError (retryable).
    """
    digest = VideoDigest(algorithms)
    try:
        with open_for_reading(target.place) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.write(chunk)
        digest.saved_at(target.path)
    except FileNotFoundError:
        return None
    except NotAVideoError as error:
        log.warning("%s exists, but is not a whole video. %s", target.display, error.what)
        return None
    except MagicHourError:
        raise
    except Exception as error:
        raise target.write_error(error) from error
    return digest


def existing_video(target: Target) -> SavedVideo | None:
    """The video under the target's name; None if there is none, or not a whole one. Raises as `read_back`."""
    found = read_back(target)
    return None if found is None else found.saved_at(target.path)


def is_same_video(headers: DownloadHeaders, found: VideoDigest, target: Target) -> bool | None:
    """Whether a file is the video that the storage describes; None if only its content can tell.

    `found` must have the digests of `headers.checksums`.
    """
    if headers.size is not None and headers.size != found.size:
        return False
    agree = [found.hexdigest(sum.algorithm) == sum.digest for sum in headers.checksums]
    if any(agree):
        return all(agree)
    if any(sum.certain for sum in headers.checksums):
        return False
    if target.names_project and not headers.checksums:
        return True
    return None


def verify_saved_video(target: Target, *, size: int, sha256: str) -> None:
    """Read a saved video back. Raises TransferError unless it is whole and unchanged."""
    found = existing_video(target)
    if found is None or (found.size, found.sha256) != (size, sha256):
        raise TransferError(f"{target.display} is not the video that was saved there.")


class DownloadState:
    """What this task has saved for these arguments, in Airflow's task state store (3.3).

    `delete_remote` writes it before it deletes: a retry after the deletion finds nothing at Magic Hour any
    more.
    """

    def __init__(self, context: Context, arguments: Mapping[str, Any]) -> None:
        self._store = context.get("task_state_store")
        self._arguments = dict(arguments)

    def write(self, result: Mapping[str, Any]) -> None:
        """Store what was saved."""
        from magichour_provider.airflow_internals import NEVER_EXPIRE

        if self._store is not None:
            stored: Any = {"arguments": self._arguments, "result": dict(result)}
            self._store.set(DOWNLOAD_STATE_KEY, stored, retention=NEVER_EXPIRE)

    def read(self) -> dict[str, Any] | None:
        """What an earlier attempt has saved for the same arguments."""
        stored: Any = self._store.get(DOWNLOAD_STATE_KEY) if self._store is not None else None
        if stored is None or stored["arguments"] != self._arguments:
            return None
        result: dict[str, Any] = stored["result"]
        return result
