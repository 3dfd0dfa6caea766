"""Tell whether what stands under a target's name is the clip that is to land there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from magichour_provider.exceptions import DestinationError
from magichour_provider.storage.download import DownloadedFile, StreamDigest, read_back
from magichour_provider.storage.fetching import ResumableDownload
from magichour_provider.storage.progress import Progress
from magichour_provider.storage.target import Target

if TYPE_CHECKING:
    from magichour_provider.client.downloads import DownloadHeaders
    from magichour_provider.client.models import DownloadUrl
    from magichour_provider.client.sync import MagicHourClient


def same_clip_at(
    target: Target, client: MagicHourClient, ask_link: Callable[[], DownloadUrl]
) -> DownloadedFile | None:
    """The clip, where it has landed before; None where nothing has, or nothing whole.

    It is told by its size and the checksum that its storage gives; where that gives none, by the project's
    id in the file's name, else by its content, which is fetched to be compared; so it is where a checksum
    disagrees that may be none.
    Raises DestinationError for another clip.
    """
    if not target.exists():
        return None
    sink = _Measure()
    fetch = ResumableDownload(client, ask_link, sink, Progress("Fetching the clip to compare it"))
    head = fetch.look()
    found = read_back(target, [checksum.algorithm for checksum in head.checksums])
    if found is None:
        return None
    landed = found.landed_at(target.path)

    def has_same_content() -> bool:
        if target.names_project and not head.checksums:
            return True
        fetch.run()
        return sink.tally.digest("sha256") == landed.sha256

    if _is_same(head, found, has_same_content):
        return landed
    raise DestinationError(
        f"{target.display} holds another clip ({landed.size} bytes), and if_exists is 'skip'.",
        remedy="Give a folder, a path with the project id in it, or if_exists='overwrite'.",
    )


def _is_same(head: DownloadHeaders, found: StreamDigest, has_same_content: Callable[[], bool]) -> bool:
    if head.size is not None and head.size != found.size:
        return False
    agrees = [found.digest(sum.algorithm) == sum.digest for sum in head.checksums]
    if any(agrees):
        return all(agrees)
    if any(sum.certain for sum in head.checksums):
        return False
    return has_same_content()


class _Measure:
    """Takes bytes and keeps none."""

    def __init__(self) -> None:
        self.tally = StreamDigest()

    @property
    def size(self) -> int:
        return self.tally.size

    def begin_anew(self, algorithms: Iterable[str] = ()) -> None:
        self.tally = StreamDigest(algorithms)

    def write(self, chunk: bytes) -> None:
        self.tally.feed(chunk)
