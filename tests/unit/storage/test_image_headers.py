"""Every form of every format that Magic Hour accepts is known by its first bytes, and most are measured."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from magichour_provider.storage.image_headers import (
    HEAD_BYTES,
    describe_start,
    find_image_format,
    read_pixel_size,
)

SIZE = (64, 48)


def encoded(kind, mode="RGB", **options):
    sink = io.BytesIO()
    Image.new(mode, SIZE).save(sink, kind, **options)
    return sink.getvalue()


def upright_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def jpeg_with(*segments):
    jpeg = encoded("JPEG")
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def app_segment(kind, payload_bytes):
    return struct.pack(">BBH", 0xFF, kind, 2 + payload_bytes) + bytes(payload_bytes)


def bmp(header_bytes, height=SIZE[1]):
    size = struct.pack("<HH" if header_bytes == 12 else "<ii", SIZE[0], height)
    header = struct.pack("<I", header_bytes) + size
    return b"BM" + bytes(12) + header.ljust(header_bytes, b"\0") + bytes(99)


def box(kind, *parts):
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def ispe(width, height):
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


def heif(brands, *properties):
    """A still as far as its header is read; the pixels play no part."""
    index = box(b"iprp", box(b"ipco", *properties))
    meta = box(b"meta", bytes(4), box(b"pitm", bytes(4), b"\0\1"), index)
    return box(b"ftyp", brands[:4], bytes(4), brands[4:]) + meta + box(b"mdat", bytes(99))


IROT, IMIR = box(b"irot", b"\3"), box(b"imir", b"\1")
GRID = (ispe(32, 32), ispe(*SIZE), ispe(16, 12), IROT)


def tiff(order, version, entries):
    """An index of one page at the end of the file, after its pixels."""
    end = {"<": b"II", ">": b"MM"}[order]
    if version == 42:
        parts = [struct.pack(f"{order}HHIHxx", tag, 3, 1, value) for tag, value in entries]
        start = struct.pack(f"{order}2sHI", end, 42, 208) + bytes(200)
        return start + struct.pack(f"{order}H", len(parts)) + b"".join(parts)
    parts = [struct.pack(f"{order}HHQI4x", tag, 4, 1, value) for tag, value in entries]
    start = struct.pack(f"{order}2sHHHQ", end, 43, 8, 0, 216) + bytes(200)
    return start + struct.pack(f"{order}Q", len(parts)) + b"".join(parts)


TAGS = [(254, 0), (256, SIZE[0]), (257, SIZE[1]), (258, 8)]

IMAGES = {
    "PNG": encoded("PNG"),
    "PNG, gray of 16 bits": encoded("PNG", "I;16"),
    "JPEG": encoded("JPEG"),
    "JPEG, progressive": encoded("JPEG", progressive=True),
    "JPEG, CMYK": encoded("JPEG", "CMYK"),
    "JPEG, rotated by EXIF": encoded("JPEG", exif=upright_exif()),
    "JPEG, 2 MB of XMP": jpeg_with(*[app_segment(0xE1, 65000)] * 34),
    "JPEG, 3 MB of ICC and IPTC": jpeg_with(*[app_segment(0xE2, 65533), app_segment(0xED, 9)] * 46),
    "JPEG, fill bytes": jpeg_with(app_segment(0xE1, 10), b"\xff\xff\xff"),
    "JPEG, Motion Photo": encoded("JPEG") + box(b"ftyp", b"mp42"),
    "WebP": encoded("WEBP"),
    "WebP, lossless": encoded("WEBP", lossless=True),
    "WebP, alpha": encoded("WEBP", "RGBA"),
    "WebP, extended": encoded("WEBP", exif=upright_exif()),
    "BMP": encoded("BMP"),
    **{f"BMP, header of {size}": bmp(size) for size in (12, 40, 52, 56, 64, 108, 124)},
    "BMP, top row first": bmp(40, -SIZE[1]),
    "TIFF": encoded("TIFF"),
    "TIFF, deflated": encoded("TIFF", compression="tiff_adobe_deflate"),
    "TIFF, big-endian": tiff(">", 42, TAGS),
    "TIFF, index at the end": tiff("<", 42, TAGS),
    "BigTIFF": tiff("<", 43, TAGS),
    "BigTIFF, big-endian": tiff(">", 43, TAGS),
    "JPEG 2000": encoded("JPEG2000"),
    "JPEG 2000, stream alone": encoded("JPEG2000", no_jp2=True),
    "AVIF": encoded("AVIF"),
    "AVIF, rotated": encoded("AVIF", exif=upright_exif()),
    "AVIF, sequence": heif(b"avismif1", ispe(*SIZE)),
    "HEIC": heif(b"heicmif1heic", ispe(*SIZE)),
    "HEIC, rotated": heif(b"heicmif1heic", ispe(*SIZE), IROT),
    "HEIC, mirrored": heif(b"heicmif1heic", ispe(*SIZE), IMIR, IROT),
    "HEIC, grid": heif(b"heicmif1heic", *GRID),
    "HEIF, camera": heif(b"mif1heix", ispe(*SIZE)),
    "HEIF, brand in the list": heif(b"abcdisommif1", ispe(*SIZE)),
    "HEIC, size of 64 bits": struct.pack(">I4sQ", 1, b"ftyp", 32) + heif(b"heicmif1heic", ispe(*SIZE))[8:],
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_is_recognised_and_measured_before_rotation(name):
    data = IMAGES[name]
    kind = find_image_format(data[:HEAD_BYTES])
    expected = {"BigTIFF": "tiff", "JPEG": "jpg", "JPEG 2000": "jp2", "HEIF": "heic"}
    title = name.split(",")[0]
    assert kind == expected.get(title, title.lower())
    assert read_pixel_size(io.BytesIO(data), kind) == SIZE


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + bytes(5 << 20),
        jpeg_with(*[app_segment(0xE1, 60000)] * 600),
        encoded("PNG")[:18],
        heif(b"heic"),
        heif(b"heic", ispe(0, 7)),
        tiff("<", 42, TAGS[:2]),
        b"II*\0\xff\xff\xff\xff",
        bmp(40, 0),
    ],
)
def test_image_that_cannot_be_measured_is_an_image(data):
    kind = find_image_format(data[:HEAD_BYTES])
    assert kind is not None
    assert read_pixel_size(io.BytesIO(data), kind) is None


def raw(order, *tags):
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags)) + entries


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file"),
        (raw(">", (254, 1), *TAGS[1:]), "a camera's raw file"),
        (raw("<", (254, 1), *TAGS[1:]), "a camera's raw file"),
        (raw("<", *TAGS, *[(number, 0) for number in range(300, 360)], (50706, 1)), "a camera's raw file"),
        (b"BA\x28\0\0\0" + bytes(8) + bmp(12), "an array of bitmaps of OS/2"),
    ],
)
def test_what_magic_hour_does_not_take_is_named(data, kind):
    assert find_image_format(data[:HEAD_BYTES]) is None
    assert describe_start(data[:HEAD_BYTES]).endswith(kind)


@given(start=st.sampled_from(sorted(IMAGES)), kept=st.integers(0, 700), rest=st.binary(max_size=200))
@example(start="BigTIFF", kept=8, rest=b"\0\0\0\0\0\0\0\x80")
def test_damage_ends_in_a_size_or_in_none(start, kept, rest):
    data = IMAGES[start][:kept] + rest
    kind = find_image_format(data[:HEAD_BYTES])
    size = kind and read_pixel_size(io.BytesIO(data), kind)
    assert size is None or (len(size) == 2 and min(size) > 0)


@given(st.binary(max_size=600))
def test_any_start_is_described_in_a_few_words(head):
    assert len(describe_start(head)) < 180
