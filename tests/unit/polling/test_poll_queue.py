from __future__ import annotations

import math
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.polling.poll_queue import PollQueue, Subscriber

OPERATIONS = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=200)


def filled(pushes):
    queue, due = PollQueue(), {}
    for number, when in pushes:
        poller = SimpleNamespace(project_id=f"cm{number}")
        queue.push(queue.subscribe(Subscriber(poller, None, None)), when)
        due[number] = min(when, due.get(number, math.inf))
    return queue, due


@given(OPERATIONS)
def test_jobs_are_popped_once_in_the_order_of_their_due_times(pushes):
    queue, due = filled(pushes)
    popped = []
    while (job := queue.pop_due(1000)) is not None:
        assert queue.pop_due(-1) is None
        popped.append(job.project_id)
    assert sorted(popped) == sorted(f"cm{number}" for number in due)
    times = [due[int(each[2:])] for each in popped]
    assert times == sorted(times)


@given(OPERATIONS, st.floats(0, 100))
def test_no_job_is_popped_before_it_is_due(pushes, now):
    queue, due = filled(pushes)
    popped = set()
    while (job := queue.pop_due(now)) is not None:
        popped.add(int(job.project_id[2:]))
    assert popped == {number for number, when in due.items() if when <= now}


@given(OPERATIONS)
def test_stale_entries_are_dropped(pushes):
    queue, due = filled(pushes)
    for number in range(1000):
        poller = SimpleNamespace(project_id=f"given up {number}")
        subscriber = Subscriber(poller, None, None)
        job = queue.subscribe(subscriber)
        queue.push(job, 1000.0)
        queue.unsubscribe(job, subscriber)
    assert len(queue.jobs) == len(due)
    assert len(queue._heap) <= 2 * len(queue.jobs) + 65


def test_polled_job_is_not_pushed_and_idle_job_is_discarded():
    queue, _ = filled([(1, 1.0)])
    job = queue.pop_due(2)
    queue.push(job, 0.0)
    assert queue.peek() is None
    queue.unsubscribe(job, job.subscribers[0])
    assert not queue.jobs
