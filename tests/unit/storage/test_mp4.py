"""Whole mp4s are described, and nothing else is accepted, however the bytes arrive."""

from __future__ import annotations

import contextlib
import io
import struct

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magichour_provider.exceptions import NotAVideoError
from magichour_provider.storage.mp4 import MAX_MOOV_BYTES, Mp4Scanner

from .conftest import boxes_of, make_video

WHOLE = make_video(audio=True)
FASTSTART = make_video(movflags="faststart", audio=True)
FRAGMENTED = make_video(movflags="frag_keyframe+empty_moov")
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VIDEOS = st.sampled_from([WHOLE, FASTSTART])


def scan(data, cuts=(), *, is_lenient=False):
    scanner, start = Mp4Scanner(), 0
    scanner.is_lenient = is_lenient
    for end in [*sorted(cuts), len(data)]:
        scanner.feed(data[start:end])
        start = end
    return scanner.finish()


def refusal(data):
    with pytest.raises(NotAVideoError) as caught:
        scan(data)
    return caught.value.what


def box(kind, payload=b""):
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


@pytest.mark.parametrize("data", [WHOLE, FASTSTART])
def test_description_is_that_of_a_decoder(data):
    info = scan(data)
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        assert info.duration == pytest.approx(container.duration / av.time_base, abs=0.001)
        assert (info.width, info.height) == (video.width, video.height) == (64, 48)
        assert info.fps == pytest.approx(float(video.average_rate))


@given(data=VIDEOS, cuts=st.sets(st.integers(0, len(WHOLE)), max_size=20))
@SLOW
def test_any_split_gives_the_same_description(data, cuts):
    assert scan(data, cuts) == scan(data)


@given(data=VIDEOS, at=st.floats(0, 1, exclude_max=True))
@SLOW
def test_truncation_at_any_byte_is_refused(data, at):
    refusal(data[: int(at * len(data))])


@pytest.mark.parametrize("data", [WHOLE, FASTSTART])
def test_truncation_around_each_box_is_refused(data):
    for _, start, _ in boxes_of(data):
        for offset in (-1, 0, 1, 7, 8, 9):
            if 0 <= start + offset < len(data):
                refusal(data[: start + offset])


ENDINGS = [
    bytes(1),
    bytes(4),
    bytes(8),
    bytes(4096),
    b"\n",
    b"\r\n--b--\r\n",
    b"<html>" * 9,
    box(b"mfra")[:-1],
]
ENDINGS += [b"\0\0\0\1mdat\0", b"\0\0\0\4free"]


@pytest.mark.parametrize("data", [WHOLE, FASTSTART, FRAGMENTED])
@pytest.mark.parametrize("ending", ENDINGS)
@given(cuts=st.sets(st.integers(0, len(WHOLE)), max_size=4))
@settings(max_examples=5, deadline=None)
def test_bytes_after_the_last_box_are_ignored_and_known(data, ending, cuts):
    assert scan(data + ending, cuts) == scan(data)
    scanner = Mp4Scanner()
    scanner.feed(data)
    assert scanner.is_open_ended == (data is FRAGMENTED)
    scanner.feed(ending)
    assert scanner.is_open_ended


@pytest.mark.parametrize("kind", [b"free", b"mfra", b"moof", b"mdat", b"udta", b"uuid"])
def test_box_that_is_cut_after_the_video_is_refused(kind):
    assert "1 bytes short" in refusal(WHOLE + box(kind, bytes(100))[:-1])


def start_of_box(size, kind):
    return struct.pack(">I4s", size, kind) + bytes(20)


MORE = [WHOLE, WHOLE[:700], FASTSTART[:700], FRAGMENTED[:-9], box(b"moov"), start_of_box(500, b"udta")]
MORE += [start_of_box(500, b"mdat"), start_of_box(MAX_MOOV_BYTES - 1, b"moov")]


@pytest.mark.parametrize("more", MORE, ids=len)
def test_anything_may_follow_a_video_of_confirmed_bytes(more):
    for data in (WHOLE, FASTSTART, FRAGMENTED):
        refusal(data + more)
        for cuts in ((), range(0, len(data), 97)):
            assert scan(data + more, cuts, is_lenient=True) == scan(data)


@pytest.mark.parametrize("count", [4, 8, 12, 4096])
def test_zeros_may_stand_between_the_boxes_of_confirmed_bytes(count):
    for data in (WHOLE, FASTSTART):
        spaced = bytes(count).join(data[start : start + size] for _, start, size in boxes_of(data))
        refusal(spaced)
        assert scan(spaced, range(0, len(spaced), 97), is_lenient=True) == scan(data)


