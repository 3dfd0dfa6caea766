"""Contact sheets of real clips: what is shown, what is said of what cannot be, and where the sheet goes."""

from __future__ import annotations

import io
import logging

import pytest
from PIL import Image, ImageFont

from magichour_provider.exceptions import DestinationError, PictureError
from magichour_provider.storage import contact_sheets as contact_sheet
from magichour_provider.storage.contact_sheets import make_contact_sheet
from magichour_provider.storage.drawing import PANEL, PAPER, PROBLEM, Cell, draw_sheet, legible
from magichour_provider.storage.drawing import MAX_HEIGHT, WIDTH, plan_sheet
from magichour_provider.storage.contact_sheets import ListedVideo, parse_videos


@pytest.fixture
def drawn(monkeypatch):
    """The cells, titles and plans that were drawn."""
    seen = []

    def draw(cells, plan, **texts):
        seen.append((cells, plan, texts))
        return draw_sheet(cells, plan, **texts)

    monkeypatch.setattr(contact_sheet, "draw_sheet", draw)
    return seen


def grey_at(sheet, plan, index, frame):
    left, top = plan.corner(index)
    x = left + frame * (plan.frame_width + 6) + plan.frame_width // 2
    return sheet.convert("L").getpixel((x, top + plan.frame_height // 2))


def test_every_clip_has_its_frames_in_its_place(make_clip, tmp_path, drawn):
    clips = parse_videos([str(make_clip(f"{name}.mp4", size=(160, 90))) for name in "abcd"])
    result = make_contact_sheet(clips, f"{tmp_path}/sheet.jpg", frames=3)
    ((cells, plan, _),) = drawn
    with Image.open(result["path"]) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (result["width"], result["height"]))
        for index in range(4):
            shades = [grey_at(sheet, plan, index, frame) for frame in range(3)]
            assert shades == pytest.approx([0, 128, 255], abs=10)
    assert [cell.label for cell in cells] == ["a", "b", "c", "d"]
    assert {cell.detail for cell in cells} == {"1 s · 160 x 90"}
    assert (result["clips"], result["unreadable"]) == (4, 0)
    assert result["size"] == (tmp_path / "sheet.jpg").stat().st_size


def test_one_frame_is_from_the_middle(make_clip, tmp_path, drawn):
    result = make_contact_sheet(parse_videos(str(make_clip())), f"{tmp_path}/sheet.png", frames=1)
    with Image.open(result["path"]) as sheet:
        assert sheet.format == "PNG"
        assert grey_at(sheet, drawn[0][1], 0, 0) == pytest.approx(128, abs=6)


def test_labels_say_seconds_credits_and_model(make_clip, tmp_path, drawn):
    path = str(make_clip())
    clips = [ListedVideo(path, name="Sunset", seconds=5.0, credits=120, model="ltx-2.3")]
    make_contact_sheet(clips, f"{tmp_path}/s.jpg", title="A run", subtitle="manual__2026")
    (((cell,), _, texts),) = drawn
    assert (cell.label, cell.detail) == ("Sunset", "5 s · 120 credits · ltx-2.3 · 64 x 48")
    assert texts == {"title": "A run", "subtitle": "1 clip · 120 credits · manual__2026"}


def test_a_sum_of_credits_that_are_not_all_known_is_not_given(make_clip, tmp_path, drawn):
    path = str(make_clip())
    clips = [ListedVideo(path, "cm1", credits=1), ListedVideo(path, "cm2")]
    make_contact_sheet(clips, f"{tmp_path}/s.jpg")
    assert drawn[0][2]["subtitle"] == "2 clips"
    assert [cell.detail for cell in drawn[0][0]] == ["1 s · 1 credit · 64 x 48", "1 s · 64 x 48"]


def test_a_project_of_several_downloads_is_counted_once(make_clip, tmp_path, drawn):
    path = str(make_clip())
    clips = [ListedVideo(path, "cm1", credits=30), ListedVideo(path, "cm1", credits=30)]
    make_contact_sheet([*clips, ListedVideo(path, "cm2", credits=1000)], f"{tmp_path}/s.jpg")
    assert drawn[0][2]["subtitle"] == "3 clips · 1,030 credits"


def test_a_clip_that_cannot_be_read_is_a_cell_that_says_so(make_clip, tmp_path, drawn, caplog):
    (tmp_path / "page.mp4").write_text("<html>")
    paths = [str(make_clip()), str(tmp_path / "gone.mp4"), str(tmp_path / "page.mp4")]
    with caplog.at_level(logging.WARNING):
        result = make_contact_sheet(parse_videos(paths), f"{tmp_path}/sheet.png")
    assert (result["clips"], result["unreadable"]) == (3, 2)
    ((cells, plan, _),) = drawn
    assert [cell.problem and cell.problem.split(":")[0] for cell in cells] == [
        None,
        f"Clip {tmp_path}/gone.mp4 cannot be read",
        f"No picture can be made of clip {tmp_path}/page.mp4",
    ]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "gone.mp4" in warnings[0]
    with Image.open(result["path"]) as sheet:
        left, top = plan.corner(1)
        cell = sheet.crop((left, top, left + plan.cell_width, top + plan.frame_height))
        colours = {colour for _, colour in cell.getcolors(1 << 20)}
    assert {rgb(PANEL), rgb(PROBLEM)} <= colours


def test_where_no_clip_can_be_read_there_is_no_sheet(tmp_path):
    paths = [str(tmp_path / "gone.mp4"), str(tmp_path / "lost.mp4")]
    with pytest.raises(PictureError, match=r"gone.mp4 .* does not exist"):
        make_contact_sheet(parse_videos(paths), f"{tmp_path}/sheet.jpg")
    assert list(tmp_path.iterdir()) == []


def test_shapes_of_every_kind_stand_whole_on_one_sheet(make_clip, tmp_path, drawn):
    sizes = [(320, 40), (40, 320), (96, 96)]
    clips = parse_videos([str(make_clip(f"{n}.mp4", size=size)) for n, size in enumerate(sizes)])
    result = make_contact_sheet(clips, f"{tmp_path}/sheet.png", frames=1)
    plan = drawn[0][1]
    with Image.open(result["path"]) as sheet:
        for index, size in enumerate(sizes):
            left, top = plan.corner(index)
            frame = sheet.crop((left, top, left + plan.frame_width, top + plan.frame_height))
            mask = frame.convert("L").point(lambda level: 255 * (100 < level < 160))
            box = mask.getbbox()
            shape = (box[2] - box[0]) / (box[3] - box[1])
            assert shape == pytest.approx(size[0] / size[1], rel=0.15)


def test_many_clips_are_bounded_and_the_rest_is_counted(make_clip, tmp_path, drawn):
    path = str(make_clip(size=(160, 90), frames=3))
    clips = [ListedVideo(path, name=f"clip {index}") for index in range(300)]
    result = make_contact_sheet(clips, f"{tmp_path}/sheet.jpg")
    ((cells, plan, texts),) = drawn
    assert (plan.width, plan.height) == (result["width"], result["height"])
    assert plan.width <= WIDTH
    assert plan.height <= MAX_HEIGHT
    assert len(cells) + plan.left_out == result["clips"] == 300
    assert plan.left_out > 0
    assert texts["subtitle"] == "300 clips"


@pytest.mark.parametrize("aspect", [0.4, 1, 4])
def test_a_guess_of_the_shape_that_was_wrong_loses_no_clip(make_clip, tmp_path, drawn, aspect):
    """The paths say nothing of the shape; 16:9 is thought at first."""
    path = str(make_clip(size=(round(80 * aspect), 80), frames=1))
    result = make_contact_sheet([ListedVideo(path)] * 150, f"{tmp_path}/sheet.jpg")
    ((cells, plan, _),) = drawn
    assert len(cells) + plan.left_out == 150
    assert result["height"] <= MAX_HEIGHT
    assert len(cells) > plan.columns * (plan.rows - 1)


@pytest.mark.parametrize("path", ["sheets/", "sheets", "sheets/today.png", "exists.already"])
def test_the_path_is_a_picture_or_a_folder(make_clip, tmp_path, path):
    (tmp_path / "exists.already").mkdir()
    result = make_contact_sheet(parse_videos(str(make_clip())), f"{tmp_path}/{path}")
    expected = path if path.endswith("png") else f"{path.rstrip('/')}/contact-sheet.jpg"
    assert result["path"] == f"{tmp_path}/{expected}"
    assert [file.name for file in (tmp_path / expected).parent.iterdir()] == [expected.rpartition("/")[2]]


@pytest.mark.parametrize("path", ["", "None", "sheet.gif", "run.2026", "file://elsewhere/x.jpg"])
def test_a_path_that_is_neither_is_refused_before_anything_is_read(path):
    with pytest.raises(DestinationError):
        make_contact_sheet([ListedVideo("/nowhere/clip.mp4")], path)


def test_from_a_store_into_a_store(make_clip, memory_store):
    memory_store.pipe("/clips/a.mp4", make_clip().read_bytes())
    result = make_contact_sheet(
        [ListedVideo("memory://clips/a.mp4")],
        "memory://sheets/today/",
        path_conn_id="some_store",
        videos_conn_id="some_store",
    )
    assert result["path"] == "memory://sheets/today/contact-sheet.jpg"
    with Image.open(io.BytesIO(memory_store.cat("/sheets/today/contact-sheet.jpg"))) as sheet:
        assert sheet.size == (result["width"], result["height"])
    assert memory_store.ls("/sheets/today", detail=False) == ["/sheets/today/contact-sheet.jpg"]


def test_text_stays_within_its_width():
    plan = plan_sheet(1, frames=1, aspect=1)
    image = Image.new("RGB", (10, 10))
    long = Cell("wide " * 100, "part · " * 100, (image,))
    trouble = Cell("x" * 400, "", problem="a very long word " * 200 + "w" * 300)
    for cell in (long, trouble):
        sheet = draw_sheet([cell], plan, title="T" * 400, subtitle="a · " * 300)
        margin = sheet.crop((plan.width - 50, 0, plan.width, plan.height))
        assert margin.getcolors() == [(margin.width * margin.height, rgb(PAPER))]
        below = sheet.crop((0, plan.height - 50, plan.width, plan.height))
        assert below.getcolors() == [(below.width * below.height, rgb(PAPER))]


def test_a_line_that_is_too_long_loses_whole_parts():
    plan = plan_sheet(1, frames=1, aspect=1)
    short, long = (
        draw_sheet([], plan, title="", subtitle=text)
        for text in ("3 clips", "3 clips · " + "a run's id " * 20)
    )
    assert short.tobytes() == long.tobytes()


def test_text_is_written_in_letters_that_the_font_has():
    assert legible("Été à Zürich\n· 2 猫") == "Ete a Zurich · 2 ?"
    font = ImageFont.load_default(size=20)
    missing = bytes(font.getmask("\uffff"))
    drawable = legible("".join(map(chr, range(32, 127))) + "·…")
    assert not [letter for letter in drawable if letter != " " and bytes(font.getmask(letter)) == missing]


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))
