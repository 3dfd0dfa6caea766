"""The sandbox's videos are real: they play, have the requested length, and nearly the requested size."""

from __future__ import annotations

import hashlib
import io
import threading

import av
import pytest
from PIL import Image

from magichour_provider.sandbox.render import RenderError, frame_size, render
from magichour_provider.sandbox.schemas import Behaviour, JobRequest

REQUEST = JobRequest("a name", "ltx-2.5", "ltx-2.5", "720p", 1, False, 24, 48, "saved-items/a")


def rendered(folder, *images, quick=True):
    """The frames of the video of these images."""
    path = folder / "video.mp4"
    render(REQUEST, images, [path], Behaviour(), quick=quick, abandoned=threading.Event())
    return decoded(path.read_bytes())


def decoded(content):
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("model", "seconds", "fps", "audio"),
    [("ltx-2.5", 5, 24, True), ("sora-2", 4, 30, True), ("ltx-2.5", 30, 24, False)],
)
def test_video_has_all_frames_the_reported_size_and_audio(magic, model, seconds, fps, audio):
    job = magic.complete(model=model, end_seconds=seconds, audio=audio)
    content = magic.files.get(job["download"]["url"]).content
    with av.open(io.BytesIO(content)) as container:
        (video,) = container.streams.video
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"] * audio
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == job["fps"] == fps
        assert video.duration * video.time_base == seconds
        assert (video.width, video.height) == (job["width"], job["height"])
        assert sum(1 for _ in container.decode(video)) == seconds * fps
    assert content.index(b"moov") < content.index(b"mdat")


def test_video_may_be_fragmented_and_end_with_other_bytes(magic):
    magic.control.behaviour(video_fragmented=True, video_ending="\0" * 8 + "\n", downloads_per_job=2)
    for link in magic.complete(model="ltx-2.5")["downloads"]:
        answer = magic.files.get(link["url"])
        assert answer.content.endswith(bytes(8) + b"\n")
        assert answer.headers["etag"] == f'"{hashlib.md5(answer.content).hexdigest()}"'
        assert answer.content.count(b"moof") > 0
        assert len(decoded(answer.content)) == 120


def test_video_shows_the_uploaded_image_and_moves(magic):
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


def test_video_ends_with_the_end_image(tmp_path):
    images = [tmp_path / "red.png", tmp_path / "blue.png"]
    for image in images:
        Image.new("RGB", (160, 90), image.stem).save(image)
    frames = rendered(tmp_path, *images)
    assert frames[0].getpixel((80, 45))[0] > 150
    assert frames[-1].getpixel((80, 45))[2] > 150


def test_image_turned_upright_by_exif_gives_an_upright_video(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (320, 180), "red").save(tmp_path / "turned.jpg", exif=turned)
    width, height = rendered(tmp_path, tmp_path / "turned.jpg")[0].size
    assert height > width


@pytest.mark.parametrize(
    ("mode", "gray"),
    [
        *[("RGBA", (128, 128, 128, 0)), ("L", 128), ("P", 128), ("CMYK", (0, 0, 0, 127)), ("F", 0.5)],
        *[("I;16", 32_768), ("I;16B", 32_768), ("I", 32_768), ("F", 128.0), ("F", 40_000.0)],
    ],
)
def test_gray_of_any_colour_mode_is_rendered_gray(tmp_path, mode, gray):
    image = Image.new(mode, (64, 64), gray)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    elif gray == 40_000:
        image.paste(80_000, (0, 0, 8, 8))  # the white of floats without a common range
    image.save(tmp_path / "image.tif")
    pixel = rendered(tmp_path, tmp_path / "image.tif")[0].getpixel((80, 24))
    assert all(abs(level - 128) < 12 for level in pixel)


@pytest.mark.parametrize(("resolution", "nominal"), [("360p", 360), ("1080p", 1080), ("4k", 2160)])
@pytest.mark.parametrize("shape", [(1600, 900), (1000, 1000), (4000, 3000), (1, 50), (50, 1)])
def test_frame_size_is_even_and_near_the_resolution(resolution, nominal, shape):
    width, height = frame_size(shape, resolution, quick=False)
    assert width % 2 == height % 2 == 0
    assert abs(min(width, height) - nominal) <= 4
    assert (width < height) == (shape[0] < shape[1]) or shape[0] == shape[1]
    assert max(frame_size(shape, resolution, quick=True)) == 160


def test_abandoned_video_is_given_up(tmp_path):
    abandoned = threading.Event()
    abandoned.set()
    with pytest.raises(RenderError, match="gave this video up"):
        render(REQUEST, [None], [tmp_path / "video.mp4"], Behaviour(), quick=True, abandoned=abandoned)


def test_full_size_video_plays(tmp_path):
    frames = rendered(tmp_path, None, quick=False)
    assert (len(frames), frames[0].size) == (24, (1276, 720))
