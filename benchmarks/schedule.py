"""Polls per job and detection delay: the adaptive schedule beside a poll every 5, 10 and 30 s.

A simulation: jobs are submitted, polled and learned from as in one process, many at a time and in the order
of their polls. Every figure follows from the seed.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

from magichour_provider.polling.intervals import JobKind, PollIntervals

KIND = JobKind("ltx-2.3", "720p", 5.0)
JOBS, IN_FLIGHT, COLD, SEEDS = 1000, 20, 100, (1, 2, 3)
INTERVALS = (5.0, 10.0, 30.0)
JITTER = 0.1


class Polled(NamedTuple):
    """What one job cost: polls, and seconds from the end of its render to the poll that saw it."""

    polls: int
    delay: float


class Costs(NamedTuple):
    """What jobs cost on average; seconds."""

    polls: float
    delay: float
    p95: float


class Row(NamedTuple):
    """One distribution of render times."""

    name: str
    cold: Costs
    """The first jobs of a process that knows only the prior."""
    warm: Costs
    """The jobs after those; where render times change, all jobs."""
    fixed: tuple[Costs, ...]
    """The same jobs, polled every 5, 10 and 30 s."""
    ratio: float
    """Polls of `warm` to those of a fixed interval that has the same mean delay."""
    cold_ratio: float


class Wait:
    """One wait, as `PollIntervals` follows it."""


def simulate(
    durations: list[float],
    *,
    in_flight: int = IN_FLIGHT,
    seed: int = 0,
    intervals: PollIntervals | None = None,
) -> list[Polled]:
    """Run jobs, so many at a time, each polled when the intervals say; learning as they end."""
    intervals = PollIntervals() if intervals is None else intervals
    random.seed(seed)
    chance = random.Random(seed)
    waiting: list[tuple[float, int, float, float, int, Wait]] = []
    polled: dict[int, Polled] = {}
    to_submit = iter(range(len(durations)))

    def next_poll(age: float) -> float:
        pause = intervals.next_poll(KIND, age)
        jitter = min(JITTER * pause, 1.5)
        return pause + chance.uniform(-jitter, jitter)

    def submit(now: float) -> None:
        job = next(to_submit, None)
        if job is not None:
            wait = Wait()
            intervals.follow(KIND, wait)
            heapq.heappush(waiting, (now + next_poll(0.0), job, now, 0.0, 1, wait))

    for _ in range(in_flight):
        submit(chance.random())
    while waiting:
        now, job, submitted, last, polls, wait = heapq.heappop(waiting)
        age = now - submitted
        if age < durations[job]:
            heapq.heappush(waiting, (now + next_poll(age), job, submitted, age, polls + 1, wait))
            continue
        polled[job] = Polled(polls, age - durations[job])
        intervals.ended(KIND, wait, last, age)
        submit(now + chance.random())
    return [polled[job] for job in range(len(durations))]


def fixed(durations: list[float], interval: float) -> list[Polled]:
    """What the same jobs cost with a poll every `interval` seconds."""
    polls = [math.ceil(duration / interval) for duration in durations]
    return [Polled(n, n * interval - duration) for n, duration in zip(polls, durations, strict=True)]


def costs(polled: list[Polled]) -> Costs:
    """Averages of jobs."""
    delays = sorted(job.delay for job in polled)
    return Costs(
        statistics.fmean(job.polls for job in polled),
        statistics.fmean(delays),
        delays[int(0.95 * len(delays))],
    )


def polls_of_fixed(durations: list[float], delay: float) -> float:
    """Polls per job of the fixed interval that notices these jobs after `delay` seconds on average.

    `polls * interval` is the render time and the delay together. The delay is about half the interval, and
    more for jobs that are shorter than that; how much is averaged over intervals close by.
    """
    intervals = [2 * delay * (0.8 + 0.05 * number) for number in range(9)]
    part = statistics.fmean(costs(fixed(durations, interval)).delay / interval for interval in intervals)
    return (statistics.fmean(durations) + delay) * part / delay


def uniform(mean: float, spread: float) -> Callable[[random.Random, float], float]:
    return lambda chance, _: mean * chance.uniform(1 - spread, 1 + spread)


def lognormal(median: float, sigma: float) -> Callable[[random.Random, float], float]:
    return lambda chance, _: chance.lognormvariate(math.log(median), sigma)


def exponential(mean: float, after: float = 0.0) -> Callable[[random.Random, float], float]:
    return lambda chance, _: after + chance.expovariate(1 / mean)


def bimodal(short: float, long: float, share: float = 0.5) -> Callable[[random.Random, float], float]:
    return lambda chance, _: (short if chance.random() < share else long) * chance.uniform(0.9, 1.1)


def changing(first: float, last: float, step: bool) -> Callable[[random.Random, float], float]:
    """The mean goes from `first` to `last`, in the middle at once or bit by bit; spread by 20 %."""

    def draw(chance: random.Random, progress: float) -> float:
        weight = float(progress >= 0.5) if step else progress
        return (first + (last - first) * weight) * chance.uniform(0.8, 1.2)

    return draw


NARROW = {f"{mean} s +-20 %": uniform(mean, 0.2) for mean in (20, 33, 50, 60, 74, 120, 300, 600)}
WIDE = {
    "60 s +-2 %": uniform(60, 0.02),
    **{f"{mean} s +-{100 * s:.0f} %": uniform(mean, s) for s in (0.5, 0.9) for mean in (20, 60, 300)},
    **{f"lognormal 50 s, sigma {sigma}": lognormal(50, sigma) for sigma in (0.2, 0.4, 0.6, 0.8, 1.0)},
    "lognormal 300 s, sigma 1.0": lognormal(300, 1.0),
    "30 or 300 s +-10 %": bimodal(30, 300),
    "40 or 80 s +-10 %": bimodal(40, 80),
    "30 s, one in ten 600 s": bimodal(30, 600, 0.9),
    "30 s + exponential 30 s": exponential(30, 30),
    "10 s + exponential 60 s": exponential(60, 10),
}
CHANGING = {
    "drift 30 to 120 s +-20 %": changing(30, 120, step=False),
    "drift 120 to 30 s +-20 %": changing(120, 30, step=False),
    "step 60 to 300 s +-20 %": changing(60, 300, step=True),
    "step 300 to 60 s +-20 %": changing(300, 60, step=True),
    "step 60 to 20 s +-20 %": changing(60, 20, step=True),
}
MEMORYLESS = {f"exponential {mean} s": exponential(mean) for mean in (10, 20, 60, 300)}
"""Here no schedule beats a fixed interval."""


def draw(sample: Callable[[random.Random, float], float], jobs: int = JOBS, seed: int = 0) -> list[float]:
    """Render times of jobs in the order of their submission."""
    chance = random.Random(seed)
    return [sample(chance, number / jobs) for number in range(jobs)]


def row(
    name: str,
    sample: Callable[[random.Random, float], float],
    *,
    jobs: int = JOBS,
    in_flight: int = IN_FLIGHT,
    cold: int = COLD,
    seeds: tuple[int, ...] = SEEDS,
) -> Row:
    """Simulate one distribution with several seeds."""
    first: list[tuple[float, Polled]] = []
    later: list[tuple[float, Polled]] = []
    for seed in seeds:
        durations = draw(sample, jobs, seed)
        both = list(zip(durations, simulate(durations, in_flight=in_flight, seed=seed), strict=True))
        first += both[:cold]
        later += both if name in CHANGING else both[cold:]
    durations = [duration for duration, _ in later]
    cold_costs, warm_costs = (costs([polled for _, polled in part]) for part in (first, later))
    return Row(
        name,
        cold_costs,
        warm_costs,
        tuple(costs(fixed(durations, interval)) for interval in INTERVALS),
        warm_costs.polls / polls_of_fixed(durations, warm_costs.delay),
        cold_costs.polls / polls_of_fixed([duration for duration, _ in first], cold_costs.delay),
    )


def rows() -> Iterator[Row]:
    """Every distribution."""
    for name, sample in {**NARROW, **WIDE, **CHANGING, **MEMORYLESS}.items():
        yield row(name, sample)


def batch(
    sample: Callable[[random.Random, float], float], jobs: int = JOBS, seed: int = 0
) -> tuple[Row, Row]:
    """As many jobs as in a day's batch, all submitted at once: on the first day, and on the next."""
    intervals = PollIntervals()
    days = []
    for day in (0, 1):
        durations = draw(sample, jobs, seed + day)
        today = costs(simulate(durations, in_flight=jobs, seed=seed + day, intervals=intervals))
        at_intervals = tuple(costs(fixed(durations, interval)) for interval in INTERVALS)
        ratio = today.polls / polls_of_fixed(durations, today.delay)
        days.append(Row(f"day {day + 1}", today, today, at_intervals, ratio, ratio))
    return days[0], days[1]


