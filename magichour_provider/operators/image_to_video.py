"""Submitting an image-to-video job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from magichour_provider.airflow_internals import current_task_state
from magichour_provider.client import library_url
from magichour_provider.exceptions import LIBRARY_URL, MagicHourError, TaskKilledError
from magichour_provider.jobs.arguments import check_choice, parse_id, require_flag
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference, job_name, url_secrets
from magichour_provider.jobs.request import OnUnknownCost, ValidateModel, VideoRequest
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.lineage import emit_job_events, submission_lineage
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import (
    MagicHourHookMixin,
    OpenLineageMixin,
    kill_message,
    log_from_signal_handler,
    map_non_retryable,
    push_keys,
    push_noticed_by,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.polling.intervals import get_deadline, seconds
from magichour_provider.storage.locations import given_text
from magichour_provider.version_compat import (
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferralError,
    conf,
    mask_secret,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import VideoProject
    from magichour_provider.jobs.submit import Cancellation
    from magichour_provider.polling.outcome import Outcome
    from magichour_provider.storage.locations import PathArgument

_HOW_TO_GET_IT = "Use VideoJobSensor and DownloadVideoOperator to get the video at no further cost."


class ImageToVideoOperator(MagicHourHookMixin, OpenLineageMixin, BaseOperator):
    """Turn a still image into a video: upload the image, submit a job, and wait until the video is there.

    Everything that can fail is checked before the job is submitted, because submitting costs credits. A
    retry re-attaches to the job that an earlier attempt has paid for (`durable`). That needs Airflow 3.3, or
    a `state_path`. Without either, no failure after the submission is retried by Airflow: the error names
    the job, whose video `VideoJobSensor` and `DownloadVideoOperator` get at no further cost.

    :param image: a path (also a `Path` or an `ObjectStoragePath`), `file://`, an object storage URL (`s3://`,
        `gs://`, ...), an `https://` URL that Magic Hour fetches itself, or a `file_path` already uploaded
        (`api-assets/...`).
    :param end_seconds: length of the video in seconds; the model decides which are possible.
    :param end_image: the video's last frame, in the same forms as `image`.
    :param prompt: what should happen in the video.
    :param model: e.g. `kling-3.0`; None leaves it to Magic Hour, by the account's tier.
    :param resolution: `360p` to `4k`; None: 720p on paid tiers, 480p on the free one.
    :param audio: whether the video has sound; None: no.
    :param name: the project's name in the library; None: Dag, task, map index and run.
    :param image_conn_id: the connection for object storage.
    :param magichour_conn_id: the connection for Magic Hour.
    :param wait_for_completion: False returns once the job is submitted.
    :param deferrable: wait in the triggerer; default from `[operators] default_deferrable`.
    :param timeout: seconds, or a timedelta, from the start of the task to the end of the wait. With
        `execution_timeout` the earlier of both.
    :param poll_interval: seconds between polls; None: adaptive.
    :param max_credits: refuse to submit a video that costs more credits than this.
    :param max_credits_per_run: refuse to submit a video with which the tasks of this Dag run that have this
        argument would together spend more credits than this (Airflow 3.3, `durable`).
    :param on_unknown_cost: what to do with a video whose rate is not published: `fail` or `allow`; None:
        `fail` if there is a limit. Until it is submitted, such a video counts for the run's limit with
        `max_credits`, or with nothing.
    :param durable: keep the state of the paid job: in `state_path` if it is given, else in the task state
        store (Airflow 3.3).
    :param state_path: a file, local or in object storage, that keeps the job state for other runs, too: a
        task with the same file and the same request re-attaches to the paid job, no matter which run has
        paid. One file for each video.
    :param state_conn_id: the connection for object storage.
    :param validate_model: what to do if no known version of the model takes this request: `error`,
        `warn` (submit nevertheless) or `off`.
    :return: `project_id`, `status`, `name`, `model`, `resolution`, `end_seconds`, `credits_charged`,
        `created_at` (ISO 8601), `url`.
    """

    template_fields: Sequence[str] = (
        "image",
        "end_seconds",
        "end_image",
        "prompt",
        "model",
        "resolution",
        "audio",
        "name",
        "image_conn_id",
        "magichour_conn_id",
        "max_credits",
        "max_credits_per_run",
        "state_path",
        "state_conn_id",
    )
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#d9d2ff"

    def __init__(
        self,
        *,
        image: PathArgument,
        end_seconds: float | str,
        end_image: PathArgument | None = None,
        prompt: str | None = None,
        model: str | None = None,
        resolution: str | None = None,
        audio: bool | str | None = None,
        name: str | None = None,
        image_conn_id: str | None = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool | None = None,
        timeout: float | timedelta = 3600,
        poll_interval: float | timedelta | None = None,
        max_credits: int | str | None = None,
        max_credits_per_run: int | str | None = None,
        on_unknown_cost: OnUnknownCost | None = None,
        durable: bool = True,
        state_path: PathArgument | None = None,
        state_conn_id: str | None = None,
        validate_model: ValidateModel = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        set_default_retry_policy(self)
        self.image = image
        self.end_seconds = end_seconds
        self.end_image = end_image
        self.prompt = prompt
        self.model = model
        self.resolution = resolution
        self.audio = audio
        self.name = name
        self.image_conn_id = image_conn_id
        self.magichour_conn_id = magichour_conn_id
        self.wait_for_completion = require_flag("wait_for_completion", wait_for_completion)
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = require_flag("deferrable", deferrable)
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = None if poll_interval is None else seconds("poll_interval", poll_interval)
        self.max_credits = max_credits
        self.max_credits_per_run = max_credits_per_run
        self.has_run_budget = max_credits_per_run is not None
        if on_unknown_cost is not None:
            check_choice("on_unknown_cost", on_unknown_cost, OnUnknownCost)
        self.on_unknown_cost = on_unknown_cost
        self.durable = require_flag("durable", durable)
        self.state_path = state_path
        self.state_conn_id = state_conn_id
        check_choice("validate_model", validate_model, ValidateModel)
        self.validate_model = validate_model
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._cancellation: Cancellation | None = None
        self._killed = False

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Submit one job, or re-attach to the one of an earlier attempt, and wait for it."""
        from magichour_provider.jobs.run_budget import RunBudget
        from magichour_provider.jobs.submit import Cancellation, DeferredTimeout, submit
        from magichour_provider.polling.poller import Poller, wait_in_worker
        from magichour_provider.triggers.video_job import VideoJobTrigger

        deadline = get_deadline(
            time.time(),
            timedelta(seconds=self.timeout) if self.wait_for_completion else timedelta.max,
            self.execution_timeout,
            in_worker=self.wait_for_completion and not self.deferrable,
        )
        self._cancellation = Cancellation(context, deadline, cancelled=self._killed)
        with DeferredTimeout() as execution_timeout:
            with map_non_retryable(self):
                request = self._build_request(context)
                store = self._state_store(context)
                budget = RunBudget.from_task(self, context, request.max_credits_per_run, self._cancellation)
                build_trigger = partial(
                    VideoJobTrigger,
                    magichour_conn_id=self.hook.magichour_conn_id,
                    deadline=deadline,
                    poll_interval=self.poll_interval,
                    model=request.model,
                    resolution=request.resolution,
                    end_seconds=request.end_seconds,
                )
                # A trigger that cannot be stored fails here, not after the job is paid for.
                json.dumps(build_trigger("not-submitted").serialize())
                client = self.hook.get_conn()
                job = submit(request, store, client, self._cancellation, execution_timeout, budget)
            with _fail_without_retry(job, store):
                self._announce(context, job)
                execution_timeout.release()
                if not self.wait_for_completion:
                    result = JobReference(job.id, request.model, request.resolution).result(job)
                    return self._succeed(context, store, result)
                submitted = job.created_at.timestamp() if job.created_at is not None else None
                if self.deferrable:
                    store.update(job.id, job.credits_charged)
                    trigger = build_trigger(job.id, credits_charged=job.credits_charged, submitted=submitted)
                    self.defer(**trigger.as_deferral())
                poller = Poller(
                    job.id,
                    deadline=deadline,
                    started=time.time(),
                    poll_interval=self.poll_interval,
                    submitted=submitted,
                )
                outcome = wait_in_worker(client, poller, self._raise_if_killed)
                return self._finish(context, outcome, store)

    @reports_failure
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Resume after the triggerer: return the job's data, or raise what became of it."""
        from magichour_provider.polling.outcome import Outcome

        outcome = Outcome.from_event(event)
        self.linked_project_id = outcome.project_id
        push_noticed_by(self, context, outcome.noticed_by)
        return self._finish(context, outcome, self._state_store(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the triggerer. Without a job state, a retry would pay for a second job.

        So a trigger that failed by itself and an event of another trigger are final.
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, ValueError) as error:
            if self._state_store(context).available:
                raise
            name = given_text(self.name) or job_name(context)
            raise AirflowFailException(
                f"{error} The job named {name!r} continues at Magic Hour and its credits remain charged; the "
                "log and the XCom 'project_id' give its id. This task is not retried, because that would "
                f"pay for a second job. {_HOW_TO_GET_IT}"
            ) from error

    def on_kill(self) -> None:
        """Send no create any more, and say what a kill means for the job: the API cannot cancel it.

        After this the process has about five seconds left, and 60 from Airflow 3.4. In that time
        the create that is in flight may still be answered, and its job recorded.
        """
        self._killed = True
        cancellation = self._cancellation
        if cancellation is not None:
            cancellation.cancelled = True
        if self.linked_project_id:
            message = kill_message(self.linked_project_id, self.credits_charged)
        elif cancellation is None:
            return
        elif cancellation.job is not None:
            message = kill_message(cancellation.job.id, cancellation.job.credits_charged)
        elif cancellation.in_flight is None:
            message = "Task killed before it submitted a job. This attempt has paid nothing."
        else:
            message = (
                f"Task killed while it submitted the job named {cancellation.in_flight!r}. If the answer "
                "still comes, the next attempt re-attaches to the job. If not, search the Magic Hour library "
                f"({LIBRARY_URL}) for that name."
            )
        log_from_signal_handler(self.log, message)

    def on_success(self, context: Context) -> None:
        """Record the success in the job state: called by the plugin's listener, in the worker, after it.

        The result may not have been stored, or the task was killed or marked failed on its last line. Then a
        Clear must re-attach to the job. So Airflow is asked for the state.
        """
        if self.durable and current_task_state(context) == "success":
            self._state_store(context).mark_done(self.linked_project_id)

    def _build_request(self, context: Context) -> VideoRequest:
        arguments = {field.name: getattr(self, field.name) for field in fields(VideoRequest)}
        request = VideoRequest.from_arguments(**arguments)
        return replace(request, name=request.name or job_name(context))

    def _state_store(self, context: Context) -> JobStateStore:
        return JobStateStore.from_context(
            context, durable=self.durable, state_path=self.state_path, state_conn_id=self.state_conn_id
        )

    def _announce(self, context: Context, job: VideoProject) -> None:
        """Leave the job's id where users and the next tasks find it, before anything else."""
        self.linked_project_id = job.id
        self.credits_charged = job.credits_charged
        try:
            push_keys(self, context, {"project_id": job.id}, "project_id")
        except Exception:  # the job is paid for, and its id is in the job state and the log
            self.log.exception("The XCom 'project_id' could not be written; continuing.")

    def _finish(self, context: Context, outcome: Outcome, store: JobStateStore) -> dict[str, Any]:
        """Record what the job has cost in the end; return its result, or raise its error."""
        from magichour_provider.jobs.run_budget import RunBudget

        if outcome.credits_charged is not None:
            self.credits_charged = outcome.credits_charged
        store.update(outcome.project_id, outcome.credits_charged)
        if store.has_own:
            RunBudget.from_task(self, context, None, None).set_spent(store.spent)
        error = outcome.error()
        if error is None:
            model, resolution = parse_id("model", self.model), parse_id("resolution", self.resolution)
            result = JobReference(outcome.project_id, model, resolution).result(outcome)
            return self._succeed(context, store, result)
        if not store.available:
            raise AirflowFailException(str(error)) from error
        with map_non_retryable(self):
            raise error

    def _succeed(self, context: Context, store: JobStateStore, result: dict[str, Any]) -> dict[str, Any]:
        """Let the task succeed, unless it was killed: then its next attempt re-attaches to the job."""
        if store.available:
            self._raise_if_killed()
        if callable(self.on_success_callback):
            # A policy or a Dag has assigned it. Airflow 3.0 to 3.3 iterates over it then, so that its task
            # runner ends by a TypeError before it calls any listener.
            self.on_success_callback = [self.on_success_callback]
        emit_job_events(context, self.outlets, result)
        return result

    def _raise_if_killed(self) -> None:
        if self._killed:
            job_id = str(self.linked_project_id)
            raise TaskKilledError(
                f"Task killed. Job {job_id} continues at Magic Hour: {library_url(job_id)}.",
                consequence="Its credits remain charged.",
                remedy="A new attempt of this task re-attaches to it at no cost.",
            )

    def _lineage(self) -> Any:
        """From the images to the project, with model, credits and a checksum of the prompt."""
        return submission_lineage(
            image=self.image,
            end_image=self.end_image,
            prompt=self.prompt,
            model=self.model,
            resolution=self.resolution,
            end_seconds=self.end_seconds,
            project_id=self.linked_project_id,
            credits_charged=self.credits_charged,
        )

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        """Render, and mask the signature in an image's address before Airflow stores the rendered fields.

        `render_template_fields` is not called for mapped tasks; this is (Airflow 3.0 to 3.4).
        """
        super()._do_render_template_fields(parent, *args, **kwargs)
        for address in (self.image, self.end_image) if parent is self else ():
            for secret in url_secrets(address):
                mask_secret(secret)


@contextmanager
def _fail_without_retry(job: VideoProject, store: JobStateStore) -> Iterator[None]:
    """Without a job state, make every failure after the submission final, and name the job."""
    try:
        yield
    except AirflowFailException:
        raise
    except (Exception, AirflowTaskTimeout) as error:
        if store.available:
            raise
        reason = error.what if isinstance(error, MagicHourError) else f"{type(error).__name__}: {error}"
        raise AirflowFailException(
            f"This task failed after it had submitted job {job.id}: {reason.rstrip('.')}. The job continues "
            f"at Magic Hour ({library_url(job.id)}) and its {job.credits_charged} credits remain charged. "
            f"The task is not retried, because that would pay for a second job. {_HOW_TO_GET_IT}"
        ) from error
