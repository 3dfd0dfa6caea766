"""Check an mp4 while its bytes stream, and read its length, size and frame rate without a decoder.

An mp4 is a row of boxes: four bytes of size, four of type, then the payload (ISO/IEC 14496-12). A file is
whole if its box `moov`, which describes the tracks, and every `mdat`, which contains frames, are there to
their last bytes. `moov` and `moof`, which describes a fragment, are kept in memory; `mdat` is skipped.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from magichour_provider.exceptions import NotAVideoError
from magichour_provider.storage.image_headers import SHOWN_BYTES, describe_start

MAX_MOOV_BYTES = 64 << 20
"""A `moov` or `moof` larger than this is refused: an hour of video has about one MiB."""

_TOP_LEVEL_BOXES = frozenset(
    b"ftyp pdin moov moof mfra mdat free skip wide uuid udta meta styp sidx ssix prft emsg".split()
)
"""If one of these has no end, the file was cut. Another one is text or zeros after the last box."""
_UNKNOWN = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class VideoInfo:
    """`duration` in seconds and `fps`, 0 if the file does not say; `width` and `height` in coded pixels."""

    duration: float
    width: int
    height: int
    fps: float


class Mp4Scanner:
    """Feed it an mp4 in chunks of any size; `finish` checks that it is whole, and describes it.

    Both raise NotAVideoError as soon as the bytes cannot be a whole mp4. Messages show at most 16 bytes.

    If `is_lenient`, a whole video is accepted with faults around it: zeros between its boxes, anything after
    it. That is for bytes whose length and checksum prove that the storage has no others.
    """

    def __init__(self) -> None:
        self._head = b""
        self._header = b""
        self._box: bytes | None = None
        self._left = 0
        self._to_the_end = False
        self._is_past_end = self.is_lenient = False
        self._fault: str | None = None
        self._kept: dict[bytes, bytearray] = {}
        """The payload of `moov`, and of the last `moof`."""
        self._fragments = _Fragments()
        self._media_bytes: int | None = None

    @property
    def is_open_ended(self) -> bool:
        """Whether a part of this file may look like the whole: it has fragments, or bytes after its end."""
        return b"moof" in self._kept or not self._is_between_boxes

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the file."""
        if len(self._head) < SHOWN_BYTES:
            self._head += bytes(chunk[: SHOWN_BYTES - len(self._head)])
        view = memoryview(chunk)
        while view and not self._is_past_end:
            taken = self._read_header(view) if self._box is None else self._read_payload(view)
            view = view[taken:]

    def finish(self) -> VideoInfo:
        """Describe the video, after the last byte. Bytes after its last box are ignored."""
        if not self._head:
            raise _not_whole("it is empty")
        if self._head[4:8] != b"ftyp":
            raise _not_whole(f"it {describe_start(self._head)}, and ends there")
        if self._box in _TOP_LEVEL_BOXES and not self._is_between_boxes:
            self._fault = f"it ends inside the box {self._box.decode()}, {self._left} bytes short"
        if self._fault is not None and (not self.is_lenient or self._box in (b"moov", b"moof")):
            raise _not_whole(self._fault)
        moov = self._kept.get(b"moov")
        if moov is None:
            raise _not_whole("it has no box moov, which describes the tracks")
        if self._media_bytes is None:
            raise _not_whole("it has no box mdat, which contains the frames")
        try:
            may_be_cut = self._to_the_end or self._fault is not None or not self._is_between_boxes
            return _read_moov(memoryview(moov), self._media_bytes if may_be_cut else None, self._fragments)
        except (struct.error, IndexError) as error:
            raise _not_whole("its box moov is damaged") from error

    @property
    def _is_between_boxes(self) -> bool:
        is_in_box = self._box is not None and not self._to_the_end
        return not (self._is_past_end or self._header or is_in_box)

    def _read_header(self, view: memoryview) -> int:
        """Take what `view` contains of the header of a box, and enter the box; the number of bytes taken."""
        wanted = 16 if self._header[:4] == b"\0\0\0\1" else 8
        taken = min(wanted - len(self._header), len(view))
        self._header += bytes(view[:taken])
        if len(self._header) < wanted or (wanted == 8 and self._header[:4] == b"\0\0\0\1"):
            return taken
        header, self._header = self._header, b""
        kind, size = header[4:8], int.from_bytes(header[8:] or header[:4], "big")
        left, fault = size - len(header), None
        if self._head[4:8] != b"ftyp":
            raise _not_whole(f"it {describe_start(self._head)}; an mp4 starts with 'ftyp'")
        if not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            fault = f"the bytes {kind.hex()} are no type of a box"
        elif 0 < size < len(header):
            fault = f"the box {kind.decode('latin-1')} has the impossible size {size}"
        is_second_moov = kind == b"moov" and kind in self._kept
        if fault is not None or is_second_moov:
            is_video_over = b"moov" in self._kept and self._media_bytes is not None
            if is_second_moov or not is_video_over:
                self._fault = self._fault or fault or "it has two boxes moov"
                if not self.is_lenient:
                    raise _not_whole(self._fault)
            if size == 0 and not is_video_over:
                self._header = header[4:]  # skips zeros between boxes
            else:
                self._is_past_end = True  # some storages append bytes to a whole video
            return taken
        if kind in (b"moov", b"moof"):
            if left > MAX_MOOV_BYTES:
                raise _not_whole(f"its box {kind.decode()} has {left} bytes, which no video needs")
            self._kept[kind] = bytearray()
        elif kind == b"mdat":
            self._media_bytes = self._media_bytes or 0
        self._box, self._left, self._to_the_end = kind, left, size == 0
        if left == 0:
            self._leave()
        return taken

    def _read_payload(self, view: memoryview) -> int:
        taken = len(view) if self._to_the_end else min(len(view), self._left)
        if self._box == b"mdat":
            self._media_bytes = (self._media_bytes or 0) + taken
        elif self._box in (b"moov", b"moof"):
            self._kept[self._box] += view[:taken]
            if len(self._kept[self._box]) > MAX_MOOV_BYTES:
                raise _not_whole("its box moov is larger than any video needs")
        self._left -= taken
        if self._left == 0 and not self._to_the_end:
            self._leave()
        return taken

    def _leave(self) -> None:
        kind, self._box = self._box, None
        try:
            if kind == b"moov":
                self._fragments.read_defaults(memoryview(self._kept[kind]))
            elif kind == b"moof":
                self._fragments.add(memoryview(self._kept[kind]))
        except (struct.error, IndexError) as error:
            raise _not_whole("its box moov or moof is damaged") from error


