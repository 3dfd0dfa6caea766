"""How long renders take, as far as this process has seen. Pure: no clock, no I/O, plain data.

A render's time is never seen, only two looks: one that found it unfinished and one that found it done. Each
kind of render (model, resolution, length) has a life table over steps of age: how many renders ended in a
step, and how many were there to end. Their quotient is the hazard that `schedule` plans by, and it stays
right while most of a batch is still rendering, when the ends seen so far are the early ones. Hazards are
averaged over as many neighbouring steps as it takes to have seen several ends.

- An end is spread over its interval as earlier ends say. Where none are known there, by the prior: so looks
  move earlier once renders become faster, when all that is seen is that the first look found them done.
- A step remembers about the last `_MEMORY` renders that reached it, so a change is followed; the prior counts
  as much as half a render.
- The delays of the kind's own looks are estimated too, and the whole plan made denser or sparser until
  they are what was wanted.

The prior. Magic Hour publishes the median time of image-to-video jobs, from creation to completion,
queueing included, for all models together: 1 m 14 s for the 30 days up to 20 July 2026, 33 s for 140 jobs of
22 to 24 September 2026 (https://docs.magichour.ai/api-reference/processing-times). Nothing is published
about their spread. One median being as likely as the other, half of the prior lies between the two: a
lognormal distribution with the quartiles 33 s and 74 s (median 49.4 s, sigma 0.5987). A tenth of the prior is
a heavy tail (Lomax, shape 0.5), for jobs that wait in a queue, or models that take minutes.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import NamedTuple

from magichour_provider.polling.intervals import MEAN_DELAY, PollPlan, make_plan

MAX_KINDS = 128
"""Kinds that are remembered (some 10 KiB each); the one that has learned nothing for longest is forgotten."""
HORIZON = 4 * 3600.0
"""Seconds; a job older than this is looked at every `schedule.LONGEST`."""

_SCALE, _STEP = 10.0, 1 / 40
_STEPS = math.ceil(math.log1p(HORIZON / _SCALE) / _STEP)
_AGES = array("d", [_SCALE * math.expm1(number * _STEP) for number in range(_STEPS + 1)])
"""Steps of a fortieth of (age + 10 s): a quarter of a second at first, then 2.5 % of the age."""

_LOWER_QUARTILE, _UPPER_QUARTILE = 33.0, 74.0
_TAIL, _TAIL_SHAPE = 0.1, 0.5
_PRIOR_WEIGHT = 0.5
_MEMORY = 128
_NEIGHBOURS = 14
"""The widest average takes in so many steps on each side: about a third of the age."""
_DELAYS_AT_FIRST, _DELAYS_MEMORY = 60.0, 100
"""The delays wanted count as much as so many seen, at first; and about so many are remembered."""
_LEAST_HASTE, _MOST_HASTE = 0.3, 3.0


class RenderKind(NamedTuple):
    """What render times are learned by; None where it is not known."""

    model: str | None = None
    resolution: str | None = None
    end_seconds: float | None = None


ANY_KIND = RenderKind()
"""Renders of which nothing is known."""


def _step_at(age: float) -> float:
    """Which step an age falls into, and how far into it."""
    return min(float(_STEPS), math.log1p(max(age, 0.0) / _SCALE) / _STEP)


def _steps_between(first: float, last: float) -> Iterator[tuple[int, float]]:
    """The steps from one `_step_at` to another, and how much of each lies between."""
    for step in range(int(first), math.ceil(last)):
        yield step, min(step + 1, last) - max(step, first)


def _prior_unfinished(age: float) -> float:
    """The share of renders that take longer, before anything has been seen."""
    if age <= 0:
        return 1.0
    quartile = NormalDist().inv_cdf(0.75)
    lower, upper = math.log(_LOWER_QUARTILE), math.log(_UPPER_QUARTILE)
    usual = NormalDist((lower + upper) / 2, (upper - lower) / 2 / quartile)
    tail: float = (1 + age / _SCALE) ** -_TAIL_SHAPE
    return (1 - _TAIL) * usual.cdf(lower + upper - math.log(age)) + _TAIL * tail


_UNFINISHED = [_prior_unfinished(age) for age in _AGES]
_PRIOR_ENDS = [_PRIOR_WEIGHT * (first - last) for first, last in pairwise(_UNFINISHED)]
_PRIOR_EXPOSED = [_PRIOR_WEIGHT * (first + last) / 2 for first, last in pairwise(_UNFINISHED)]
_PRIOR_PLAN = make_plan(_AGES, [e / n for e, n in zip(_PRIOR_ENDS, _PRIOR_EXPOSED, strict=True)])


def _zeros() -> array[float]:
    return array("d", bytes(8 * _STEPS))


@dataclass(slots=True)
class _Lessons:
    """The life table of one kind, and the plan that was last made by it."""

    plan: PollPlan = _PRIOR_PLAN
    ends: array[float] = field(default_factory=_zeros)
    exposed: array[float] = field(default_factory=_zeros)
    shares: Sequence[float] = field(default_factory=lambda: _PRIOR_ENDS)
    count: float = 0.0
    unplanned: int = 0
    delays: float = _DELAYS_AT_FIRST * MEAN_DELAY
    delays_count: float = _DELAYS_AT_FIRST
    haste: float = 1.0

    def current_plan(self) -> PollPlan:
        """The plan; made anew once enough has been learned since."""
        if self.unplanned > self.count / 16:
            self._make_plan()
        return self.plan

    def expose(self, since: float, age: float) -> None:
        """Take in that a render was unfinished from one age to another."""
        for step, part in _steps_between(_step_at(since), _step_at(age)):
            self._add(step, part)

    def _add(self, step: int, exposed: float, ended: float = 0.0) -> None:
        """Add to a step, which forgets as much as it has too much: what came last counts."""
        kept = 1 - exposed / _MEMORY
        self.exposed[step] = self.exposed[step] * kept + exposed
        self.ends[step] = self.ends[step] * kept + ended

    def end(self, shortest: float, longest: float) -> None:
        """Take in that a render ended between two ages."""
        spread = list(_steps_between(_step_at(shortest), _step_at(longest)))
        if not spread:
            return
        likely = _normed([part * self.shares[step] for step, part in spread])
        middles = [_middle(step, shortest, longest) for step, _ in spread]
        self._note_delay(longest - sum(map(operator.mul, likely, middles)), shortest, longest)
        unfinished = 1.0
        for (step, part), share in zip(spread, likely, strict=True):
            self._add(step, part * (unfinished - share / 2), share)
            unfinished -= share
        self.count = self.count * (1 - 1 / _MEMORY) + 1
        self.unplanned += 1

    def _note_delay(self, delay: float, shortest: float, longest: float) -> None:
        """Take in how late an end was probably seen; as the plan in force would see it, without haste."""
        planned, pause = self.plan.pause(shortest), longest - shortest
        if pause > 3 * planned:
            return
        kept = 1 - 1 / _DELAYS_MEMORY
        self.delays = self.delays * kept + delay / pause * planned * self.haste
        self.delays_count = self.delays_count * kept + 1

    def _make_plan(self) -> None:
        self.unplanned = 0
        ends = [seen + prior for seen, prior in zip(self.ends, _PRIOR_ENDS, strict=True)]
        exposed = [seen + prior for seen, prior in zip(self.exposed, _PRIOR_EXPOSED, strict=True)]
        hazards = [e / n for e, n in zip(ends, exposed, strict=True)]
        summed = list(accumulate(hazards, initial=0.0))
        unfinished = [math.exp(-hazard) for hazard in summed]
        # Not from the averaged hazards: an end spread by them would make the next average wider.
        self.shares = array("d", [a - b for a, b in pairwise(unfinished)])
        seen_late = self.delays / self.delays_count / MEAN_DELAY
        self.haste = min(_MOST_HASTE, max(_LEAST_HASTE, seen_late))
        # The usual growth of the best window of nearest neighbours; more would blur, fewer be noise.
        wanted = 3 + 0.15 * self.count**0.8
        counted = list(accumulate(ends, initial=0.0))
        self.plan = make_plan(_AGES, _averaged(summed, counted, wanted), self.haste)


def _middle(step: int, shortest: float, longest: float) -> float:
    """The age in the middle of the part of a step that lies in an interval."""
    return (max(_AGES[step], shortest) + min(_AGES[step + 1], longest)) / 2


def _normed(values: list[float]) -> list[float]:
    """Values made to sum up to 1; all the same if they are all nothing."""
    total = sum(values)
    if total <= 0:
        return [1 / len(values)] * len(values)
    return [value / total for value in values]


def _averaged(summed: list[float], counted: list[float], wanted: float) -> list[float]:
    """Hazards averaged over neighbours: as wide as it takes to have `wanted` ends, or _NEIGHBOURS.

    :param summed: the hazards, and `counted` the ends, summed up to each age.
    """
    averaged = []
    wide = _NEIGHBOURS
    for step in range(_STEPS):
        # From one step to the next a window grows or shrinks by no more than one on each side.
        wide = max(1, wide - 1)
        while True:
            first, last = max(0, step - wide), min(_STEPS, step + wide + 1)
            if wide >= _NEIGHBOURS or counted[last] - counted[first] >= wanted:
                break
            wide += 1
        averaged.append((summed[last] - summed[first]) / (last - first))
    return averaged


class RenderTimes:
    """What has been learned of every kind of render; a kind never seen has the prior."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[RenderKind, _Lessons] = OrderedDict()

    def plan_for(self, kind: RenderKind) -> PollPlan:
        """When to look at a job of this kind, by what is known now. To be asked for anew at every look."""
        lessons = self._kinds.get(kind)
        return _PRIOR_PLAN if lessons is None else lessons.current_plan()

    def learn(self, kind: RenderKind, shortest: float, longest: float, since: float = 0.0) -> None:
        """Learn that a render ended between two ages, in seconds since its job was submitted.

        :param shortest: age at the last look that saw it unfinished; 0 if none did.
        :param longest: age at the look that saw it done.
        :param since: the last age that `unfinished` was told of this job; 0 if it was told of none.
        """
        shortest = max(0.0, shortest)
        lessons = self._lessons(kind)
        lessons.expose(since, shortest)
        lessons.end(shortest, max(longest, shortest + 0.001))

    def unfinished(self, kind: RenderKind, age: float, since: float = 0.0) -> None:
        """Learn that a render was seen unfinished. To be told at every such look.

        Without it a render is counted among the unfinished only once it has ended; of a batch that is
        submitted at once, the early ends then seem to be all there are.

        :param age: seconds since its job was submitted.
        :param since: the age that this was last told of this job; 0 if it is told for the first time.
        """
        self._lessons(kind).expose(since, age)

    def _lessons(self, kind: RenderKind) -> _Lessons:
        lessons = self._kinds.get(kind)
        if lessons is None:
            lessons = self._kinds[kind] = _Lessons()
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        return lessons


render_times = RenderTimes()
"""What this process has learned, for all its event loops and accounts."""
