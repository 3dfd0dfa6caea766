"""The pictures that clips are made of.

An upload is read from disk; an http(s) URL is fetched only from this machine (127.0.0.1, localhost), as
the sandbox is offline. Any other URL, a `saved-items/...` path, and a HEIC that this Pillow cannot read
give a test card.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx
from PIL import Image, ImageDraw, ImageOps

from magichour_provider.sandbox.jobs import RenderError

MAX_FETCH_BYTES = 200 * 10**6
"""Largest image that is fetched from a local URL, in bytes."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc"})
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def load_image(reference: str, upload: Path | None, longest_edge: int) -> Image.Image:
    """The picture behind `reference`, upright and in RGB; decoded no larger than is useful.

    `upload` is the file where `reference` is a `file_path`. Raises RenderError: `invalid_image_path`
    where nothing can be had, `invalid_image_file` where it is not an image.
    """
    if upload is not None:
        with upload.open("rb") as file:
            return _decode(file, longest_edge)
    if reference.startswith(("http://", "https://")) and urlsplit(reference).hostname in _LOOPBACK:
        return _decode(io.BytesIO(_fetch(reference)), longest_edge)
    return test_card()


def image_size(upload: Path) -> tuple[int, int] | None:
    """Width and height of an upload in pixels, from its header alone; None where it is not an image."""
    try:
        with Image.open(upload) as image:
            width, height = image.size
            return width, height
    except _UNREADABLE:
        return None


def test_card() -> Image.Image:
    """A picture that stands for one that the sandbox cannot have."""
    bars = ("white", "yellow", "cyan", "green", "magenta", "red", "blue")
    card = Image.new("RGB", (1280, 720), "black")
    pen = ImageDraw.Draw(card)
    width = card.width / len(bars)
    for index, colour in enumerate(bars):
        pen.rectangle((index * width, 0, (index + 1) * width, 560), fill=colour)
    pen.text((480, 610), "magichour-sandbox", fill="white", font_size=40)
    return card


def _decode(file: IO[bytes], longest_edge: int) -> Image.Image:
    head = file.read(12)
    file.seek(0)
    try:
        with Image.open(file) as image:
            image.draft("RGB", (longest_edge, longest_edge))
            return ImageOps.exif_transpose(image).convert("RGB")
    except _UNREADABLE:
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
            return test_card()
        raise RenderError("invalid_image_file", "The image file could not be read.") from None


def _fetch(url: str) -> bytes:
    body = bytearray()
    try:
        with httpx.stream("GET", url, timeout=10, trust_env=False) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_FETCH_BYTES:
                    raise RenderError("file_too_large", "The image is too large.")
    except (httpx.HTTPError, httpx.InvalidURL):
        raise RenderError("invalid_image_path", "The image could not be fetched from its URL.") from None
    return bytes(body)
