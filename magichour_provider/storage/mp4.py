"""Check an mp4 while its bytes stream, and read its length, size and frame rate without a decoder.

An mp4 is a row of boxes: four bytes of size, four of type, then the payload (ISO/IEC 14496-12). A file is
whole if it ends where its last box ends. Only the box `moov`, which describes the tracks, is kept in
memory; `mdat`, which contains the frames, is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from magichour_provider.exceptions import NotAVideoError
from magichour_provider.storage.image_headers import SHOWN_BYTES, describe_start

MAX_MOOV_BYTES = 64 << 20
"""A `moov` larger than this is refused: an hour of video has about one MiB."""

_UNKNOWN = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class VideoInfo:
    """`duration` in seconds, `width` and `height` in coded pixels; 0 if unknown, as in a fragmented mp4."""

    duration: float
    width: int
    height: int
    fps: float


class Mp4Scanner:
    """Feed it an mp4 in chunks of any size; `finish` checks that it is whole, and describes it.

    Both raise NotAVideoError as soon as the bytes cannot be a whole mp4. Messages show at most 16 bytes.
    """

    def __init__(self) -> None:
        self._head = b""
        self._header = b""
        self._box: str | None = None
        self._left = 0
        self._to_the_end = False
        self._moov: bytearray | None = None
        self._media_bytes: int | None = None
        self._first = True

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the file."""
        if len(self._head) < SHOWN_BYTES:
            self._head += bytes(chunk[: SHOWN_BYTES - len(self._head)])
        view, position = memoryview(chunk), 0
        while position < len(view):
            if self._box is None:
                position = self._read_header(view, position)
            else:
                position = self._read_payload(view, position)

    def finish(self) -> VideoInfo:
        """Describe the video, after the last byte."""
        if not self._head:
            raise _not_whole("it is empty")
        if self._first:
            raise _not_whole(f"it {describe_start(self._head)}, and ends there")
        if self._header:
            raise _not_whole("it ends inside the header of a box")
        if self._box is not None and not self._to_the_end:
            raise _not_whole(f"it ends inside the box {self._box}, {self._left} bytes short")
        if self._moov is None:
            raise _not_whole("it has no box moov, which describes the tracks")
        if self._media_bytes is None:
            raise _not_whole("it has no box mdat, which contains the frames")
        return _read_moov(self._moov, self._media_bytes if self._to_the_end else None)

    def _read_header(self, view: memoryview, position: int) -> int:
        wanted = 16 if self._header[:4] == b"\0\0\0\1" else 8
        taken = min(wanted - len(self._header), len(view) - position)
        self._header += bytes(view[position : position + taken])
        if len(self._header) < wanted or (wanted == 8 and self._header[:4] == b"\0\0\0\1"):
            return position + taken
        header, self._header = self._header, b""
        kind = header[4:8]
        if self._first and kind != b"ftyp":
            raise _not_whole(f"it {describe_start(self._head)}; an mp4 starts with 'ftyp'")
        size = int.from_bytes(header[8:16] if wanted == 16 else header[:4], "big")
        self._first = False
        self._enter(kind, size, len(header))
        return position + taken

    def _enter(self, kind: bytes, size: int, header_bytes: int) -> None:
        if not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            raise _not_whole(f"the bytes {kind.hex()} are no type of a box")
        self._box = kind.decode("latin-1")
        self._to_the_end = size == 0
        self._left = size - header_bytes
        if self._left < 0 and not self._to_the_end:
            raise _not_whole(f"the box {self._box} has the impossible size {size}")
        if self._box == "moov":
            if self._moov is not None:
                raise _not_whole("it has two boxes moov")
            if self._left > MAX_MOOV_BYTES:
                raise _not_whole(f"its box moov has {self._left} bytes, which no video needs")
            self._moov = bytearray()
        elif self._box == "mdat":
            self._media_bytes = self._media_bytes or 0
        if self._left == 0:
            self._box = None

    def _read_payload(self, view: memoryview, position: int) -> int:
        available = len(view) - position
        taken = available if self._to_the_end else min(available, self._left)
        if self._box == "moov" and self._moov is not None:
            self._moov += view[position : position + taken]
            if len(self._moov) > MAX_MOOV_BYTES:
                raise _not_whole("its box moov is larger than any video needs")
        elif self._box == "mdat":
            self._media_bytes = (self._media_bytes or 0) + taken
        self._left -= taken
        if self._left == 0 and not self._to_the_end:
            self._box = None
        return position + taken


def _not_whole(why: str) -> NotAVideoError:
    return NotAVideoError(f"This is not a whole mp4: {why}.")


# --- moov. Numbers are offsets into payloads, as in the standard.


@dataclass(frozen=True)
class _Track:
    handler: bytes
    timescale: int
    duration: int
    frames: int
    frame_time: int
    media_bytes: int
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return _ratio(self.frame_time or self.duration, self.timescale)


