"""What a task leaves for the next ones when it fails: the XCom `failure`."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from attempts import IMAGE, MODEL, raising

from magichour_provider import airflow_internals as compat
from magichour_provider import exceptions as errors
from magichour_provider.operators import _base
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.polling.outcome import Outcome, TerminalStatus
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.version_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

pytestmark = pytest.mark.usefixtures("connection")


def render(**options):
    return ImageToVideoOperator(**{"task_id": "render", "image": IMAGE, **MODEL, **options})


def sensor(project_id, **options):
    return VideoJobSensor(task_id="wait", project_id=project_id, poke_interval=0.1, **options)


@contextmanager
def any_failure():
    """Expect that the task fails: with an error of the tree, or one of Airflow's for it."""
    with pytest.raises((errors.MagicHourError, AirflowFailException)) as raised:
        yield raised


def reported(context):
    """The XCom `failure`, as another task reads it."""
    return json.loads(json.dumps(context["ti"].pushed["magichour_error"]))


def only_job(sandbox):
    (job,) = sandbox.control.state()["jobs"]
    return job


def assert_moderated(failure, job):
    assert failure.pop("message").startswith(f"Job {job['id']} failed at Magic Hour (nsfw)")
    assert failure == {
        "error": "ModerationError",
        "code": "nsfw",
        "project_id": job["id"],
        "credits_charged": 0,
        "retryable": False,
    }


class TestImageToVideo:
    def test_a_job_that_fails_while_a_worker_waits(self, context, magichour_sandbox):
        with any_failure():
            render(prompt="nsfw").execute(context)
        assert_moderated(reported(context), only_job(magichour_sandbox))

    def test_a_job_that_fails_while_the_triggerer_waits(self, context, magichour_sandbox, endless):
        with pytest.raises(TaskDeferred):
            render(deferrable=True).execute(context)
        assert "magichour_error" not in context["ti"].pushed, "a deferral is no failure"
        job = only_job(magichour_sandbox)
        outcome = Outcome(
            TerminalStatus.FAILED, job["id"], credits_charged=0, error_code="nsfw", error_message="No"
        )
        with any_failure():
            render(deferrable=True).execute_complete(context, outcome.as_event())
        assert_moderated(reported(context), job)

    def test_a_balance_that_is_too_small(self, context, magichour_sandbox):
        magichour_sandbox.control.account(credits=0)
        with any_failure():
            render().execute(context)
        failure = reported(context)
        assert (failure["error"], failure["code"]) == ("BudgetError", "insufficient_credits")
        assert (failure["project_id"], failure["credits_charged"]) == (None, None)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"max_credits": 1}, "BudgetError"),
            ({"end_seconds": 999}, "InvalidRequestError"),
            ({"image": "/no/such/image.png"}, "ImageError"),
            ({"image": ""}, "InvalidRequestError"),
            ({"image": "data:image/png;base64,iVBORw0KGgo"}, "ImageError"),
            ({"end_image": "~nosuchuser/a.png"}, "ImageError"),
            ({"state_path": "~nosuchuser/a.json"}, "InvalidRequestError"),
            ({"state_path": "/proc/missing/a.json"}, "InvalidRequestError"),
            ({"state_path": "/tmp/"}, "InvalidRequestError"),
            ({"magichour_conn_id": "no_such"}, "UndefinedConnectionError"),
        ],
    )
    def test_what_is_refused_before_anything_is_paid(self, context, options, error):
        with any_failure():
            render(**options).execute(context)
        failure = reported(context)
        assert (failure["error"], failure["code"], failure["retryable"]) == (error, None, False)

    def test_an_error_that_may_pass_says_so(self, context, magichour_sandbox, endless):
        with pytest.raises(TaskDeferred):
            render(deferrable=True).execute(context)
        job = only_job(magichour_sandbox)
        late = Outcome(TerminalStatus.TIMEOUT, job["id"], credits_charged=job["credits_charged"])
        with any_failure():
            render(deferrable=True).execute_complete(context, late.as_event())
        failure = reported(context)
        assert (failure["error"], failure["retryable"]) == ("WaitTimeoutError", True)
        assert (failure["project_id"], failure["credits_charged"]) == (job["id"], 72)

    def test_do_xcom_push_false_reports_nothing(self, context):
        with any_failure():
            render(prompt="nsfw", do_xcom_push=False).execute(context)
        assert context["ti"].pushed == {}

    @pytest.mark.parametrize(("state", "tells"), [("running", True), ("failed", False), ("success", False)])
    def test_a_task_that_a_person_has_marked_tells_nothing(self, context, monkeypatch, state, tells):
        monkeypatch.setattr(compat, "current_task_state", lambda _: state)
        task = render()
        task.on_kill()
        with any_failure():
            task.execute(context)
        assert ("magichour_error" in context["ti"].pushed) is tells

    def test_an_xcom_that_cannot_be_written_hides_no_error(self, context, monkeypatch):
        monkeypatch.setattr(context["ti"], "xcom_push", raising(RuntimeError("the api-server is away")))
        with any_failure() as raised:
            render(prompt="nsfw").execute(context)
        assert "nsfw" in str(raised.value)

    def test_a_try_that_airflow_has_given_up_writes_over_nobody(self, tries, context, monkeypatch):
        def refuse(key, value, *, retention=None):
            if key == "magichour_error":
                raise RuntimeError("409")

        monkeypatch.setattr(tries.store, "set", refuse)
        with any_failure():
            tries(max_credits=1)
        assert context["ti"].pushed == {}


