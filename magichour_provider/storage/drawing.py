"""The layout and the drawing of a contact sheet: frames in a grid, two lines of text below each video.

A sheet stays within `WIDTH` x `MAX_HEIGHT` pixels for any number of videos: more columns first, then fewer
frames of each, then the last videos are left out, and a line gives their number. All sizes are in pixels.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw, ImageOps

from magichour_provider.storage.fonts import FontBook

WIDTH = 1600
MAX_HEIGHT = 4000
MAX_FRAMES = 12
"""Of each video."""

MARGIN = 56
GAP = 36
FRAME_GAP = 6
HEADER = 116
LABEL_GAP = 12
LABEL_LINE = 28
FOOTER = 28

_CONTENT = WIDTH - 2 * MARGIN
_MIN_CELL = 170
_MIN_FRAME = 110
_MAX_FRAME = 640
_PAGE = 1.1
"""Height over width from which more columns are better than more rows."""

_TALLEST = 9 / 16
_WIDEST = 2.4


@dataclass(frozen=True)
class SheetPlan:
    """A grid of cells, one per video: a strip of frames with two lines of text below."""

    columns: int
    rows: int
    frames: int
    frame_width: int
    frame_height: int
    left_out: int
    """How many videos there is no room for."""

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
        return (
            MARGIN + column * (self.cell_width + GAP),
            MARGIN + HEADER + row * (self.cell_height + GAP),
        )


def plan_sheet(
    count: int, *, frames: int, aspect: float, columns: int | None = None, left_out: int = 0
) -> SheetPlan:
    """Find the grid for `count` videos of `aspect` (width over height), with at most `frames` of each.

    :param columns: cells in a row; None: as few as keep the sheet no taller than a page. Fewer if they
        would be too narrow to read.
    :param left_out: how many videos there are beside those.
    """
    aspect = min(max(aspect, _TALLEST), _WIDEST)
    for fewer in range(min(max(frames, 1), MAX_FRAMES), 0, -1):
        narrowest = max(_MIN_CELL, fewer * (_MIN_FRAME + FRAME_GAP))
        most = max(min((_CONTENT + GAP) // (narrowest + GAP), count), 1)
        for each in range(1, most + 1) if columns is None else [min(max(columns, 1), most)]:
            cell = (_CONTENT - (each - 1) * GAP) // each
            width = min((cell - (fewer - 1) * FRAME_GAP) // fewer, _MAX_FRAME)
            rows = -(-max(count, 1) // each)
            plan = SheetPlan(each, rows, fewer, width, round(width / aspect), left_out)
            if plan.height <= (MAX_HEIGHT if columns else _PAGE * plan.width):
                return plan
    room = MAX_HEIGHT - 2 * MARGIN - HEADER - GAP - FOOTER
    rows = min(plan.rows, max((room + GAP) // (plan.cell_height + GAP), 1))
    return replace(plan, rows=rows, left_out=left_out + max(count - rows * plan.columns, 0))


# --- drawing

PAPER = "#fbfaf7"
INK = "#2b2a27"
PENCIL = "#7a776f"
PANEL = "#ebe9e3"
PROBLEM = "#96493a"
SEPARATOR = " · "
"""Between the parts of a line."""

_TITLE, _SUBTITLE, _LABEL, _DETAIL = 40, 24, 21, 18
_MAX_CHARS = 500
_PROBLEM_PADDING = 18
_PROBLEM_LINE = 25


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
        left, top = corner
        baseline = top + self.fonts.split("x", size)[0][1].getmetrics()[0]
        for part, font in self.fonts.split(self._cut(text, width, size), size):
            self._draw.text((left, baseline), part, fill=colour, font=font, anchor="ls")
            left += round(font.getlength(part))

    def paragraph(self, text: str, box: tuple[int, int, int, int]) -> None:
        """A panel with as many lines as fit."""
        self._draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=PANEL)
        width = box[2] - box[0] - 2 * _PROBLEM_PADDING
        most = max((box[3] - box[1]) // _PROBLEM_LINE - 1, 1)
        lines = [""]
        for word in text[:_MAX_CHARS].split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, _DETAIL) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        if len(lines) > most:
            lines[most - 1 :] = [" ".join(lines[most - 1 :])]
        for number, line in enumerate(lines):
            corner = box[0] + _PROBLEM_PADDING, box[1] + _PROBLEM_PADDING + number * _PROBLEM_LINE
            self.line(line, corner, width, _DETAIL, PROBLEM)

    def _width(self, text: str, size: int) -> int:
        return round(sum(font.getlength(part) for part, font in self.fonts.split(text, size)))

    def _cut(self, text: str, width: int, size: int) -> str:
        text = text[:_MAX_CHARS]
        while self._width(text, size) > width and SEPARATOR in text:
            text = text.rpartition(SEPARATOR)[0]
        if self._width(text, size) <= width:
            return text
        ends = range(len(text))
        fitting = bisect(ends, width, key=lambda end: self._width(f"{text[:end]}…", size))
        return f"{text[: fitting - 1].rstrip()}…"
