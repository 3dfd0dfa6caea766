"""The budget of a run: many tasks at once on a store like Airflow's, one entry each, no lock, no order."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magichour_provider.exceptions import BudgetError, NetworkError, SubmissionUnknownError, TaskKilledError
from magichour_provider.jobs.run_budget import RunBudget

COST = 100


class Entries:
    """What the tasks of one run have written; every read and write takes its time, as over HTTP."""

    def __init__(self, delay=0.0):
        self.entries = {}
        self.alive = set()
        self.delay = delay

    def seen_by(self, name):
        return SeenBy(self, name)

    def wait(self):
        time.sleep(random.uniform(0, self.delay))


class SeenBy:
    """The store as one task sees it."""

    def __init__(self, store, name):
        self.store, self.name = store, name

    def write(self, entry):
        self.store.wait()
        self.store.entries[self.name] = entry
        self.store.wait()

    def read_own(self):
        return self.store.entries.get(self.name)

    def read(self):
        self.store.wait()
        return list(self.store.entries.values())

    def running(self):
        self.store.wait()
        return set(self.store.alive)


def budget(store, index=0, *, limit=1000, patience=60.0, spent=0):
    name = ("render", index)
    store.alive.add(name)
    deadline = time.time() + patience

    class Cancellation:
        def raise_if_cancelled(self):
            if time.time() >= deadline:
                raise TaskKilledError("The deadline passed.")

    made = RunBudget(limit, store.seen_by(name), name, Cancellation(), lambda _: time.sleep(0.001))
    made.begin(spent or 0, is_known=spent is not None)
    return made


def render(store, index, *, limit, cost=COST, paid=None):
    """One task: reserve, pay, write down what was paid, end. Whether it was admitted."""
    mine = budget(store, index, limit=limit)
    try:
        mine.check(cost)
        with mine.reserved(cost):
            store.wait()
            paid.append(cost)
        mine.set_spent(cost)
    except BudgetError:
        return False
    finally:
        store.alive.discard(("render", index))
    return True


def test_fifty_tasks_at_once_spend_exactly_the_limit():
    store, paid, begin = Entries(delay=0.003), [], threading.Barrier(50)

    def one(index):
        begin.wait()
        return render(store, index, limit=40 * COST, paid=paid)

    with ThreadPoolExecutor(50) as pool:
        admitted = list(pool.map(one, range(50)))
    assert sum(paid) == 40 * COST
    assert sum(admitted) == 40


def test_credits_of_earlier_attempts_count():
    store = Entries()
    budget(store, 1, spent=950)
    with pytest.raises(BudgetError, match="has spent 950 of its max_credits_per_run, 1000"):
        budget(store, 2).check(COST)
    budget(store, 2).check(50)


def test_refused_create_gives_its_credits_back():
    store = Entries()
    mine = budget(store, 1)
    with pytest.raises(NetworkError), mine.reserved(1000):
        raise NetworkError("no")
    budget(store, 2).check(1000)


@pytest.mark.parametrize(
    "error", [SubmissionUnknownError("perhaps"), RuntimeError("Airflow refuses a stale attempt's state")]
)
def test_reservation_counts_as_spent_after_an_unknown_outcome_or_a_foreign_error(error):
    store = Entries()
    with pytest.raises(type(error)), budget(store, 1).reserved(950):
        raise error
    assert store.entries[("render", 1)]["reserved"] == 950
    store.alive.discard(("render", 1))
    with pytest.raises(BudgetError), budget(store, 2).reserved(COST):
        pytest.fail("admitted")


def test_task_waits_for_a_reservation_that_may_come_free():
    store, pool, seconds = Entries(), ThreadPoolExecutor(), []

    def refused_create():
        with first.reserved(950):
            seconds.append(pool.submit(render, store, 2, limit=1000, paid=[]))
            while not store.entries.get(("render", 2), {}).get("waiting"):
                time.sleep(0.001)
            raise NetworkError("not taken")

    first = budget(store, 1)
    with pool:
        with pytest.raises(NetworkError):
            refused_create()
        assert seconds[0].result()


def test_task_waits_for_the_entry_of_a_running_task():
    store = Entries()
    store.alive.add(("render", 1))
    mine = budget(store, 2)
    with ThreadPoolExecutor() as pool:
        checked = pool.submit(mine.check, COST)
        time.sleep(0.05)
        assert not checked.done()
        budget(store, 1, spent=950)
        with pytest.raises(BudgetError):
            checked.result()


def test_wait_ends_with_the_deadline():
    store = Entries()
    store.alive.add(("render", 1))
    with pytest.raises(TaskKilledError):
        budget(store, 2, patience=0.05).check(COST)


def test_task_without_a_limit_writes_its_entry_and_does_not_wait():
    store = Entries()
    store.alive.add(("render", 1))
    with budget(store, 2, limit=float("inf")).reserved(COST):
        assert store.entries[("render", 2)]["reserved"] == COST


def test_entry_of_a_later_version_is_read():
    store = Entries()
    store.entries[("render", 1)] = {"task_id": "render", "map_index": 1, "spent": 950, "something_new": 1}
    with pytest.raises(BudgetError):
        budget(store, 2).check(COST)


def test_state_of_another_run_leaves_the_entry_of_the_earlier_attempt():
    store = Entries()
    budget(store, 1, spent=300)
    again = budget(store, 1, spent=None)
    again.check(700)
    with pytest.raises(BudgetError, match="has spent 300"):
        again.check(701)


@settings(max_examples=15, deadline=None)
@given(
    limit=st.integers(50, 600),
    costs=st.lists(st.integers(1, 250), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_no_interleaving_admits_more_than_the_limit(limit, costs, seed):
    """Every read and write of every task may be the next one."""
    store, paid, turn = Entries(), [], Turns(random.Random(seed))
    store.wait = turn.wait
    one = partial(turn.run, render, store, limit=limit, paid=paid)
    turn.start(
        [threading.Thread(target=one, args=(n,), kwargs={"cost": cost}) for n, cost in enumerate(costs)]
    )
    assert sum(paid) <= limit
    assert len(paid) == len(costs) or sum(costs) > limit, "a task that fits is admitted"


class Turns:
    """Lets one thread run at a time, and picks the next one at each step."""

    def __init__(self, orders):
        self._orders, self._waiting, self._lock = orders, {}, threading.Lock()
        self._alive = 0

    def run(self, task, *args, **kwargs):
        self.wait()
        try:
            task(*args, **kwargs)
        finally:
            with self._lock:
                self._alive -= 1
                self._next()

    def wait(self):
        mine = threading.Event()
        with self._lock:
            self._waiting[threading.get_ident()] = mine
            self._next()
        assert mine.wait(30)

    def start(self, threads):
        self._alive = len(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _next(self):
        if self._waiting and len(self._waiting) == self._alive:
            chosen = self._orders.choice(sorted(self._waiting))
            self._waiting.pop(chosen).set()
