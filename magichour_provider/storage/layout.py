"""How large everything on a contact sheet is. Pure arithmetic, in pixels.

A sheet stays within `WIDTH` x `MAX_HEIGHT` however many clips there are: it takes more columns before it gets
taller than a page, then fewer frames for each clip, then leaves the last clips out, and says how many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

WIDTH = 1600
"""A sheet's largest width: sharp at the width of a mail on a screen of high resolution."""

MAX_HEIGHT = 4000
MAX_FRAMES = 12
"""Frames of a clip, at most."""

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
class Plan:
    """A grid of cells, of which each shows one clip: a strip of frames with two lines of text below."""

    columns: int
    rows: int
    frames: int
    frame_width: int
    frame_height: int
    left_out: int
    """How many clips there is no room for; a line at the foot says so."""

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
        """Left and top of the cell of the clip number `index`."""
        row, column = divmod(index, self.columns)
        return (
            MARGIN + column * (self.cell_width + GAP),
            MARGIN + HEADER + row * (self.cell_height + GAP),
        )


def plan_sheet(
    count: int, *, frames: int, aspect: float, columns: int | None = None, left_out: int = 0
) -> Plan:
    """Find the grid for `count` clips of `aspect` (width over height), with at most `frames` of each.

    :param columns: cells in a row; None: as few as keep the sheet no taller than a page. Fewer where they
        would get too narrow to read.
    :param left_out: how many clips there are beside those.
    """
    aspect = min(max(aspect, _TALLEST), _WIDEST)
    plan = _plan(max(count, 1), 1, 1, aspect, left_out)
    for fewer in range(min(max(frames, 1), MAX_FRAMES), 0, -1):
        for each in _columns(count, fewer, columns):
            plan = _plan(count, each, fewer, aspect, left_out)
            if plan.height <= (MAX_HEIGHT if columns else _PAGE * plan.width):
                return plan
    return _cut(plan, count)


def _columns(count: int, frames: int, wanted: int | None) -> Iterable[int]:
    narrowest = max(_MIN_CELL, frames * (_MIN_FRAME + FRAME_GAP))
    most = max(min((_CONTENT + GAP) // (narrowest + GAP), count), 1)
    return range(1, most + 1) if wanted is None else [min(max(wanted, 1), most)]


def _plan(count: int, columns: int, frames: int, aspect: float, left_out: int) -> Plan:
    cell = (_CONTENT - (columns - 1) * GAP) // columns
    width = min((cell - (frames - 1) * FRAME_GAP) // frames, _MAX_FRAME)
    return Plan(columns, -(-count // columns), frames, width, round(width / aspect), left_out)


def _cut(plan: Plan, count: int) -> Plan:
    """The plan with as many rows as fit."""
    room = MAX_HEIGHT - 2 * MARGIN - HEADER - GAP - FOOTER
    rows = min(plan.rows, max((room + GAP) // (plan.cell_height + GAP), 1))
    return replace(plan, rows=rows, left_out=plan.left_out + max(count - rows * plan.columns, 0))
