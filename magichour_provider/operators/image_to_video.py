"""Submitting an image-to-video job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf, mask_secret

from magichour_provider.airflow_internals import TaskDeferralError
from magichour_provider.asset_events import announce_job
from magichour_provider.jobs.choices import OnUnknownCost, ValidateModel, check_choice
from magichour_provider.jobs.deferred_timeout import DeferredTimeout
from magichour_provider.jobs.non_retryable import fail_resume_without_retry, fail_without_retry
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference, job_name, url_secrets
from magichour_provider.jobs.state import JobStateStore, confirm_success
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators import following
from magichour_provider.operators._base import (
    MagicHourHookMixin,
    OpenLineageMixin,
    as_fail_exception,
    kill_message,
    killed_error,
    log_from_signal_handler,
    map_non_retryable,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.operators.ordering import build_submission
from magichour_provider.polling.deadlines import deadline_from, optional_seconds, seconds

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import CreatedJob
    from magichour_provider.jobs.submit import Submission
    from magichour_provider.polling.outcome import Outcome

_CREATE_GRACE = 65.0
"""Seconds by which `execution_timeout` may come late for a create in flight: an answer may take 60."""


class ImageToVideoOperator(MagicHourHookMixin, OpenLineageMixin, BaseOperator):
    """Turn a still image into a video clip: upload, submit, and wait until the clip is there.

    Everything that can fail is checked before the job is submitted, because submitting costs credits. On
    Airflow 3.3 a new try takes up the job that an earlier one has paid for (`durable`). Where that cannot
    be, below 3.3, no failure after the submission is retried by Airflow: the error names the job, which
    `VideoJobSensor` and `DownloadVideoOperator` take up for nothing.

    :param image: a local path, `file://`, an object storage URL (`s3://`, `gs://`, ...), an `https://` URL
        that Magic Hour fetches itself, or a `file_path` already uploaded (`api-assets/...`).
    :param end_seconds: length of the clip in seconds; which are possible depends on the model.
    :param end_image: the clip's last frame, in the same forms as `image`.
    :param prompt: what should happen in the clip.
    :param model: e.g. `kling-3.0`; None leaves it to Magic Hour, by the account's tier.
    :param resolution: `360p` to `4k`; None: 720p on paid tiers, 480p on the free one.
    :param audio: whether the clip has sound; None: no.
    :param name: the project's name in the library; None: Dag, task, map index and run.
    :param image_conn_id: the connection for object storage.
    :param magichour_conn_id: the connection for Magic Hour.
    :param wait_for_completion: False returns once the job is submitted.
    :param deferrable: wait in the triggerer; default from `[operators] default_deferrable`.
    :param timeout: seconds, or a timedelta, from the start of the task to the end of the wait. With
        `execution_timeout` the earlier of both.
    :param poll_interval: seconds between looks; None: adaptive.
    :param max_credits: refuse to submit a clip that costs more credits than this.
    :param max_credits_per_run: refuse to submit a clip with which the tasks of this Dag run that have this
        argument would spend more credits than this, all together (Airflow 3.3, `durable`).
    :param on_unknown_cost: what to do with a clip whose rate is not published: `fail` or `allow`; None:
        `fail` where there is a limit. Until it is submitted, such a clip counts for the run's limit with
        `max_credits`, or with nothing.
    :param durable: keep a record of the paid job in the task state store (Airflow 3.3).
    :param state_path: a file, local or in object storage, that keeps this record for other runs, too: a task
        that is given the same file and the same request takes up the job that is paid for, whichever run has
        paid. One file for each clip, and one task at a time (Airflow 3.3, `durable`).
    :param state_conn_id: the connection for object storage.
    :param validate_model: what to do where no known version of the model takes this request: `error`,
        `warn` (submit all the same) or `off`.
    :return: `project_id`, `status`, `name`, `model`, `resolution`, `end_seconds`, `credits_charged`,
        `queued_seconds` and `rendering_seconds` (as its looks have shown, else None), `url`.
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
        image: str,
        end_seconds: float | str,
        end_image: str | None = None,
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
        state_path: str | None = None,
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
        self.wait_for_completion = wait_for_completion
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = optional_seconds("poll_interval", poll_interval)
        self.max_credits = max_credits
        self.max_credits_per_run = max_credits_per_run
        self.has_run_budget = max_credits_per_run is not None
        if on_unknown_cost is not None:
            check_choice("on_unknown_cost", on_unknown_cost, OnUnknownCost)
        self.on_unknown_cost = on_unknown_cost
        self.durable = durable
        self.state_path = state_path
        self.state_conn_id = state_conn_id
        check_choice("validate_model", validate_model, ValidateModel)
        self.validate_model = validate_model
        if durable:
            self.on_success_callback = [*_listed(self.on_success_callback), confirm_success]
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._purchase: Submission | None = None
        self._killed = False

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Submit one job, or take up the one of an earlier try, and wait in the way that was asked for."""
        deadline = deadline_from(
            time.time(),
            timedelta(seconds=self.timeout) if self.wait_for_completion else timedelta.max,
            self.execution_timeout,
            in_worker=self.wait_for_completion and not self.deferrable,
        )
        records = JobStateStore(context, durable=self.durable)
        with DeferredTimeout(_CREATE_GRACE) as alarm:
            with map_non_retryable(self):
                self._purchase = build_submission(
                    self, context, records, alarm, deadline=deadline, is_killed=lambda: self._killed
                )
                job = self._purchase.get_job()
            with fail_without_retry(job, records):
                self._announce(context, job)
                alarm.release()
                return self._go_on(context, job, records, deadline)

    @reports_failure
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Take over from the triggerer: return the job's data, or raise what became of it."""
        from magichour_provider.polling.outcome import Outcome

        records = JobStateStore(context, durable=self.durable)
        with fail_resume_without_retry(self.name or job_name(context), records, ValueError):
            outcome = Outcome.from_event(event)
        self.linked_project_id = outcome.project_id
        return self._finish(context, outcome, records)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the triggerer; a trigger that failed by itself must not lead to a second job."""
        records = JobStateStore(context, durable=self.durable)
        with fail_resume_without_retry(self.name or job_name(context), records, TaskDeferralError):
            return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Send no create any more, and say what goes on: there is no way to cancel a render from here.

        Airflow leaves the process some five seconds after this, in which a create that is in flight may
        still be answered, and recorded.
        """
        self._killed = True
        if self.linked_project_id:
            log_from_signal_handler(self.log, kill_message(self.linked_project_id, self.credits_charged))
        elif self._purchase is not None:
            log_from_signal_handler(self.log, self._purchase.kill_message())

    def _lineage(self) -> Any:
        """From the images to the project, with model, credits and a checksum of the prompt."""
        from magichour_provider.lineage import Submission, of_submission

        names = {field.name for field in fields(Submission)} - {"project_id"}
        known = {name: getattr(self, name) for name in names}
        return of_submission(Submission(**known, project_id=self.linked_project_id))

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        """Render, and mask what signs an image's address before Airflow stores the rendered fields.

        `render_template_fields` is not called for mapped tasks; this is, for them too.
        """
        super()._do_render_template_fields(parent, *args, **kwargs)
        for address in (self.image, self.end_image) if parent is self else ():
            for secret in url_secrets(address):
                mask_secret(secret)

    def _announce(self, context: Context, job: CreatedJob) -> None:
        """Leave the job's id where a person and the next tasks find it, whatever happens from here on."""
        self.linked_project_id = job.id
        self.credits_charged = job.credits_charged
        if self.do_xcom_push:
            try:
                context["ti"].xcom_push("project_id", job.id)
            except Exception:  # the job is in hand, and its id in the record and the log
                self.log.exception("The XCom 'project_id' could not be written; going on.")

    def _go_on(
        self, context: Context, job: CreatedJob, records: JobStateStore, deadline: float
    ) -> dict[str, Any]:
        taken_up = self._purchase.taken_up if self._purchase is not None else None
        if not self.wait_for_completion:
            self._end(records)
            result = following.result_of_submission(self, context, job, taken_up)
            announce_job(context, self.outlets, result)
            return result
        submitted = following.submitted_at(taken_up)
        if self.deferrable:
            records.know(job.id, job.credits_charged)
            trigger = following.trigger_for(self, job.id, deadline, job.credits_charged, submitted)
            self.defer(**trigger.as_deferral())
        return self._finish(context, self._wait(job, deadline, submitted), records)

    def _wait(self, job: CreatedJob, deadline: float, submitted: float | None) -> Outcome:
        return following.wait_here(self, job.id, deadline, submitted, self._heed_kill)

    def _finish(self, context: Context, outcome: Outcome, records: JobStateStore) -> dict[str, Any]:
        error = outcome.error()
        if outcome.credits_charged is not None:
            self.credits_charged = outcome.credits_charged
        records.know(outcome.project_id, outcome.credits_charged)
        if self.has_run_budget:
            from magichour_provider.jobs.run_budget_xcom import settle

            settle(self, context, records, outcome)
        if error is None:
            result = JobReference(outcome.project_id, self.model, self.resolution).result(outcome)
            self._end(records)
            announce_job(context, self.outlets, result)
            return result
        if not records.available:
            raise AirflowFailException(str(error)) from error
        raise error if error.retryable else as_fail_exception(self, error)

    def _end(self, records: JobStateStore) -> None:
        """Let the task succeed, unless it was told to stop: then it keeps its job for the next run."""
        if records.available:
            self._heed_kill()

    def _heed_kill(self) -> None:
        if self._killed:
            raise killed_error(str(self.linked_project_id))


def _listed(callbacks: Any) -> list[Any]:
    return [callbacks] if callable(callbacks) else list(callbacks or ())
