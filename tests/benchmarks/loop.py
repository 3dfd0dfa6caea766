"""A subject's own process: one event loop, all its waiters, and a clock that tells when the loop was late.

It is started by `waiting.py`, prints a line of JSON at each mark and goes on until the last one.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subjects import SUBJECTS, Subject

_TICK = 0.01


@dataclass
class LagClock:
    """Wakes every 10 ms and writes down by how many seconds it was late."""

    lags: list[float] = field(default_factory=list)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sleep()

    def _sleep(self) -> None:
        self._due = self._loop.time() + _TICK
        self._loop.call_at(self._due, self._wake)

    def _wake(self) -> None:
        self.lags.append(self._loop.time() - self._due)
        self._sleep()

    def take(self) -> dict[str, float]:
        """The 99th hundredth and the greatest lag, in milliseconds, since the last time."""
        lags, self.lags = sorted(self.lags), []
        if not lags:
            return {"p99": 0.0, "max": 0.0, "ticks": 0}
        return {
            "p99": lags[min(len(lags) - 1, int(len(lags) * 0.99))] * 1000,
            "max": lags[-1] * 1000,
            "ticks": len(lags),
        }


def _mark(name: str, clock: LagClock) -> None:
    lag = clock.take()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts: dict[str, Any] = {
        "mark": name,
        "at": time.monotonic(),
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": _resident_bytes(),
        "lag": lag,
    }
    print(json.dumps(facts), flush=True)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _wait_for_all(subject: Subject, options: dict[str, Any]) -> None:
    clock = LagClock()
    clock.start()
    await asyncio.sleep(0.2)
    _mark("begin", clock)
    wait = await subject.make(options["period"], options["address"])
    await asyncio.sleep(_TICK)
    _mark("imported", clock)
    tasks = []
    for number in range(options["clips"]):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(wait(number)))
    _mark("created", clock)
    settled = asyncio.create_task(asyncio.sleep(options["start"]))
    await _unless_broken(settled, tasks)
    _mark("steady", clock)
    window = asyncio.create_task(asyncio.sleep(options["window"]))
    await _unless_broken(window, tasks)
    _mark("end", clock)


async def _unless_broken(sleep: asyncio.Task[None], tasks: list[asyncio.Task[None]]) -> None:
    await sleep
    for task in tasks:
        if task.done():
            task.result()
            raise RuntimeError("A wait has ended.")


def main() -> None:
    """Import what a triggerer has imported before its first trigger, then wait."""
    import airflow.jobs.triggerer_job_runner  # noqa: F401

    options = json.loads(sys.argv[1])
    loop = asyncio.new_event_loop()
    loop.create_task(_wait_for_all(SUBJECTS[options["who"]], options)).add_done_callback(_leave)
    loop.run_forever()


def _leave(task: asyncio.Task[None]) -> None:
    """End at once: ten thousand cancelled waiters are not part of the measurement."""
    import os
    import traceback

    error = task.exception()
    if error is not None:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if error else 0)


if __name__ == "__main__":
    main()
