"""Names in every script can be read on a picture, or the log says which letters no font has."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest
from PIL import Image, ImageDraw

from magichour_provider.storage import fonts
from magichour_provider.storage.fonts import PACKAGES, FontBook

needs_fonts = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="the extra `fonts` is not installed"
)
NAMES = {
    "Latin": "Straße, smørrebrød, Łódź, Été, Việt: 5 €",
    "Cyrillic": "Закат над Москвой",
    "Greek": "Ηλιοβασίλεμα",
    "Japanese": "日の出 東京タワー",
    "Chinese": "长江日落",
    "Korean": "서울의 밤",
    "Arabic": "غروب الشمس",
    "Hebrew": "שקיעה",
    "Devanagari": "सूर्योदय",
    "Bengali": "মেঘ বৃষ্টি",
    "Tamil": "சூரிய உதயம்",
    "Thai": "พระอาทิตย์ตก",
    "Khmer": "ថ្ងៃលិច",
    "Ethiopic": "ፀሐይ መውጫ",
}


@pytest.fixture
def only_packages(monkeypatch):
    """No font of this machine helps."""
    monkeypatch.setattr(fonts, "FOLDERS", ())
    fonts._font_files.cache_clear()
    yield
    fonts._font_files.cache_clear()


def drawn(text):
    image = Image.new("L", (600, 60))
    left = 0
    for part, font in FontBook().split(text, 21):
        ImageDraw.Draw(image).text((left, 10), part, fill=255, font=font)
        left += round(font.getlength(part))
    return image.tobytes()


@needs_fonts
@pytest.mark.usefixtures("only_packages")
@pytest.mark.parametrize("script", NAMES)
def test_name_in_any_script_is_drawn_by_a_font_of_the_packages(script):
    name, book = NAMES[script], FontBook()
    assert "".join(part for part, _ in book.split(name, 21)) == name
    assert book.missing == set()
    assert drawn(name) != drawn(name[::-1])
    assert drawn(name) != drawn("?" * len(name))


@pytest.mark.usefixtures("only_packages")
def test_letter_that_no_font_has_is_said(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "PACKAGES", ())
    book = FontBook()
    with caplog.at_level(logging.WARNING):
        FontBook().warn()
        parts = book.split("Sun ß\u200d\n\u732b", 20)
        book.warn()
    assert [part for part, _ in parts] == ["Sun ? ?"]
    (record,) = caplog.records
    assert "\u00df \u732b" in record.getMessage()
    assert "extra `fonts`" in record.getMessage()


@needs_fonts
@pytest.mark.usefixtures("only_packages")
def test_text_keeps_its_font_as_long_as_that_has_the_letters():
    assert [part for part, _ in FontBook().split("one 日の出 two", 20)] == ["one ", "日の出 two"]


def test_file_that_is_no_font_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "NotoSansX-Regular.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(fonts, "PACKAGES", ())
    fonts._font_files.cache_clear()
    book = FontBook()
    book.split("\u732b", 20)
    fonts._font_files.cache_clear()
    assert book.missing == {"\u732b"}
