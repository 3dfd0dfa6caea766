"""Decode a few frames of a video on any disk or store, without trusting it.

A video may be damaged or malicious. It is opened as mp4 and nothing else (a playlist would make FFmpeg open
other files), its frames have at most `MAX_PIXELS`, one thread decodes it, and of its index and of each
frame at most `MAX_READ_BYTES` are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import av
import av.error
from PIL import Image

from magichour_provider.exceptions import PictureError
from magichour_provider.storage.image_headers import describe_start
from magichour_provider.storage.locations import (
    open_for_reading,
    parse_location,
    reading,
    redact,
    short_error,
)

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

MAX_PIXELS = 4096 * 4096
"""Of a frame: 4k in any shape."""
MAX_PACKETS = 5000
"""Frames decoded from a key frame on: three minutes at 24 fps."""
MAX_READ_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20
_LIMITS = {"max_pixels": str(MAX_PIXELS)}


@dataclass(frozen=True)
class Frames:
    """Decoded frames of a video; its `duration` in seconds, its `width` and `height` in pixels as shown."""

    images: tuple[Image.Image, ...] = field(repr=False)
    duration: float
    width: int
    height: int


def read_frames(
    video: PathArgument, fractions: Sequence[float], *, within: tuple[int, int], conn_id: str | None = None
) -> Frames:
    """Decode the frames at `fractions` of the video's length, upright, in RGB.

    :param video: a local path, `file://`, or an object store's URL.
    :param fractions: 0 is the first frame, 1 the last.
    :param within: the largest width and height in pixels; smaller frames keep their size.
    :param conn_id: Airflow connection of the object store.

    Raises PictureError, which no retry fixes, or NetworkError if a store cannot be reached now.
    """
    with _open_video(video, conn_id) as file, av.open(file, "r", format="mp4", options=_LIMITS) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise UnusableVideo("it has no video track")
        _check_pixels(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = _LIMITS  # the size may change within the stream
        stream.codec_context.thread_count = 1
        images, size = [], (0, 0)
        for fraction in fractions:
            frame = _frame_near(file, container, stream, fraction)
            size = _display_size(frame, stream)
            images.append(_to_image(frame, size, within))
        return Frames(tuple(images), _duration_seconds(container, stream), *size)


class UnusableVideo(Exception):
    """Why no picture can be made of a readable video; becomes a PictureError."""


class _LimitedFile:
    """PyAV reads through this.

    PyAV may treat an error of the store as the end of the video: `error` keeps it.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self.error: Exception | None = None
        self._handle = handle
        self._left_bytes = MAX_READ_BYTES

    def allow_more(self) -> None:
        """Allow another `MAX_READ_BYTES`."""
        self._left_bytes = MAX_READ_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise UnusableVideo(f"its index or one of its frames is larger than {MAX_READ_BYTES >> 20} MiB")
        try:
            return self._handle.read(size)
        except Exception as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; an impossible one comes from a damaged index, not from the store."""
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._handle.tell()

    def describe(self, error: Exception) -> str:
        """Why the decoder failed."""
        self.allow_more()
        self.seek(0)
        head = self.read(64)
        if not head:
            return "it is empty"
        if head[4:8] != b"ftyp":
            return f"it {describe_start(head)}"
        return f"it is damaged, or not a video that can be decoded ({short_error(error)})"


@contextmanager
def _open_video(video: PathArgument, conn_id: str | None) -> Iterator[_LimitedFile]:
    """Open the file; errors of the `with` block become PictureError or NetworkError."""
    shown = redact(video)
    with reading(PictureError, f"Video {shown}"):
        place = parse_location(video, conn_id)
    with reading(PictureError, f"Video {shown}", place), open_for_reading(place, _BLOCK_BYTES) as handle:
        file = _LimitedFile(handle)
        try:
            yield file
        except Exception as error:
            if file.error is None:
                cause = str(error) if isinstance(error, UnusableVideo) else file.describe(error)
                raise PictureError(f"No picture can be made of video {shown}: {cause}.") from error
        if file.error is not None:
            raise file.error


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableVideo(f"its frames of {width} x {height} pixels are too large")


def _frame_near(file: _LimitedFile, container: Any, stream: Any, fraction: float) -> Any:
    """The first frame at or after the moment, or else the last one that can be decoded."""
    start = stream.start_time or 0
    length = Fraction(_duration_seconds(container, stream)) / stream.time_base
    one_frame = 1 / (stream.average_rate * stream.time_base) if stream.average_rate else 0
    moment = start + int(fraction * max(length - one_frame, 0))
    for origin in (moment, start):  # if no frame after the moment can be decoded, one before it may be
        container.seek(origin, stream=stream)
        found = None
        for frame in _decode(file, container, stream):
            found = frame
            if frame.pts is not None and frame.pts >= moment:
                break
        if found is not None:
            return found
    raise UnusableVideo("it has no frame that can be decoded")


def _decode(file: _LimitedFile, container: Any, stream: Any) -> Iterator[Any]:
    file.allow_more()
    for packet in islice(container.demux(stream), MAX_PACKETS):
        file.allow_more()
        try:
            yield from packet.decode()
        except av.error.FFmpegError:  # a damaged frame; the next one may be whole
            continue


def _duration_seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 10**6


def _to_image(frame: Any, size: tuple[int, int], within: tuple[int, int]) -> Image.Image:
    scale = min(within[0] / size[0], within[1] / size[1], 1)
    width, height = (max(round(side * scale), 1) for side in size)
    turned = _rotation_degrees(frame)
    if turned % 180:
        width, height = height, width
    small = frame.reformat(width, height, format="rgb24", interpolation="LANCZOS")
    image = cast("Image.Image", small.to_image())
    return image.rotate(turned, expand=True) if turned else image


def _display_size(frame: Any, stream: Any) -> tuple[int, int]:
    _check_pixels(frame.width, frame.height)
    width = max(round(frame.width * (stream.sample_aspect_ratio or 1)), 1)
    _check_pixels(width, frame.height)
    return (frame.height, width) if _rotation_degrees(frame) % 180 else (width, frame.height)


def _rotation_degrees(frame: Any) -> int:
    """Counterclockwise, in quarter turns. Older PyAVs do not know it."""
    return round(getattr(frame, "rotation", 0) / 90) * 90 % 360
