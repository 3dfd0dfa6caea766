"""The layout and the drawing of a contact sheet: frames in a grid, two lines of text below each video.

A sheet stays within `WIDTH` x `MAX_HEIGHT` pixels for any number of videos: more columns first, then fewer
frames of each, then the last videos are left out, and a line gives their number. All sizes are in pixels.

Pillow's own font has the letters of English alone. For other letters the first font file that has them is
taken: from the Python packages of the extra `fonts`, then from the fonts of the machine, such as Debian's
`fonts-noto-core` and `fonts-noto-cjk`. Right-to-left scripts and those that join their letters need Pillow's
Raqm, which its wheels contain; it loads the machine's `libfribidi`.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from bisect import bisect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont, ImageOps

log = logging.getLogger(__name__)

WIDTH = 1600
MAX_HEIGHT = 4000
MAX_FRAMES = 12
"""Of each video."""
MARGIN, GAP, FRAME_GAP, HEADER, FOOTER = 56, 36, 6, 116, 28
LABEL_GAP, LABEL_LINE = 12, 28
_MIN_CELL, _MIN_FRAME, _MAX_FRAME = 170, 110, 640
_PAGE = 1.1
"""Height over width from which more columns are better than more rows."""
_TALLEST, _WIDEST = 9 / 16, 2.4


@dataclass(frozen=True)
class SheetPlan:
    """A grid of cells, one per video: a strip of frames with two lines of text below.

    :param left_out: how many videos there is no room for.
    """

    columns: int
    rows: int
    frames: int
    frame_width: int
    frame_height: int
    left_out: int

    @property
    def cell_width(self) -> int:
        """From the first frame's left edge to the last one's right."""
        return self.frames * self.frame_width + (self.frames - 1) * FRAME_GAP

    @property
    def cell_height(self) -> int:
        """Frames and text."""
        return self.frame_height + LABEL_GAP + 2 * LABEL_LINE

    @property
    def width(self) -> int:
        """Of the whole sheet."""
        return 2 * MARGIN + self.columns * self.cell_width + (self.columns - 1) * GAP

    @property
    def height(self) -> int:
        """Of the whole sheet."""
        footer = GAP + FOOTER if self.left_out else 0
        return 2 * MARGIN + HEADER + self.rows * self.cell_height + (self.rows - 1) * GAP + footer

    def corner(self, index: int) -> tuple[int, int]:
        """Left and top of the cell number `index`."""
        row, column = divmod(index, self.columns)
        left, top = column * (self.cell_width + GAP), row * (self.cell_height + GAP)
        return MARGIN + left, MARGIN + HEADER + top


def plan_sheet(
    count: int, *, frames: int, aspect: float, columns: int | None = None, left_out: int = 0
) -> SheetPlan:
    """Find the grid for `count` videos of `aspect` (width over height), with at most `frames` of each.

    :param columns: cells in a row; None: as few as keep the sheet no taller than a page. Fewer if they
        would be too narrow to read.
    :param left_out: how many videos there are beside those.
    """
    aspect, content = min(max(aspect, _TALLEST), _WIDEST), WIDTH - 2 * MARGIN
    for fewer in range(min(frames, MAX_FRAMES), 0, -1):
        narrowest = max(_MIN_CELL, fewer * (_MIN_FRAME + FRAME_GAP))
        most = max(min((content + GAP) // (narrowest + GAP), count), 1)
        for each in range(1, most + 1) if columns is None else [min(columns, most)]:
            cell = (content - (each - 1) * GAP) // each
            width = min((cell - (fewer - 1) * FRAME_GAP) // fewer, _MAX_FRAME)
            plan = SheetPlan(each, -(-count // each), fewer, width, round(width / aspect), left_out)
            if plan.height <= (MAX_HEIGHT if columns else _PAGE * plan.width):
                return plan
    room = MAX_HEIGHT - 2 * MARGIN - HEADER - GAP - FOOTER
    rows = min(plan.rows, max((room + GAP) // (plan.cell_height + GAP), 1))
    return replace(plan, rows=rows, left_out=left_out + max(count - rows * plan.columns, 0))


# --- drawing

PAPER, INK, PENCIL, PANEL, PROBLEM = "#fbfaf7", "#2b2a27", "#7a776f", "#ebe9e3", "#96493a"
SEPARATOR = " · "
"""Between the parts of a line."""
_TITLE, _SUBTITLE, _LABEL, _DETAIL = 40, 24, 21, 18
_MAX_CHARS = 500
_PROBLEM_PADDING, _PROBLEM_LINE = 18, 25


@dataclass(frozen=True)
class Cell:
    """One video of a sheet: its frames, or the problem with it."""

    label: str
    detail: str
    images: tuple[Image.Image, ...] = field(default=(), repr=False)
    problem: str | None = None


def draw_sheet(cells: Sequence[Cell], plan: SheetPlan, *, title: str, subtitle: str) -> Image.Image:
    """The sheet of `cells`, laid out as `plan` says."""
    sheet = Image.new("RGB", (plan.width, plan.height), PAPER)
    pen = _Pen(sheet)
    width = plan.width - 2 * MARGIN
    pen.line(title, (MARGIN, MARGIN - 6), width, _TITLE, INK)
    pen.line(subtitle, (MARGIN, MARGIN + 50), width, _SUBTITLE, PENCIL)
    frame_size = (plan.frame_width, plan.frame_height)
    for index, cell in enumerate(cells):
        left, top = plan.corner(index)
        if cell.problem is not None:
            pen.paragraph(cell.problem, (left, top, left + plan.cell_width, top + plan.frame_height))
        for number, image in enumerate(cell.images):
            framed = ImageOps.pad(image, frame_size, Image.Resampling.LANCZOS, PANEL)
            sheet.paste(framed, (left + number * (plan.frame_width + FRAME_GAP), top))
        text = top + plan.frame_height + LABEL_GAP
        pen.line(cell.label, (left, text), plan.cell_width, _LABEL, INK)
        pen.line(cell.detail, (left, text + LABEL_LINE), plan.cell_width, _DETAIL, PENCIL)
    if plan.left_out:
        more = f"and {plan.left_out:,} more, for which there is no room here"
        pen.line(more, (MARGIN, plan.height - MARGIN - FOOTER), width, _SUBTITLE, PENCIL)
    pen.fonts.warn()
    return sheet


class _Pen:
    """Writes text within a width."""

    def __init__(self, sheet: Image.Image) -> None:
        self._draw = ImageDraw.Draw(sheet)
        self.fonts = FontBook()

    def line(self, text: str, corner: tuple[int, int], width: int, size: int, colour: str) -> None:
        """One line; if it is too long, its last parts are left out, or its only one is cut."""
        text = text[:_MAX_CHARS]
        while self._width(text, size) > width and SEPARATOR in text:
            text = text.rpartition(SEPARATOR)[0]
        if self._width(text, size) > width:
            ends = range(len(text))
            fitting = bisect(ends, width, key=lambda end: self._width(f"{text[:end]}…", size))
            text = f"{text[: fitting - 1].rstrip()}…"
        left, top = corner
        baseline = top + self.fonts.split("x", size)[0][1].getmetrics()[0]
        for part, font in self.fonts.split(text, size):
            self._draw.text((left, baseline), part, fill=colour, font=font, anchor="ls")
            left += round(font.getlength(part))

    def paragraph(self, text: str, box: tuple[int, int, int, int]) -> None:
        """A panel with as many lines as fit."""
        left, top, right, bottom = box
        self._draw.rectangle((left, top, right - 1, bottom - 1), fill=PANEL)
        width = right - left - 2 * _PROBLEM_PADDING
        lines = [""]
        for word in text[:_MAX_CHARS].split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, _DETAIL) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        most = max((bottom - top) // _PROBLEM_LINE - 1, 1)
        if len(lines) > most:
            lines[most - 1 :] = [" ".join(lines[most - 1 :])]  # which is cut
        for number, line in enumerate(lines):
            corner = left + _PROBLEM_PADDING, top + _PROBLEM_PADDING + number * _PROBLEM_LINE
            self.line(line, corner, width, _DETAIL, PROBLEM)

    def _width(self, text: str, size: int) -> int:
        return round(sum(font.getlength(part) for part, font in self.fonts.split(text, size)))


# --- fonts

Font = ImageFont.FreeTypeFont

PACKAGES = (
    "noto_cjk_sans_otc",
    *(f"justmytype_intl_{part}" for part in ("rtl", "south_asia", "sea", "africa")),
)
"""What the extra `fonts` installs: Latin, Greek, Cyrillic and East Asian letters; then the others."""
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_OWN = ""
"""Stands for Pillow's own font in place of a file."""


