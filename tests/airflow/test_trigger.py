"""What a killed trigger leaves. Airflow's state of the task is the only thing that is made up here."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from magichour_provider import compat
from magichour_provider.triggers.video_job import VideoJobTrigger


@pytest.fixture
def states(monkeypatch):
    """The answer to a question for task states, given once `told` is set."""
    answer = SimpleNamespace(told=threading.Event(), states={}, asked=[])

    def task_states(dag_id, run_id, task_ids, *, map_index=None):
        answer.asked.append((dag_id, run_id, task_ids, map_index))
        assert answer.told.wait(10)
        return answer.states

    monkeypatch.setattr(compat, "task_states", task_states)
    return answer


def trigger(map_index=-1):
    made = VideoJobTrigger("clxProject1", deadline=0.0, credits_charged=120)
    made.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="render", map_index=map_index)
    return made


async def cancelled_again_and_again(killed, states):
    """Cancel `on_kill` as Airflow does, while it asks for the state, and let the answer come after that."""
    on_kill = asyncio.create_task(killed.on_kill())
    while not states.asked:
        await asyncio.sleep(0.01)
    on_kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await on_kill
    states.told.set()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))


@pytest.mark.parametrize(("map_index", "name"), [(-1, "render"), (3, "render_3")])
def test_a_killed_task_names_job_page_and_credits_although_airflow_cuts_it_off(
    states, caplog, map_index, name
):
    states.states = {name: "failed", "render_1": "deferred"}
    asyncio.run(cancelled_again_and_again(trigger(map_index), states))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "clxProject1 goes on" in said
    assert "its 120 credits stay charged" in said
    assert "https://magichour.ai/my-library?videoId=clxProject1" in said
    assert states.asked == [("d", "r", ["render"], None if map_index < 0 else map_index)]


@pytest.mark.parametrize(("map_index", "name"), [(-1, "render"), (3, "render_3")])
def test_a_task_that_is_still_deferred_was_not_killed(states, caplog, map_index, name):
    states.states = {name: "deferred"}
    asyncio.run(cancelled_again_and_again(trigger(map_index), states))
    assert caplog.records == []