@given(data=st.sampled_from([WHOLE, FASTSTART]), at=st.floats(0, 1, exclude_max=True))
@SLOW
def test_confirmed_bytes_without_the_whole_video_are_refused(data, at):
    last = max(start + size for kind, start, size in boxes_of(data) if kind in ("moov", "mdat"))
    with pytest.raises(NotAVideoError):
        scan(data[: int(at * last)], is_lenient=True)


@given(more=st.binary(min_size=1, max_size=40))
@SLOW
def test_any_bytes_after_the_last_box_are_ignored_or_refused(more):
    with contextlib.suppress(NotAVideoError):
        assert scan(WHOLE + more) == scan(WHOLE)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("data", [WHOLE, FASTSTART, FRAGMENTED])
def test_bytes_before_the_end_are_no_ending(data, ending):
    """`mdat` seems to end early, as if a bit of its size were wrong."""
    start = next(start for kind, start, _ in boxes_of(data) if kind == "mdat")
    damaged = bytearray(data)
    damaged[start : start + 4] = struct.pack(">I", 16)
    refusal(bytes(damaged) + ending)


@given(data=VIDEOS, at=st.floats(0, 1, exclude_max=True), size=st.binary(min_size=4, max_size=8))
@SLOW
def test_damage_raises_only_the_one_error(data, at, size):
    """Sizes and counts of any value within moov, and anywhere else; none hangs or takes much memory."""
    start = next(start for kind, start, _ in boxes_of(data) if kind == "moov")
    end = start + next(size for kind, _, size in boxes_of(data) if kind == "moov")
    offset = start + int(at * (end - start))
    for position in (offset, int(at * len(data))):
        damaged = bytearray(data)
        damaged[position : position + len(size)] = size
        with contextlib.suppress(NotAVideoError):
            scan(bytes(damaged))


@given(data=st.binary(max_size=200))
@SLOW
def test_bytes_without_ftyp_are_refused(data):
    assert data[4:8] == b"ftyp" or refusal(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"<html><body>no</body></html>", "starts with '<html><body>no</': a web page"),
        (box(b"mdat", bytes(50)) + box(b"moov"), "starts with 'ftyp'"),
        (box(b"ftyp", b"isom"), "no box moov"),
        (box(b"ftyp", b"isom") + box(b"moov"), "no box mdat"),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"moov"), "two boxes moov"),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"mdat"), "no video track"),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 4, b"free"), "impossible size 4"),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", MAX_MOOV_BYTES + 9, b"moov"), "no video needs"),
    ],
)
def test_refusal_says_why(data, why):
    assert why in refusal(data)


def test_refusal_shows_at_most_sixteen_bytes():
    assert b"SECRET".decode() not in refusal(b"<html>0123456789SECRET")


def test_64_bit_sizes_and_a_box_to_the_end_are_read():
    boxes = {kind: WHOLE[start : start + size] for kind, start, size in boxes_of(WHOLE)}
    payload = boxes["mdat"][8:]
    long = struct.pack(">I4sQ", 1, b"mdat", 16 + len(payload)) + payload
    endless = struct.pack(">I4s", 0, b"mdat") + payload
    assert scan(boxes["ftyp"] + long + boxes["moov"]) == scan(WHOLE)
    assert scan(boxes["ftyp"] + boxes["moov"] + endless) == scan(WHOLE)
    assert "bytes short" in refusal(boxes["ftyp"] + boxes["moov"] + endless[:-1])


FRAGMENTS = [
    {"movflags": "frag_keyframe+empty_moov"},
    {"movflags": "frag_keyframe"},
    {"movflags": "dash", "frag_duration": "400000"},
    {"movflags": "cmaf", "frag_duration": "400000"},
]


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize("options", FRAGMENTS, ids=str)
def test_fragmented_mp4_is_described_as_a_whole_one(options, audio):
    data = make_video(**options, audio=audio)
    info = scan(data, range(0, len(data), 97))
    assert (info.width, info.height) == (64, 48)
    assert info.fps == pytest.approx(24)
    assert info.duration == pytest.approx(1.5, abs=0.1)


@given(at=st.floats(0, 1, exclude_max=True))
@SLOW
def test_fragmented_mp4_that_is_cut_is_refused_or_known(at):
    scanner = Mp4Scanner()
    scanner.feed(FRAGMENTED[: int(at * len(FRAGMENTED))])
    with contextlib.suppress(NotAVideoError):
        scanner.finish()
        assert scanner.is_open_ended
