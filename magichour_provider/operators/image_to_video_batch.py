"""Making thousands of videos in one task."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from magichour_provider.airflow_internals import get_xcom
from magichour_provider.exceptions import BatchError, BudgetError, InvalidRequestError, MagicHourError
from magichour_provider.exceptions import SubmissionUnknownError as UnknownError
from magichour_provider.jobs.arguments import (
    check_choice,
    parse_flag,
    parse_id,
    parse_path,
    parse_text,
    parse_whole_number,
    require_flag,
    unrender,
)
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, url_secrets
from magichour_provider.jobs.request import OnUnknownCost, ValidateModel
from magichour_provider.lineage import batch_lineage, emit_batch_event
from magichour_provider.operators._base import (
    SUMMARY_KEY,
    MagicHourHookMixin,
    OpenLineageMixin,
    log_from_signal_handler,
    map_non_retryable,
    push_keys,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.polling.intervals import get_deadline, seconds
from magichour_provider.storage.locations import LocationError, file_name_at, join, parse_writable, redact
from magichour_provider.version_compat import mask_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import Context, XComArg

    from magichour_provider.jobs.batch import Batch, Bill
    from magichour_provider.jobs.batch_items import BatchItem
    from magichour_provider.jobs.batch_state import BatchState
    from magichour_provider.jobs.submit import Cancellation
    from magichour_provider.storage.locations import Location, PathArgument

OnBudgetReached = Literal["stop", "fail"]
"""What to do with items for which the budget or the balance is too small."""

_MAX_SHOWN_FAILURES = _MAX_SHOWN_ITEMS = 100


def _grown(limit: int | None) -> int | None:
    """A little more than Magic Hour took before: a plan may allow more by now."""
    return None if limit is None else limit + max(1, limit // 4)


def _address(place: Location) -> str:
    return str(place.absolute()) if isinstance(place, Path) else place.url


class ImageToVideoBatchOperator(MagicHourHookMixin, OpenLineageMixin, BaseOperator):
    """Turn each image of a list or a manifest into a video: one task, and each video is paid for once.

    The task checks every item, submits them, waits in the triggerer for all of them, downloads what has ended
    while the rest renders, and writes a result manifest. What became of each item is in a state file. So a
    retry, a clear or tomorrow's run pays for what is new or has changed, and re-attaches to what was paid
    for.

    :param items: dicts, or the address of a JSONL or CSV manifest, in any place that an image can have. Each
        item has an `image` and may have `key`, `end_image`, `prompt`, `model`, `resolution`, `end_seconds`,
        `audio`, `name`. The key names the video, and the item in later runs; default: the image's file name
        without its extension. A relative path is relative to the manifest.
    :param path: the folder of the videos (`<key>.mp4`); None: submit and wait alone.
    :param end_seconds: length of the videos in seconds, of items without their own; likewise `prompt`,
        `model`, `resolution` and `audio`.
    :param items_conn_id: the connection for the manifest in object storage; `image_conn_id`, `path_conn_id`
        and `state_conn_id` likewise.
    :param state_path: the state file; default: `magichour_batch.jsonl` in `path`.
    :param magichour_conn_id: the connection for Magic Hour.
    :param max_concurrent_jobs: jobs that may run at a time; None: as many as Magic Hour takes.
    :param max_credits: credits that this run may spend on the batch.
    :param on_budget_reached: `stop`: submit what `max_credits` and the balance allow; `fail`: submit nothing
        if they do not allow all.
    :param on_unknown_cost: what to do with a video whose rate is not published: `fail` or `allow`; None:
        `fail` if there is a limit.
    :param max_failures: failed items, as a number or as a share below 1, with which the task still succeeds.
    :param dry_run: check everything, return the bill, and spend nothing.
    :param timeout: seconds, or a timedelta, from the start of the task to the end of the wait.
    :param download_delay: seconds after which a video that is complete is downloaded, if the others still
        render.
    :param poll_interval: seconds between polls of a job; None: adaptive.
    :param validate_model: what to do if no known version of a model takes an item: `error`, `warn` or `off`.
    :return: `items`, `complete`, `unchanged` (complete before this task), `failed`, `refused` (by
        moderation), `unknown`, `submitted`, `not_submitted`, `credits_charged` by this run, `manifest` and
        `state`. A dry run returns `items`, `to_submit`, `changed`, `estimate` in credits, `unknown_cost` and
        `balance`.
    """

    template_fields: Sequence[str] = (
        "items",
        "path",
        "end_seconds",
        "prompt",
        "model",
        "resolution",
        "audio",
        "items_conn_id",
        "image_conn_id",
        "path_conn_id",
        "state_path",
        "state_conn_id",
        "magichour_conn_id",
        "max_concurrent_jobs",
        "max_credits",
    )
    ui_color = "#d9d2ff"

    def __init__(
        self,
        *,
        items: Iterable[Mapping[str, Any]] | PathArgument | XComArg,
        path: PathArgument | None = None,
        end_seconds: float | str | None = None,
        prompt: str | None = None,
        model: str | None = None,
        resolution: str | None = None,
        audio: bool | str | None = None,
        items_conn_id: str | None = None,
        image_conn_id: str | None = None,
        path_conn_id: str | None = None,
        state_path: PathArgument | None = None,
        state_conn_id: str | None = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        max_concurrent_jobs: int | str | None = None,
        max_credits: int | str | None = None,
        on_budget_reached: OnBudgetReached = "fail",
        on_unknown_cost: OnUnknownCost | None = None,
        max_failures: float = 0,
        dry_run: bool = False,
        timeout: float | timedelta = 6 * 3600,
        download_delay: float | timedelta = 60,
        poll_interval: float | timedelta | None = None,
        validate_model: ValidateModel = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        set_default_retry_policy(self)
        self.items = items
        self.path = path
        self.end_seconds, self.prompt, self.model = end_seconds, prompt, model
        self.resolution, self.audio = resolution, audio
        self.items_conn_id, self.image_conn_id = items_conn_id, image_conn_id
        self.path_conn_id, self.state_conn_id = path_conn_id, state_conn_id
        self.state_path = state_path
        self.magichour_conn_id = magichour_conn_id
        self.max_concurrent_jobs, self.max_credits = max_concurrent_jobs, max_credits
        check_choice("on_budget_reached", on_budget_reached, OnBudgetReached)
        self.on_budget_reached = on_budget_reached
        if on_unknown_cost is not None:
            check_choice("on_unknown_cost", on_unknown_cost, OnUnknownCost)
        self.on_unknown_cost = on_unknown_cost
        if isinstance(max_failures, bool) or not isinstance(max_failures, (int, float)) or max_failures < 0:
            raise ValueError(f"max_failures must be a number of items, or a share, not {max_failures!r}.")
        self.max_failures = max_failures
        self.is_dry_run = require_flag("dry_run", dry_run)  # `dry_run` is a method of BaseOperator
        self.timeout = seconds("timeout", timeout)
        self.download_delay = seconds("download_delay", download_delay)
        self.poll_interval = None if poll_interval is None else seconds("poll_interval", poll_interval)
        check_choice("validate_model", validate_model, ValidateModel)
        self.validate_model = validate_model
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._cancellation: Cancellation | None = None
        self._killed = False
        self._summary: dict[str, Any] | None = None

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what is new, and defer until its videos are complete."""
        deadline = get_deadline(
            time.time(), timedelta(seconds=self.timeout), self.execution_timeout, in_worker=False
        )
        return self._run(context, deadline, None)

    @reports_failure
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Resume after the triggerer: download, submit more, and defer again or end."""
        if "batch" not in event:
            raise ValueError("The event that resumed this task is not one of VideoBatchTrigger.")
        return self._run(context, event["deadline"], event)

    def _run(self, context: Context, deadline: float, event: Mapping[str, Any] | None) -> dict[str, Any]:
        from magichour_provider.jobs.batch import Batch
        from magichour_provider.jobs.batch_state import BatchState
        from magichour_provider.jobs.submit import Cancellation, DeferredTimeout

        is_resumed = event is not None
        cancellation = self._cancellation = Cancellation(context, deadline, cancelled=self._killed)
        with map_non_retryable(self), DeferredTimeout() as timeout:
            folder, state_path, state_conn_id = self._places()
            state = BatchState(state_path, state_conn_id, context.get("ti"))
            manifest = self._manifest_place(state, folder)
            begun: Batch | None = None
            with state.opened(may_write=not self.is_dry_run), ExitStack() as stack:
                try:
                    # 1. Read the items, and what earlier attempts and runs have made of them.
                    items, faults = self._read_items()
                    batch = Batch(
                        items,
                        state,
                        self.hook.get_conn(),
                        cancellation,
                        folder=folder,
                        max_jobs=parse_whole_number("max_concurrent_jobs", self.max_concurrent_jobs)
                        or math.inf,
                        learned_limit=_grown(event["max_jobs"]) if event is not None else None,
                        max_credits=parse_whole_number("max_credits", self.max_credits),
                        pause_seconds=event["pause_seconds"] if event is not None else 0.0,
                    )
                    stack.enter_context(closing(batch))
                    begun = batch if is_resumed else None
                    # 2. Check all of them, and add up what they cost, before the first credit.
                    batch.plan(is_resumed=is_resumed)
                    bill = batch.check(faults, is_resumed=is_resumed)
                    if not is_resumed:
                        described = self._describe(bill)
                        if self.is_dry_run:
                            return described
                        self._check_budget(bill, batch)
                    if batch.outstanding or batch.must_be_alone:
                        state.claim(deadline, submits=batch.must_be_alone)
                    batch.record_plan()
                    # 3. Download what has ended, and submit what slots and budget allow, side by side.
                    begun = batch
                    batch.download(batch.missing() if event is None else self._ended(context, event))
                    batch.run(timeout)
                    # 4. Wait in the triggerer, or end.
                    is_late = time.time() >= deadline
                    is_waiting = batch.is_waiting
                    if is_waiting and not is_late:
                        trigger = self._build_trigger(context, batch, deadline)
                    else:
                        summary = self._write_manifest(context, batch, state, manifest)
                        state.release()
                        unknown = batch.report_unknown()  # last: from now on a Clear pays again
                except MagicHourError as error:
                    self._describe_interruption(context, begun, state, manifest, error)
                    raise
            if is_waiting and not is_late:
                self.defer(**trigger.as_deferral())
            self._raise_for(batch, summary, unknown, is_late=is_late and is_waiting)
        emit_batch_event(context, self.outlets, summary)
        return summary

    def on_kill(self) -> None:
        """Send no create any more. The jobs continue: the API cannot cancel them."""
        self._killed = True
        if self._cancellation is not None:
            self._cancellation.cancelled = True
        log_from_signal_handler(
            self.log,
            "Task killed. Jobs that were submitted continue at Magic Hour and their credits remain charged. "
            "Clear this task: it re-attaches to them at no cost.",
        )

    # Reading the arguments ------------------------------------------------------------------------

    def _read_items(self) -> tuple[list[BatchItem], list[str]]:
        from magichour_provider.jobs.batch_items import read_items

        source: Any = unrender(self.items) if isinstance(self.items, str) else self.items
        if source is None:
            raise InvalidRequestError("items is empty: give a list of dicts, or the address of a manifest.")
        if isinstance(source, Mapping):
            raise InvalidRequestError("items must be a list of dicts, not one dict.")
        limited = self.max_credits is not None
        defaults = {
            "end_seconds": self.end_seconds,
            "prompt": parse_text("prompt", self.prompt),
            "model": parse_id("model", self.model),
            "resolution": parse_id("resolution", self.resolution),
            "audio": parse_flag("audio", self.audio),
            "image_conn_id": parse_id("image_conn_id", self.image_conn_id),
            "on_unknown_cost": self.on_unknown_cost or ("fail" if limited else "allow"),
            "validate_model": self.validate_model,
        }
        return read_items(source, parse_id("items_conn_id", self.items_conn_id), defaults)

    def _places(self) -> tuple[Location | None, PathArgument, str | None]:
        """The folder of the videos; the state file and its connection."""
        from magichour_provider.jobs.batch_state import STATE_NAME

        path, state_path = parse_path("path", self.path), parse_path("state_path", self.state_path)
        path_conn_id = parse_id("path_conn_id", self.path_conn_id)
        state_conn_id = parse_id("state_conn_id", self.state_conn_id)
        if path is None and state_path is None:
            raise InvalidRequestError("Give path or state_path: without either, a retry would pay again.")
        try:
            folder = None if path is None else parse_writable(path, path_conn_id)
        except LocationError as error:
            raise InvalidRequestError(f"path {redact(path)} cannot be used: {error}.") from error
        if state_path is not None or folder is None:
            return folder, state_path or "", state_conn_id
        beside = join(folder, STATE_NAME)
        return folder, getattr(beside, "url", None) or str(beside), getattr(folder, "conn_id", None)

    def _manifest_place(self, state: BatchState, folder: Location | None) -> Location:
        """Where the result manifest goes. Raises InvalidRequestError if the state or the items are there."""
        from magichour_provider.jobs.batch_state import MANIFEST_NAME
        from magichour_provider.storage.locations import ObjectPath, parse_location

        if folder is not None:
            place = join(folder, MANIFEST_NAME)
        else:
            place = state.place
            name = f"{file_name_at(place).rpartition('.')[0] or file_name_at(place)}.{MANIFEST_NAME}"
            if isinstance(place, ObjectPath):
                place = ObjectPath(place.scheme, f"{place.url.rpartition('/')[0]}/{name}", place.conn_id)
            else:
                place = place.with_name(name)
        for argument, value in (("state_path", self.state_path), ("items", self.items)):
            with suppress(LocationError, TypeError):
                if isinstance(value, (str, PathLike)) and _address(parse_location(value)) == _address(place):
                    raise InvalidRequestError(
                        f"{argument} is {redact(value)}, where this task writes its result manifest.",
                        remedy=f"Give {argument} another name, then clear this task.",
                    )
        return place

    # Steps ----------------------------------------------------------------------------------------

    def _describe(self, bill: Bill) -> dict[str, Any]:
        self.log.info(
            "%d items; %d to submit, %d of them have changed; %d credits by the catalogue%s; balance: %s.",
            bill.items,
            bill.to_submit,
            bill.changed,
            bill.estimate,
            f", and {bill.unknown} items of unknown cost" if bill.unknown else "",
            "not known" if bill.balance is None else bill.balance,
        )
        described = asdict(bill)
        return {**described, "unknown_cost": described.pop("unknown")}

    def _check_budget(self, bill: Bill, batch: Batch) -> None:
        """Refuse a batch that cannot be paid as a whole, unless a part of it is wanted."""
        if self.on_budget_reached == "stop" or not bill.to_submit:
            return
        left = batch.credits_left()
        if bill.estimate > left:
            raise BudgetError(
                f"The batch costs {bill.estimate} credits, and {left:.0f} of max_credits are left.",
                remedy="Raise max_credits, or pass on_budget_reached='stop' to submit a part.",
            )
        if bill.balance is not None and bill.estimate > bill.balance:
            raise BudgetError(
                f"The batch costs {bill.estimate} credits, and the account has {bill.balance}, "
                f"{bill.estimate - bill.balance} short.",
                code="insufficient_credits",
                remedy="Add credits at Magic Hour, or pass on_budget_reached='stop' to submit a part.",
            )

    def _ended(self, context: Context, event: Mapping[str, Any]) -> list[str] | None:
        """The ids of the jobs that the trigger has seen ended; None: not known."""
        from magichour_provider.triggers.video_batch import ENDED_KEY

        ti: Any = context["ti"]
        return get_xcom(ti, ti.task_id, ENDED_KEY) if event["ended"] is not None else None

    def _build_trigger(self, context: Context, batch: Batch, deadline: float) -> Any:
        """Store what the trigger waits for, and build it."""
        from magichour_provider.triggers.video_batch import JOBS_KEY, VideoBatchTrigger

        ti: Any = context["ti"]
        kinds: dict[tuple[Any, ...], list[tuple[str, float]]] = {}
        for key, job in batch.outstanding.items():
            request = batch.items[key].request
            submitted = datetime.fromisoformat(job.at).timestamp() if job.at else None
            kind = request.model, request.resolution, request.end_seconds
            kinds.setdefault(kind, []).append((str(job.project_id), submitted))  # type: ignore[arg-type]
        names = ("model", "resolution", "end_seconds")
        ti.xcom_push(
            JOBS_KEY, [{**dict(zip(names, kind, strict=True)), "jobs": jobs} for kind, jobs in kinds.items()]
        )
        counts = batch.counts()
        self._push_summary(context, batch, {**counts, "credits_charged": batch.spent(), "manifest": None})
        failed = counts["failed"] + counts["refused"] + counts["unknown"]
        waiting = 0 if batch.is_budget_reached else len(batch.to_submit)
        return VideoBatchTrigger(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            magichour_conn_id=self.hook.magichour_conn_id,
            deadline=deadline,
            not_before=time.time() + batch.pause_seconds if batch.pause_seconds and waiting else 0.0,
            waiting=waiting,
            download_delay=self.download_delay,
            max_jobs=batch.learned_limit,
            pause_seconds=batch.pause_seconds,
            poll_interval=self.poll_interval,
            total=counts["items"],
            done=counts["complete"] + failed,
            failed=failed,
            credits=batch.spent(),
        )

    def _write_manifest(
        self, context: Context, batch: Batch, state: BatchState, place: Location
    ) -> dict[str, Any]:
        """Write the result manifest, and push the summary, also of a failure."""
        from magichour_provider.storage.manifest import write_results
        from magichour_provider.storage.targets import Target

        target = Target.from_location(place, consequence="The videos that are complete are in their folder.")
        write_results(target, batch.results())
        self.credits_charged = batch.spent()
        self._summary = {
            **batch.counts(),
            "credits_charged": self.credits_charged,
            "manifest": target.path,
            "state": state.where,
        }
        self._push_summary(context, batch, self._summary)
        self.log.info("Batch: %s", self._summary)
        return self._summary

    def _describe_interruption(
        self,
        context: Context,
        batch: Batch | None,
        state: BatchState,
        place: Location,
        error: MagicHourError,
    ) -> None:
        """Let an error say what it means for the batch, and write the manifest if that is possible.

        :param batch: None if this attempt has submitted nothing; earlier ones may have.
        """
        from magichour_provider.jobs.batch_state import BatchInUseError

        spent, found = state.spent(), state.statuses()
        with suppress(MagicHourError):  # this error is not to hide the first one
            if not found["submitted"]:
                state.release()
        if isinstance(error, BatchInUseError):  # another task's jobs
            return
        if spent or found["submitted"]:
            error.replace_consequence(
                f"{found['complete']} videos are complete, and {found['submitted']} jobs continue at Magic "
                f"Hour: the next attempt re-attaches to these at no cost. This run has spent {spent} credits."
            )
        if batch is None:
            return
        try:
            self._write_manifest(context, batch, state, place)
        except MagicHourError as failure:
            self.log.warning("The result manifest was not written. %s", failure.what)

    def _push_summary(self, context: Context, batch: Batch, summary: Mapping[str, Any]) -> None:
        """Push the counts and the first failures, for the task's tab and the tasks after it."""
        fields = ("key", "status", "code", "message")
        failed = (entry for entry in batch.results() if entry["status"] in ("failed", "refused", "unknown"))
        failures = [{name: entry[name] for name in fields} for entry in islice(failed, _MAX_SHOWN_FAILURES)]
        push_keys(self, context, {SUMMARY_KEY: {**summary, "failures": failures}}, SUMMARY_KEY)

    def _raise_for(
        self, batch: Batch, summary: Mapping[str, Any], unknown: list[str], *, is_late: bool
    ) -> None:
        """Raise the error of a batch that is not complete."""
        if unknown:
            names = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise UnknownError(
                f"{len(unknown)} creates of the batch have an unknown outcome: {names}. The manifest "
                f"{summary['manifest']} lists them as 'unknown'.",
                remedy="Search the Magic Hour library for jobs of these names. If one exists, append a line "
                f'{{"key": ..., "magichour_recovered_job_id": ...}} to {summary["state"]}. Then clear this '
                "task: it re-attaches to these, and submits the others again.",
            )
        if is_late:
            raise BatchError(
                f"The deadline passed while {summary['submitted']} jobs were rendering and "
                f"{summary['not_submitted']} items were not submitted.",
                retryable=True,
            )
        failed = summary["failed"] + summary["refused"]
        is_share = isinstance(self.max_failures, float) and self.max_failures < 1
        if failed > (self.max_failures * summary["items"] if is_share else self.max_failures):
            messages = (
                each["message"] for each in batch.results() if each["status"] in ("failed", "refused")
            )
            raise BatchError(
                f"{failed} of {summary['items']} videos failed, {summary['refused']} of them by moderation; "
                f"see {summary['manifest']}. The first error: {next(messages, None)}",
                retryable=batch.can_retry(),
            )
        if summary["not_submitted"] and self.on_budget_reached == "fail":
            raise BudgetError(
                f"The budget was reached: {summary['not_submitted']} items were not submitted.",
                consequence="The other videos of the batch are complete.",
            )

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        """Render, and mask the signatures in the first images' addresses: Airflow stores and shows these."""
        super()._do_render_template_fields(parent, *args, **kwargs)
        shown = self.items if parent is self and isinstance(self.items, Sequence) else []
        for item in shown[:_MAX_SHOWN_ITEMS]:
            for name in ("image", "end_image") if isinstance(item, Mapping) else ():
                for secret in url_secrets(item.get(name)):
                    mask_secret(secret)

    def _lineage(self) -> Any:
        """From the manifest of the items to the folder of the videos and the manifest of the results."""
        return batch_lineage(self.items, self.path, self._summary)
