"""What a file is, by its first bytes, and how many pixels an image has, as far as its header says so simply.

No library knows every form of every format that Magic Hour accepts: imagesize 2.0.1 gives up on a rotated
HEIF, Pillow reads no HEIF, filetype and puremagic take some for videos. Here an image is known by its
signature alone; its pixels, which only one model's rule needs, may stay unknown.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import BinaryIO, Literal

HEAD_BYTES = 4096
"""The start of a file that `find_image_format` needs: the brands of a HEIF, the first tags of a TIFF."""
SHOWN_BYTES = 16
"""The most of a file's content that a message ever shows."""

_JPEG_2000_STREAM = b"\xff\x4f\xff\x51"
_HEIF_BRANDS = re.compile(rb"he[iv][a-z]|mif[0-9]|msf1|miaf|MA1[AB]|avi[fos]|avc[is]", re.ASCII)
_BOX_BYTES = 64 * 1024
"""Of a HEIF or JPEG 2000 file: the boxes before the pixels are within."""
_MAX_JPEG_SEGMENTS = 500
_MAX_TIFF_ENTRIES = 1000
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_MAX_SIDE_PIXELS = 1_000_000


def find_image_format(head: bytes) -> str | None:
    """The format of an image that Magic Hour accepts, by its extension; None for anything else.

    :param head: the first `HEAD_BYTES` of the file.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return None if _is_camera_raw(head) else "tiff"
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", _JPEG_2000_STREAM)):
        return "jp2"
    if head.startswith(b"BM") and 12 <= int.from_bytes(head[14:18], "little") <= 256:
        return "bmp"
    if head[4:8] == b"ftyp":
        is_long = head[:4] == b"\0\0\0\1"  # its size has 64 bits
        start, size = (16, head[8:16]) if is_long else (8, head[:4])
        brands = head[start : start + 4] + head[start + 8 : int.from_bytes(size, "big")]
        if any(_HEIF_BRANDS.match(brands, start) for start in range(0, len(brands), 4)):
            return "avif" if b"avi" in brands else "heic"
    return None


def _is_camera_raw(head: bytes) -> bool:
    """Whether a TIFF is CR2, DNG, or like NEF and ARW: its first image is a thumbnail, as no picture's is."""
    order: Literal["little", "big"] = "little" if head[:1] == b"I" else "big"
    start = int.from_bytes(head[4:8], order)
    end = start + 2 + 12 * int.from_bytes(head[start : start + 2], order)
    entries = (head[each : each + 12] for each in range(start + 2, min(end, len(head)), 12))
    tags = {int.from_bytes(entry[:2], order): int.from_bytes(entry[8:12], order) for entry in entries}
    return head[8:10] == b"CR" or _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE) == 1


def read_pixel_size(file: BinaryIO, image_format: str) -> tuple[int, int] | None:
    """Width and height in pixels as they are stored, before any rotation; None if they are not found.

    :param file: an image of this format, as `find_image_format` calls it.

    Raises what reading raises.
    """
    try:
        width, height = _READERS[image_format](file)
    except (struct.error, LookupError, OverflowError):  # the file ends too early, or says something else
        return None
    is_possible = 0 < width <= _MAX_SIDE_PIXELS and 0 < height <= _MAX_SIDE_PIXELS
    return (width, height) if is_possible else None


def _read(file: BinaryIO, offset: int, layout: str) -> tuple[int, ...]:
    """Integers of a `struct` layout at an offset."""
    file.seek(offset)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _jpeg_size(file: BinaryIO) -> tuple[int, ...]:
    """From the frame header, which follows all metadata: any number of segments of up to 64 KiB."""
    offset = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        mark, kind, length = _read(file, offset, ">BBH")
        if mark != 0xFF:
            break
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = _read(file, offset + 5, ">HH")
            return width, height
        offset += 1 if kind == 0xFF else 2 + length  # 0xFF: a fill byte
    raise LookupError("no frame header")


def _webp_size(file: BinaryIO) -> tuple[int, ...]:
    (kind,) = _read(file, 12, ">I")
    if kind == int.from_bytes(b"VP8X", "big"):
        low_width, high_width, low_height, high_height = _read(file, 24, "<HBHB")
        return (high_width << 16) + low_width + 1, (high_height << 16) + low_height + 1
    if kind == int.from_bytes(b"VP8L", "big"):
        (bits,) = _read(file, 21, "<I")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = _read(file, 26, "<HH")
    return width & 0x3FFF, height & 0x3FFF


