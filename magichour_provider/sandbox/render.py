"""Real videos: H.264 in mp4, a slow pan over the image, cross-faded to the end image if there is one."""

from __future__ import annotations

import shutil
import threading
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from PIL import Image, ImageOps

from magichour_provider.sandbox.schemas import Behaviour, JobRequest

SHORT_EDGES = {"360p": 360, "480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
"""Shorter edge of a video in pixels, by resolution."""

_QUICK_LONG_EDGE_PIXELS = 160
_WIDEST_ASPECT = 2.4
_PAN = 1.15
"""Size of the image in relation to the frame that moves over it."""
_AUDIO_HZ = 44_100
_AUDIO_FRAME_SAMPLES = 1024
_TEST_CARD = Image.radial_gradient("L").convert("RGB").resize((1280, 720))


class RenderError(Exception):
    """A job that ends as `error`, with the API's `error.code` and message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


def render(
    request: JobRequest,
    images: Sequence[Path | None],
    targets: Sequence[Path],
    behaviour: Behaviour,
    *,
    quick: bool,
    abandoned: threading.Event,
) -> tuple[int, int]:
    """Load the images (None: not uploaded) and encode a video for each of `targets`, as `behaviour` says.

    Returns width and height in pixels. Raises RenderError, also once `abandoned` is set.
    """
    longest_edge = (
        _QUICK_LONG_EDGE_PIXELS * 2 if quick else round(SHORT_EDGES[request.resolution] * _WIDEST_ASPECT)
    )
    pictures = [load_image(image, longest_edge) for image in images]
    size = frame_size(pictures[0].size, request.resolution, quick=quick)
    stage = (round(size[0] * _PAN), round(size[1] * _PAN))
    scenes = [ImageOps.fit(picture, stage, Image.Resampling.BICUBIC) for picture in pictures]
    flags = "frag_keyframe+empty_moov+default_base_moof" if behaviour.video_fragmented else "faststart"
    with av.open(str(targets[0]), "w", format="mp4", options={"movflags": flags}) as container:
        # The comment differs from video to video, so no two have the same length and bytes.
        mark = "magichour-sandbox ".ljust(20 + zlib.crc32(str(targets[0]).encode()) % 1000, ".")
        container.metadata["comment"] = mark
        _encode(container, request, scenes, size, quick, abandoned)
    for number, target in enumerate(targets[1:], start=2):
        mark = f"download {number}"
        shutil.copyfile(targets[0], target)
        add_free_box(target, 8 + len(mark), mark.encode())
    for target in targets:
        if behaviour.video_padding_bytes:
            add_free_box(target, behaviour.video_padding_bytes)
        with target.open("ab") as file:
            file.write(behaviour.video_ending.encode())
    return size


def frame_size(image_size: tuple[int, int], resolution: str, *, quick: bool) -> tuple[int, int]:
    """Even width and height with the image's shape, near the resolution: 16:9 at 720p is 1276x720."""
    aspect = min(max(image_size) / min(image_size), _WIDEST_ASPECT)
    if quick:
        long_edge = _QUICK_LONG_EDGE_PIXELS
        short_edge = max(round(long_edge / aspect / 2) * 2, 48)
    else:
        short_edge = SHORT_EDGES[resolution]
        long_edge = round(short_edge * aspect / 2) * 2 - 4
    is_portrait = image_size[1] > image_size[0]
    return (short_edge, long_edge) if is_portrait else (long_edge, short_edge)


def _encode(
    container: OutputContainer,
    request: JobRequest,
    scenes: Sequence[Image.Image],
    size: tuple[int, int],
    quick: bool,
    abandoned: threading.Event,
) -> None:
    """Pan from the lower left of the scenes to their upper right, and fade from the first to the last."""
    cheap = {"preset": "ultrafast", "crf": "32", "threads": "1"}
    good = {"preset": "veryfast", "crf": "21", "threads": "2"}
    video = container.add_stream("libx264", rate=request.fps, options=cheap if quick else good)
    video.width, video.height, video.pix_fmt = *size, "yuv420p"
    sound = container.add_stream("aac", rate=_AUDIO_HZ) if request.audio else None
    frames = round(request.end_seconds * request.fps)
    for index in range(frames):
        if abandoned.is_set():
            raise RenderError("unknown_error", "The sandbox gave this video up.")
        progress = index / max(frames - 1, 1)
        scene = Image.blend(scenes[0], scenes[-1], progress) if len(scenes) > 1 else scenes[0]
        left = round((scene.width - size[0]) * progress)
        top = round((scene.height - size[1]) * (1 - progress))
        picture = scene.crop((left, top, left + size[0], top + size[1]))
        frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
        frame.pts, frame.time_base = index, Fraction(1, request.fps)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if sound is None:
        return
    for start in range(0, int(request.end_seconds * _AUDIO_HZ) - _AUDIO_FRAME_SAMPLES, _AUDIO_FRAME_SAMPLES):
        silence = av.AudioFrame(format="fltp", layout="stereo", samples=_AUDIO_FRAME_SAMPLES)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        silence.sample_rate, silence.pts, silence.time_base = _AUDIO_HZ, start, Fraction(1, _AUDIO_HZ)
        container.mux(sound.encode(silence))
    container.mux(sound.encode(None))


def add_free_box(path: Path, size: int, content: bytes = b"") -> None:
    """Append a `free` box of mp4, which players skip: `size` bytes in all, zeros after `content`, sparse."""
    if size >= 1 << 32:
        header = (1).to_bytes(4, "big") + b"free" + size.to_bytes(8, "big")
    else:
        header = size.to_bytes(4, "big") + b"free"
    with path.open("ab") as file:
        end = file.tell() + size
        file.write(header + content)
        file.truncate(end)


def load_image(upload: Path | None, longest_edge: int) -> Image.Image:
    """The image, upright and in RGB, decoded no larger than `longest_edge` pixels if its format allows.

    The sandbox is offline: an image that was not uploaded gives a test card, and so does a HEIC or a TIFF
    that this Pillow cannot decode. Raises RenderError.
    """
    if upload is None:
        return _TEST_CARD
    try:
        with Image.open(upload) as image:
            image.draft("RGB", (longest_edge, longest_edge))
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] not in "IF":
                return upright.convert("RGB")
            # Gray of 16 or 32 bits, or of floats: Pillow would take every value above 255 for white.
            gray = upright.convert("F")
            top: Any = gray.getextrema()[1]
            ranges = (1, 255) if upright.mode == "F" else (65_535,)
            white = next((each for each in ranges if top <= each), top)
            return gray.point(lambda value: value * (255 / white)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        if upload.suffix in (".heic", ".heif", ".avif", ".jp2", ".tif", ".tiff"):
            return _TEST_CARD
        raise RenderError("invalid_image_file", "The image file could not be read.") from None
