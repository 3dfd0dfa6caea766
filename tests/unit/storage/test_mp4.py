from __future__ import annotations

import io
import random
import struct

import av
import pytest

from magichour_provider.exceptions import NotAVideoError
from magichour_provider.storage.mp4 import MAX_MOOV_BYTES, VideoInfo, Mp4Scanner

from .conftest import boxes_of, make_clip


def scan(data: bytes, chunk_bytes: int = 4096) -> VideoInfo:
    scanner = Mp4Scanner()
    for start in range(0, len(data), chunk_bytes):
        scanner.feed(data[start : start + chunk_bytes])
    return scanner.finish()


def refusal(data: bytes, chunk_bytes: int = 4096) -> str:
    with pytest.raises(NotAVideoError) as caught:
        scan(data, chunk_bytes)
    return caught.value.what


def box(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("faststart", [False, True])
def test_reads_a_real_clip_like_a_decoder_does(faststart: bool, audio: bool, chunk_bytes: int) -> None:
    data = make_clip(faststart=faststart, audio=audio)
    kinds = [kind for kind, _, _ in boxes_of(data)]
    assert (kinds.index("moov") < kinds.index("mdat")) is faststart

    info = scan(data, chunk_bytes)

    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        assert info.duration == pytest.approx(container.duration / av.time_base, abs=0.001)
        assert (info.width, info.height) == (video.width, video.height) == (64, 48)
        assert info.fps == pytest.approx(float(video.average_rate))
        assert info.has_audio is bool(container.streams.audio) is audio
    assert info.duration == pytest.approx(1.5, abs=0.05)
    assert info.fps == pytest.approx(24)


@pytest.mark.parametrize("faststart", [False, True])
def test_every_truncation_is_refused(faststart: bool) -> None:
    data = make_clip(faststart=faststart, audio=True)
    boundaries = {start for _, start, _ in boxes_of(data)}
    offsets = set(range(0, len(data), 97)) | {b + d for b in boundaries for d in (-1, 0, 1, 7, 8, 9)}
    for offset in sorted(o for o in offsets if 0 <= o < len(data)):
        refusal(data[:offset])


def test_a_truncation_names_the_box_and_what_is_missing(clip: bytes) -> None:
    kind, start, _ = boxes_of(clip)[-1]
    assert kind == "moov"
    assert refusal(clip[:-5]).endswith("it ends inside the box moov, 5 bytes short.")
    assert refusal(clip[: start + 4]).endswith("it ends inside the header of a box.")
    assert "no box moov" in refusal(clip[:start])


def test_bytes_after_the_last_box_are_refused(clip: bytes) -> None:
    assert "there is no box where one should begin" in refusal(clip + b"\0\0\0\x08\0\0\0\0")
    assert "inside the header" in refusal(clip + b"\n")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"\0\0", "and ends there"),
        (b"<html><body>Sorry, this link has expired</body></html>", "a web page"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "starts with"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b'{"message": "not found"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
        (b"\x1a\x45\xdf\xa3" + bytes(50), "a WebM or Matroska video"),
        (bytes(range(200, 256)), "where an mp4 has 'ftyp'"),
        (box(b"mdat", bytes(50)) + box(b"moov"), "where an mp4 has 'ftyp'"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 4096])
def test_what_is_no_mp4_is_refused_by_what_it_starts_with(data: bytes, why: str, chunk_bytes: int) -> None:
    assert why in refusal(data, chunk_bytes)


def test_a_web_page_is_refused_with_its_first_bytes() -> None:
    with pytest.raises(NotAVideoError, match="a web page"):
        Mp4Scanner().feed(b"<html><body>")


def test_a_message_shows_at_most_sixteen_bytes_of_the_content() -> None:
    secret = b"<a href='https://videos.magichour.ai/x?sig=SECRET'>"
    what = refusal(secret)
    assert "<a href='https:/" in what
    assert secret[:17].decode() not in what


def test_boxes_with_64_bit_sizes_and_a_box_to_the_end_are_read(clip: bytes) -> None:
    parts = {kind: clip[start : start + size] for kind, start, size in boxes_of(clip)}
    media = parts["mdat"][8:]
    wide = struct.pack(">I4sQ", 1, b"mdat", 16 + len(media)) + media
    open_ended = struct.pack(">I4s", 0, b"mdat") + media
    expected = scan(clip)
    for chunk_bytes in (1, 5, 4096):
        assert scan(parts["ftyp"] + wide + parts["moov"], chunk_bytes) == expected
        assert scan(parts["ftyp"] + parts["moov"] + open_ended, chunk_bytes) == expected
    assert "bytes short" in refusal(parts["ftyp"] + parts["moov"] + open_ended[:-1])


def test_a_moov_without_a_video_track_is_refused(clip: bytes) -> None:
    ftyp = box(b"ftyp", b"isom\0\0\2\0isom")
    assert "no box mdat" in refusal(ftyp + box(b"moov"))
    assert "no video track" in refusal(ftyp + box(b"moov") + box(b"mdat", b"x"))
    assert "two boxes moov" in refusal(ftyp + box(b"moov") + box(b"moov"))
    assert "damaged" in refusal(ftyp + box(b"moov", b"\0\0\0\x07trak") + box(b"mdat"))
    assert "no video track" in refusal(clip.replace(b"vide", b"meta"))


def test_a_damaged_moov_is_refused(clip: bytes) -> None:
    ftyp, media = box(b"ftyp", b"isom\0\0\2\0isom"), box(b"mdat", b"x")
    short_header = box(b"moov", box(b"trak", box(b"mdia", box(b"mdhd", b"\0"))))
    assert "moov is damaged" in refusal(ftyp + short_header + media)
    frames_table = clip.index(b"stts") + 8
    too_many = clip[:frames_table] + b"\0\0\1\0" + clip[frames_table + 4 :]
    assert "moov is damaged" in refusal(too_many)


def test_an_absurdly_large_moov_is_refused_before_it_is_kept() -> None:
    scanner = Mp4Scanner()
    scanner.feed(box(b"ftyp", b"isom\0\0\2\0"))
    with pytest.raises(NotAVideoError, match="which no clip needs"):
        scanner.feed(struct.pack(">I4s", MAX_MOOV_BYTES + 9, b"moov"))


def test_a_fragmented_mp4_is_accepted_with_what_it_says_of_itself() -> None:
    data = make_clip(options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    assert "moof" in [kind for kind, _, _ in boxes_of(data)]
    info = scan(data)
    assert (info.width, info.height) == (64, 48)


def test_no_damage_raises_anything_but_the_one_error() -> None:
    """Bytes of moov and headers overwritten, dropped and doubled at random, from a fixed seed."""
    chance = random.Random(20260622)
    originals = [make_clip(audio=True), make_clip(faststart=True)]
    refused = 0
    for _ in range(4000):
        data = bytearray(chance.choice(originals))
        _, start, size = next(found for found in boxes_of(data) if found[0] == "moov")
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(start, min(start + size, len(data)))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at : at + 4] = chance.choice(
                        [b"\xff" * 4, b"\0" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff"]
                    )
                case 2:
                    del data[at : at + chance.randint(1, 40)]
                case _:
                    data[at:at] = data[at : at + chance.randint(1, 40)]
        try:
            scan(bytes(data), chance.choice([13, 4096]))
        except NotAVideoError:
            refused += 1
    assert refused > 1000
