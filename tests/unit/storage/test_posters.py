"""A poster lies poster_path its clip, whole, or there is none."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from magichour_provider.exceptions import DestinationError, InvalidRequestError, PictureError
from magichour_provider.storage import posters as publishing
from magichour_provider.storage.posters import poster_path, make_poster


def level(image):
    return image.convert("L").getpixel((image.width // 2, image.height // 2))


def test_it_is_the_middle_frame_beside_the_clip(make_clip, tmp_path):
    clip = make_clip("sunset.mp4")
    poster = make_poster(str(clip))
    assert poster == str(tmp_path / "sunset.jpg")
    with Image.open(poster) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))
        assert level(image) == pytest.approx(128, abs=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sunset.jpg", "sunset.mp4"]


@pytest.mark.parametrize(("at", "expected"), [(0, 0), (0.25, 64), (1, 255)])
def test_the_moment_can_be_chosen(make_clip, at, expected):
    with Image.open(make_poster(str(make_clip()), at=at)) as image:
        assert level(image) == pytest.approx(expected, abs=8)


@pytest.mark.parametrize("at", [-0.1, 1.1, float("nan")])
def test_a_moment_outside_of_the_clip_is_refused(make_clip, at):
    with pytest.raises(InvalidRequestError, match="fraction"):
        make_poster(str(make_clip()), at=at)


def test_a_large_clip_gets_a_poster_for_a_mail(make_clip):
    with Image.open(make_poster(str(make_clip(size=(1440, 2160), frames=1)))) as image:
        assert image.size == (853, 1280)


def test_what_stood_there_is_replaced(make_clip, tmp_path):
    (tmp_path / "clip.jpg").write_text("an older one")
    with Image.open(make_poster(str(make_clip()))) as image:
        image.load()


def test_another_path_may_be_a_png(make_clip, tmp_path):
    poster = make_poster(str(make_clip()), path=str(tmp_path / "new" / "poster.png"))
    with Image.open(poster) as image:
        assert image.format == "PNG"


def test_a_bad_clip_leaves_the_older_poster_alone(tmp_path):
    (tmp_path / "clip.mp4").write_text("<html>")
    (tmp_path / "clip.jpg").write_text("an older one")
    with pytest.raises(PictureError, match="web page"):
        make_poster(str(tmp_path / "clip.mp4"))
    assert (tmp_path / "clip.jpg").read_text() == "an older one"


@pytest.mark.parametrize("place", ["disk", "store"])
def test_a_write_that_fails_leaves_nothing(make_clip, tmp_path, memory_store, monkeypatch, place):
    clip = make_clip()
    memory_store.pipe("/clips/clip.mp4", clip.read_bytes())
    make = publishing.open_writer

    def open_full(target, *, exclusive):
        writer = make(target, exclusive=exclusive)

        def commit():
            raise OSError(28, "No space left on device")

        writer.commit = commit
        return writer

    monkeypatch.setattr(publishing, "open_writer", open_full)
    with pytest.raises(DestinationError, match=r"clip.jpg cannot be written: no space left"):
        make_poster(str(clip) if place == "disk" else "memory://clips/clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert memory_store.ls("/clips", detail=False) == ["/clips/clip.mp4"]


def test_in_a_store_it_lies_beside_the_clip_too(make_clip, memory_store):
    memory_store.pipe("/clips/a.mp4", make_clip().read_bytes())
    assert make_poster("memory://clips/a.mp4", conn_id="some_store") == "memory://clips/a.jpg"
    with Image.open(io.BytesIO(memory_store.cat("/clips/a.jpg"))) as image:
        assert image.size == (64, 48)
    assert sorted(memory_store.ls("/clips", detail=False)) == ["/clips/a.jpg", "/clips/a.mp4"]


def test_the_connection_in_the_url_is_used_and_not_shown(make_clip, memory_store):
    memory_store.pipe("/clips/a.mp4", make_clip().read_bytes())
    assert make_poster("memory://some_store@clips/a.mp4") == "memory://clips/a.jpg"


@pytest.mark.parametrize(
    ("clip", "poster"),
    [
        ("/x/clip.mp4", "/x/clip.jpg"),
        ("clip.of.today.MP4", "clip.of.today.jpg"),
        ("/x.y/clip", "/x.y/clip.jpg"),
        ("s3://conn@bucket/a b#1.mp4", "s3://conn@bucket/a b#1.jpg"),
        ("/x/.mp4", "/x/.mp4.jpg"),
    ],
)
def test_the_poster_has_the_clips_name(clip, poster):
    assert poster_path(clip) == poster


@pytest.mark.parametrize("clip", ["/x/", "", "/x/clip.jpg", "s3://secret@bucket/clip.JPEG"])
def test_what_is_no_clips_name_is_refused(clip):
    with pytest.raises(PictureError, match="not the name of a clip") as refused:
        poster_path(clip)
    assert "secret" not in str(refused.value)
