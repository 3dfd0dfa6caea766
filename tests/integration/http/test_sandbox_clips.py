"""Clips are real: they play, have the asked length, and nearly the asked size."""

from __future__ import annotations

import io
import threading

import av
import pytest
from PIL import Image

from magichour_provider.sandbox.jobs import Order, RenderError
from magichour_provider.sandbox.render import Source, clip_size, render


def order(**changes):
    fields = {
        "name": "n",
        "requested_model": "ltx-2.5",
        "model": "ltx-2.5",
        "resolution": "720p",
        "end_seconds": 5.0,
        "audio": False,
        "fps": 24,
        "credits": 0,
        "image_file_path": "api-assets/x",
        "end_image_file_path": None,
        "prompt": None,
    }
    return Order(**{**fields, **changes})


def decoded(content):
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("model", "seconds", "fps"), [("ltx-2.5", 5, 24), ("sora-2", 4, 30), ("ltx-2.5", 60, 24)]
)
def test_a_clip_has_exactly_its_frames_and_reports_its_true_size(magic, model, seconds, fps):
    job = magic.complete(model=model, end_seconds=seconds)
    content = magic.files.get(job["download"]["url"]).content
    with av.open(io.BytesIO(content)) as container:
        [video] = container.streams
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == job["fps"] == fps
        assert video.duration * video.time_base == seconds
        assert (video.width, video.height) == (job["width"], job["height"])
        assert job["width"] % 2 == job["height"] % 2 == 0
        assert sum(1 for _ in container.decode(video)) == seconds * fps
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("audio", [True, False])
def test_a_clip_has_a_sound_track_where_audio_is_on(magic, audio):
    job = magic.complete(model="ltx-2.5", audio=audio)
    with av.open(io.BytesIO(magic.files.get(job["download"]["url"]).content)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"] * audio
        assert container.duration == 5_000_000


def test_the_picture_moves_and_is_the_uploaded_one(magic):
    file = io.BytesIO()
    picture = Image.new("RGB", (160, 90), "red")
    picture.paste("blue", (80, 0, 160, 90))
    picture.save(file, "PNG")
    job = magic.complete(image=magic.upload(file.getvalue(), "png"))
    frames = decoded(magic.files.get(job["download"]["url"]).content)
    red, blue = frames[0].getpixel((10, 45)), frames[0].getpixel((150, 45))
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    assert frames[0].tobytes() != frames[-1].tobytes()


def test_the_end_image_is_where_the_clip_ends(tmp_path):
    ends = []
    for name in ("red", "blue"):
        Image.new("RGB", (160, 90), name).save(tmp_path / f"{name}.png")
        ends.append(Source(name, tmp_path / f"{name}.png"))
    render(order(end_seconds=1.0), *ends, tmp_path / "clip.mp4", quick=True)
    frames = decoded((tmp_path / "clip.mp4").read_bytes())
    assert frames[0].getpixel((80, 45))[0] > 150
    assert frames[-1].getpixel((80, 45))[2] > 150


def test_a_picture_taken_upright_makes_an_upright_clip(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (320, 180), "red").save(tmp_path / "turned.jpg", exif=turned)
    clip = render(
        order(end_seconds=1.0), Source("x", tmp_path / "turned.jpg"), None, tmp_path / "c.mp4", quick=True
    )
    assert clip.height > clip.width


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "I;16"])
def test_pictures_of_any_colour_mode_are_taken(tmp_path, mode):
    Image.new(mode, (64, 64)).save(tmp_path / "p.tif")
    assert render(
        order(end_seconds=1.0), Source("x", tmp_path / "p.tif"), None, tmp_path / "c.mp4", quick=True
    )


@pytest.mark.parametrize("resolution", ["360p", "480p", "720p", "1080p", "4k"])
@pytest.mark.parametrize("shape", [(1600, 900), (900, 1600), (1000, 1000), (4000, 3000), (1, 50), (50, 1)])
def test_the_size_is_near_the_resolution_and_even(resolution, shape):
    nominal = {"360p": 360, "480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}[resolution]
    width, height = clip_size(shape, resolution, quick=False)
    assert width % 2 == height % 2 == 0
    assert abs(min(width, height) - nominal) <= 4
    assert (width < height) == (shape[0] < shape[1]) or shape[0] == shape[1]


def test_landscape_at_720p_is_not_quite_1280_wide():
    assert clip_size((1920, 1080), "720p", quick=False) == (1276, 720)
    assert max(clip_size((1920, 1080), "720p", quick=True)) == 160


def test_a_clip_that_is_given_up_leaves_nothing(tmp_path):
    Image.new("RGB", (160, 90), "green").save(tmp_path / "p.png")
    abandoned = threading.Event()
    abandoned.set()
    with pytest.raises(RenderError):
        render(
            order(),
            Source("x", tmp_path / "p.png"),
            None,
            tmp_path / "c.mp4",
            quick=True,
            abandoned=abandoned,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_a_full_size_clip_plays(tmp_path):
    Image.new("RGB", (1920, 1080), "green").save(tmp_path / "p.png")
    clip = render(
        order(end_seconds=1.0), Source("x", tmp_path / "p.png"), None, tmp_path / "c.mp4", quick=False
    )
    frames = decoded(clip.path.read_bytes())
    assert (len(frames), frames[0].size) == (24, (1276, 720))
