from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import av
import pytest

STORE_CONN_ID = "some_store"


def make_video(
    *, faststart: bool = False, audio: bool = False, options: dict[str, str] | None = None, frames: int = 36
) -> bytes:
    """A real H.264 video of 64x48 pixels at 24 fps, with as many frames as asked."""
    flags = options or ({"movflags": "faststart"} if faststart else {})
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # faststart reads its own output by name
        with av.open(file.name, "w", options=flags) as container:
            _encode(container, audio, frames)
        return Path(file.name).read_bytes()


def _encode(container: Any, audio: bool, frames: int) -> None:
    video = container.add_stream("libx264", rate=24)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    sound = container.add_stream("aac", rate=44100) if audio else None
    for index in range(frames):
        picture = av.VideoFrame(64, 48, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes([index * 7 % 256]) * plane.buffer_size)
        container.mux(video.encode(picture))
    container.mux(video.encode())
    if sound is not None:
        for index in range(frames * 44100 // 24 // 1024):
            silence = av.AudioFrame("fltp", "mono", 1024)
            silence.planes[0].update(bytes(silence.planes[0].buffer_size))
            silence.sample_rate, silence.pts = 44100, index * 1024
            container.mux(sound.encode(silence))
        container.mux(sound.encode())


def boxes_of(data: bytes) -> list[tuple[str, int, int]]:
    """Top-level boxes of an mp4: type, start, size."""
    found, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8].decode(), position, size))
        position += size
    return found


@pytest.fixture(scope="session")
def video() -> bytes:
    return make_video()


@pytest.fixture(name="make_video")
def make_video_file(tmp_path) -> Any:
    """Write a real video whose frames get brighter, from black to white, and give its path."""

    def make(
        name: str = "video.mp4",
        *,
        size: tuple[int, int] = (64, 48),
        frames: int = 25,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        movflags: str = "",
        aspect: int | None = None,
        **options: str,
    ) -> Path:
        path = Path(tmp_path / name)
        with av.open(
            str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}
        ) as file:
            video = file.add_stream(codec, rate=24, options=options)
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            for index in range(frames):
                file.mux(video.encode(_grey(size, round(255 * index / max(frames - 1, 1)), pix_fmt)))
            file.mux(video.encode(None))
        return path

    return make


def _grey(size: tuple[int, int], level: int, pix_fmt: str) -> Any:
    frame = av.VideoFrame(*size, "gray")
    plane = frame.planes[0]
    plane.update(bytes([level]) * plane.buffer_size)
    return frame.reformat(format=pix_fmt)
