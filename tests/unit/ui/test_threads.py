"""The pages' threads are not Airflow's: who waits in the one kind keeps nobody from the other."""

from __future__ import annotations

import threading

import anyio
from anyio import to_thread

from magichour_provider.ui.threadpool import THREADS, apart, each, run


def test_pages_that_wait_leave_airflows_threads_alone():
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def page():
        begun.release()
        go_on.wait(30)

    async def scene():
        pool = to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(pool.total_tokens) + THREADS):
                group.start_soon(apart(page))
            for _ in range(THREADS):
                await to_thread.run_sync(begun.acquire)
            assert pool.borrowed_tokens == 0
            assert not begun.acquire(blocking=False)
            go_on.set()

    anyio.run(scene)


def test_a_route_gets_its_arguments_and_gives_its_answer():
    async def scene():
        return await apart(lambda a, *, b: (a, b))(1, b=2)

    assert anyio.run(scene) == (1, 2)


def test_blocks_come_in_order_each_by_these_threads():
    here, seen = threading.get_ident(), []

    def blocks():
        for block in (b"a", b"", b"b"):
            seen.append(threading.get_ident())
            yield block

    async def scene():
        return [block async for block in each(blocks())] + [await run(bytes, b"c")]

    assert anyio.run(scene) == [b"a", b"", b"b", b"c"]
    assert here not in seen
