from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest


@pytest.fixture
def make_clip(tmp_path) -> Any:
    """Write a real clip whose frames get brighter, from black to white, and give its path."""

    def make(
        name: str = "clip.mp4",
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
