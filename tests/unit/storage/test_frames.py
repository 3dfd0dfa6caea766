"""Frames of real videos: the right moment, upright, and nothing that a bad video may do to the worker."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from magichour_provider.exceptions import NetworkError, PictureError
from magichour_provider.storage.frames import read_frames

WITHIN = (200, 200)
KINDS = {
    "one key frame": {"g": "1000"},
    "B-frames": {"g": "1000", "bf": "3", "b-adapt": "0"},
    "many key frames": {"g": "5"},
    "index first": {"movflags": "faststart"},
    "fragments": {"movflags": "frag_keyframe+empty_moov", "g": "5"},
    "MPEG-4": {"codec": "mpeg4"},
}


def levels(video, fractions):
    stills = read_frames(str(video), fractions, within=WITHIN)
    return [image.convert("L").getpixel((image.width // 2, image.height // 2)) for image in stills.images]


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_frame_of_the_moment(make_video, kind):
    video = make_video(**KINDS[kind])
    near = 25 if kind == "fragments" else 6  # whose index is of fragments, not of frames
    still = read_frames(str(video), [0], within=WITHIN)
    assert (still.duration, still.width, still.height) == (pytest.approx(25 / 24, abs=0.01), 64, 48)
    assert levels(video, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0, 64, 128, 191, 255], abs=near)


@pytest.mark.parametrize(
    ("size", "within", "expected"),
    [
        ((640, 360), (320, 320), (320, 180)),
        ((360, 640), (320, 320), (180, 320)),
        ((64, 48), (320, 320), (64, 48)),
        ((63, 47), (320, 320), (63, 47)),
        ((63, 47), (21, 21), (21, 16)),
        ((1024, 16), (10, 10), (10, 1)),
    ],
)
def test_pictures_keep_their_shape_and_are_never_enlarged(make_video, size, within, expected):
    video = make_video(size=size, pix_fmt="yuv444p", frames=1)
    (image,) = read_frames(str(video), [0], within=within).images
    assert (image.size, image.mode) == (expected, "RGB")


def test_a_video_that_was_filmed_sideways_is_upright(tmp_path):
    if not hasattr(av.VideoFrame, "rotation"):
        pytest.skip("this PyAV does not know the rotation")
    white_left = Image.new("RGB", (64, 32))
    white_left.paste("white", (0, 0, 32, 32))
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        file.mux(video.encode(av.VideoFrame.from_image(white_left)))
        file.mux(video.encode(None))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = clockwise
    path.write_bytes(data)
    stills = read_frames(str(path), [0], within=WITHIN)
    assert (stills.width, stills.height, stills.images[0].size) == (32, 64, (32, 64))
    top, bottom = (stills.images[0].getpixel((16, y))[0] for y in (8, 56))
    assert (top > 200, bottom < 50) == (True, True)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_padding_is_not_read(make_video):
    padding = 1 << 30
    video, count = make_video(), Path("/proc/self/io")
    data = video.read_bytes()
    index = data.index(b"moov") - 4
    with video.open("wb") as file:  # a sparse file: the padding takes no space
        file.write(data[:index] + struct.pack(">I4s", padding, b"free"))
        file.seek(index + padding)
        file.write(data[index:])
    assert video.stat().st_size > padding
    before = int(count.read_text().split()[1])
    assert levels(video, [0.5]) == pytest.approx([128], abs=6)
    assert int(count.read_text().split()[1]) - before < 4 << 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html><body>Access denied</body></html>", "starts with '<html><body>Acce': a web page"),
        (b"\xff\xd8\xff\xe0" * 100, "a JPEG image"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nsecond.mp4\n", "starts with '#EXTM3U"),
        (b"ffconcat version 1.0\nfile second.mp4\n", "starts with 'ffconcat"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "damaged, or not a video"),
    ],
    ids=["empty", "html", "jpeg", "playlist", "list", "header alone"],
)
def test_what_is_no_video_is_reported_by_what_it_is(make_video, tmp_path, content, reason):
    make_video("second.mp4")
    file = tmp_path / "video.mp4"
    file.write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        read_frames(str(file), [0.5], within=WITHIN)


def test_what_is_no_file_is_reported(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {"missing.mp4": "does not exist", "": "it is a folder", "pipe.mp4": "not a regular file"}
    for name, reason in reasons.items():
        with pytest.raises(PictureError, match=reason):
            read_frames(str(tmp_path / name), [0], within=WITHIN)


def test_sound_alone_has_no_picture(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame("fltp", "mono", 1024)
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate, frame.pts = 44100, 0
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    with pytest.raises(PictureError, match="has no video track"):
        read_frames(str(tmp_path / "sound.mp4"), [0], within=WITHIN)


def test_a_video_without_its_end_shows_what_is_there(make_video):
    video = make_video(frames=100, movflags="faststart", g="10", size=(320, 240))
    video.write_bytes(video.read_bytes()[: -video.stat().st_size // 3])
    assert levels(video, [0]) == pytest.approx([0], abs=6)


def test_a_frame_of_many_pixels_is_refused(make_video):
    video = make_video(size=(4400, 4400), frames=1, preset="ultrafast")
    with pytest.raises(PictureError, match="4400 x 4400 pixels are too large"):
        read_frames(str(video), [0], within=WITHIN)


def test_a_frame_that_is_suddenly_large_or_damaged_is_not_decoded(tmp_path):
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w", format="mp4") as file:
        video = file.add_stream("mjpeg", rate=24)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        for number, size in enumerate([(64, 48), (64, 48), (4400, 4400)]):
            for packet in jpegs(size):
                packet.stream, packet.pts, packet.dts = video, number, number
                packet.time_base = Fraction(1, 24)
                file.mux(packet)
        damaged = av.Packet(b"\xff\xd8 damaged")
        damaged.stream, damaged.pts, damaged.dts, damaged.time_base = video, 3, 3, Fraction(1, 24)
        file.mux(damaged)
    stills = read_frames(str(path), [1], within=WITHIN)
    assert (stills.width, stills.height) == (64, 48)


def jpegs(size):
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, "yuvj420p", Fraction(1, 24)
    return [*encoder.encode(av.VideoFrame.from_image(Image.new("RGB", size))), *encoder.encode(None)]


def test_a_frame_of_many_bytes_is_refused(make_video):
    video = make_video(frames=1)
    data = bytearray(video.read_bytes())
    size = data.index(b"stsz") + 8
    data[size : size + 4] = struct.pack(">I", 100 << 20)
    video.write_bytes(data)
    os.truncate(video, 200 << 20)
    with pytest.raises(PictureError, match="larger than 64 MiB"):
        read_frames(str(video), [0], within=WITHIN)


def test_damage_of_any_kind_ends_in_frames_or_in_one_error(make_video, tmp_path):
    """In a process of its own: a crash of the decoder would end this one."""
    video = make_video(frames=12, bf="2")
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(video), str(tmp_path / "damaged.mp4")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shown, refused = map(int, done.stdout.split())
    assert shown + refused == 300
    assert shown > 20
    assert refused > 20


DAMAGE = """
import random, sys
from pathlib import Path
from magichour_provider.exceptions import PictureError
from magichour_provider.storage.frames import read_frames

