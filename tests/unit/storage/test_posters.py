"""A poster lies beside its video, whole, or there is none."""

from __future__ import annotations

import pytest
from PIL import Image

from magichour_provider.exceptions import DestinationError, InvalidRequestError, PictureError
from magichour_provider.storage import publish as publishing
from magichour_provider.storage.posters import make_poster, poster_path


def level(image):
    return image.convert("L").getpixel((image.width // 2, image.height // 2))


def test_it_is_the_middle_frame_beside_the_video_in_place_of_an_older_one(make_video, tmp_path):
    video = make_video("sunset.mp4")
    (tmp_path / "sunset.jpg").write_text("an older one")
    poster = make_poster(str(video))
    assert poster == str(tmp_path / "sunset.jpg")
    with Image.open(poster) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))
        assert level(image) == pytest.approx(128, abs=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sunset.jpg", "sunset.mp4"]


def test_the_moment_can_be_chosen(make_video):
    for at, expected in {0: 0, 0.25: 64, 1: 255}.items():
        with Image.open(make_poster(str(make_video()), at=at)) as image:
            assert level(image) == pytest.approx(expected, abs=8)


@pytest.mark.parametrize("at", [-0.1, 1.1, float("nan")])
def test_a_moment_outside_of_the_video_is_refused(make_video, at):
    with pytest.raises(InvalidRequestError, match="fraction"):
        make_poster(str(make_video()), at=at)


def test_a_large_video_gets_a_poster_for_a_mail(make_video):
    with Image.open(make_poster(str(make_video(size=(1440, 2160), frames=1)))) as image:
        assert image.size == (853, 1280)


@pytest.mark.parametrize("place", ["disk", "store"])
def test_a_write_that_fails_leaves_nothing(make_video, tmp_path, memory_store, monkeypatch, place):
    video = make_video()
    memory_store.pipe("/videos/video.mp4", video.read_bytes())
    make = publishing.open_writer

    def open_full(target, *, exclusive):
        writer = make(target, exclusive=exclusive)

        def commit():
            raise OSError(28, "No space left on device")

        writer.commit = commit
        return writer

    monkeypatch.setattr(publishing, "open_writer", open_full)
    with pytest.raises(DestinationError, match=r"video.jpg cannot be written: no space left"):
        make_poster(str(video) if place == "disk" else "memory://videos/video.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert memory_store.ls("/videos", detail=False) == ["/videos/video.mp4"]


@pytest.mark.parametrize(
    ("video", "poster"),
    [
        ("/x/video.mp4", "/x/video.jpg"),
        ("video.of.today.MP4", "video.of.today.jpg"),
        ("/x.y/video", "/x.y/video.jpg"),
        ("s3://conn@bucket/a b#1.mp4", "s3://conn@bucket/a b#1.jpg"),
        ("/x/.mp4", "/x/.mp4.jpg"),
    ],
)
def test_the_poster_has_the_videos_name(video, poster):
    assert poster_path(video) == poster


@pytest.mark.parametrize("video", ["/x/", "", "/x/video.jpg", "s3://secret@bucket/video.JPEG"])
def test_what_is_no_videos_name_is_refused(video):
    with pytest.raises(PictureError, match="not the name of a video") as refused:
        poster_path(video)
    assert "secret" not in str(refused.value)