def _read_moov(moov: bytearray, media_bytes: int | None) -> VideoInfo:
    """`media_bytes` is given if mdat has no size of its own; the sizes of the samples are checked then."""
    try:
        return _video_info(memoryview(moov), media_bytes)
    except (struct.error, IndexError) as error:
        raise _not_whole("its box moov is damaged") from error


def _video_info(moov: memoryview, media_bytes: int | None) -> VideoInfo:
    tracks = [_read_track(payload) for kind, payload in _boxes(moov) if kind == b"trak"]
    pictures = [track for track in tracks if track.handler == b"vide"]
    if not pictures:
        raise _not_whole("it has no video track")
    video = max(pictures, key=lambda track: track.frames)
    if not (video.width and video.height):
        raise _not_whole("its video track has no size in pixels")
    fragments = _find(moov, b"mvex")
    if fragments is None and not video.frames:
        raise _not_whole("its video track has no frames")
    needed = sum(track.media_bytes for track in tracks)
    if media_bytes is not None and media_bytes < needed:
        raise _not_whole(f"it ends inside the box mdat, {needed - media_bytes} bytes short")
    timescale, duration = _times(_need(moov, b"mvhd"))
    seconds = _ratio(duration, timescale) or video.seconds
    fps = _ratio(video.frames, video.seconds)
    if fragments is not None:
        seconds = _ratio(_fragments_duration(fragments), timescale) or seconds
        fps = fps or _ratio(video.timescale, _fragments_frame_time(fragments))
    return VideoInfo(seconds, video.width, video.height, fps)


def _read_track(trak: memoryview) -> _Track:
    media = _need(trak, b"mdia")
    timescale, duration = _times(_need(media, b"mdhd"))
    handler = bytes(_need(media, b"hdlr")[8:12])
    samples = _find(_need(media, b"minf"), b"stbl") or memoryview(b"")
    frames, frame_time = _timing(_find(samples, b"stts"))
    width, height = _pixels(samples, _need(trak, b"tkhd")) if handler == b"vide" else (0, 0)
    media_bytes = _sample_bytes(_find(samples, b"stsz"))
    return _Track(handler, timescale, duration, frames, frame_time, media_bytes, width, height)


def _times(header: memoryview) -> tuple[int, int]:
    """Ticks per second and length in ticks, of an mvhd or mdhd."""
    layout, offset = (">IQ", 20) if header[0] == 1 else (">II", 12)
    timescale, duration = struct.unpack_from(layout, header, offset)
    return timescale, 0 if duration in _UNKNOWN else duration


def _pixels(samples: memoryview, header: memoryview) -> tuple[int, int]:
    """The coded size of the first sample entry, else the display size of tkhd."""
    descriptions = _find(samples, b"stsd")
    if descriptions is not None and len(descriptions) >= 44:
        width, height = struct.unpack_from(">HH", descriptions, 40)
        if width and height:
            return width, height
    width, height = struct.unpack_from(">II", header, 88 if header[0] == 1 else 76)
    return width >> 16, height >> 16


def _timing(table: memoryview | None) -> tuple[int, int]:
    """Number of frames, and their time in ticks, of an stts."""
    if table is None:
        return 0, 0
    entries = struct.unpack_from(">I", table, 4)[0]
    runs = list(struct.iter_unpack(">II", _part(table, 8, entries * 8)))
    return sum(count for count, _ in runs), sum(count * delta for count, delta in runs)


def _sample_bytes(table: memoryview | None) -> int:
    """Bytes of a track's samples in mdat, of an stsz."""
    if table is None:
        return 0
    each, count = struct.unpack_from(">II", table, 4)
    if each:
        return int(each * count)
    return sum(size for (size,) in struct.iter_unpack(">I", _part(table, 12, count * 4)))


def _fragments_duration(mvex: memoryview) -> int:
    header = _find(mvex, b"mehd")
    if header is None:
        return 0
    return int(struct.unpack_from(">Q" if header[0] == 1 else ">I", header, 4)[0])


def _fragments_frame_time(mvex: memoryview) -> int:
    defaults = _find(mvex, b"trex")
    return 0 if defaults is None else int(struct.unpack_from(">I", defaults, 12)[0])


def _boxes(payload: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    position = 0
    while position + 8 <= len(payload):
        size, kind = struct.unpack_from(">I4s", payload, position)
        header_bytes = 8
        if size == 1:
            size, header_bytes = struct.unpack_from(">Q", payload, position + 8)[0], 16
        elif size == 0:
            size = len(payload) - position
        if size < header_bytes or position + size > len(payload):
            raise _not_whole("its box moov is damaged")
        yield kind, payload[position + header_bytes : position + size]
        position += size


def _find(payload: memoryview, kind: bytes) -> memoryview | None:
    return next((content for name, content in _boxes(payload) if name == kind), None)


def _need(payload: memoryview, kind: bytes) -> memoryview:
    found = _find(payload, kind)
    if found is None:
        raise _not_whole(f"its box moov has no {kind.decode()}")
    return found


def _part(payload: memoryview, start: int, length: int) -> memoryview:
    if start + length > len(payload):
        raise _not_whole("its box moov is damaged")
    return payload[start : start + length]


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else 0.0
