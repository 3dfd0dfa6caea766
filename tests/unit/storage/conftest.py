from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import airflow  # noqa: F401  its import replaces the handlers by which a test captures logs
import av
import pytest

STORE_CONN_ID = "some_store"


def encode_video(
    path: Path | str,
    *,
    size: tuple[int, int] = (64, 48),
    frames: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    movflags: str = "",
    frag_duration: str = "",
    aspect: int | None = None,
    audio: bool = False,
    **options: str,
) -> None:
    """A real video at 24 fps whose frames get brighter, from black to white."""
    container = {"movflags": movflags, "frag_duration": frag_duration}
    container = {name: value for name, value in container.items() if value}
    with av.open(str(path), "w", format="mp4", options=container) as file:
        video = file.add_stream(codec, rate=24, options=options)
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        sound: Any = file.add_stream("aac", rate=44100) if audio else None
        for index in range(frames):
            frame = av.VideoFrame(*size, "gray")
            level = round(255 * index / max(frames - 1, 1))
            frame.planes[0].update(bytes([level]) * frame.planes[0].buffer_size)
            file.mux(video.encode(frame.reformat(format=pix_fmt)))
        file.mux(video.encode(None))
        for index in range(frames * 44100 // 24 // 1024 if audio else 0):
            silence = av.AudioFrame("fltp", "mono", 1024)
            silence.planes[0].update(bytes(silence.planes[0].buffer_size))
            silence.sample_rate, silence.pts = 44100, index * 1024
            file.mux(sound.encode(silence))
        if audio:
            file.mux(sound.encode(None))


def make_video(frames: int = 36, **options: Any) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # faststart reads its own output by name
        encode_video(file.name, frames=frames, **options)
        return Path(file.name).read_bytes()


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


def encode_file(folder: Path, name: str = "video.mp4", **options: Any) -> Path:
    encode_video(folder / name, **options)
    return folder / name


@pytest.fixture(name="make_video")
def make_video_file(tmp_path: Path) -> Any:
    """Write a real video, and give its path."""
    return partial(encode_file, tmp_path)
