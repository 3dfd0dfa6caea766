"""The tables of `docs/reliability.md`: what each breaking test saw, one row each.

A run compares what it saw with what the page says; `make reliability` writes the page anew.
"""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
WRITE = os.environ.get("WRITE_RELIABILITY") == "1"


@dataclass(frozen=True)
class Row:
    """What became of one way to break things.

    :param what: what was done, and when: `the task's process was killed while ...`.
    :param mode: `synchronous`, `deferrable`, `mapped, deferrable`.
    :param ends: state and try of the task in the end: `success, try 2`.
    :param clips: how many clips were asked for.
    :param paid: how many creates were charged and not refunded.
    :param rendered: how many clips are there in the end.
    :param message: what the task said, without ids, times and ports; empty where it needed to say nothing.
    """

    what: str
    mode: str
    ends: str
    clips: int
    paid: int
    rendered: int
    message: str

    def line(self) -> str:
        """The row in Markdown."""
        return "| " + " | ".join(str(cell) for cell in astuple(self)) + " |"


@dataclass
class Report:
    """The rows that this run has seen, by section of the page."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    _places: dict[Row, int] = field(default_factory=dict)

    def add(self, section: str, row: Row, *, place: int = 0) -> None:
        """Take one row down; a section is written by `place`, and then in the order of the tests."""
        self.rows.setdefault(section, []).append(row)
        self._places[row] = place

    def missing(self) -> list[str]:
        """The rows that the page does not have as they were seen."""
        return [
            row.line() for section, rows in self.rows.items() for row in rows if row.line() not in _lines(section)
        ]

    def left_over(self) -> list[str]:
        """The rows of the page that nobody has seen, in the sections that were looked at."""
        return [
            line
            for section, rows in self.rows.items()
            for line in _lines(section)
            if line not in {row.line() for row in rows}
        ]

    def write(self) -> None:
        """Put the rows of each section that was seen between its markers in the page."""
        text = PAGE.read_text(encoding="utf-8")
        for section, rows in self.rows.items():
            begin, end = _markers(section)
            head, _, rest = text.partition(begin)
            _, _, tail = rest.partition(end)
            lines = "".join(f"{row.line()}\n" for row in sorted(rows, key=lambda row: self._places[row]))
            text = f"{head}{begin}{_HEADER}{lines}{end}{tail}"
        PAGE.write_text(text, encoding="utf-8")


_HEADER = (
    "| what happened | mode | the task ends as | clips asked for | paid for | rendered | what it says |\n"
    "|---|---|---|---|---|---|---|\n"
)


def _lines(section: str) -> list[str]:
    """The rows of a section, as the page has them."""
    begin, end = _markers(section)
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    return rest.partition(end)[0].splitlines()[len(_HEADER.splitlines()) :]


def _markers(section: str) -> tuple[str, str]:
    return f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->"
