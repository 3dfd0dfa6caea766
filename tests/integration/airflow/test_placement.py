"""Which sensors may live in the triggerer, and what Airflow writes down of them."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

import pytest
from airflow.sdk import DAG, Asset, Param, TaskGroup, task, task_group

from magichour_provider.sensors.video_job import VideoJobSensor, get_time_limits, worker_reason
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS

JOB = "clxyz123"
TRIGGER = "magichour_provider.triggers.video_sensor.VideoSensorTrigger"
needs_33 = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="needs Airflow 3.3")


@task
def submit():
    return JOB


@task
def take(video):
    return video


def sensor(project_id=JOB, **kwargs):
    return VideoJobSensor(task_id="wait", project_id=project_id, **{"deferrable": True, **kwargs})


def written_down(dag, task_id="wait"):
    """The sensor as the scheduler and the triggerer see it."""
    from airflow.serialization import serialized_objects

    dags = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    return dags.from_dict(dags.to_dict(dag)).get_task(task_id)


@pytest.fixture
def dag():
    with DAG("a_dag", schedule=None, params={"folder": "", "nothing": None}) as dag:
        yield dag


class OwnPoke(VideoJobSensor):
    def poke(self, context):
        return super().poke(context)


class OwnHook(VideoJobSensor):
    @cached_property
    def hook(self):
        raise NotImplementedError


class Harmless(VideoJobSensor):
    """Only another colour, and other defaults."""

    ui_color = "#ffffff"

    def __init__(self, **kwargs):
        super().__init__(deferrable=True, **kwargs)


@needs_33
@pytest.mark.parametrize(
    ("project_id", "given"),
    [
        (JOB, {"job_id": JOB, "model": None, "resolution": None}),
        (f" {JOB} ", {"job_id": JOB, "model": None, "resolution": None}),
        ({"project_id": JOB, "model": "m"}, {"job_id": JOB, "model": "m", "resolution": None}),
    ],
)
def test_a_literal_job_is_waited_for_in_the_triggerer(dag, project_id, given):
    sensor(project_id, poke_interval=7, timeout=timedelta(minutes=2), magichour_conn_id="c")
    seen = written_down(dag)
    assert seen.start_from_trigger is True
    args, limit = seen.start_trigger_args, timedelta(seconds=180)
    assert (args.trigger_cls, args.next_method, args.timeout) == (TRIGGER, "execute_complete", limit)
    options = {"conn_id": "c", "limit": 120.0, "grace": 60.0, "poll_interval": 7.0, "push_result": True}
    assert kwargs_of(args) == {**options, **given}
    assert not set(kwargs_of(args)) & set(VideoJobSensor.template_fields), "the triggerer renders no argument"


@needs_33
@pytest.mark.parametrize("key", ["return_value", "project_id"])
def test_the_output_of_one_task_is_read_by_the_trigger(dag, key):
    with TaskGroup("group"):
        output = submit.override(task_id="a.b-ü")()
    sensor(output if key == "return_value" else output[key])
    found = kwargs_of(written_down(dag).start_trigger_args)
    assert (found["upstream_task_id"], found["upstream_key"]) == ("group.a.b-ü", key)


@needs_33
def test_a_subclass_that_overrides_nothing_may_live_there_too(dag):
    Harmless(task_id="wait", project_id=JOB)
    assert written_down(dag).start_from_trigger is True


def in_mapped_group(make):
    made = []

    @task_group
    def group(job):
        made.append(make(job))

    group.expand(job=[JOB])
    return made[0]


def mapped_over():
    waited = sensor()
    take.expand(video=waited.output)
    return waited


def with_attribute(name, value):
    waited = sensor()
    setattr(waited, name, value)
    return waited


@needs_33
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: sensor(deferrable=False), "not deferrable"),
        (lambda: sensor("{{ ti.xcom_pull(task_ids='a') }}"), "project_id"),
        (lambda: sensor("{{ 'a' }}"), "project_id"),
        (lambda: sensor("{% if 1 %}a{% endif %}"), "project_id"),
        (lambda: sensor(str(submit())), "project_id"),
        (lambda: sensor({"project_id": JOB, "model": "{{ params.folder }}"}), "project_id"),
        (lambda: sensor({"project_id": JOB, "model": submit()}), "project_id"),
        (lambda: sensor(submit().map(str)), "project_id"),
        (lambda: sensor(submit().zip(submit())), "project_id"),
        (lambda: sensor(submit().concat(submit())), "project_id"),
        (lambda: sensor("no id"), "project_id"),
        (lambda: sensor(None), "project_id"),
        (lambda: sensor(submit.partial().expand_kwargs([{}, {}])), "project_id"),
        (lambda: sensor(in_mapped_group(take)), "project_id"),
        (lambda: in_mapped_group(sensor), "mapped task group"),
        (lambda: sensor(magichour_conn_id="{{ params.folder }}"), "magichour_conn_id"),
        (lambda: OwnPoke(task_id="wait", project_id=JOB, deferrable=True), "class"),
        (lambda: OwnHook(task_id="wait", project_id=JOB, deferrable=True), "class"),
        (lambda: with_attribute("operator_extra_links", ()), "class"),
        (lambda: sensor(outlets=[Asset("video")]), "outlets"),
        (lambda: sensor(inlets=[Asset("video")]), "inlets"),
        (lambda: with_attribute("outlets", [Asset("video")]), "outlets"),
        (lambda: with_attribute("project_id", "{{ later }}"), "project_id"),
        (lambda: with_attribute("start_from_trigger", False), "set to False"),
        (lambda: sensor(on_execute_callback=print), "on_execute_callback"),
        (lambda: sensor(on_success_callback=[print]), "on_success_callback"),
        (lambda: sensor(pre_execute=print), "pre_execute"),
        (lambda: sensor(post_execute=print), "post_execute"),
        (lambda: sensor(execution_timeout=timedelta(seconds=59)), "execution_timeout"),
        (lambda: sensor(multiple_outputs=True), "multiple_outputs"),
        (mapped_over, "mapped over"),
        (lambda: sensor(params={"needed": Param(type="string")}), "param"),
    ],
)
def test_what_needs_a_worker_gets_one(dag, make, reason):
    made = make()
    assert reason in worker_reason(made)
    seen = written_down(dag, made.task_id)
    assert seen.start_from_trigger is False
    assert not seen.start_trigger_args


@needs_33
def test_a_param_of_the_dag_without_a_default_keeps_its_sensors_in_a_worker():
    """Airflow's triggerer would die of it."""
    with DAG("a_dag", schedule=None, params={"needed": Param(type="string")}) as dag:
        sensor()
    assert written_down(dag).start_from_trigger is False


