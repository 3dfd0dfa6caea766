"""Decode a few frames of a video on any disk or store, without trusting it.

A video may be damaged or malicious. It is opened as mp4 and nothing else (a playlist would make FFmpeg open
other files), its frames have at most `MAX_PIXELS`, one thread decodes it, and of its index and of each
frame at most `MAX_READ_BYTES` are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
            image, size = _to_image(_frame_near(file, container, stream, fraction), stream, within)
            images.append(image)
        return Frames(tuple(images), _duration_seconds(container, stream), *size)


class UnusableVideo(Exception):
    """Why no picture can be made of a readable video; becomes a PictureError."""


class _LimitedFile:
    """PyAV reads through this, at most `MAX_READ_BYTES` until `left_bytes` is set again.

    PyAV may treat an error of the store as the end of the video: `error` keeps it.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self.error: Exception | None = None
        self.left_bytes = MAX_READ_BYTES
        self.seek = handle.seek  # an impossible offset comes from a damaged index, not from the store
        self.tell = handle.tell
        self._read = handle.read

    def read(self, size: int) -> bytes:
        self.left_bytes -= size
        if self.left_bytes < 0:
            raise UnusableVideo(f"its index or one of its frames is larger than {MAX_READ_BYTES >> 20} MiB")
        try:
            return self._read(size)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _open_video(video: PathArgument, conn_id: str | None) -> Iterator[_LimitedFile]:
    """Open the file; errors of the `with` block become PictureError or NetworkError."""
    shown = redact(video)
    with reading(PictureError, f"Video {shown}"):
        place = parse_location(video, conn_id)
    with reading(PictureError, f"Video {shown}", place), open_for_reading(place, 1 << 20) as handle:
        file = _LimitedFile(handle)
        try:
            yield file
        except Exception as error:
            if file.error is None:
                cause = str(error)
                if not isinstance(error, UnusableVideo):  # what the decoder says helps only for an mp4
                    handle.seek(0)
                    cause = f"it is damaged, or not a video that can be decoded ({short_error(error)})"
                    if (head := handle.read(64))[4:8] != b"ftyp":
                        cause = f"it {describe_start(head)}" if head else "it is empty"
                raise PictureError(f"No picture can be made of video {shown}: {cause}.") from error
        if file.error is not None:
            raise file.error


def _frame_near(file: _LimitedFile, container: Any, stream: Any, fraction: float) -> Any:
    """The first frame at or after the moment, or else the last one that can be decoded."""
    start = stream.start_time or 0
    length = Fraction(_duration_seconds(container, stream)) / stream.time_base
    one_frame = 1 / (stream.average_rate * stream.time_base) if stream.average_rate else 0
    moment = start + int(fraction * max(length - one_frame, 0))
    for origin in (moment, start):  # if no frame after the moment can be decoded, one before it may be
        container.seek(origin, stream=stream)
        found = None
        file.left_bytes = MAX_READ_BYTES
        for packet in islice(container.demux(stream), MAX_PACKETS):
            file.left_bytes = MAX_READ_BYTES
            with suppress(av.error.FFmpegError):  # a damaged frame; the next one may be whole
                for found in packet.decode():
                    if found.pts is not None and found.pts >= moment:
                        return found
        if found is not None:
            return found
    raise UnusableVideo("it has no frame that can be decoded")


def _duration_seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 10**6


def _to_image(frame: Any, stream: Any, within: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The frame upright and small, and its own size as shown."""
    _check_pixels(frame.width, frame.height)
    width, height = max(round(frame.width * (stream.sample_aspect_ratio or 1)), 1), frame.height
    _check_pixels(width, height)
    # Counterclockwise, in quarter turns. Older PyAVs do not know it.
    turned = round(getattr(frame, "rotation", 0) / 90) * 90 % 360
    shown = (height, width) if turned % 180 else (width, height)
    scale = min(within[0] / shown[0], within[1] / shown[1], 1)
    sides = (max(round(side * scale), 1) for side in (width, height))
    small = frame.reformat(*sides, format="rgb24", interpolation="LANCZOS")
    image = cast("Image.Image", small.to_image())
    return image.rotate(turned, expand=True) if turned else image, shown


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableVideo(f"its frames of {width} x {height} pixels are too large")