def _bmp_size(file: BinaryIO) -> tuple[int, ...]:
    (header_bytes,) = _read(file, 14, "<I")
    width, height = _read(file, 18, "<HH" if header_bytes == 12 else "<ii")
    return width, abs(height)  # a negative height: the top row comes first


def _tiff_size(file: BinaryIO) -> tuple[int, ...]:
    """Of the first page."""
    file.seek(0)
    start = file.read(4)
    order, is_big = "<" if start[:1] == b"I" else ">", b"+" in start
    (directory,) = _read(file, 8, f"{order}Q") if is_big else _read(file, 4, f"{order}I")
    (count,) = _read(file, directory, f"{order}{'Q' if is_big else 'H'}")
    entry_bytes, first = (20, directory + 8) if is_big else (12, directory + 2)
    sizes = {}
    for number in range(min(count, _MAX_TIFF_ENTRIES)):
        entry = first + number * entry_bytes
        tag, kind = _read(file, entry, f"{order}HH")
        if tag in (256, 257):  # width, length: one short or long
            (sizes[tag],) = _read(file, entry + (12 if is_big else 8), f"{order}{'H' if kind == 3 else 'I'}")
    return sizes[256], sizes[257]


def _jpeg_2000_size(file: BinaryIO) -> tuple[int, ...]:
    file.seek(0)
    head = file.read(_BOX_BYTES)
    stream = head.index(_JPEG_2000_STREAM) if _JPEG_2000_STREAM in head else len(head)
    right, bottom, left, top = struct.unpack_from(">IIII", head, stream + 8)
    return right - left, bottom - top


def _heif_size(file: BinaryIO) -> tuple[int, ...]:
    """The largest of its images: the others are tiles, thumbnails, or maps of depth or brightness."""
    file.seek(0)
    sizes = [
        struct.unpack(">II", size)
        for size in re.findall(rb"ispe\0{4}(.{8})", file.read(_BOX_BYTES), re.DOTALL)
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


_READERS: dict[str, Callable[[BinaryIO], tuple[int, ...]]] = {
    "png": lambda file: _read(file, 16, ">II"),
    "jpg": _jpeg_size,
    "webp": _webp_size,
    "bmp": _bmp_size,
    "tiff": _tiff_size,
    "jp2": _jpeg_2000_size,
    "heic": _heif_size,
    "avif": _heif_size,
}

# Starts in lower case, as they are compared.
_STARTS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"<html", b"<!doc"), "a web page"),
    ((b"<?xml",), "an XML document"),
    ((b"<svg",), "an SVG drawing"),
    ((b"<",), "markup"),
    ((b"{", b"["), "JSON"),
    ((b"%pdf",), "a PDF"),
    ((b"gif8",), "a GIF"),
    (
        (b"\x89png\r\n\x1a\n\0\0\0\x04cgbi",),
        "a PNG that Xcode made for iPhones (CgBI), which only Apple's software reads",
    ),
    ((b"\x89png\r\n\x1a\n\0\0\0\rihdr",), "a PNG image"),
    ((b"\x89png",), "a damaged PNG image"),
    ((b"\xff\xd8\xff",), "a JPEG image"),
    ((b"\xff\x0a", b"\0\0\0\x0cjxl "), "a JPEG XL image"),
    ((b"ii\xbc\x01",), "a JPEG XR image"),
    ((b"8bps",), "a Photoshop document"),
    ((b"riff",), "a RIFF file"),
    ((b"\x1ae\xdf\xa3",), "a WebM or Matroska video"),
    ((b"pk\x03\x04",), "a ZIP archive"),
    ((b"\x1f\x8b",), "gzip data"),
    ((b"version https://git-lfs",), "a pointer of Git LFS, not the file itself"),
)


def describe_start(head: bytes) -> str:
    """`starts with '<html>': a web page`, from the first bytes of a file, for error messages."""
    text = head[:SHOWN_BYTES].decode("latin-1")
    is_text = text.isascii() and all(letter.isprintable() or letter.isspace() for letter in text)
    quoted = repr(text) if is_text else f"bytes {head[:SHOWN_BYTES].hex()}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((name for starts, name in _STARTS if start.startswith(starts)), None)
    if head.startswith((b"II*\0", b"MM\0*")) and _is_camera_raw(head):
        kind = "a camera's raw file"
    if head[:2] == b"BA" and head[14:16] == b"BM":
        kind = "an array of bitmaps of OS/2"
    if head[4:8] == b"ftyp":
        kind = f"an mp4 or a kind of HEIF ({head[8:12].decode('latin-1').strip()!r})"
    return f"starts with {quoted}{f': {kind}' if kind else ''}"
