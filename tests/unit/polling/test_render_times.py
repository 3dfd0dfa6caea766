"""Whole lives of a process, simulated: what the schedule learns from its own looks, and what that saves."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path

import pytest

from magichour_provider.polling import durations as module
from magichour_provider.polling.durations import MAX_KINDS, RenderKind, RenderTimes, render_times
from magichour_provider.polling.intervals import LONGEST, MEAN_DELAY, SHORTEST


def load_simulation():
    path = Path(__file__).parents[3] / "benchmarks" / "schedule.py"
    spec = importlib.util.spec_from_file_location("schedule_simulation", path)
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


simulation = load_simulation()
KIND = simulation.KIND
FIXED_5 = 5.0


def learned(sample, clips=600, in_flight=20, seeds=(1, 2)):
    """The row of a process that has learned from 200 clips."""
    return simulation.row("", sample, clips=clips, in_flight=in_flight, cold=200, seeds=seeds)


def taught(*durations, gap=4.0, seed=0):
    """What a process knows that has seen these renders end, each within `gap` seconds."""
    times, chance = RenderTimes(), random.Random(seed)
    for duration in durations:
        before = max(0.0, duration - gap * chance.random())
        times.learn(KIND, before, before + gap)
    return times


def pauses(plan, until, age=0.0):
    while age < until:
        pause = plan.pause(age)
        yield age, pause
        age += pause


@pytest.mark.parametrize("name", simulation.NARROW)
def test_render_times_spread_by_20_percent_take_a_third_of_the_looks(name):
    row = learned(simulation.NARROW[name])
    assert row.ratio < 0.32
    assert row.warm.looks <= row.fixed[0].looks * 0.34
    assert row.warm.delay < MEAN_DELAY * 1.06


@pytest.mark.parametrize("name", simulation.WIDE)
def test_no_spread_takes_more_looks_than_a_fixed_interval(name):
    row = learned(simulation.WIDE[name])
    assert row.ratio < 1.0
    assert row.warm.delay < MEAN_DELAY * 1.08


@pytest.mark.parametrize("name", simulation.MEMORYLESS)
def test_the_memoryless_is_a_tie_but_for_the_noise_of_what_was_learned(name):
    assert learned(simulation.MEMORYLESS[name], clips=1000).ratio < 1.05


@pytest.mark.parametrize("name", simulation.CHANGING)
def test_a_change_costs_less_than_a_fixed_interval_even_while_it_is_learned(name):
    row = simulation.row(name, simulation.CHANGING[name], seeds=(1, 2))
    assert row.ratio < 0.6
    assert row.warm.looks < row.fixed[0].looks * 0.5


@pytest.mark.parametrize("in_flight", [1, 100])
def test_what_is_learned_does_not_depend_on_how_many_render_at_once(in_flight):
    row = learned(simulation.uniform(60, 0.2), clips=800, in_flight=in_flight)
    assert row.ratio < 0.36


@pytest.mark.parametrize("name", simulation.NARROW)
def test_the_next_days_batch_profits_from_todays_though_all_were_submitted_at_once(name):
    first, second = simulation.batch(simulation.NARROW[name], clips=600)
    assert second.ratio < min(0.65, first.ratio * 0.8)


def test_a_batch_teaches_rightly_only_if_its_unfinished_renders_are_told_of():
    ratios = []
    for tell in (True, False):
        times = RenderTimes()
        for day in (0, 1):
            durations = simulation.draw(simulation.lognormal(50, 0.8), 600, seed=day)
            looked = simulation.simulate(
                durations, in_flight=600, seed=day, times=times, tell_unfinished=tell
            )
        today = simulation.costs(looked)
        ratios.append(today.looks / simulation.looks_of_fixed(durations, today.delay))
    told, untold = ratios
    assert told < 1.0 < untold


def test_before_anything_is_learned_looks_follow_the_published_times():
    durations = simulation.draw(simulation.lognormal(49.4, 0.5987), 1000)
    times = RenderTimes()
    first = [age + pause for age, pause in pauses(times.plan_for(KIND), 1)]
    assert 5 < first[0] < 20
    cold = simulation.costs(simulation.simulate(durations[:100], in_flight=20))
    assert cold.looks < simulation.costs(simulation.fixed(durations[:100], FIXED_5)).looks
    assert cold.delay < MEAN_DELAY * 1.2


def test_the_prior_has_the_published_quartiles():
    body = [
        (module._prior_unfinished(age) - 0.1 * (1 + age / 10) ** -0.5) / 0.9 for age in (33.0, 49.4166, 74.0)
    ]
    assert body == pytest.approx([0.75, 0.5, 0.25], abs=1e-4)


def test_after_everything_seen_looks_become_ever_rarer():
    times = taught(*(random.Random(1).uniform(48, 72) for _ in range(200)))
    later = [times.plan_for(KIND).pause(age) for age in (90, 150, 300, 600, 1200, 2400)]
    assert later == sorted(later)
    assert later[0] > 4
    assert later[-1] == LONGEST


def test_looks_are_rare_before_a_render_can_be_done():
    plan = taught(*(60.0 + n % 5 for n in range(200))).plan_for(KIND)
    assert plan.pause(0.0) > 45
    assert plan.pause(61.0) < 5


def test_renders_that_became_faster_than_the_first_look_are_found():
    durations = [60.0] * 300 + [15.0] * 100
    looked = simulation.simulate(durations, in_flight=1)
    after = simulation.costs(looked[-50:])
    assert after.delay < 4
    assert after.looks < 3


def test_kinds_do_not_learn_from_one_another():
    times = taught(*[200.0] * 50)
    other = KIND._replace(end_seconds=10.0)
    assert times.plan_for(other) is RenderTimes().plan_for(other)
    assert times.plan_for(KIND).pause(10) > 2 * times.plan_for(other).pause(10)


def test_kinds_that_learn_nothing_any_more_are_forgotten():
    times = taught(*[200.0] * 20)
    prior = times.plan_for(RenderKind())
    others = [RenderKind("other", None, float(number)) for number in range(2 * MAX_KINDS)]
    for kind in others:
        times.unfinished(kind, 1.0)
        times.unfinished(KIND, 1.0)
    assert times.plan_for(KIND) is not prior
    for kind in others:
        times.unfinished(kind, 2.0)
    assert times.plan_for(KIND) is prior
    assert len(times._kinds) == MAX_KINDS


@pytest.mark.parametrize(
    ("shortest", "longest"),
    [(0, 0), (-3, -1), (5, 5), (9, 4), (0, 1e9), (50, 1e9), (1e6, 2e6), (0, 1e-9), (14_399, 14_401)],
)
def test_odd_intervals_do_no_harm(shortest, longest):
    times = taught(*[60.0] * 20)
    for _ in range(300):
        times.learn(KIND, shortest, longest)
        times.unfinished(KIND, longest, shortest)
    plan = times.plan_for(KIND)
    assert all(SHORTEST <= plan.pause(age) <= LONGEST for age in (0, 1, 30, 60, 1000, 1e5))


def test_one_long_silence_does_not_undo_what_is_known():
    times = taught(*(random.Random(1).uniform(48, 72) for _ in range(200)))
    before = times.plan_for(KIND).pause(0.0)
    for _ in range(20):
        times.learn(KIND, 0.0, 5000.0)
    assert times.plan_for(KIND).pause(0.0) == pytest.approx(before, rel=0.1)


def test_nothing_is_worked_out_anew_while_nothing_is_learned():
    times = taught(*[60.0] * 200)
    assert times.plan_for(KIND) is times.plan_for(KIND)
    plan = times.plan_for(KIND)
    for _ in range(30):
        times.learn(KIND, 58.0, 61.0)
    assert times.plan_for(KIND) is not plan


def test_the_same_looks_teach_the_same():
    durations = simulation.draw(simulation.lognormal(50, 0.4), 100)
    assert simulation.simulate(durations) == simulation.simulate(durations)


def test_there_is_one_for_the_process():
    assert isinstance(render_times, RenderTimes)
    assert math.isfinite(render_times.plan_for(RenderKind()).pause(0.0))
