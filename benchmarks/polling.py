"""The cost of waiting: subjects one after another, each in its own process, and the local server.

python benchmarks/polling.py --who magichour bare --jobs 1000 --period 5 --answer-ms 0
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from server import LocalServer, PollMetrics
from subjects import SUBJECTS

_SETTLING = 8.0
"""Seconds after which our trigger has begun to poll: it waits for 7 after a deferral."""


@dataclass(frozen=True)
class Load:
    """The load of a subject.

    :param jobs: how many wait.
    :param period: seconds between two polls of a job.
    :param answer_ms: milliseconds that the service takes for an answer.
    :param start: seconds before the polls come evenly; 0: by the period.
    :param window: seconds of each of the two windows that follow; 0: by the period.
    :param patience: seconds after which no more waiters are started.
    """

    jobs: int
    period: float
    answer_ms: float = 0.0
    start: float = 0.0
    window: float = 0.0
    patience: float = 300.0

    def timed(self) -> Load:
        """The same without open values; a window holds whole periods, because some poll all jobs at once."""
        start = self.start or max(self.period * 1.1, _SETTLING) + 2
        return replace(self, start=start, window=self.window or self.period * math.ceil(10 / self.period))


@dataclass(frozen=True)
class Phase:
    """From one mark to another: seconds, CPU seconds, polls; lags in milliseconds, 0 where none was measured.

    The own lags leave out the time in which other processes had the CPU that this one was ready for.

    :param server_share: CPU seconds of the server for each second: near 1 it would be what is measured.
    """

    seconds: float
    cpu: float
    polls: int
    lag_p99: float
    lag_max: float
    own_p99: float
    own_max: float
    server_share: float


@dataclass(frozen=True)
class Result:
    """Figures of one run; the phases are those of `loop.py`.

    :param waiters: how many were started.
    :param polled_jobs: how many jobs were polled.
    :param rss: bytes at the end.
    """

    who: str
    load: Load
    importing: Phase
    starting: Phase
    timed: Phase
    quiet: Phase
    waiters: int
    polled_jobs: int
    peak_sockets: int
    rss: int

    @property
    def cpu_per_poll(self) -> float:
        """Milliseconds of user and system time while all wait.

        Where the windows have cut a burst of polls, a poll's cost and its count are not in the same one, and
        the figure of the whole life is the truer one.
        """
        rates = sorted(phase.polls / phase.seconds for phase in (self.timed, self.quiet))
        if rates[0] < 0.8 * rates[1]:
            return self.cpu_per_poll_started
        return 1000 * self.quiet.cpu / max(1, self.quiet.polls)

    @property
    def cpu_per_poll_started(self) -> float:
        """The same over the whole life: with import, start and the clock that measures the lags."""
        phases = (self.importing, self.starting, self.timed, self.quiet)
        return 1000 * sum(phase.cpu for phase in phases) / max(1, sum(phase.polls for phase in phases))

    @property
    def polls_made(self) -> float:
        """Polls made, of those due."""
        due = self.load.jobs * (self.timed.seconds + self.quiet.seconds) / self.load.period
        return (self.timed.polls + self.quiet.polls) / due

    @property
    def lag_p99(self) -> float:
        """Milliseconds, of the start or of the time after it, whichever is worse."""
        return max(self.starting.lag_p99, self.timed.lag_p99)

    @property
    def lag_max(self) -> float:
        """Milliseconds, the worst of the import, the start and the time after it."""
        return max(self.importing.lag_max, self.starting.lag_max, self.timed.lag_max)

    @property
    def own_p99(self) -> float:
        """As `lag_p99`, without the time in which other processes had the CPU."""
        return max(self.starting.own_p99, self.timed.own_p99)

    @property
    def own_max(self) -> float:
        """As `lag_max`, without the time in which other processes had the CPU."""
        return max(self.importing.own_max, self.starting.own_max, self.timed.own_max)


def measure(who: str, load: Load, server: LocalServer, env: Mapping[str, str] | None = None) -> Result:
    """Run one subject. Raises RuntimeError with its output if it fails."""
    load = load.timed()
    server.reset(load.answer_ms)
    marks: dict[str, dict[str, Any]] = {}
    counts: dict[str, PollMetrics] = {}
    options = {"who": who, "address": server.address, **asdict(load)}
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as home:
        process = _start(options, {**_environment(who, server, home), **(env or {})}, errors)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"mark"'):
                facts = json.loads(line)
                marks[facts["mark"]] = facts
                counts[facts["mark"]] = server.counts()
        if process.wait() != 0 or "end" not in marks:
            errors.seek(0)
            raise RuntimeError(f"{who} broke:\n{errors.read()[-4000:]}")
    if counts["end"].unknown:
        raise RuntimeError(f"{who} sent {counts['end'].unknown} requests that the server does not know.")
    return _result(who, load, marks, counts)


def _environment(who: str, server: LocalServer, home: str) -> dict[str, str]:
    outside = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
    return {
        **outside,
        **SUBJECTS[who].environment(server.address),
        "AIRFLOW_HOME": home,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def _start(options: dict[str, Any], env: dict[str, str], errors: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("loop.py")), json.dumps(options)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)


def _result(who: str, load: Load, marks: dict[str, Any], counts: dict[str, PollMetrics]) -> Result:
    def phase(begin: str, end: str) -> Phase:
        lag = marks[end]["lag"]
        seconds = marks[end]["at"] - marks[begin]["at"]
        return Phase(
            seconds=seconds,
            cpu=marks[end]["cpu"] - marks[begin]["cpu"],
            polls=counts[end].polls - counts[begin].polls,
            lag_p99=lag["p99"],
            lag_max=lag["max"],
            own_p99=lag["own_p99"],
            own_max=lag["own_max"],
            server_share=(counts[end].cpu - counts[begin].cpu) / seconds,
        )

    return Result(
        who,
        load,
        importing=phase("begin", "imported"),
        starting=phase("imported", "steady"),
        timed=phase("steady", "timed"),
        quiet=phase("timed", "end"),
        waiters=marks["end"]["waiters"],
        polled_jobs=counts["end"].polled_jobs,
        peak_sockets=counts["end"].peak_sockets,
        rss=marks["end"]["rss"],
    )


def describe(result: Result) -> str:
    """The result as text."""
    load = result.load
    lines = [
        f"{result.who}: {result.waiters} jobs, one poll each per {load.period:g} s, "
        f"responses after {load.answer_ms:g} ms"
    ]
    for name in ("importing", "starting", "timed", "quiet"):
        phase: Phase = getattr(result, name)
        lines.append(
            f"  {name:<10} {phase.seconds:5.1f} s, CPU {phase.cpu:6.2f} s, {phase.polls:6d} polls, lag p99 "
            f"{phase.lag_p99:.1f} max {phase.lag_max:.1f} ms, "
            f"own {phase.own_p99:.1f} {phase.own_max:.1f} ms, server {phase.server_share:4.0%}"
        )
    lines.append(
        f"  CPU per poll {result.cpu_per_poll:.3f} ms (with the start {result.cpu_per_poll_started:.3f}), "
        f"polls made {result.polls_made:.1%}, {result.polled_jobs} jobs polled, "
        f"{result.peak_sockets} sockets, {result.rss / 2**20:.1f} MiB"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure the subjects that the command line names, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--who", nargs="+", choices=SUBJECTS, default=["magichour", "bare"])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--period", type=float, default=5.0, help="seconds between two polls of a job")
    parser.add_argument("--answer-ms", type=float, default=0.0)
    parser.add_argument("--start", type=float, default=0.0, help="seconds until the polls come evenly")
    parser.add_argument("--window", type=float, default=0.0, help="seconds of each of the two windows")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for starting the waiters")
    options = vars(parser.parse_args())
    subjects = options.pop("who")
    with LocalServer() as server:
        for who in subjects:
            print(describe(measure(who, Load(**options), server)), flush=True)


if __name__ == "__main__":
    main()
