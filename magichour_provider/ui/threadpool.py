"""Threads of the pages' own: who waits here for Magic Hour or a store takes no thread from Airflow's pages.

Airflow's API server answers everybody, running tasks too, from one small pool of threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial, wraps
from inspect import signature
from typing import Any, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

THREADS: Final = 10
"""How many of an API server's threads the pages take at most."""

P = ParamSpec("P")
T = TypeVar("T")

_limiter: RunVar[CapacityLimiter] = RunVar("magichour_ui_threads")


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in one of these threads."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def apart(route: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A route that runs in one of these threads."""

    @wraps(route)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        return await run(route, *args, **kwargs)

    # FastAPI up to 0.117 looks for the names of annotations here, where the route's own are not known.
    answer.__signature__ = signature(route, eval_str=True)  # type: ignore[attr-defined]
    return answer


async def each(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks, each of them read in one of these threads; none is held between two."""
    end: Any = None
    while (block := await run(next, blocks, end)) is not end:
        yield block
