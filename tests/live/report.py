"""The tables of `docs/reliability.md`: a row for each way to break things, with codes for the outcome.

A run compares what it saw with the page; `make reliability` writes the page.
"""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, field
from pathlib import Path

from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS, AIRFLOW_V_3_4_PLUS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
WRITE = os.environ.get("WRITE_RELIABILITY") == "1"
COMPARE = not WRITE and AIRFLOW_V_3_3_PLUS and not AIRFLOW_V_3_4_PLUS
"""The page is that of Airflow 3.3."""

KILLED, USER_ACTIONS, BUDGET, PARTS = "killed", "user actions", "budget", "parts"
CLUSTER_KILLS, CLUSTER, FIVE_HUNDRED = "cluster kills", "cluster", "five hundred"
"""The sections."""

JOB_CODES = {
    "submitted": "This attempt submitted the job and ended with its video.",
    "reattached": "This attempt submitted nothing: it ended with the job of an earlier attempt.",
    "resubmitted": "A user asked for another video by clearing the task, and got one.",
    "not-submitted": "No job was created. Another attempt submits it.",
    "job-reported": "The task ended, the job keeps running, and the task's log has its id.",
    "unknown-reported": "Magic Hour may have created the job. The task failed and is not "
    "retried; its log has the job's name, the library's address and what to do.",
}
CREDIT_CODES = {
    "not-charged": "No video was paid for.",
    "charged-once": "Each video that was asked for was paid for once.",
    "charged-in-budget": "As many videos were paid for as the run's budget allows, each once.",
}
_HEADER = (
    "| what happened | mode | the task ends as | videos requested | paid for | rendered | job | credits |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Row:
    """What became of one way to break things.

    :param what: what was done and when, such as `killed before the upload`.
    :param mode: `synchronous`, `deferrable`, `mapped, deferrable`.
    :param ends: state and attempt of the task at the end: `success, attempt 2`.
    :param requested: videos that were asked for.
    :param paid: jobs that were charged and not refunded.
    :param rendered: jobs that are complete at the end.
    :param job: one of `JOB_CODES`, or several with commas between them.
    """

    what: str
    mode: str
    ends: str
    requested: int
    paid: int
    rendered: int
    job: str

    @property
    def credits(self) -> str:
        """One of `CREDIT_CODES`; AssertionError if more was paid for than requested."""
        assert self.paid <= self.requested, f"paid twice: {self}"
        if self.paid == 0:
            return "not-charged"
        return "charged-once" if self.paid == self.requested else "charged-in-budget"

    def __str__(self) -> str:
        codes = [f"`{code}`" for code in (*self.job.split(", "), self.credits)]
        cells = [*map(str, astuple(self)[:-1]), ", ".join(codes[:-1]), codes[-1]]
        return f"| {' | '.join(cells)} |"


@dataclass
class Report:
    """The rows that this run has seen, by section of the page."""

    rows: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    figures: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, section: str, row: Row, *, place: int = 0) -> None:
        """Add a row, which must be on the page; a section is sorted by `place`, then by test."""
        self.rows.setdefault(section, []).append((place, str(row)))
        assert not COMPARE or str(row) in _read(section), (
            f"not in {PAGE.name}; `make reliability` writes it: {row}"
        )

    def set_figures(self, section: str, figures: dict[str, object]) -> None:
        """Measurements, which differ from run to run: they are written, and not compared."""
        self.figures[section] = figures

    def end(self) -> None:
        """Write the sections of this run and the legend, or compare: the page has no other rows."""
        seen = {
            section: [row for _, row in sorted(rows, key=lambda each: each[0])]
            for section, rows in self.rows.items()
        }
        if COMPARE:
            assert {section: sorted(_read(section)) for section in seen} == {
                section: sorted(rows) for section, rows in seen.items()
            }
        if not WRITE:
            return
        text = _replaced(PAGE.read_text(encoding="utf-8"), "codes", legend())
        for section, rows in seen.items():
            text = _replaced(text, section, _HEADER + "".join(f"{row}\n" for row in rows))
        for section, figures in self.figures.items():
            lines = "".join(f"| {what} | {figure} |\n" for what, figure in figures.items())
            text = _replaced(text, section, f"| what | figure |\n|---|---|\n{lines}")
        PAGE.write_text(text, encoding="utf-8")


def legend() -> str:
    return "".join(f"- `{code}`: {meaning}\n" for code, meaning in {**JOB_CODES, **CREDIT_CODES}.items())


def _read(section: str) -> list[str]:
    begin, end = _markers(section)
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    return rest.partition(end)[0].removeprefix(_HEADER).splitlines()


def _replaced(text: str, section: str, content: str) -> str:
    begin, end = _markers(section)
    head, _, rest = text.partition(begin)
    return f"{head}{begin}{content}{end}{rest.partition(end)[2]}"


def _markers(section: str) -> tuple[str, str]:
    return f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->"
