"""A subject's own process: one event loop, all its waiters, and a clock that measures the lag.

It is started by `polling.py` and prints a line of JSON at each mark:

    begin      the loop runs, and holds nothing
    imported   the trigger's module is there; a triggerer imports it in its loop
    steady     every waiter has been started and has polled once, so the polls are even
    timed      the lags have been measured; from here on the clock stands still
    end        CPU time and memory have been measured
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjects import SUBJECTS, Subject

_TICK = 0.01


@dataclass
class LagClock:
    """Wakes every 10 ms and writes down by how many seconds it was late.

    A lag's own share leaves out the time in which other processes had the CPU that this one was ready for;
    Only Linux shows it; elsewhere the two are the same.
    """

    lags: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Begin to wake, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._waited = _waited_for_cpu()
        self._sleep()

    def stop(self) -> None:
        """Wake no more."""
        self._timer.cancel()

    def _sleep(self) -> None:
        self._due = self._loop.time() + _TICK
        self._timer = self._loop.call_at(self._due, self._wake)

    def _wake(self) -> None:
        lag = self._loop.time() - self._due
        waited = _waited_for_cpu()
        self.lags.append(lag)
        self.own.append(max(0.0, lag - (waited - self._waited)))
        self._waited = waited
        self._sleep()

    def take(self) -> dict[str, float]:
        """What was written down since the last time, in milliseconds."""
        lags, self.lags = self.lags, []
        own, self.own = self.own, []
        return {
            "p99": _p99(lags) * 1000,
            "max": max(lags, default=0.0) * 1000,
            "own_p99": _p99(own) * 1000,
            "own_max": max(own, default=0.0) * 1000,
        }


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if values else 0.0


def _waited_for_cpu() -> float:
    """Seconds that this process has been ready to run and did not."""
    with suppress(OSError):
        return int(Path("/proc/self/schedstat").read_bytes().split()[1]) / 1e9
    return 0.0


def _resident_bytes() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # elsewhere the peak, in bytes


def _mark(name: str, lag: dict[str, float], waiters: int = 0) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts = {
        "mark": name,
        "at": time.monotonic(),
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": _resident_bytes(),
        "lag": lag,
        "waiters": waiters,
    }
    print(json.dumps(facts), flush=True)


async def _measure(subject: Subject, options: dict[str, Any]) -> None:
    clock = LagClock()
    clock.start()
    await asyncio.sleep(0.1)
    _mark("begin", clock.take())
    wait = await subject.make(options["period"], options["address"])
    await asyncio.sleep(2 * _TICK)
    _mark("imported", clock.take())
    tasks: list[asyncio.Task[None]] = []
    give_up = time.monotonic() + options["patience"]
    while len(tasks) < options["jobs"] and time.monotonic() < give_up:
        await asyncio.sleep(0)  # the triggerer does so twice for each trigger
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(wait(len(tasks))))
    await _sleep_unless_broken(options["start"], tasks)
    _mark("steady", clock.take(), len(tasks))
    await _sleep_unless_broken(options["window"], tasks)
    _mark("timed", clock.take(), len(tasks))
    clock.stop()
    await _sleep_unless_broken(options["window"], tasks)
    _mark("end", clock.take(), len(tasks))


async def _sleep_unless_broken(seconds: float, tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.sleep(seconds)
    for task in tasks:
        if task.done():
            task.result()
            raise RuntimeError("A wait has ended.")


def _leave(task: asyncio.Task[None]) -> None:
    """End at once: ten thousand cancelled waiters are no part of the measurement."""
    error = task.exception()
    if error is not None:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if error else 0)


def main() -> None:
    """Import what a triggerer has imported before its first trigger, then wait."""
    import airflow.jobs.triggerer_job_runner  # noqa: F401

    options = json.loads(sys.argv[1])
    loop = asyncio.new_event_loop()
    measuring = loop.create_task(_measure(SUBJECTS[options["who"]], options))
    measuring.add_done_callback(_leave)
    loop.run_forever()


if __name__ == "__main__":
    main()
