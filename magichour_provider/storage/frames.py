"""Decode a few frames of a clip, wherever it lies, without trusting it.

A clip may be damaged or made to hurt. It is opened as mp4 and as nothing else (a playlist would make FFmpeg
open other files), its frames may have `MAX_PIXELS` at most, and it is decoded in one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any, cast

import av
import av.error
from PIL import Image

from magichour_provider.storage.video_file import ClipFile, UnusableClip, open_clip

MAX_PIXELS = 4096 * 4096
"""The most pixels that a frame may have: 4k in any shape, with some room."""

MAX_PACKETS = 5000
"""How many frames are decoded at most from a key frame on: three minutes at 24 fps."""

_LIMITS = {"max_pixels": str(MAX_PIXELS)}


@dataclass(frozen=True)
class Stills:
    """Frames of a clip, with what it says of itself: seconds, and pixels as it is shown."""

    images: tuple[Image.Image, ...] = field(repr=False)
    duration: float
    width: int
    height: int


def read_stills(
    clip: str, fractions: Sequence[float], *, within: tuple[int, int], conn_id: str | None = None
) -> Stills:
    """Decode the frames of `clip` at `fractions` of its length, upright, in RGB.

    :param clip: a local path, `file://`, or an object store's URL.
    :param fractions: 0 is the first frame, 1 the last.
    :param within: the width and height in pixels that no picture exceeds; smaller ones are left as they are.
    :param conn_id: Airflow connection of the object store.

    Raises PictureError, which no retry mends, or NetworkError where a store is out of reach for now.
    """
    with open_clip(clip, conn_id) as file:
        return _decode(file, fractions, within)


def _decode(file: ClipFile, fractions: Sequence[float], within: tuple[int, int]) -> Stills:
    with av.open(file, "r", format="mp4", options=_LIMITS) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise UnusableClip("it holds no pictures")
        _refuse_bomb(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = _LIMITS  # its size may change on the way
        stream.codec_context.thread_count = 1
        pictures, size = [], (0, 0)
        for fraction in fractions:
            frame = _frame_near(file, container, stream, fraction)
            size = _shown_size(frame, stream)
            pictures.append(_picture(frame, size, within))
        return Stills(tuple(pictures), _seconds(container, stream), *size)


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableClip(f"its frames of {width} x {height} pixels are larger than a clip's can be")


def _frame_near(file: ClipFile, container: Any, stream: Any, fraction: float) -> Any:
    """The first frame at or after the moment, or else the last of those that can be decoded."""
    start = stream.start_time or 0
    length = Fraction(_seconds(container, stream)) / stream.time_base
    one_frame = 1 / (stream.average_rate * stream.time_base) if stream.average_rate else 0
    moment = start + int(fraction * max(length - one_frame, 0))
    for origin in (moment, start):  # where nothing after the moment can be decoded, what is before it may be
        container.seek(origin, stream=stream)
        found = None
        for frame in _frames(file, container, stream):
            found = frame
            if frame.pts is not None and frame.pts >= moment:
                break
        if found is not None:
            return found
    raise UnusableClip("it holds no frame that can be decoded")


def _frames(file: ClipFile, container: Any, stream: Any) -> Iterator[Any]:
    file.allow_more()
    for packet in islice(container.demux(stream), MAX_PACKETS):
        file.allow_more()
        try:
            yield from packet.decode()
        except av.error.FFmpegError:  # a damaged frame; the next one may be whole
            continue


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 10**6


def _picture(frame: Any, size: tuple[int, int], within: tuple[int, int]) -> Image.Image:
    scale = min(within[0] / size[0], within[1] / size[1], 1)
    width, height = (max(round(side * scale), 1) for side in size)
    turned = _rotation(frame)
    if turned % 180:
        width, height = height, width
    small = frame.reformat(width, height, format="rgb24", interpolation="LANCZOS")
    picture = cast("Image.Image", small.to_image())
    return picture.rotate(turned, expand=True) if turned else picture


def _shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    _refuse_bomb(frame.width, frame.height)
    width = max(round(frame.width * (stream.sample_aspect_ratio or 1)), 1)
    _refuse_bomb(width, frame.height)
    return (frame.height, width) if _rotation(frame) % 180 else (width, frame.height)


def _rotation(frame: Any) -> int:
    """Degrees to turn the frame counterclockwise; a quarter turn or none. Older PyAVs do not tell."""
    return round(getattr(frame, "rotation", 0) / 90) * 90 % 360
