"""The budget of a run: many tasks at once on a board like Airflow's, one entry each, no lock, no order."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from magichour_provider.exceptions import BudgetError, NetworkError, SubmissionUnknownError, TaskKilledError
from magichour_provider.jobs.run_budget import RunBudget

COST = 100


class Board:
    """What the tasks of one run have written; every read and write takes its time, as over HTTP."""

    def __init__(self, delay=0.0):
        self.entries = {}
        self.alive = set()
        self.delay = delay

    def of(self, name):
        return Place(self, name)

    def wait(self):
        time.sleep(random.uniform(0, self.delay))


class Place:
    """The board as one task sees it."""

    def __init__(self, board, name):
        self.board, self.name = board, name

    def write(self, entry):
        self.board.wait()
        self.board.entries[self.name] = entry
        self.board.wait()

    def read(self):
        self.board.wait()
        return list(self.board.entries.values())

    def running(self):
        self.board.wait()
        return set(self.board.alive)


def budget(board, index=0, *, limit=1000, patience=60.0, spent=0):
    name = ("render", index)
    board.alive.add(name)
    deadline = time.time() + patience

    def make_sure():
        if time.time() >= deadline:
            raise TaskKilledError("The deadline passed.")

    made = RunBudget(limit, board.of(name), name, make_sure, lambda _: time.sleep(0.001))
    made.begin(spent)
    return made


def render(board, index, *, limit, cost=COST, paid=None):
    """One task: reserve, pay, write down what was paid, end. Whether it was admitted."""
    mine = budget(board, index, limit=limit)
    try:
        mine.check(cost)
        with mine.reserved(cost):
            board.wait()
            paid.append(cost)
        mine.spent(cost)
    except BudgetError:
        return False
    finally:
        board.alive.discard(("render", index))
    return True


@pytest.mark.parametrize("seed", range(5))
def test_fifty_tasks_at_once_never_spend_more_than_the_limit_and_use_it_up(seed):
    random.seed(seed)
    board, paid, begin = Board(delay=0.003), [], threading.Barrier(50)

    def one(index):
        begin.wait()
        return render(board, index, limit=40 * COST, paid=paid)

    with ThreadPoolExecutor(50) as pool:
        admitted = list(pool.map(one, range(50)))
    assert sum(paid) == 40 * COST
    assert sum(admitted) == 40


def test_clips_of_different_prices_stay_below_the_limit():
    board, paid = Board(delay=0.003), []
    prices = [random.Random(7).choice([30, 70, 110, 250]) for _ in range(40)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: render(board, i, limit=1500, cost=prices[i], paid=paid), range(len(prices))))
    assert 1500 - 250 < sum(paid) <= 1500


def test_what_earlier_tries_have_spent_counts():
    board = Board()
    budget(board, 1, spent=950)
    with pytest.raises(BudgetError, match="has spent 950 of its max_credits_per_run, 1000"):
        budget(board, 2).check(COST)
    budget(board, 2).check(50)


def test_a_create_that_was_not_taken_gives_its_credits_back():
    board = Board()
    mine = budget(board, 1)
    with pytest.raises(NetworkError), mine.reserved(1000):
        raise NetworkError("no")
    budget(board, 2).check(1000)


def test_a_create_of_unknown_outcome_counts_as_spent_once_its_task_has_ended():
    board = Board()
    with pytest.raises(SubmissionUnknownError), budget(board, 1).reserved(950):
        raise SubmissionUnknownError("perhaps")
    board.alive.discard(("render", 1))
    with pytest.raises(BudgetError):
        budget(board, 2).check(COST)


def test_a_killed_tasks_reservation_keeps_nobody_waiting():
    board = Board()
    budget(board, 1)._reserve(950)
    board.alive.discard(("render", 1))
    with pytest.raises(BudgetError), budget(board, 2).reserved(COST):
        pytest.fail("admitted")


def test_a_reservation_that_may_come_free_is_waited_for():
    board, pool, seconds = Board(), ThreadPoolExecutor(), []

    def create_that_is_not_taken():
        with first.reserved(950):
            seconds.append(pool.submit(render, board, 2, limit=1000, paid=[]))
            while not board.entries.get(("render", 2), {}).get("waiting"):
                time.sleep(0.001)
            raise NetworkError("not taken")

    first = budget(board, 1)
    with pool:
        with pytest.raises(NetworkError):
            create_that_is_not_taken()
        assert seconds[0].result()


def test_a_task_that_runs_and_has_written_nothing_yet_is_waited_for():
    board = Board()
    board.alive.add(("render", 1))
    mine = budget(board, 2)
    with ThreadPoolExecutor() as pool:
        checked = pool.submit(mine.check, COST)
        time.sleep(0.05)
        assert not checked.done()
        budget(board, 1, spent=950)
        with pytest.raises(BudgetError):
            checked.result()


def test_nobody_waits_beyond_the_deadline():
    board = Board()
    board.alive.add(("render", 1))
    with pytest.raises(TaskKilledError):
        budget(board, 2, patience=0.05).check(COST)


def test_an_error_that_is_not_ours_leaves_the_reservation_as_it_is():
    """A try that Airflow has given up is refused its record, and must not write over what the new one has."""
    board = Board()
    with pytest.raises(RuntimeError), budget(board, 1).reserved(950):
        raise RuntimeError("Task instance not found")
    assert board.entries[("render", 1)]["reserved"] == 950


def test_a_task_without_a_limit_writes_down_what_it_spends_and_waits_for_nobody():
    board = Board()
    board.alive.add(("render", 1))
    with budget(board, 2, limit=float("inf")).reserved(COST):
        assert board.entries[("render", 2)]["reserved"] == COST


def test_an_entry_of_a_later_version_is_read():
    board = Board()
    board.entries[("render", 1)] = {"task_id": "render", "map_index": 1, "spent": 950, "something_new": 1}
    with pytest.raises(BudgetError):
        budget(board, 2).check(COST)
