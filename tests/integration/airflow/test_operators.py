"""Operators by themselves, against the sandbox over HTTP."""

from __future__ import annotations

import copy
import json
import time
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from airflow.sdk import DAG, ObjectStoragePath
from attempts import CREATES, IMAGE, MODEL, airflow_alarm, jobs, raising

from magichour_provider import exceptions as errors
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.triggers.video_job import VideoJobTrigger
from magichour_provider.version_compat import AirflowSkipException, AirflowTaskTimeout, TaskDeferred

pytestmark = pytest.mark.usefixtures("connection")


def object_storage_path(path):
    try:
        return ObjectStoragePath(f"file://{path}")
    except TypeError:
        pytest.skip("Airflow 3.0 cannot create one with the current universal-pathlib")


class Model(str, Enum):
    LTX = "ltx-2.3"


def render(**options):
    return ImageToVideoOperator(**{"task_id": "render", "image": IMAGE, **MODEL, **options})


def deferred(operator, context):
    """Run an operator up to its deferral."""
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(context)
    return raised.value


@pytest.fixture
def submitted(context, endless):
    """The id of a job that runs."""
    return render(wait_for_completion=False).execute(context)["project_id"]


class TestImageToVideo:
    def test_without_waiting_it_returns_the_submitted_job(self, context, magichour_sandbox):
        result = render(wait_for_completion=False).execute(context)
        (job,) = jobs(magichour_sandbox)
        url = f"https://magichour.ai/my-library?videoId={job['id']}"
        created_at = datetime.fromisoformat(result.pop("created_at"))
        assert abs(datetime.now(timezone.utc) - created_at) < timedelta(minutes=5)
        assert result == {
            **{"project_id": job["id"], "status": "queued", "name": "a_dag a_task a_run", "url": url},
            **{"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "credits_charged": 72},
        }

    def test_it_runs_in_a_unit_test_with_a_mock(self, magichour_sandbox):
        ti = MagicMock()
        job = render().execute({"ti": ti})
        ti.xcom_push.assert_called_once_with("project_id", job["project_id"])

    def test_it_runs_in_a_unit_test_without_a_context(self, magichour_sandbox):
        job = render(model=Model.LTX).execute({})
        assert (job["status"], job["model"]) == ("complete", "ltx-2.3")
        for mode in ("poke", "reschedule"):
            sensor = VideoJobSensor(task_id="s", project_id=job, mode=mode)
            assert sensor.execute({})["status"] == "complete"
        with pytest.raises(AirflowSkipException):
            ContactSheetOperator(task_id="c", videos=[], path="/tmp/").execute({})

    @pytest.mark.parametrize("nothing", [None, "", "None", "null"])
    def test_none_of_a_template_is_not_given(self, context, magichour_sandbox, nothing):
        nothings = dict.fromkeys(
            set(ImageToVideoOperator.template_fields) - {"image", "end_seconds", "model", "resolution"},
            nothing,
        )
        nothings.pop("max_credits_per_run")  # needs a store to count by
        result = render(wait_for_completion=False, **nothings).execute(context)
        assert result["name"] == "a_dag a_task a_run"
        for name in ("model", "resolution"):
            assert render(**{name: nothing}).execute(context)[name] is None

    def test_images_may_be_path_objects(self, context, magichour_sandbox):
        image = object_storage_path(Path(IMAGE).absolute())
        render(image=Path(IMAGE), end_image=image, wait_for_completion=False).execute(context)
        assert len(magichour_sandbox.control.state()["uploads"]) == 2

    def test_the_id_is_pushed_as_soon_as_the_job_exists(self, context, submitted):
        assert context["ti"].pushed == {"project_id": submitted}

    def test_it_defers_with_ids_and_numbers_only(self, context, endless):
        before = time.time()
        deferral = deferred(render(deferrable=True, timeout=100, prompt="secret prompt"), context)
        path, kwargs = deferral.trigger.serialize()
        assert path == f"{VideoJobTrigger.__module__}.VideoJobTrigger"
        numbers = {"deadline", "poll_interval", "credits_charged", "submitted", "end_seconds"}
        assert set(kwargs) == {"project_id", "magichour_conn_id", "model", "resolution"} | numbers
        assert before <= kwargs["submitted"] <= time.time()
        assert before + 100 <= kwargs["deadline"] <= time.time() + 100
        assert "secret" not in json.dumps(kwargs)
        assert deferral.timeout > timedelta(seconds=100)

    def test_the_earlier_limit_counts(self, context, endless):
        operator = render(deferrable=True, timeout=1000, execution_timeout=timedelta(seconds=50))
        deadline = deferred(operator, context).trigger.deadline
        assert deadline == pytest.approx(time.time() + 50, abs=5)

    def test_link_and_result_are_there_after_the_deferral(self, context, endless):
        operator = render(deferrable=True)
        (link,) = operator.operator_extra_links
        assert link.get_link(operator, ti_key=None) == ""
        project_id = deferred(operator, context).trigger.project_id
        assert link.get_link(operator, ti_key=None).endswith(project_id)
        resumed = render(deferrable=True)
        event = {"ending": "complete", "project_id": project_id, "credits_charged": 70}
        result = resumed.execute_complete(context, event)
        assert (result["project_id"], result["credits_charged"]) == (project_id, 70)
        assert result["model"] == "ltx-2.3"
        assert link.get_link(resumed, ti_key=None).endswith(project_id)

    @pytest.mark.parametrize("ending", ["failed", "canceled", "deleted", "timeout", "refused"])
    def test_ending_without_a_video_is_not_retried(self, context, ending, fails_for_good):
        with fails_for_good(match="cm1"):
            render().execute_complete(context, {"ending": ending, "project_id": "cm1"})

    @pytest.mark.parametrize("trouble", [RuntimeError("disk"), AirflowTaskTimeout("time is up")])
    def test_trouble_after_the_create_is_final(
        self, context, endless, magichour_sandbox, monkeypatch, trouble, fails_for_good
    ):
        monkeypatch.setattr("magichour_provider.polling.poller.wait_in_worker", raising(trouble))
        with fails_for_good(match="The task is not retried") as failed:
            render().execute(context)
        (job,) = jobs(magichour_sandbox)
        assert job["id"] in str(failed.value)
        assert "72 credits" in str(failed.value)

    @pytest.mark.parametrize(
        "fault",
        [{"status": 502, "body": "<html>"}, {"drop": "after"}, {"status": 422, "body": {"message": "no"}}],
    )
    def test_a_create_that_may_have_been_taken_or_was_refused_is_final(
        self, context, magichour_sandbox, fault, fails_for_good
    ):
        magichour_sandbox.control.faults([{**CREATES, **fault}])
        with fails_for_good():
            render().execute(context)

    def test_a_create_that_was_not_taken_may_be_retried_by_airflow(self, context, magichour_sandbox):
        fault = {"status": 429, "headers": {"Retry-After": "3600"}}
        magichour_sandbox.control.faults([{**CREATES, **fault}])
        with pytest.raises(errors.UnavailableError):
            render().execute(context)

    def test_the_wait_in_a_worker_ends_before_airflows_alarm(self, context, endless, fails_for_good):
        operator = render(execution_timeout=timedelta(seconds=2), durable=False)
        with fails_for_good(match="had not ended when the deadline passed"), airflow_alarm(2):
            operator.execute(context)

    @pytest.mark.parametrize("cut_off", [RuntimeError("disk"), AirflowTaskTimeout("time is up")])
    def test_a_create_that_was_cut_off_is_final(
        self, context, magichour_sandbox, cut_off, monkeypatch, fails_for_good
    ):
        operator = render()
        client = operator.hook.get_conn()
        create = client.create_image_to_video

        def create_and_be_cut_off(*arguments):
            create(*arguments)
            raise cut_off

        monkeypatch.setattr(client, "create_image_to_video", create_and_be_cut_off)
        with fails_for_good(match="may have been spent"):
            operator.execute(context)
        assert len(jobs(magichour_sandbox)) == 1

    def test_a_trigger_that_failed_by_itself_does_not_lead_to_a_second_job(self, context, fails_for_good):
        failed = {"error": "Trigger failure", "traceback": None}
        with fails_for_good(match="not retried"):
            render().resume_execution("__fail__", failed, context)

    def test_a_foreign_event_does_not_lead_to_a_second_job(self, context, fails_for_good):
        with fails_for_good(match="not retried"):
            render().resume_execution("execute_complete", {"event": {"status": "success"}}, context)

    @pytest.mark.parametrize(
        "options",
        [{"timeout": 0}, {"timeout": timedelta(0)}, {"poll_interval": -1}, {"validate_model": "maybe"}],
    )
    def test_arguments_that_can_never_work_are_refused_when_the_dag_is_parsed(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            render(**options)

    def test_it_can_be_copied_as_airflow_copies_it(self):
        assert copy.deepcopy(render()).image == IMAGE


@pytest.mark.parametrize("native", [False, True])
def test_templates_mean_the_same_as_text_and_as_native_objects(native):
    templates = {"image": "{{ image }}", "end_seconds": "{{ seconds }}", "end_image": "{{ nothing }}"}
    templates |= {name: f"{{{{ {name} | tojson }}}}" for name in ("prompt", "model", "audio")}
    templates |= {"resolution": "{{ nothing | tojson }}", "name": "{{ day }}", "max_credits": "{{ limit }}"}
    values = {"image": "/a.png", "seconds": 5, "nothing": None, "prompt": "Ça va", "model": "kling-3.0"}
    values |= {"audio": True, "day": "20261122", "limit": "200"}
    with DAG("a_dag", schedule=None, render_template_as_native_obj=native):
        operator = render(**templates)
    operator.render_template_fields(values)
    request = operator._build_request({})
    assert request == VideoRequest(
        "/a.png", 5.0, prompt="Ça va", model="kling-3.0", audio=True, name="20261122", max_credits=200
    )


class TestDownload:
    def test_download_of_an_operators_output(self, context, magichour_sandbox, tmp_path):
        job = render().execute(context)
        video = DownloadVideoOperator(task_id="d", project_id=job, path=f"{tmp_path}/").execute(context)
        assert video["path"] == str(tmp_path / f"{job['project_id']}.mp4")
        assert video["duration"] == pytest.approx(3, abs=0.05)
        for key in ("project_id", "path"):
            assert context["ti"].pushed[key] == video[key], f"output[{key!r}] works"

    @pytest.mark.parametrize(
        ("make", "folder"),
        [
            (Path, "new"),
            (object_storage_path, "v1.0"),
            (json.dumps, "v{{ 1.0 }}"),
        ],
    )
    def test_arguments_as_templates_make_them(self, context, magichour_sandbox, tmp_path, make, folder):
        job = render().execute(context)
        folder = tmp_path / folder
        nothings = dict.fromkeys(("file_name", "path_conn_id", "magichour_conn_id"), "None")
        operator = DownloadVideoOperator(
            task_id="d", project_id=json.dumps(job), path=make(f"{folder}/"), **nothings
        )
        operator.render_template_fields({})
        folder = str(folder).replace("{{ 1.0 }}", "1.0")
        assert operator.execute({})["path"] == f"{folder}/{job['project_id']}.mp4"

    def test_a_running_job_may_be_retried_and_a_failed_one_not(
        self, context, submitted, magichour_sandbox, tmp_path, fails_for_good
    ):
        download = DownloadVideoOperator(task_id="d", project_id=submitted, path=f"{tmp_path}/")
        with pytest.raises(errors.JobNotCompleteError):
            download.execute(context)
        magichour_sandbox.control.set_job(submitted, "error")
        with fails_for_good():
            download.execute(context)
        assert list(tmp_path.iterdir()) == []