class FontBook:
    """Splits text by the fonts that have its letters. `missing`: letters that no font has."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    def split(self, text: str, pixels: int) -> list[tuple[str, Font]]:
        """The text in parts of one font each, of this height; `?` for letters that no font has."""
        parts: list[tuple[str, str]] = []
        for letter in unicodedata.normalize("NFC", " ".join(text.split())):
            before, current = parts[-1] if parts else ("", _OWN)
            found = next((file for file in (current, *_font_files()) if _has_letter(file, letter)), None)
            if found is None:
                if unicodedata.category(letter) in ("Mn", "Cf"):  # an accent, or a sign without a shape
                    continue
                self.missing.add(letter)
                letter, found = "?", current
            if parts and found == current:
                parts[-1] = before + letter, current
            else:
                parts.append((letter, found))
        return [(part, _open_font(file, pixels)) for part, file in parts]

    def warn(self) -> None:
        """Log the letters that were replaced, if there are any."""
        if self.missing:
            log.warning(
                "No font has the letters %s: the picture shows '?' for them. Install the extra `fonts` on "
                "the workers, or fonts of the system, such as Debian's fonts-noto-core and fonts-noto-cjk.",
                " ".join(sorted(self.missing))[:100],
            )


@cache
def _font_files() -> tuple[str, ...]:
    """Pillow's own font, then files: those of packages first."""
    upright = re.compile(
        r"(NotoSans\w*-Regular|Noto\w*Sans\w*\[[\w,]+\]|DejaVuSans|unifont\w*)\.(ttf|otf|ttc)"
    )
    specs = [spec for name in PACKAGES if (spec := find_spec(name)) is not None]
    packages = [Path(place) for spec in specs for place in spec.submodule_search_locations or ()]
    found = [_OWN]
    for folder in (*packages, *FOLDERS):
        found += sorted(str(path) for path in folder.rglob("*") if upright.fullmatch(path.name))
    return tuple(found)


@cache
def _open_font(file: str, pixels: int) -> Font:
    if file == _OWN:
        return cast("Font", ImageFont.load_default(pixels))
    font = ImageFont.truetype(file, pixels)
    with suppress(OSError, ValueError):  # not every font has variations, nor this one
        font.set_variation_by_name("Regular")
    return font


@cache
def _has_letter(file: str, letter: str) -> bool:
    try:
        font = _open_font(file, 16)
        # Each font draws this code point as its sign for letters that it lacks.
        return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010fffe"))
    except OSError:  # the file is no font
        return False
