"""Contact sheets of real videos: which are shown, what is said of the others, and where the sheet goes."""

from __future__ import annotations

import io
import logging
from collections import UserList

import pytest
from PIL import Image

from magichour_provider.exceptions import InvalidRequestError, PictureError
from magichour_provider.storage import contact_sheets
from magichour_provider.storage.contact_sheets import ListedVideo, make_contact_sheet, parse_videos
from magichour_provider.storage.drawing import MAX_HEIGHT, PANEL, PROBLEM, WIDTH, draw_sheet


@pytest.fixture
def drawn(monkeypatch):
    """The cells, titles and plans that were drawn."""
    seen = []

    def draw(cells, plan, **texts):
        seen.append((cells, plan, texts))
        return draw_sheet(cells, plan, **texts)

    monkeypatch.setattr(contact_sheets, "draw_sheet", draw)
    return seen


def grey_at(sheet, plan, index, frame):
    left, top = plan.corner(index)
    x = left + frame * (plan.frame_width + 6) + plan.frame_width // 2
    return sheet.convert("L").getpixel((x, top + plan.frame_height // 2))


def test_every_video_has_its_frames_in_its_place(make_video, tmp_path, drawn):
    videos = parse_videos([str(make_video(f"{name}.mp4", size=(160, 90))) for name in "abcd"])
    result = make_contact_sheet(videos, f"{tmp_path}/sheet.jpg", frames=3)
    ((cells, plan, _),) = drawn
    with Image.open(result["path"]) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (result["width"], result["height"]))
        for index in range(4):
            shades = [grey_at(sheet, plan, index, frame) for frame in range(3)]
            assert shades == pytest.approx([0, 128, 255], abs=10)
    assert [cell.label for cell in cells] == ["a", "b", "c", "d"]
    assert {cell.detail for cell in cells} == {"1 s · 160 x 90"}
    assert (result["videos"], result["unreadable"]) == (4, 0)
    assert result["size"] == (tmp_path / "sheet.jpg").stat().st_size


@pytest.mark.parametrize(
    ("others", "subtitle"),
    [
        ([], "1 video · 120 credits · manual__2026"),
        ([("cm2", None)], "2 videos · manual__2026"),  # a sum is given only if all credits are known
        ([("cm1", 120), ("cm2", 1000)], "3 videos · 1,120 credits · manual__2026"),  # each job counts once
    ],
)
def test_labels_say_seconds_credits_and_model(make_video, tmp_path, drawn, others, subtitle):
    path = str(make_video())
    videos = [ListedVideo(path, "cm1", name="Sunset", seconds=5.0, credits=120, model="ltx-2.3")]
    videos += [ListedVideo(path, job, credits=number) for job, number in others]
    make_contact_sheet(videos, f"{tmp_path}/s.jpg", title="A run", subtitle="manual__2026")
    ((cells, _, texts),) = drawn
    assert (cells[0].label, cells[0].detail) == ("Sunset", "5 s · 120 credits · ltx-2.3 · 64 x 48")
    assert texts == {"title": "A run", "subtitle": subtitle}


def test_a_video_that_cannot_be_read_is_a_cell_that_says_so(make_video, tmp_path, drawn, caplog):
    (tmp_path / "page.mp4").write_text("<html>")
    paths = [str(make_video()), str(tmp_path / "gone.mp4"), str(tmp_path / "page.mp4")]
    with caplog.at_level(logging.WARNING):
        result = make_contact_sheet(parse_videos(paths), f"{tmp_path}/sheet.png")
    assert (result["videos"], result["unreadable"]) == (3, 2)
    ((cells, plan, _),) = drawn
    assert [cell.problem and cell.problem.split(":")[0] for cell in cells] == [
        None,
        f"Video {tmp_path}/gone.mp4 cannot be read",
        f"No picture can be made of video {tmp_path}/page.mp4",
    ]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "gone.mp4" in warnings[0]
    with Image.open(result["path"]) as sheet:
        left, top = plan.corner(1)
        cell = sheet.crop((left, top, left + plan.cell_width, top + plan.frame_height))
        colours = {colour for _, colour in cell.getcolors(1 << 20)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in (PANEL, PROBLEM)} <= colours


def test_no_readable_video_means_no_sheet(tmp_path):
    with pytest.raises(PictureError, match=r"gone.mp4 .* does not exist"):
        make_contact_sheet(
            parse_videos([f"{tmp_path}/{name}.mp4" for name in ("gone", "lost")]), f"{tmp_path}/s.jpg"
        )
    assert list(tmp_path.iterdir()) == []


def test_shapes_of_every_kind_stand_whole_on_one_sheet(make_video, tmp_path, drawn):
    sizes = [(320, 40), (40, 320), (96, 96)]
    videos = parse_videos([str(make_video(f"{n}.mp4", size=size)) for n, size in enumerate(sizes)])
    result = make_contact_sheet(videos, f"{tmp_path}/sheet.png", frames=1)
    plan = drawn[0][1]
    with Image.open(result["path"]) as sheet:
        for index, size in enumerate(sizes):
            left, top = plan.corner(index)
            frame = sheet.crop((left, top, left + plan.frame_width, top + plan.frame_height))
            mask = frame.convert("L").point(lambda level: 255 * (100 < level < 160))
            box = mask.getbbox()
            shape = (box[2] - box[0]) / (box[3] - box[1])
            assert shape == pytest.approx(size[0] / size[1], rel=0.15)


@pytest.mark.parametrize(("count", "aspect"), [(300, 16 / 9), (150, 0.4), (150, 1), (150, 4)])
def test_many_videos_are_bounded_and_the_rest_is_counted(make_video, tmp_path, drawn, count, aspect):
    """The paths say nothing of the shape; 16:9 is thought at first."""
    path = str(make_video(size=(round(80 * aspect), 80), frames=1))
    result = make_contact_sheet([ListedVideo(path)] * count, f"{tmp_path}/sheet.jpg")
    ((cells, plan, texts),) = drawn
    assert (plan.width, plan.height) == (result["width"], result["height"])
    assert plan.width <= WIDTH
    assert plan.height <= MAX_HEIGHT
    assert len(cells) + plan.left_out == result["videos"] == count
    assert len(cells) > plan.columns * (plan.rows - 1)
    assert texts["subtitle"] == f"{count} videos"


@pytest.mark.parametrize("path", ["sheets/", "sheets", "sheets/today.png", "exists.already"])
def test_the_path_is_a_picture_or_a_folder(make_video, tmp_path, path):
    (tmp_path / "exists.already").mkdir()
    result = make_contact_sheet(parse_videos(str(make_video())), f"{tmp_path}/{path}")
    expected = path if path.endswith("png") else f"{path.rstrip('/')}/contact-sheet.jpg"
    assert result["path"] == f"{tmp_path}/{expected}"
    assert [file.name for file in (tmp_path / expected).parent.iterdir()] == [expected.rpartition("/")[2]]


def test_from_a_store_into_a_store(make_video, memory_store):
    memory_store.pipe("/videos/a.mp4", make_video().read_bytes())
    options = {"path_conn_id": "some_store", "videos_conn_id": "some_store"}
    result = make_contact_sheet([ListedVideo("memory://videos/a.mp4")], "memory://sheets/today/", **options)
    assert result["path"] == "memory://sheets/today/contact-sheet.jpg"
    assert memory_store.ls("/sheets/today", detail=False) == ["/sheets/today/contact-sheet.jpg"]
    with Image.open(io.BytesIO(memory_store.cat("/sheets/today/contact-sheet.jpg"))) as sheet:
        assert sheet.size == (result["width"], result["height"])


# What tasks return

ONE = {"path": "/videos/a.mp4", "project_id": "cm1", "duration": 5.0, "width": 1276, "height": 720, "fps": 24}
TWO = {"path": "s3://videos/b.mp4", "project_id": "cm2", "duration": 3.5}
A, B = (
    ListedVideo("/videos/a.mp4", "cm1", None, 5.0, 1276, 720),
    ListedVideo("s3://videos/b.mp4", "cm2", None, 3.5),
)


@pytest.mark.parametrize(
    "given",
    [
        [ONE, TWO],
        UserList([ONE, None, TWO]),  # as Airflow's sequence of mapped XComs, no list
        [UserList([ONE]), [None, TWO]],
        str([ONE, TWO]),
        f" {[ONE, None]}{'  '}".strip().replace("None", str(TWO)),
        [str(ONE), TWO, ONE],
        {**ONE, "videos": [ONE, TWO]},
    ],
    ids=["list", "mapped", "nested", "template", "template with spaces", "templates", "several downloads"],
)
def test_every_form_is_read_in_its_order(given):
    assert parse_videos(given) == [A, B]


def test_paths_are_videos():
    paths = ["/videos/a.mp4", "s3://videos/b.mp4", "/videos/[1].mp4"]
    assert parse_videos(paths) == list(map(ListedVideo, paths))
    assert parse_videos(paths[2]) == [ListedVideo(paths[2])]


@pytest.mark.parametrize("given", [None, [], "", "None", "[]", [None, None], UserList(), "[None]"])
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