def _not_whole(why: str) -> NotAVideoError:
    return NotAVideoError(f"This is not a whole mp4: {why}.")


# --- moov and moof. Numbers are offsets into payloads, as in the standard.


class _Fragments:
    """The frames of each track in the fragments, their time in ticks and their bytes."""

    def __init__(self) -> None:
        self.frames, self.ticks, self.media_bytes = Counter[int](), Counter[int](), Counter[int]()
        self._defaults: dict[int, tuple[int, int]] = {}

    def read_defaults(self, moov: memoryview) -> None:
        """Read the ticks and bytes of a frame of each track, unless its fragment says otherwise."""
        for kind, payload in _boxes(_find(moov, b"mvex") or memoryview(b"")):
            if kind == b"trex":
                track_id, _, ticks, size = struct.unpack_from(">IIII", payload, 4)
                self._defaults[track_id] = (ticks, size)

    def add(self, moof: memoryview) -> None:
        """Count the frames of one `moof`."""
        for traf in (payload for kind, payload in _boxes(moof) if kind == b"traf"):
            header = _need(traf, b"tfhd")
            flags, track_id = struct.unpack_from(">II", header)
            ticks, size = self._defaults.get(track_id, (0, 0))
            offset = 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)
            if flags & 8:
                ticks = struct.unpack_from(">I", header, offset)[0]
            if flags & 16:
                size = struct.unpack_from(">I", header, offset + 4 * (flags >> 3 & 1))[0]
            for run in (payload for kind, payload in _boxes(traf) if kind == b"trun"):
                flags, count = struct.unpack_from(">II", run)
                start = 8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1)
                fields = (flags >> 8 & 0xF).bit_count()
                values = struct.unpack_from(f">{count * fields}I", _part(run, start, 4 * count * fields))
                has_ticks, has_size = flags >> 8 & 1, flags >> 9 & 1
                self.frames[track_id] += count
                self.ticks[track_id] += sum(values[::fields]) if has_ticks else count * ticks
                self.media_bytes[track_id] += sum(values[has_ticks::fields]) if has_size else count * size


