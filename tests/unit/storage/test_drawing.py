"""A sheet stays small enough for a mail, nothing on it overlaps, and names in every script can be read."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from magichour_provider.storage import drawing
from magichour_provider.storage.drawing import (
    FOOTER,
    MARGIN,
    MAX_HEIGHT,
    PACKAGES,
    WIDTH,
    FontBook,
    draw_sheet,
    plan_sheet,
)


@given(
    count=st.integers(1, 1500),
    frames=st.integers(1, 99),
    aspect=st.floats(0.01, 100),
    columns=st.none() | st.integers(1, 99),
)
def test_sheet_is_bounded_and_has_a_place_for_every_video_or_says_so(count, frames, aspect, columns):
    plan = plan_sheet(count, frames=frames, aspect=aspect, columns=columns)
    assert plan.width <= WIDTH
    assert plan.height <= MAX_HEIGHT
    assert 1 <= plan.frames <= frames
    shown = count - plan.left_out
    assert 1 <= shown <= plan.rows * plan.columns
    corners = [plan.corner(index) for index in range(shown)]
    floor = plan.height - MARGIN - (FOOTER if plan.left_out else 0)
    for left, top in corners:
        assert MARGIN <= left <= plan.width - MARGIN - plan.cell_width
        assert MARGIN < top <= floor - plan.cell_height
    for (left, top), (next_left, next_top) in pairwise(corners):
        assert next_left >= left + plan.cell_width or next_top >= top + plan.cell_height


def test_more_videos_get_more_columns_then_fewer_frames_then_a_last_line():
    plans = [plan_sheet(count, frames=3, aspect=16 / 9) for count in (2, 8, 40, 400)]
    assert (plans[0].columns, plans[0].frames) == (1, 3)
    assert [plan.columns for plan in plans] == sorted(plan.columns for plan in plans)
    assert [plan.frames for plan in plans] == sorted((plan.frames for plan in plans), reverse=True)
    assert plans[0].columns < plans[1].columns
    assert plans[1].frames > plans[2].frames
    assert [plan.left_out > 0 for plan in plans] == [False, False, False, True]
    assert plan_sheet(4, frames=1, aspect=1, left_out=7).left_out == 7
    assert [plan_sheet(12, frames=1, aspect=1, columns=n).columns for n in (1, 3, 4)] == [1, 3, 4]


def test_a_line_that_is_too_long_loses_whole_parts():
    plan, long = plan_sheet(1, frames=1, aspect=1), "3 videos · " + "a run's id " * 20
    sheets = [draw_sheet([], plan, title="", subtitle=text).tobytes() for text in ("3 videos", long)]
    assert sheets[0] == sheets[1]


# Fonts

needs_fonts = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="the extra `fonts` is not installed"
)
NAMES = """
Straße,smørrebrød,Łódź,Été,Việt:5€ Закат·над·Москвой Ηλιοβασίλεμα 日の出・東京タワー 长江日落 서울의·밤
غروب·الشمس שקיעה सूर्योदय মেঘ·বৃষ্টি சூரிய·உதயம் พระอาทิตย์ตก ថ្ងៃលិច ፀሐይ·መውጫ
"""


@pytest.fixture
def only_packages(monkeypatch):
    """No font of this machine helps."""
    monkeypatch.setattr(drawing, "FOLDERS", ())
    drawing._font_files.cache_clear()
    yield
    drawing._font_files.cache_clear()


def drawn(text):
    image = Image.new("L", (600, 60))
    left = 0
    for part, font in FontBook().split(text, 21):
        ImageDraw.Draw(image).text((left, 10), part, fill=255, font=font)
        left += round(font.getlength(part))
    return image.tobytes()


@needs_fonts
@pytest.mark.usefixtures("only_packages")
@pytest.mark.parametrize("name", NAMES.split())
def test_name_in_any_script_is_drawn_by_a_font_of_the_packages(name):
    book = FontBook()
    assert "".join(part for part, _ in book.split(name, 21)) == name
    assert book.missing == set()
    assert len({drawn(name), drawn(name[::-1]), drawn("?" * len(name))}) == 3


@needs_fonts
@pytest.mark.usefixtures("only_packages")
def test_text_keeps_its_font_as_long_as_that_has_the_letters():
    assert [part for part, _ in FontBook().split("one 日の出 two", 20)] == ["one ", "日の出 two"]


@pytest.mark.usefixtures("only_packages")
def test_letter_that_no_font_has_is_said_and_a_file_that_is_no_font_is_passed_over(
    monkeypatch, caplog, tmp_path
):
    (tmp_path / "NotoSansX-Regular.ttf").write_bytes(b"no font")
    monkeypatch.setattr(drawing, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(drawing, "PACKAGES", ())
    book = FontBook()
    with caplog.at_level(logging.WARNING):
        FontBook().warn()
        parts = book.split("Sun ß\u200d\n\u732b", 20)
        book.warn()
    assert [part for part, _ in parts] == ["Sun ? ?"]
    (record,) = caplog.records
    assert "\u00df \u732b" in record.getMessage()
    assert "extra `fonts`" in record.getMessage()