whole, damaged = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
dice = random.Random(5)
shown = refused = 0
for _ in range(300):
    data = bytearray(whole)
    for _ in range(dice.choice([1, 4, 30])):
        data[dice.randrange(len(data))] = dice.randrange(256)
    damaged.write_bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])
    try:
        read_frames(str(damaged), [0, 0.5, 1], within=(50, 50))
        shown += 1
    except PictureError:
        refused += 1
print(shown, refused)
"""


# In a store


def test_video_is_read_where_it_lies(make_video, memory_store):
    memory_store.pipe("/videos/a.mp4", make_video().read_bytes())
    stills = read_frames("memory://some_store@videos/a.mp4", [0.5], within=WITHIN)
    assert stills.images[0].convert("L").getpixel((32, 24)) == pytest.approx(128, abs=6)
    reason = r"Video memory://videos/b.mp4 cannot be read.* does not exist"
    with pytest.raises(PictureError, match=reason):
        read_frames("memory://some_store@videos/b.mp4", [0.5], within=WITHIN)


@pytest.mark.parametrize("good_bytes", [0, 1000, 3000])
def test_store_in_trouble_may_be_asked_again(make_video, memory_store, monkeypatch, good_bytes):
    memory_store.pipe("/videos/a.mp4", make_video().read_bytes())
    opened, left = memory_store.open("/videos/a.mp4", "rb"), iter(range(good_bytes, -1, -500))

    def read(size):
        """The store goes away for a moment."""
        if next(left, 1) == 0:
            raise ConnectionResetError("reset by peer")
        return original(min(size, 500))

    original, opened.read = opened.read, read
    monkeypatch.setattr(type(memory_store), "_open", lambda *_, **__: opened)
    with pytest.raises(NetworkError, match=r"Video memory://videos/a.mp4 .*reset by peer"):
        read_frames("memory://videos/a.mp4", [0.5], within=WITHIN)
