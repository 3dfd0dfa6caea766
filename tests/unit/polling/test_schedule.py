from __future__ import annotations

import dataclasses
import math
import random
import statistics
from itertools import pairwise

import pytest

from magichour_provider.polling.intervals import LONGEST, MEAN_DELAY, SHORTEST, PollPlan, make_plan

AGES = [10 * math.expm1(step / 40) for step in range(250)]


def plan_for(unfinished):
    """The plan for render times that are known: `unfinished(age)` is the share that takes longer."""
    shares = [max(unfinished(age), 1e-12) for age in AGES]
    return make_plan(AGES, [max(1e-9, math.log(first / last)) for first, last in pairwise(shares)])


def cost(plan, durations):
    """Looks per clip and mean delay."""
    looks, delays = 0, []
    for duration in durations:
        age = 0.0
        while age < duration:
            age += plan.pause(age)
            looks += 1
        delays.append(age - duration)
    return looks / len(durations), statistics.fmean(delays)


def draws(sample, number=3000):
    chance = random.Random(0)
    return [sample(chance) for _ in range(number)]


@pytest.mark.parametrize("mean", [20, 60, 300])
def test_known_render_times_take_a_third_of_the_looks_at_the_same_delay(mean):
    plan = plan_for(lambda age: min(1.0, max(0.0, (1.2 * mean - age) / (0.4 * mean))))
    looks, delay = cost(plan, draws(lambda chance: mean * chance.uniform(0.8, 1.2)))
    assert delay <= MEAN_DELAY * 1.03
    assert looks <= (mean / 5 + 0.5) / 3


def test_looks_at_the_memoryless_are_evenly_spaced_as_nothing_is_better():
    plan = plan_for(lambda age: math.exp(-age / 60))
    pauses = [plan.pause(age) for age in range(0, 300, 7)]
    assert max(pauses) < min(pauses) * 1.02
    assert statistics.fmean(pauses) == pytest.approx(2 * MEAN_DELAY, rel=0.03)


@pytest.mark.parametrize("age", [-5.0, 0.0, 3.0, 60.0, 3000.0, AGES[-1], 1e9, math.inf])
@pytest.mark.parametrize("share", [0.0, 1.0, 1e6])
def test_no_look_follows_another_within_a_second_and_none_is_long_in_coming(age, share):
    for mean in (0.5, 60, 1e7):
        pause = plan_for(lambda at, mean=mean: math.exp(-at / mean)).pause(age, share)
        assert SHORTEST <= pause <= LONGEST


def test_a_share_of_a_look_is_a_share_of_the_pause():
    plan = plan_for(lambda age: math.exp(-age / 60))
    assert plan.pause(30, 0.9) == pytest.approx(0.9 * plan.pause(30), rel=0.01)
    assert plan.pause(30, 1.1) == pytest.approx(1.1 * plan.pause(30), rel=0.01)


def test_haste_looks_more_often():
    hazards = [0.01] * (len(AGES) - 1)
    calm, hasty = make_plan(AGES, hazards), make_plan(AGES, hazards, haste=2.0)
    assert hasty.pause(100) == pytest.approx(calm.pause(100) / 2, rel=0.05)


def test_a_plan_cannot_be_changed():
    plan = PollPlan([0.0, 1.0], [0.0, 1.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.ages = []