@needs_33
@pytest.mark.parametrize(("others", "begins"), [(99, True), (100, False)])
def test_a_dag_that_is_too_much_for_the_triggerer_to_unpack_keeps_its_sensors_in_workers(dag, others, begins):
    sensor()
    for number in range(others):
        take.override(task_id=f"task_{number}")(JOB)
    assert written_down(dag).start_from_trigger is begins


@needs_33
def test_what_raises_keeps_a_sensor_in_a_worker(dag, monkeypatch):
    waited = sensor()
    monkeypatch.setattr(type(waited), "iter_mapped_dependants", lambda self: 1 / 0)
    assert "ZeroDivisionError" in worker_reason(waited)


def test_a_mapped_sensor_is_written_down_as_ever():
    with DAG("a_dag", schedule=None) as dag:
        VideoJobSensor.partial(task_id="wait", deferrable=True).expand(project_id=[JOB, JOB])
    assert not written_down(dag).start_from_trigger


@pytest.mark.skipif(AIRFLOW_V_3_3_PLUS, reason="is about what was before Airflow 3.3")
def test_before_airflow_33_every_sensor_needs_a_worker():
    with DAG("a_dag", schedule=None) as dag:
        assert "3.3" in worker_reason(sensor())
    assert not written_down(dag).start_from_trigger


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "limits"),
    [
        (100.0, None, (100.0, 60.0)),
        (100.0, timedelta(seconds=160), (100.0, 60.0)),
        (100.0, timedelta(seconds=130), (100.0, 30.0)),
        (100.0, timedelta(seconds=80), (75.0, 5.0)),
    ],
)
def test_the_wait_ends_before_airflow_ends_it(timeout, execution_timeout, limits):
    assert get_time_limits(timeout, execution_timeout) == limits


def kwargs_of(args):
    from airflow.serialization.serialized_objects import BaseSerialization

    return BaseSerialization.deserialize(args.trigger_kwargs)
