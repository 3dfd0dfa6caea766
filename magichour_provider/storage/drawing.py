"""Draw a contact sheet: frames in a grid, two lines of text below each clip, quiet colours."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from PIL import Image, ImageDraw, ImageFont

from magichour_provider.storage.layout import FOOTER, FRAME_GAP, LABEL_GAP, LABEL_LINE, MARGIN, Plan

PAPER = "#fbfaf7"
INK = "#2b2a27"
PENCIL = "#7a776f"
PANEL = "#ebe9e3"
TROUBLE = "#96493a"
SEPARATOR = " · "
"""Between the parts of a line."""

_TITLE, _SUBTITLE, _LABEL, _DETAIL = 40, 24, 21, 18
_PROBLEM_PADDING = 18
_PROBLEM_LINE = 25


@dataclass(frozen=True)
class Cell:
    """What a sheet shows of one clip: its frames, or the problem with it."""

    label: str
    detail: str
    images: tuple[Image.Image, ...] = field(default=(), repr=False)
    problem: str | None = None


def draw_sheet(cells: Sequence[Cell], plan: Plan, *, title: str, subtitle: str) -> Image.Image:
    """The sheet of `cells`, laid out as `plan` says."""
    sheet = Image.new("RGB", (plan.width, plan.height), PAPER)
    pen = _Pen(sheet)
    width = plan.width - 2 * MARGIN
    pen.line(title, (MARGIN, MARGIN - 6), width, _TITLE, INK)
    pen.line(subtitle, (MARGIN, MARGIN + 50), width, _SUBTITLE, PENCIL)
    for index, cell in enumerate(cells):
        _draw_cell(sheet, pen, cell, plan, *plan.corner(index))
    if plan.left_out:
        more = f"and {plan.left_out:,} more, for which there is no room here"
        pen.line(more, (MARGIN, plan.height - MARGIN - FOOTER), width, _SUBTITLE, PENCIL)
    return sheet


def _draw_cell(sheet: Image.Image, pen: _Pen, cell: Cell, plan: Plan, left: int, top: int) -> None:
    if cell.problem is not None:
        box = (left, top, left + plan.cell_width, top + plan.frame_height)
        pen.paragraph(cell.problem, box)
    for number, image in enumerate(cell.images):
        at = left + number * (plan.frame_width + FRAME_GAP), top
        sheet.paste(_framed(image, (plan.frame_width, plan.frame_height)), at)
    text = top + plan.frame_height + LABEL_GAP
    pen.line(cell.label, (left, text), plan.cell_width, _LABEL, INK)
    pen.line(cell.detail, (left, text + LABEL_LINE), plan.cell_width, _DETAIL, PENCIL)


def _framed(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole image in the middle of a panel of this size."""
    scale = min(size[0] / image.width, size[1] / image.height)
    fitted = (
        min(max(round(image.width * scale), 1), size[0]),
        min(max(round(image.height * scale), 1), size[1]),
    )
    panel = Image.new("RGB", size, PANEL)
    corner = ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2)
    panel.paste(image.resize(fitted, Image.Resampling.LANCZOS), corner)
    return panel


class _Pen:
    """Writes text within a width, in the font that Pillow brings."""

    def __init__(self, sheet: Image.Image) -> None:
        self._draw = ImageDraw.Draw(sheet)
        self._fonts: dict[int, ImageFont.FreeTypeFont] = {}

    def line(self, text: str, corner: tuple[int, int], width: int, size: int, colour: str) -> None:
        """One line; where it is too long, its last parts are left out, or its only one is cut."""
        self._draw.text(corner, self._cut(legible(text), width, size), fill=colour, font=self._font(size))

    def paragraph(self, text: str, box: tuple[int, int, int, int]) -> None:
        """A panel with as many lines as there is room for."""
        self._draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=PANEL)
        width = box[2] - box[0] - 2 * _PROBLEM_PADDING
        lines = self._wrapped(legible(text), width, max((box[3] - box[1]) // _PROBLEM_LINE - 1, 1))
        for number, line in enumerate(lines):
            corner = box[0] + _PROBLEM_PADDING, box[1] + _PROBLEM_PADDING + number * _PROBLEM_LINE
            self._draw.text(corner, line, fill=TROUBLE, font=self._font(_DETAIL))

    def _wrapped(self, text: str, width: int, most: int) -> list[str]:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._font(_DETAIL).getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        if len(lines) > most:
            lines[most - 1 :] = [" ".join(lines[most - 1 :])]
        return [self._cut(line, width, _DETAIL) for line in lines]

    def _cut(self, text: str, width: int, size: int) -> str:
        font = self._font(size)
        while font.getlength(text) > width and SEPARATOR in text:
            text = text.rpartition(SEPARATOR)[0]
        if font.getlength(text) <= width:
            return text
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        return text.rstrip() + "…"

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        if size not in self._fonts:
            self._fonts[size] = cast("ImageFont.FreeTypeFont", ImageFont.load_default(size=size))
        return self._fonts[size]


def legible(text: str) -> str:
    """The text in the letters that Pillow's font has: accents go, and what has no letter becomes a `?`."""
    flat = unicodedata.normalize("NFKD", " ".join(text.split())[:500])
    kept = (letter for letter in flat if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" or letter in "·…" else "?" for letter in kept)