@dataclass(frozen=True)
class _Track:
    handler: bytes
    frames: int
    seconds: float
    media_bytes: int
    width: int
    height: int


def _read_moov(moov: memoryview, media_bytes: int | None, fragments: _Fragments) -> VideoInfo:
    """`media_bytes` is given if mdat may have been cut; the sizes of the samples are checked then."""
    tracks = [_read_track(payload, fragments) for kind, payload in _boxes(moov) if kind == b"trak"]
    pictures = [track for track in tracks if track.handler == b"vide"]
    if not pictures:
        raise _not_whole("it has no video track")
    video = max(pictures, key=lambda track: track.frames)
    if not (video.width and video.height):
        raise _not_whole("its video track has no size in pixels")
    if not video.frames:
        raise _not_whole("its video track has no frames")
    needed = sum(track.media_bytes for track in tracks)
    if media_bytes is not None and media_bytes < needed:
        raise _not_whole(f"it ends inside the box mdat, {needed - media_bytes} bytes short")
    timescale, duration = _times(_need(moov, b"mvhd"))
    seconds = video.seconds if fragments.frames else _ratio(duration, timescale) or video.seconds
    return VideoInfo(seconds, video.width, video.height, _ratio(video.frames, video.seconds))


def _read_track(trak: memoryview, fragments: _Fragments) -> _Track:
    header, media = _need(trak, b"tkhd"), _need(trak, b"mdia")
    track_id = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]
    timescale, duration = _times(_need(media, b"mdhd"))
    handler = bytes(_need(media, b"hdlr")[8:12])
    samples = _find(_need(media, b"minf"), b"stbl") or memoryview(b"")
    frames, frame_time = fragments.frames[track_id], fragments.ticks[track_id]
    table = _find(samples, b"stts")
    if table is not None:
        entries = struct.unpack_from(">I", table, 4)[0]
        for count, delta in struct.iter_unpack(">II", _part(table, 8, entries * 8)):
            frames, frame_time = frames + count, frame_time + count * delta
    width = height = 0
    if handler == b"vide":  # the coded size of the first sample entry, else the display size of tkhd
        descriptions = _find(samples, b"stsd") or b""
        if len(descriptions) >= 44:
            width, height = struct.unpack_from(">HH", descriptions, 40)
        if not (width and height):
            width, height = struct.unpack_from(">HxxHxx", header, 88 if header[0] == 1 else 76)
    media_bytes, table = fragments.media_bytes[track_id], _find(samples, b"stsz")
    if table is not None:
        each, count = struct.unpack_from(">II", table, 4)
        sizes = () if each else struct.iter_unpack(">I", _part(table, 12, count * 4))
        media_bytes += each * count + sum(size for (size,) in sizes)
    seconds = _ratio(frame_time or duration, timescale)
    return _Track(handler, frames, seconds, media_bytes, width, height)


def _times(header: memoryview) -> tuple[int, int]:
    """Ticks per second and length in ticks, of an mvhd or mdhd."""
    layout, offset = (">IQ", 20) if header[0] == 1 else (">II", 12)
    timescale, duration = struct.unpack_from(layout, header, offset)
    return timescale, 0 if duration in _UNKNOWN else duration


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
