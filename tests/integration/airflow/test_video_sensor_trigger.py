"""A whole task in the triggerer, against the sandbox. Airflow's answers to it are the only thing made up."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from magichour_provider.jobs.reference import library_url
from magichour_provider.sensors import video_job
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.triggers import video_sensor
from magichour_provider.triggers.video_sensor import END_TIME, FALLBACK_REASON, VideoSensorTrigger
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS, AirflowSensorTimeout, TaskDeferred


@pytest.fixture
def job(connection, magichour_sandbox):
    """A job that renders until it is set to something else."""
    from magichour_provider.hooks.magichour import MagicHourHook

    magichour_sandbox.control.behaviour(render_seconds=3600)
    return MagicHourHook().create_image_to_video("https://example.com/a.png", 5).id


@pytest.fixture
def airflow(monkeypatch):
    """What the trigger asks of Airflow: XComs of other tasks, and its own."""
    airflow = SimpleNamespace(xcoms={}, pushed=[], links=[])

    def get_xcom(ti, task_id, key):
        return airflow.xcoms.get((task_id, key))

    monkeypatch.setattr(video_sensor, "get_xcom", get_xcom)
    monkeypatch.setattr(video_sensor, "push_xcom", lambda ti, *pushed: airflow.pushed.append(pushed))
    monkeypatch.setattr(video_sensor, "push_link", lambda ti, link, to: airflow.links.append(to))
    return airflow


@pytest.fixture
def trigger():
    def make(**kwargs):
        made = VideoSensorTrigger(**{"limit": 3600.0, "grace": 60.0, "poll_interval": 0.05, **kwargs})
        made.task_instance = SimpleNamespace(
            id=1, dag_id="d", task_id="wait", run_id="r", map_index=-1, try_number=1
        )
        made.timeout_after = datetime.now(timezone.utc) + timedelta(hours=1, seconds=60)
        return made

    return make


def run(trigger):
    """The one event of a trigger."""

    async def events():
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(asyncio.wait_for(events(), 30))
    return event


def is_success(event):
    return getattr(event, "task_instance_state", None) == "success"


def test_result_is_stored_before_the_task_is_a_success(trigger, airflow, job, magichour_sandbox):
    magichour_sandbox.control.set_job(job, "complete")
    known = {"model": "m", "resolution": "480p", "end_seconds": 3.5}
    airflow.xcoms["submit", "return_value"] = {"project_id": job, **known}
    made = trigger(upstream_task_id="submit", upstream_key="return_value")

    async def until_the_event():
        return await made.run().__anext__(), list(airflow.pushed)

    event, pushed = asyncio.run(until_the_event())
    assert is_success(event)
    assert pushed[0] == ("project_id", job)
    ((key, result),) = pushed[1:]
    assert key == "return_value"
    assert (result["project_id"], result["model"], result["resolution"]) == (job, "m", "480p")
    assert (result["status"], result["url"]) == ("complete", library_url(job))
    assert airflow.links == [library_url(job)]
    assert (made.model, made.resolution, made.end_seconds) == ("m", "480p", 3.5), "for the schedule"


@pytest.mark.parametrize("options", [{"poll_interval": 3600.0}, {"limit": 7200.0}], ids=["first", "restart"])
def test_job_that_is_complete_is_noticed_at_once(trigger, airflow, job, magichour_sandbox, options):
    magichour_sandbox.control.set_job(job, "complete")
    assert is_success(run(trigger(job_id=job, **options)))
    assert airflow.links == [library_url(job)]


def test_job_that_becomes_complete_ends_the_task(trigger, airflow, job, magichour_sandbox):
    timer = threading.Timer(0.5, lambda: magichour_sandbox.control.set_job(job, "complete"))
    timer.start()
    assert is_success(run(trigger(job_id=job, push_result=False)))
    assert airflow.pushed == []
    timer.join()


def test_failure_is_handed_to_a_worker_as_an_outcome(trigger, airflow, job, magichour_sandbox, connection):
    magichour_sandbox.control.set_job(job, "error", code="nsfw", message="No")
    payload = run(trigger(job_id=job)).payload
    assert payload[FALLBACK_REASON] is None
    assert (payload["ending"], payload["project_id"], payload["error_code"]) == ("failed", job, "nsfw")
    connection(password="mhk_live_wrong")
    payload = run(trigger(job_id=job)).payload
    assert (payload["ending"], payload["error_status"]) == ("refused", 401)
    assert airflow.pushed == []


def test_the_deadline_comes_from_the_timeout_that_airflow_has_stored(trigger, airflow, job):
    made = trigger(job_id=job, limit=100.0, grace=60.0)
    made.timeout_after = datetime.now(timezone.utc) + timedelta(seconds=60)
    payload = run(made).payload
    assert payload["ending"] == "timeout"
    assert payload[END_TIME] == made.timeout_after.timestamp() - 60


@pytest.mark.parametrize(
    "given", [None, {}, {"model": "m"}, "None", "{{ ds }}", "{{ 'x' }}", [], ["clabc"], {"project_id": None}]
)
def test_what_is_no_job_is_handed_over(trigger, airflow, connection, given):
    airflow.xcoms["submit", "return_value"] = given
    made = trigger(upstream_task_id="submit", upstream_key="return_value")
    payload = run(made).payload
    assert "submit returned no project id" in payload[FALLBACK_REASON]
    assert payload[END_TIME] == made.timeout_after.timestamp() - 60


def test_question_that_airflow_does_not_answer_is_handed_over(trigger, airflow, connection, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(video_sensor, "get_xcom", lambda *_: answered.wait(30))
    monkeypatch.setattr(video_sensor, "AIRFLOW_TIMEOUT_SECONDS", 0.2)
    timer = threading.Timer(1.0, answered.set)
    timer.start()
    payload = run(trigger(upstream_task_id="submit", upstream_key="return_value")).payload
    assert "TimeoutError was raised" in payload[FALLBACK_REASON]
    timer.join()


def test_many_tasks_that_begin_at_once_wait_for_their_turn(trigger, airflow, connection, monkeypatch):
    monkeypatch.setattr(video_sensor, "get_xcom", lambda *_: time.sleep(0.2))
    monkeypatch.setattr(video_sensor, "AIRFLOW_TIMEOUT_SECONDS", 1.0)

    async def all_of_them():
        made = [trigger(upstream_task_id="submit", upstream_key="return_value") for _ in range(50)]
        return await asyncio.gather(*(each.run().__anext__() for each in made))

    for event in asyncio.run(all_of_them()):
        assert "returned no project id" in event.payload[FALLBACK_REASON]


def test_result_that_cannot_be_stored_is_handed_over(trigger, airflow, job, magichour_sandbox, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(video_sensor, "push_xcom", refuse)
    monkeypatch.setattr(video_sensor, "push_link", refuse)
    magichour_sandbox.control.set_job(job, "complete")
    event = run(trigger(job_id=job))
    assert not is_success(event)
    assert (event.payload[FALLBACK_REASON], event.payload["ending"]) == (None, "complete")


def test_task_without_a_time_limit_is_handed_over(trigger, airflow, job):
    made = trigger(job_id=job)
    made.timeout_after = None
    payload = run(made).payload
    assert payload[FALLBACK_REASON] is not None
    assert payload[END_TIME] is None


def test_the_trigger_is_made_anew_from_what_it_serializes(trigger):
    made = trigger(job_id="clabc", model="m", resolution="480p", conn_id="c", push_result=False)
    path, kwargs = made.serialize()
    assert path == f"{VideoSensorTrigger.__module__}.VideoSensorTrigger"
    assert VideoSensorTrigger(**kwargs).serialize() == (path, kwargs)


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="needs Airflow 3.3")
def test_waiting_task_holds_no_dag(trigger, airflow, job):
    """Airflow unpacks one for each; it is let go while the job renders."""
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("a_dag", schedule=None) as dag:
        VideoJobSensor(task_id="wait", project_id=job, deferrable=True)
    task = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("wait")
    unpacked = weakref.ref(task.dag)
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    ti = RuntimeTaskInstance.model_construct(
        id=1, task_id="wait", dag_id="a_dag", run_id="r", try_number=1, map_index=-1, task=task
    )
    context = ti.get_template_context()
    made = trigger(job_id=job)
    made.task_instance = ti
    del task

    async def holds():
        running = asyncio.create_task(made.run().__anext__())
        while not airflow.links:
            await asyncio.sleep(0.01)
        gc.collect()
        held = unpacked()
        running.cancel()
        return held

    assert asyncio.run(holds()) is None
    assert ti.dag_id == made.task_instance.dag_id
    assert context == {}


@pytest.fixture
def deleted(monkeypatch):
    """Keys of the XComs that the sensor deletes."""
    deleted = []
    monkeypatch.setattr(video_job, "delete_xcoms", lambda ti, *keys: deleted.extend(keys))
    return deleted


def sensor(project_id):
    return VideoJobSensor(task_id="wait", project_id=project_id, deferrable=True)


def test_worker_continues_with_the_same_deadline(deleted, context, job):
    deadline = time.time() + 1234
    with pytest.raises(TaskDeferred) as deferred:
        sensor(job).execute_complete(context, {FALLBACK_REASON: "why", END_TIME: deadline})
    assert deferred.value.trigger.deadline == deadline
    assert deleted == ["return_value", "project_id", "magichour_error"]


def test_worker_that_gets_no_job_fails(deleted, context, connection, fails_for_good):
    with fails_for_good("must be the id of a Magic Hour project"):
        sensor("None").execute_complete(context, {FALLBACK_REASON: "why", END_TIME: time.time() + 9})


def test_worker_returns_or_raises_what_the_triggerer_has_seen(deleted, context, connection):
    seen = {FALLBACK_REASON: None, END_TIME: 0.0, "project_id": "clabc", "status": "complete"}
    waiting = sensor({"project_id": "clabc", "model": "m"})
    result = waiting.execute_complete(context, {**seen, "ending": "complete"})
    assert (result["project_id"], result["model"], result["status"]) == ("clabc", "m", "complete")
    with pytest.raises(AirflowSensorTimeout):
        waiting.execute_complete(context, {**seen, "ending": "timeout"})
