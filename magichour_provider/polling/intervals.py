"""When to look at a job next. Pure: ages go in, a pause comes out.

A look costs a request, and a render that has ended is noticed only at the next look. Where looks at a job
of age t come at the rate r(t), S(t) is the share of renders that are unfinished at that age and f(t) the
density of their ends, a clip costs about `∫ S r` looks and is noticed after about `∫ f / (2 r)` seconds. For
a given mean delay the fewest looks are made where r is proportional to the square root of the hazard f / S:
rarely before a render can be done, often when it should be, ever more rarely after.

The product of looks and delay is then `(∫ √(S f))² / 2`. By the inequality of Cauchy and Schwarz that is at
most half the mean render time, which is what a fixed interval costs: no distribution of render times is
dearer by this schedule, as far as it is known, and only the memoryless one, whose hazard is constant, is as
dear. r is scaled for the mean delay of a look every five seconds.

What is known of render times is learned in `render_times`.
"""

from __future__ import annotations

import math
import operator
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

SHORTEST, LONGEST = 1.0, 60.0
"""Seconds between two looks at one job, at the least and at the most."""
MEAN_DELAY = 2.5
"""Seconds from the end of a render to the look that sees it, on average: those of a look every 5 s."""


@dataclass(frozen=True, slots=True)
class PollPlan:
    """When to look at the jobs of one kind.

    :param ages: seconds since a job was submitted, from 0 upwards.
    :param looks: the looks that are due from 0 up to each of these ages.
    """

    ages: Sequence[float]
    looks: Sequence[float]

    def pause(self, age: float, share: float = 1.0) -> float:
        """Seconds from a look at a job of this age (seconds since it was submitted) until the next.

        :param share: how much of a look is to fall due until then; drawn around 1, it keeps jobs that were
            submitted together from being looked at together.
        """
        ages, looks = self.ages, self.looks
        age = max(age, 0.0)
        if age >= ages[-1]:
            return LONGEST
        due = _at(age, ages, looks) + share
        if due >= looks[-1]:
            return LONGEST
        return min(LONGEST, max(SHORTEST, _at(due, looks, ages) - age))


def _at(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The value of y at x, between the points of which xs and ys are the coordinates."""
    right = bisect_right(xs, x)
    left = right - 1
    return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])


def make_plan(ages: Sequence[float], hazards: Sequence[float], haste: float = 1.0) -> PollPlan:
    """The plan that takes the fewest looks for a mean delay of `MEAN_DELAY`.

    :param ages: seconds, from 0 upwards; the first and last of each step.
    :param hazards: for each step from one age to the next, the hazard of ending in it, summed over the step:
        `-log` of the share of the renders unfinished at its first age that are unfinished at its last.
    :param haste: how many times as often to look.
    """
    steps = [last - first for first, last in pairwise(ages)]
    gaps = [math.sqrt(step / hazard) for step, hazard in zip(steps, hazards, strict=True)]
    rate = haste * _rate(_ends(hazards), gaps)
    due = [rate * step / gap for step, gap in zip(steps, gaps, strict=True)]
    return PollPlan(ages, array("d", accumulate(due, initial=0.0)))


def _ends(hazards: Sequence[float]) -> list[float]:
    """The share of all renders that ends in each step."""
    unfinished = [math.exp(-hazard) for hazard in accumulate(hazards, initial=0.0)]
    return [first - last for first, last in pairwise(unfinished)]


def _rate(ends: Sequence[float], gaps: Sequence[float]) -> float:
    """The factor that makes pauses of `gap / factor`, none longer than LONGEST, notice ends in MEAN_DELAY."""
    rate: float = sum(map(operator.mul, ends, gaps)) / (2 * MEAN_DELAY)
    for _ in range(3):
        longest = LONGEST * rate
        late = sum([share for share, gap in zip(ends, gaps, strict=True) if gap > longest])
        in_time = sum([share * gap for share, gap in zip(ends, gaps, strict=True) if gap <= longest])
        left = max(MEAN_DELAY - late * LONGEST / 2, MEAN_DELAY / 4)
        rate = in_time / (2 * left)
    return rate
