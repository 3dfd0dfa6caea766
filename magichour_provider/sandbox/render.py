"""Real clips: H.264 in mp4, a slow pan and zoom over the picture, cross-faded to the end image if any."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from PIL import Image, ImageOps

from magichour_provider.sandbox.images import load_image
from magichour_provider.sandbox.jobs import Clip, Order, RenderError
from magichour_provider.sandbox.padding import add_free_box, another_clip

SHORT_EDGES = {"360p": 360, "480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
"""Shorter edge of a clip in pixels, by resolution."""

_QUICK_LONG_EDGE = 160
_QUICK_SHORTEST = 48
_WIDEST_ASPECT = 2.4
_ZOOM = 1.15
_AUDIO_RATE = 44_100
_AUDIO_SAMPLES = 1024


@dataclass(frozen=True)
class Plan:
    """What to encode: size in pixels, frames, frames per second, with silence as audio or without."""

    width: int
    height: int
    frames: int
    fps: int
    audio: bool
    quick: bool

    @property
    def encoder_options(self) -> dict[str, str]:
        """Options for libx264: quick is cheap, the other looks good."""
        if self.quick:
            return {"preset": "ultrafast", "crf": "32", "threads": "1"}
        return {"preset": "veryfast", "crf": "21", "threads": "2"}


@dataclass(frozen=True)
class Source:
    """An image of a request: its reference, and its file where it is an upload."""

    reference: str
    upload: Path | None


class Renderer:
    """A small pool of threads that turn orders into clips. `quick` makes tiny ones."""

    def __init__(self, *, quick: bool, threads: int = 2) -> None:
        self._quick = quick
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sandbox-render")
        self._abandoned = threading.Event()

    def submit(
        self, order: Order, start: Source, end: Source | None, targets: Sequence[Path], padding: int
    ) -> Future[Clip]:
        """Begin to render; the future gives the clip, or raises RenderError.

        There is a file for each of `targets`, `padding` bytes larger than it need be.
        """
        return self._pool.submit(self._render, self._abandoned, order, start, end, targets, padding)

    def _render(
        self,
        abandoned: threading.Event,
        order: Order,
        start: Source,
        end: Source | None,
        targets: Sequence[Path],
        padding: int,
    ) -> Clip:
        clip = render(order, start, end, targets[0], quick=self._quick, abandoned=abandoned)
        for number, target in enumerate(targets[1:], start=2):
            another_clip(clip.path, target, f"download {number}")
        if padding:
            for target in targets:
                add_free_box(target, padding)
        return replace(clip, more=tuple(targets[1:]))

    def abandon(self) -> None:
        """Give up every clip that is being made; later ones are not affected."""
        self._abandoned.set()
        self._abandoned = threading.Event()

    def close(self) -> None:
        """Give up every clip and end the threads."""
        self.abandon()
        self._pool.shutdown(wait=True, cancel_futures=True)


def render(
    order: Order,
    start: Source,
    end: Source | None,
    target: Path,
    *,
    quick: bool,
    abandoned: threading.Event | None = None,
) -> Clip:
    """Load the pictures and encode the clip at `target`. Raises RenderError; so it does once `abandoned`."""
    longest_edge = _QUICK_LONG_EDGE * 2 if quick else round(SHORT_EDGES[order.resolution] * _WIDEST_ASPECT)
    picture = load_image(start.reference, start.upload, longest_edge)
    end_picture = load_image(end.reference, end.upload, longest_edge) if end else None
    width, height = clip_size(picture.size, order.resolution, quick=quick)
    plan = Plan(width, height, round(order.end_seconds * order.fps), order.fps, order.audio, quick)
    camera = _camera(plan, picture, end_picture)

    def frame_at(index: int) -> Image.Image:
        if abandoned and abandoned.is_set():
            raise RenderError("unknown_error", "The sandbox gave this clip up.")
        return camera(index)

    encode(plan, frame_at, target)
    return Clip(target, width, height)


def clip_size(image_size: tuple[int, int], resolution: str, *, quick: bool) -> tuple[int, int]:
    """Even width and height with the image's shape, near the resolution: 16:9 at 720p is 1276x720."""
    portrait = image_size[1] > image_size[0]
    aspect = min(max(image_size) / min(image_size), _WIDEST_ASPECT)
    if quick:
        long_edge, short_edge = _QUICK_LONG_EDGE, max(_even(_QUICK_LONG_EDGE / aspect), _QUICK_SHORTEST)
    else:
        short_edge = SHORT_EDGES[resolution]
        long_edge = _even(short_edge * aspect) - 4
    return (short_edge, long_edge) if portrait else (long_edge, short_edge)


def encode(plan: Plan, frame_at: Callable[[int], Image.Image], target: Path) -> None:
    """Write the mp4 with its index first, under its name only when it is whole."""
    unfinished = target.with_suffix(".part")
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = _mark(target)
            _add_frames(container, plan, frame_at)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _add_frames(container: OutputContainer, plan: Plan, frame_at: Callable[[int], Image.Image]) -> None:
    video = container.add_stream("libx264", rate=plan.fps, options=plan.encoder_options)
    video.width, video.height, video.pix_fmt = plan.width, plan.height, "yuv420p"
    sound = container.add_stream("aac", rate=_AUDIO_RATE) if plan.audio else None
    for index in range(plan.frames):
        frame = av.VideoFrame.from_image(frame_at(index))  # type: ignore[no-untyped-call]
        frame.pts, frame.time_base = index, Fraction(1, plan.fps)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if sound:
        _add_silence(container, sound, Fraction(plan.frames, plan.fps))


def _camera(
    plan: Plan, picture: Image.Image, end_picture: Image.Image | None
) -> Callable[[int], Image.Image]:
    """The frames: drawing nearer while moving from the lower left to the upper right."""
    size = (plan.width, plan.height)
    stage = (round(plan.width * _ZOOM), round(plan.height * _ZOOM))
    start = ImageOps.fit(picture, stage, Image.Resampling.BICUBIC)
    end = ImageOps.fit(end_picture, stage, Image.Resampling.BICUBIC) if end_picture else None

    def frame_at(index: int) -> Image.Image:
        progress = index / max(plan.frames - 1, 1)
        scene = Image.blend(start, end, progress) if end else start
        scale = 1 / (1 + (_ZOOM - 1) * progress)
        width, height = stage[0] * scale, stage[1] * scale
        left, top = (stage[0] - width) * progress, (stage[1] - height) * (1 - progress)
        box = (left, top, left + width, top + height)
        return scene.resize(size, Image.Resampling.BILINEAR, box=box)

    return frame_at


def _add_silence(container: OutputContainer, sound: AudioStream, seconds: Fraction) -> None:
    for start in range(0, int(seconds * _AUDIO_RATE) - _AUDIO_SAMPLES, _AUDIO_SAMPLES):
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=_AUDIO_SAMPLES)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = _AUDIO_RATE, start, Fraction(1, _AUDIO_RATE)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def _even(pixels: float) -> int:
    return round(pixels / 2) * 2


def _mark(target: Path) -> str:
    """A text of its own for each clip, so that no two jobs' clips have the same length and bytes."""
    return "magichour-sandbox ".ljust(20 + zlib.crc32(str(target).encode()) % 1000, ".")
