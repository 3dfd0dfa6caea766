"""The results of a whole run of the benchmarks, and the figures that follow from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polling import Load, Result
from subjects import NEVER

OURS = "magichour"
BARE = "bare"
SPREAD = "spread"
"""The bare loops: one whose polls come all at once, and one whose polls are spread as ours are."""


@dataclass
class Findings:
    """Results by subject and load, and the results of the other benchmarks.

    :param few: the load with hardly a job, from which the memory that a job takes is counted.
    :param main: the load that the bars name for 1,000 jobs; None where it was not run.
    :param many: the one for 10,000.
    :param imports: milliseconds by module.
    :param sections: finished sections of the page, and `bars` rows of its first table, by other benchmarks.
    """

    few: Load
    main: Load
    many: Load
    results: list[Result] = field(default_factory=list)
    imports: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bars: list[list[str]] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)

    def loads(self) -> list[Load]:
        """The loads that were run, the one with few jobs left out, in the order of their first run."""
        return [
            load
            for load in dict.fromkeys(_key(result.load) for result in self.results)
            if not self._is_few(load)
        ]

    def of(self, who: str, load: Load) -> list[Result]:
        """The runs of one subject under one load."""
        return [result for result in self.results if result.who == who and _key(result.load) == _key(load)]

    def figure(self, name: str, who: str, load: Load) -> float | None:
        """The median of a figure over the runs, such as `lag_max` or `starting.lag_max`."""
        found: list[float] = []
        for result in self.of(who, load):
            value: object = result
            for part in name.split("."):
                value = getattr(value, part)
            assert isinstance(value, (int, float))
            found.append(value)
        return statistics.median(found) if found else None

    def times(self, limit: str, name: str, who: str, load: Load) -> float | None:
        """A figure as a multiple of that of one of the bare loops."""
        own, least = self.figure(name, who, load), self.figure(name, limit, load)
        return own / least if own is not None and least else None

    def memory(self, who: str, load: Load) -> float | None:
        """KiB that each waiting job takes."""
        much, little = self.figure("rss", who, load), self.figure("rss", who, self.few)
        waiters = self.figure("waiters", who, load)
        if much is None or little is None or waiters is None or waiters <= self.few.jobs:
            return None
        return (much - little) / (waiters - self.few.jobs) / 1024

    def memory_beyond_airflow(self, who: str, load: Load) -> float | None:
        """KiB that each takes beyond a trigger that does nothing."""
        own, floor = self.memory(who, load), self.memory(NEVER, load)
        if who in (BARE, SPREAD):  # they are no triggers
            return own
        return None if own is None or floor is None else own - floor

    def _is_few(self, load: Load) -> bool:
        return _key(load) == _key(self.few)


def _key(load: Load) -> Load:
    return Load(load.jobs, load.period, load.answer_ms)
