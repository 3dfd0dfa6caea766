"""What a killed trigger leaves. Airflow's state of the task is the only thing that is made up here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from magichour_provider import airflow_internals as compat
from magichour_provider.triggers.video_job import VideoJobTrigger
from magichour_provider.version_compat import AIRFLOW_V_3_4_PLUS


@pytest.fixture
def states(monkeypatch):
    """The answer to a question for task states, given once `answered` is set."""
    answer = SimpleNamespace(answered=threading.Event(), states={}, asked=[])

    def task_states(dag_id, run_id, task_ids, *, map_index=None):
        answer.asked.append((dag_id, run_id, task_ids, map_index))
        assert answer.answered.wait(10)
        return answer.states

    monkeypatch.setattr(compat, "task_states", task_states)
    return answer


@pytest.fixture
def trigger(connection, magichour_sandbox):
    """Make the trigger of a task whose job renders; `job` is that job."""
    from magichour_provider.hooks.magichour import MagicHourHook

    magichour_sandbox.control.behaviour(render_seconds=3600)
    job = MagicHourHook().create_image_to_video("https://example.com/a.png", 5)

    def make(map_index=-1):
        made = VideoJobTrigger(job.id, deadline=0.0, credits_charged=120)
        made.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="render", map_index=map_index)
        return made

    make.job = job.id
    return make


before_3_4 = pytest.mark.skipif(AIRFLOW_V_3_4_PLUS, reason="from 3.4 on_kill means a kill")


async def cancelled_again_and_again(killed, states):
    """Cancel `on_kill` as Airflow does, while it asks for the state, and let the answer come after that."""
    on_kill = asyncio.create_task(killed.on_kill())
    while not states.asked:
        await asyncio.sleep(0.01)
    on_kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await on_kill
    states.answered.set()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))


def said(caplog):
    return [each.getMessage() for each in caplog.records if each.name == VideoJobTrigger.__module__]


@before_3_4
@pytest.mark.parametrize(("map_index", "name"), [(-1, "render"), (3, "render_3")])
def test_killed_task_names_job_page_and_credits(trigger, states, caplog, map_index, name):
    states.states = {name: "failed", "render_1": "deferred"}
    asyncio.run(cancelled_again_and_again(trigger(map_index), states))
    (line,) = said(caplog)
    assert f"{trigger.job} is still running" in line
    assert "its 120 credits remain charged" in line
    assert f"https://magichour.ai/my-library?videoId={trigger.job}" in line
    assert states.asked == [("d", "r", ["render"], None if map_index < 0 else map_index)]


@before_3_4
def test_task_that_is_still_deferred_was_not_killed(trigger, states, caplog):
    states.states = {"render": "failed", "render_3": "deferred"}
    asyncio.run(cancelled_again_and_again(trigger(map_index=3), states))
    assert said(caplog) == []


@before_3_4
def test_task_whose_job_has_ended_was_not_killed(trigger, states, caplog, magichour_sandbox):
    magichour_sandbox.control.set_job(trigger.job, "complete")
    states.states = {"render": "success"}
    asyncio.run(cancelled_again_and_again(trigger(), states))
    (line,) = said(caplog)
    assert "Task killed" not in line
    assert f"no longer waits for job {trigger.job}, which has ended" in line


@before_3_4
def test_kill_while_magic_hour_cannot_be_reached_is_logged(trigger, states, caplog, magichour_sandbox):
    magichour_sandbox.control.faults([{"path": "/v1/video-projects/*", "status": 503}])
    states.states = {"render": "failed"}
    asyncio.run(cancelled_again_and_again(trigger(), states))
    assert len(said(caplog)) == 1


@pytest.mark.skipif(not AIRFLOW_V_3_4_PLUS, reason="before 3.4 Airflow calls on_kill for adoptions, too")
def test_kill_is_logged_at_once(trigger, caplog):
    on_kill = trigger().on_kill()
    asyncio.run(on_kill)
    (line,) = said(caplog)
    assert f"Job {trigger.job} is still running" in line


IMPORTS = """
import asyncio, json, sys, threading

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("aiohttp", "httpx") or name.startswith("magichour_provider."):
            seen.append((name, threading.current_thread() is threading.main_thread()))

from magichour_provider.triggers.video_job import VideoJobTrigger

seen = []
sys.meta_path.insert(0, Watcher())

async def first():
    trigger = VideoJobTrigger("cm0000000000000000000000x", deadline=0.0)
    await trigger.wait_for(trigger.project_id, trigger.deadline, quiet_seconds=0.0)

asyncio.run(first())
print(json.dumps(seen))
"""


def test_first_trigger_imports_in_a_thread():
    """Half a second of importing would block every other trigger."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {"aiohttp", "magichour_provider.polling.scheduler"} <= {name for name, _ in seen}
    assert [name for name, on_the_loop in seen if on_the_loop] == []


def test_trigger_ignores_arguments_of_a_later_version():
    _, known = VideoJobTrigger("cm0000000000000000000000x", deadline=0.0).serialize()
    assert VideoJobTrigger(**known, of_a_later_version=1).serialize()[1] == known


def test_a_thousand_first_triggers_import_once_and_continue_one_after_another():
    program = """
import asyncio, gc, sys, threading
from magichour_provider.triggers import video_job

imports, steps = [], []
real = video_job._import
video_job._import = lambda: (imports.append(threading.current_thread()), real())

async def first(number):
    await video_job.import_async()
    steps.append(asyncio.get_running_loop().time())

async def main():
    await asyncio.gather(*map(first, range(1000)))

asyncio.run(main())
assert len(imports) == 1 and imports[0] is not threading.main_thread(), imports
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert max(steps) - min(steps) > 0.5, max(steps) - min(steps)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
