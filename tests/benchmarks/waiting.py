"""What it costs to wait: one subject in a process of its own, against the local server.

    python tests/benchmarks/waiting.py --who magichour --clips 1000 --period 5 --answer-ms 0
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server import Counts, LocalServer
from subjects import SUBJECTS

_SETTLING = 8.0
"""Seconds in which a trigger of ours is silent after a deferral, and a little more."""


@dataclass(frozen=True)
class Load:
    """How many clips, seconds between the looks at one, how long an answer takes, how long is measured."""

    clips: int
    period: float
    answer_ms: float = 0.0
    start: float = 0.0
    window: float = 0.0

    def timed(self) -> Load:
        """The same with start and window, where they were left open, by the period."""
        start = self.start or self.period * 1.1 + _SETTLING
        return Load(self.clips, self.period, self.answer_ms, start, self.window or max(15.0, self.period))


@dataclass(frozen=True)
class Phase:
    """From one mark to another: seconds, CPU seconds, looks, and lags in milliseconds."""

    seconds: float
    cpu: float
    looks: int
    lag_p99: float
    lag_max: float
    server_cpu: float


@dataclass(frozen=True)
class Result:
    """What one run showed.

    :param importing: the module's import, which happens in the loop as the triggerer does it.
    :param starting: from the first trigger to be made until the looks come steadily.
    :param rss: bytes at the end.
    """

    who: str
    load: Load
    importing: Phase
    starting: Phase
    steady: Phase
    peak_sockets: int
    looked_at: int
    rss: int

    @property
    def cpu_per_look(self) -> float:
        """Milliseconds of user and system time, in the steady phase."""
        return 1000 * self.steady.cpu / max(1, self.steady.looks)

    @property
    def cpu_per_look_all(self) -> float:
        """The same with the start and the import."""
        phases = (self.importing, self.starting, self.steady)
        return 1000 * sum(phase.cpu for phase in phases) / max(1, sum(phase.looks for phase in phases))

    @property
    def looks_made(self) -> float:
        """Looks made of those due, in the steady phase."""
        due = self.load.clips * self.steady.seconds / self.load.period
        return self.steady.looks / due if due else 1.0


def measure(who: str, load: Load, server: LocalServer) -> Result:
    """Run one subject. Raises RuntimeError with what it printed where it breaks."""
    load = load.timed()
    server.reset(load.answer_ms)
    marks: dict[str, dict[str, Any]] = {}
    counts: dict[str, Counts] = {}
    options = {"who": who, "address": server.address, **asdict(load)}
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as home:
        process = _start(who, options, home, errors)
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"mark"'):
                continue
            facts = json.loads(line)
            marks[facts["mark"]] = facts
            counts[facts["mark"]] = server.counts()
        if process.wait() != 0 or "end" not in marks:
            errors.seek(0)
            raise RuntimeError(f"{who} broke:\n{errors.read()[-4000:]}")
    if counts["end"].unknown:
        raise RuntimeError(f"{who} asked {counts['end'].unknown} times for what the server does not know.")
    return _result(who, load, marks, counts)


def _start(who: str, options: dict[str, Any], home: str, errors: Any) -> subprocess.Popen[str]:
    outside = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
    env = {
        **outside,
        **SUBJECTS[who].environment(options["address"]),
        "AIRFLOW_HOME": home,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, str(Path(__file__).with_name("loop.py")), json.dumps(options)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)


def _result(who: str, load: Load, marks: dict[str, Any], counts: dict[str, Counts]) -> Result:
    def phase(begin: str, end: str, *lags: str) -> Phase:
        late = [marks[name]["lag"] for name in lags]
        return Phase(
            seconds=marks[end]["at"] - marks[begin]["at"],
            cpu=marks[end]["cpu"] - marks[begin]["cpu"],
            looks=counts[end].looks - counts[begin].looks,
            lag_p99=max(lag["p99"] for lag in late),
            lag_max=max(lag["max"] for lag in late),
            server_cpu=counts[end].cpu - counts[begin].cpu,
        )

    return Result(
        who,
        load,
        importing=phase("begin", "imported", "imported"),
        starting=phase("imported", "steady", "created", "steady"),
        steady=phase("steady", "end", "end"),
        peak_sockets=counts["end"].peak_sockets,
        looked_at=counts["end"].looked_at,
        rss=marks["end"]["rss"],
    )


def lines(result: Result) -> list[str]:
    """The result for people."""
    yes = []
    for name in ("importing", "starting", "steady"):
        phase: Phase = getattr(result, name)
        yes.append(
            f"{name:<10} {phase.seconds:6.1f} s  CPU {phase.cpu:6.2f} s  looks {phase.looks:6d}  "
            f"lag p99 {phase.lag_p99:7.1f} ms  max {phase.lag_max:7.1f} ms  "
            f"server {phase.server_cpu / max(phase.seconds, 1e-9):4.0%}"
        )
    return [
        f"{result.who}: {result.load}",
        *yes,
        f"CPU per look {result.cpu_per_look:.3f} ms, all included {result.cpu_per_look_all:.3f} ms; "
        f"looks made {result.looks_made:.1%}; clips looked at {result.looked_at}; "
        f"sockets {result.peak_sockets}; RSS {result.rss / 2**20:.1f} MiB",
    ]


def main() -> None:
    """Measure the subjects that the command line names, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--who", nargs="+", choices=SUBJECTS, default=["magichour", "bare"])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--period", type=float, default=5.0)
    parser.add_argument("--answer-ms", type=float, default=0.0)
    parser.add_argument("--start", type=float, default=0.0, help="seconds before the steady phase")
    parser.add_argument("--window", type=float, default=0.0, help="seconds of the steady phase")
    options = parser.parse_args()
    load = Load(options.clips, options.period, options.answer_ms, options.start, options.window)
    with LocalServer() as server:
        for who in options.who:
            print("\n".join(lines(measure(who, load, server))), flush=True)


if __name__ == "__main__":
    main()
