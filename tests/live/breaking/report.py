"""The tables of `docs/reliability.md`: what each breaking test saw, one row each.

A run compares what it saw with what the page says; `make reliability` writes the page anew.
"""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
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

    def cells(self) -> tuple[str, ...]:
        """The row as text, without what the task said."""
        return tuple(str(cell) for cell in astuple(self)[:-1])


@dataclass
class Report:
    """The rows that this run has seen, by section of the page."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    _places: dict[Row, int] = field(default_factory=dict)

    def add(self, section: str, row: Row, *, place: int = 0) -> None:
        """Take one row down; a section is written by `place`, and then in the order of the tests."""
        self.rows.setdefault(section, []).append(row)
        self._places[row] = place

    def missing(self) -> list[Line]:
        """The rows that the page does not have as they were seen."""
        return [line for section in self.rows for line in self._seen(section) if line not in _read(section)]

    def left_over(self) -> list[Line]:
        """The rows of the page that nobody has seen, in the sections that were looked at."""
        return [line for section in self.rows for line in _read(section) if line not in self._seen(section)]

    def write(self) -> None:
        """Put the rows of each section that was seen between its markers in the page."""
        text = PAGE.read_text(encoding="utf-8")
        for section in self.rows:
            begin, end = _markers(section)
            head, _, rest = text.partition(begin)
            _, _, tail = rest.partition(end)
            text = f"{head}{begin}{_table(self._seen(section))}{end}{tail}"
        PAGE.write_text(text, encoding="utf-8")

    def _seen(self, section: str) -> list[Line]:
        rows = sorted(self.rows[section], key=lambda row: self._places[row])
        return [(row.cells(), row.message) for row in rows]


Line = tuple[tuple[str, ...], str]
"""The cells of a row, and what the task said."""

_HEADER = (
    "| what happened | mode | the task ends as | clips asked for | paid for | rendered | it says |\n"
    "|---|---|---|---|---|---|---|\n"
)
_SAYINGS = "\nWhat it says:\n\n"


def _table(lines: list[Line]) -> str:
    """The rows in Markdown, and below them the messages, which the last column counts."""
    messages = list(dict.fromkeys(message for _, message in lines if message))
    text = _HEADER
    for cells, message in lines:
        number = f"({messages.index(message) + 1})" if message else ""
        text += f"| {' | '.join(cells)} | {number} |\n"
    sayings = "".join(f"{number}. {message}\n" for number, message in enumerate(messages, 1))
    return text + (f"{_SAYINGS}{sayings}" if messages else "")


def _read(section: str) -> list[Line]:
    """The rows of a section and their messages, as the page has them."""
    begin, end = _markers(section)
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    table, _, sayings = rest.partition(end)[0].removeprefix(_HEADER).partition(_SAYINGS)
    messages = dict(line.split(". ", 1) for line in sayings.splitlines())
    lines: list[Line] = []
    for line in table.splitlines():
        *cells, number = (cell.strip() for cell in line.strip("|").split("|"))
        lines.append((tuple(cells), messages.get(number.strip("()"), "")))
    return lines


def _markers(section: str) -> tuple[str, str]:
    return f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->"
