"""Anything tasks return, the sheet knows which videos it is to show."""

from __future__ import annotations

import pytest

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.storage.contact_sheets import ListedVideo, parse_videos

ONE = {"path": "/videos/a.mp4", "project_id": "cm1", "duration": 5.0, "width": 1276, "height": 720, "fps": 24}
TWO = {"path": "s3://videos/b.mp4", "project_id": "cm2", "duration": 3.5}
READ = [
    ListedVideo("/videos/a.mp4", "cm1", None, 5.0, 1276, 720),
    ListedVideo("s3://videos/b.mp4", "cm2", None, 3.5),
]


class LazySequence:
    """As much of Airflow's lazy sequence of mapped XComs as there is to iterate."""

    def __init__(self, *items):
        self._items = items

    def __iter__(self):
        return iter(self._items)


@pytest.mark.parametrize(
    "given",
    [
        [ONE, TWO],
        LazySequence(ONE, None, TWO),
        [LazySequence(ONE), [None, TWO]],
        str([ONE, TWO]),
        f" {[ONE, None]}{'  '}".strip().replace("None", str(TWO)),
        [str(ONE), TWO, ONE],
        {**ONE, "videos": [ONE, TWO]},
    ],
    ids=["list", "mapped", "nested", "template", "template with spaces", "templates", "several downloads"],
)
def test_every_form_is_read_in_its_order(given):
    assert parse_videos(given) == READ


def test_paths_are_videos():
    assert parse_videos(["/videos/a.mp4", "s3://videos/b.mp4"]) == [
        ListedVideo("/videos/a.mp4"),
        ListedVideo("s3://videos/b.mp4"),
    ]
    assert parse_videos("/videos/[1].mp4") == [ListedVideo("/videos/[1].mp4")]


@pytest.mark.parametrize("given", [None, [], "", "None", "[]", [None, None], LazySequence(), "[None]"])
def test_nothing_is_no_video(given):
    assert parse_videos(given) == []


@pytest.mark.parametrize(
    "given", [5, [5], {"project_id": "cm1"}, [{"videos": [{"size": 3}]}], b"/videos/a.mp4"]
)
def test_anything_else_is_refused(given):
    with pytest.raises(InvalidRequestError):
        parse_videos(given)


def test_the_jobs_know_names_models_and_credits():
    jobs = [
        {"project_id": "cm2", "name": "Sunset", "model": "ltx-2.3", "credits_charged": 0},
        {"project_id": "cm3", "name": "Other", "credits_charged": 9},
        None,
    ]
    one, two = parse_videos([{**ONE, "name": "Own", "credits_charged": 120}, TWO], jobs)
    assert (one.name, one.credits, one.model) == ("Own", 120, None)
    assert (two.name, two.credits, two.model, two.seconds) == ("Sunset", 0, "ltx-2.3", 3.5)


def test_what_an_asset_event_holds_is_read():
    (video,) = parse_videos(
        {"path": "/a.mp4", "credits": 30, "model": "ltx-2.3", "fps": None, "duration": None}
    )
    assert (video.credits, video.model, video.seconds) == (30, "ltx-2.3", None)


@pytest.mark.parametrize("strange", [True, "5", float("nan"), -1, 10**400, [5]])
def test_strange_figures_are_taken_for_unknown(strange):
    (video,) = parse_videos({"path": "/a.mp4", "duration": strange, "width": strange, "credits": strange})
    assert (video.seconds, video.width, video.credits) == (None, None, None)


@pytest.mark.parametrize(
    ("video", "label"),
    [
        (ListedVideo("/videos/cm1.mp4", "cm1"), "cm1"),
        (ListedVideo("/videos/cm1.mp4", "cm1", "Sunset"), "Sunset"),
        (ListedVideo("s3://secret@videos/a.b.mp4"), "a.b"),
        (ListedVideo("/videos/video"), "video"),
    ],
)
def test_a_video_is_called_by_its_name_or_its_files(video, label):
    assert video.label == label
    assert "secret" not in repr(video)