class TestVideoJobSensor:
    @pytest.fixture
    def refused(self, magichour_sandbox, context):
        """A job that moderation has refused."""
        job = render(prompt="nsfw", wait_for_completion=False).execute(context)["project_id"]
        magichour_sandbox.control.set_job(job, "error", code="nsfw", message="No.")
        context["ti"].pushed.clear()
        return only_job(magichour_sandbox)

    def test_a_job_that_has_failed(self, context, refused):
        with any_failure():
            sensor(refused["id"]).execute(context)
        assert_moderated(reported(context), refused)

    def test_a_job_that_fails_while_the_triggerer_waits(self, context, refused):
        outcome = Outcome(TerminalStatus.FAILED, refused["id"], credits_charged=0, error_code="nsfw")
        with any_failure():
            sensor(refused["id"], deferrable=True).execute_complete(context, outcome.as_event())
        assert_moderated(reported(context), refused)

    def test_a_skip_says_why_too(self, context, refused):
        with pytest.raises(AirflowSkipException):
            sensor(refused["id"], soft_fail=True).execute(context)
        assert_moderated(reported(context), refused)

    def test_timeout_is_reported(self, context, endless, magichour_sandbox):
        job = render(wait_for_completion=False).execute(context)["project_id"]
        with pytest.raises(AirflowSensorTimeout):
            sensor(job, timeout=0.2).execute(context)
        failure = reported(context)
        assert failure["error"] == "WaitTimeoutError"
        assert (failure["project_id"], failure["retryable"]) == (job, True)

    def test_a_reschedule_is_no_failure(self, context, endless):
        from airflow.exceptions import AirflowRescheduleException

        job = render(wait_for_completion=False).execute(context)["project_id"]
        with pytest.raises(AirflowRescheduleException):
            sensor(job, mode="reschedule").execute(context)
        assert "magichour_error" not in context["ti"].pushed


def test_download_error_is_reported(context, magichour_sandbox, tmp_path):
    job = render().execute(context)
    (tmp_path / "a file").write_text("")
    with any_failure():
        DownloadVideoOperator(task_id="download", project_id=job, path=f"{tmp_path}/a file/").execute(context)
    failure = reported(context)
    assert (failure["error"], failure["retryable"]) == ("DestinationError", False)
    assert (failure["project_id"], failure["credits_charged"]) == (job["project_id"], 72)


def test_foreign_error_is_not_reported(context):
    class Task:
        do_xcom_push, linked_project_id, credits_charged = True, None, None

        @_base.reports_failure
        def execute(self, context):
            try:
                raise errors.NetworkError("gone by now")
            except errors.NetworkError:
                raise RuntimeError("a bug of somebody's")  # noqa: B904

    with pytest.raises(RuntimeError):
        Task().execute(context)
    assert context["ti"].pushed == {}


def test_a_message_is_short():
    failure = _base.describe_error(errors.NetworkError("x" * 5000))
    assert len(failure["message"]) == 1000


@pytest.mark.parametrize(("try_number", "left"), [(1, {"magichour_error": 1}), (2, {})])
def test_what_an_earlier_try_has_left_is_removed(monkeypatch, context, try_number, left):
    """A sensor that begins in the triggerer gets no clean start from Airflow."""
    from airflow.sdk.execution_time.xcom import XCom

    stored = {"magichour_error": 1}
    monkeypatch.setattr(XCom, "get_one", lambda *, key, **_: stored.get(key))
    monkeypatch.setattr(XCom, "delete", lambda *, key, **_: stored.pop(key))
    ti = context["ti"]
    ti.try_number = try_number
    compat.delete_xcoms(ti, "return_value", "magichour_error")
    assert stored == left