def _line(name: str, cold: Costs, warm: Costs, at_intervals: tuple[Costs, ...], ratios: str) -> str:
    cells = [f"{each.polls:6.2f} {each.delay:5.2f} {each.p95:5.1f}" for each in (cold, warm, *at_intervals)]
    return f"{name:<28} {' | '.join(cells)} | {ratios}"


def main() -> None:
    """Print a table; each cell: polls per job, mean delay, 95th percentile of the delay (seconds)."""
    print(f"{JOBS} jobs, {IN_FLIGHT} in flight, {len(SEEDS)} runs. Cold: the first {COLD} jobs.")
    print("Each cell: polls per job, mean delay, p95 delay (s).")
    heads = ("cold", "learned", *(f"every {interval:.0f} s" for interval in INTERVALS))
    print(
        f"{'render times':<28} {' | '.join(f'{head:<18}' for head in heads)} | polls / fixed at equal delay"
    )
    for each in rows():
        ratios = f"{each.ratio:.3f} (to 5 s as it is: {each.warm.polls / each.fixed[0].polls:.3f}"
        print(_line(*each[:4], f"{ratios}, cold: {each.cold_ratio:.3f})"))
    print(f"\n{JOBS} jobs all submitted at once: the first day (cold), and the next (learned).")
    for name, sample in {**NARROW, **MEMORYLESS}.items():
        first, second = batch(sample)
        ratios = f"{second.ratio:.3f} (cold: {first.ratio:.3f})"
        print(_line(name, first.cold, second.warm, second.fixed, ratios))


if __name__ == "__main__":
    main()
