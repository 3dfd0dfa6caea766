"""The way of each item of a batch to a video that is paid for once: plan, check, submit, download.

| the state of an item says | this attempt |
|---|---|
| nothing; a create that was refused for now | submits |
| another version of the item | takes the paid job of this version if there is one, else submits |
| a create of unknown outcome | reports it, and submits only if the task is cleared after that |
| a job that was submitted | re-attaches |
| a job that failed | submits again if that can help: see `Batch._may_retry` |
| a video, whose file is there | nothing: no upload and no request |
| a video, whose file is not there | downloads it again |
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magichour_provider.client.models import CreatedJob
from magichour_provider.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DestinationError,
    InvalidRequestError,
    JobError,
    MagicHourError,
    ModerationError,
    NetworkError,
    NotFoundError,
    PaymentRequiredError,
    SubmissionUnknownError,
    TaskKilledError,
    UnavailableError,
)
from magichour_provider.jobs.batch_items import (
    BatchItem,
    faults_error,
    have_same_fields,
    is_complete,
    stamp_items,
)
from magichour_provider.jobs.batch_state import CREATES_AT_ONCE, BatchState, ItemStage, ItemState
from magichour_provider.jobs.preflight import check, read_account, upload_images
from magichour_provider.jobs.reattach import poll_job
from magichour_provider.jobs.request import fingerprint, open_images
from magichour_provider.polling.outcome import require_videos
from magichour_provider.polling.poller import get_video
from magichour_provider.storage.download import download_videos, read_back
from magichour_provider.storage.images import RemoteImage
from magichour_provider.storage.locations import Location, join
from magichour_provider.storage.targets import Target

if TYPE_CHECKING:
    from magichour_provider.client.models import ImageToVideoRequest, VideoProject
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.request import Images
    from magichour_provider.jobs.submit import Cancellation, DeferredTimeout

log = logging.getLogger(__name__)

_UPLOADS_AHEAD = 16
"""Items whose images are uploaded before their turn."""
_CHECK_EVERY_SECONDS = 2.0
"""How often Airflow is asked whether a user has marked the task."""
_COLLECT_SECONDS = 1.0
_UPLOADS_AT_ONCE, _DOWNLOADS_AT_ONCE = 8, 4
_PROGRESS_EVERY_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
"""For which a worker waits after a 429; for more the task is deferred."""
_FIRST_DEFERRAL_SECONDS, _LONGEST_DEFERRAL_SECONDS = 15.0, 300.0
_FATAL = (AuthenticationError, ConfigurationError, TaskKilledError)
"""Errors of the account or the task, not of one item."""
_NOT_OPENED: Images = (RemoteImage("", ""), None)


@dataclass(frozen=True)
class Bill:
    """What a batch will cost by the catalogue, in credits. `unknown`: items whose rate is not published."""

    items: int
    to_submit: int
    changed: int
    estimate: int
    unknown: int
    balance: int | None


@dataclass(frozen=True)
class _Ready:
    """An item that needs only its create."""

    item: BatchItem
    state: ItemState
    body: ImageToVideoRequest


class Batch:
    """One attempt at a batch. `state` must be read before; it must be opened for `submit` and `download`.

    :param folder: where the videos go; None: they stay at Magic Hour.
    :param max_jobs: jobs that may run at a time.
    :param learned_limit: jobs that Magic Hour takes at a time, by earlier refusals; None: there were none.
    :param max_credits: what this run may spend; None: no limit.
    :param pause_seconds: how long the last pass had to wait because Magic Hour refused a create for now.
    """

    def __init__(
        self,
        items: list[BatchItem],
        state: BatchState,
        client: MagicHourClient,
        cancellation: Cancellation,
        *,
        folder: Location | None = None,
        max_jobs: float = math.inf,
        learned_limit: int | None = None,
        max_credits: int | None = None,
        pause_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.items = {item.key: item for item in items}
        self.max_jobs = min(max_jobs, math.inf if learned_limit is None else learned_limit)
        self.learned_limit, self.max_credits = learned_limit, max_credits
        self.to_submit: deque[BatchItem] = deque()
        self.outstanding: dict[str, ItemState] = {}
        self.is_budget_reached = False
        self.pause_seconds = pause_seconds
        self.changed = 0
        self._refusals = 0
        self._is_stopped = False
        self._checked_at = -math.inf
        self._state, self._client, self._cancellation = state, client, cancellation
        self._lost: TaskKilledError | None = None
        self._folder = folder
        self._files: dict[str, int] = {}
        self._clock, self._sleep = clock, sleep
        self._images: dict[str, Images] = {}
        self._stamps: dict[str, str] = {}
        self._costs: dict[str, int] = {}
        self._planned: dict[str, ItemState] = {}
        self._reserved: dict[str, int] = {}
        self._ahead: deque[tuple[BatchItem, Future[_Ready]]] = deque()
        self._fetches: dict[Future[ItemState | None], str] = {}
        self._uploads = ThreadPoolExecutor(_UPLOADS_AT_ONCE, "magichour-upload")
        self._downloads = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, "magichour-download")
        self._creates = ThreadPoolExecutor(CREATES_AT_ONCE, "magichour-create")
        self._started = self._logged_at = clock()

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        for pool in (self._uploads, self._creates, self._downloads):
            pool.shutdown(wait=False, cancel_futures=True)

    # What is to be done ---------------------------------------------------------------------------

    def plan(self, *, is_resumed: bool = False) -> None:
        """Sort the items by what they need. Writes nothing: see `record_plan`.

        :param is_resumed: this attempt has planned before. The state is trusted if no other one could submit.
        """
        is_trusted = is_resumed and self._state.is_claimed
        self.to_submit.clear()
        self.outstanding.clear()
        self._planned.clear()
        states = self._state.items
        compared = [
            item
            for item in self.items.values()
            if (before := states.get(item.key)) is not None
            and (not is_trusted or (before.stage is ItemStage.OPEN and before.earlier))
        ]
        self._stamps = stamp_items(compared if is_trusted else self.items.values())
        if not is_trusted:
            self._files = self._list_files()
        for item in compared:
            self._planned[item.key] = self._compare(item, states[item.key])
        for item in self.items.values():
            before = self._planned.get(item.key) or states.get(item.key)
            if before is None or before.stage is ItemStage.OPEN:
                self.to_submit.append(item)
            elif before.stage in (ItemStage.INTENT, ItemStage.UNKNOWN):
                if before.stage is ItemStage.UNKNOWN and self._state.is_cleared(before):
                    log.warning(
                        "The create of %r has an unknown outcome, and the task was cleared.", item.key
                    )
                    self.to_submit.append(item)
            elif before.stage is ItemStage.SUBMITTED:
                if not (is_resumed and before.error):
                    self.outstanding[item.key] = _without_error(before)
            elif before.stage is ItemStage.FAILED:
                if self._may_retry(before):
                    self.to_submit.append(item)
            elif item.key in self._planned and not (
                before.project_id == states[item.key].project_id and self._has_file(item, before)
            ):
                self.outstanding[item.key] = replace(before, stage=ItemStage.SUBMITTED)
        self._stamps |= stamp_items(item for item in self.to_submit if item.key not in self._stamps)
        self._planned |= self.outstanding

    @property
    def must_be_alone(self) -> bool:
        """Whether this task would submit, or take another version of an item for the current one."""
        states = self._state.items
        return bool(self.to_submit) or any(
            states[key].project_id != planned.project_id for key, planned in self._planned.items()
        )

    def record_plan(self) -> None:
        """Write what `plan` has found."""
        self._state.write([job for key, job in self._planned.items() if job != self._state.items[key]])

    def check(self, faults: Iterable[str] = (), *, is_resumed: bool = False) -> Bill:
        """Check every item that would be submitted, and add up what they cost. Sends no request that costs.

        :param faults: those of the manifest.
        :param is_resumed: the images were checked before, and are checked again when they are uploaded.

        Raises InvalidRequestError with all faults and their lines, NetworkError, or APIError.
        """
        account = read_account(self._client) if self.to_submit else None
        faults = list(faults)
        warnings: Counter[str] = Counter()
        estimate = unknown = 0
        items = list(self.to_submit)
        opened = repeat(_NOT_OPENED) if is_resumed else self._uploads.map(_check_images, items)
        for item, checked in zip(items, opened):  # noqa: B905
            try:
                if isinstance(checked, InvalidRequestError):
                    raise checked
                if not is_resumed:
                    self._images[item.key] = checked
                unlimited = account and account.model_copy(update={"credits": 1 << 62})
                preflight = check(unlimited, item.request, checked)
            except InvalidRequestError as error:
                faults.append(f"{item.where}: {error.what}")
                continue
            warnings.update(preflight.warnings)
            unknown += preflight.cost is None
            estimate += preflight.reserved
            self._costs[item.key] = preflight.reserved
        if faults:
            raise faults_error(faults, len(self.items))
        for warning, count in () if is_resumed else warnings.items():
            log.warning("%s (%d items)", warning, count)
        balance = account.credits if account is not None else None
        return Bill(len(self.items), len(items), self.changed, estimate, unknown, balance)

    def _compare(self, item: BatchItem, before: ItemState) -> ItemState:
        """The state of an item as it is now: if it has changed, `open`, or that of an earlier version."""
        is_given_up = before.stage is ItemStage.UNKNOWN and self._state.is_cleared(before)
        if before.stage in (ItemStage.INTENT, ItemStage.UNKNOWN) and not is_given_up:
            return before
        is_answered = before.is_paid or before.stage is ItemStage.FAILED
        if is_answered and before.fingerprint and self._is_same(item, before):
            return before
        for version in reversed(before.earlier):
            if self._is_same(item, version):
                log.info("Item %r is that of job %s again, which is paid for.", item.key, version.project_id)
                return self._state.supersede(before, version)
        if not is_answered or not before.fingerprint:
            return before
        self.changed += 1
        log.info("Item %r has changed since job %s: submitting again.", item.key, before.project_id)
        return self._state.supersede(before)

    def _is_same(self, item: BatchItem, before: ItemState) -> bool:
        stamp = self._stamps[item.key]
        if stamp == before.stamp and is_complete(stamp):
            return True
        try:
            images = open_images(item.request)
            return fingerprint(item.request, images) == before.fingerprint
        except InvalidRequestError as error:  # the job that was paid with the image is not lost
            if is_complete(stamp) or not have_same_fields(stamp, before.stamp):
                return False  # it is another image, or another video
            log.warning("Item %r: %s Its earlier job counts.", item.key, error.what)
            return True

    def _may_retry(self, before: ItemState) -> bool:
        """Whether a failed item is tried again.

        After a Clear; by another run, unless moderation refused it; by a retry, if its error can pass.
        """
        if self._state.is_cleared(before):
            return True
        if before.run != self._state.run:
            return before.error != ModerationError.__name__
        return before.retryable and before.attempt < self._state.attempt

    def _has_file(self, item: BatchItem, before: ItemState) -> bool:
        if self._folder is None:
            return True
        path = Target.from_location(join(self._folder, item.file_name)).path
        return before.path == path and self._files.get(item.file_name) == before.size

    def _list_files(self) -> dict[str, int]:
        """Names and sizes of the files in the folder, by one listing."""
        if self._folder is None or not any(self._state.items.get(key) for key in self.items):
            return {}
        with Target.from_location(self._folder).explain_errors():
            try:
                if isinstance(self._folder, Path):
                    sizes = {}
                    for each in os.scandir(self._folder):
                        with suppress(FileNotFoundError):  # a dangling link, or a file that was just renamed
                            sizes[each.name] = each.stat().st_size
                    return sizes
                filesystem, path = self._folder.connect()
                listed = filesystem.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        return {str(each["name"]).rpartition("/")[2]: each["size"] for each in listed}

    # Submitting -----------------------------------------------------------------------------------

    def run(self, timeout: DeferredTimeout) -> None:
        """Submit and download side by side, until neither can continue: each ended job frees a slot.

        Raises as `submit` and `collect`.
        """
        self.submit(timeout)
        while self._fetches:
            self.collect(_COLLECT_SECONDS)
            # In groups: an object store gets one write for each.
            if not self._fetches or self.max_jobs - len(self.outstanding) >= self._state.group_items:
                self.submit(timeout)

    def submit(self, timeout: DeferredTimeout) -> None:
        """Submit until nothing is left, no slot is free, the budget is reached, or Magic Hour refuses.

        The intents of a group are in the state before the first of its creates. The images of later items are
        uploaded meanwhile. Raises errors of the account, of the state, and TaskKilledError.
        """
        while not self._is_stopped:
            self._prepare_ahead()
            group = [self._ahead.popleft() for _ in range(min(self._state.group_items, len(self._ahead)))]
            if not group:
                return
            found = [self._prepared(item, made) for item, made in group]
            ready = {each.item.key: each for each in found if each is not None}
            if self._cancellation.cancelled or self._clock() - self._checked_at >= _CHECK_EVERY_SECONDS:
                self._cancellation.raise_if_cancelled()  # it asks Airflow
                self._checked_at = self._clock()
            timeout.hold()
            intents = [self._state.intend(each.state) for each in ready.values()]
            try:
                self._state.write(intents, at_once=True)
            except (NetworkError, InvalidRequestError):  # it may be written later; nothing is sent
                self._state.write([replace(each, stage=ItemStage.OPEN) for each in intents])
                raise
            sent = {self._creates.submit(self._send, each.body): key for key, each in ready.items()}
            refused = []
            for future in as_completed(sent):
                error = self._record(ready[sent[future]].item, future.result())
                if error is not None:
                    refused.append(error)
            timeout.release()
            if self._lost is not None:
                raise self._lost
            self.collect()
            for error in refused:
                if isinstance(error, _FATAL):
                    raise error
            if refused and self._must_stop(refused):
                self._is_stopped = True
                break
        for item, _ in reversed(self._ahead):
            self._reserved.pop(item.key, None)
            self.to_submit.appendleft(item)
        self._ahead.clear()

    def _prepare_ahead(self) -> None:
        """Take the next items that slots and budget allow, and upload their images in the background."""
        spent = self._state.spent() + sum(self._reserved.values()) if self.max_credits is not None else 0
        while self.to_submit and len(self._ahead) < max(_UPLOADS_AHEAD, self._state.group_items):
            if len(self.outstanding) + len(self._reserved) >= self.max_jobs:
                return
            cost = self._costs.get(self.to_submit[0].key, 0)
            spent += cost
            if self.max_credits is not None and spent > self.max_credits:
                self._reach_budget(f"max_credits is {self.max_credits}")
                return
            item = self.to_submit.popleft()
            self._reserved[item.key] = cost
            self._ahead.append((item, self._uploads.submit(self._prepare, item)))

    def _prepare(self, item: BatchItem) -> _Ready:
        """Read and upload the images of an item, at no cost."""
        images = self._images.get(item.key) or open_images(item.request)
        state = ItemState(
            item.key,
            ItemStage.INTENT,
            fingerprint=fingerprint(item.request, images),
            name=item.request.name,
            cost=self._costs.get(item.key) or None,
        )
        return _Ready(item, state, upload_images(self._client, item.request, images))

    def _prepared(self, item: BatchItem, made: Future[_Ready]) -> _Ready | None:
        try:
            ready = made.result()
        except _FATAL:
            raise
        except MagicHourError as error:
            self._reserved.pop(item.key, None)
            log.warning("Item %r: %s", item.key, error.what)
            failed = replace(
                self._state.intend(ItemState(item.key, ItemStage.INTENT)), stage=ItemStage.FAILED
            )
            self._state.write([_with_error(failed, error)])
            return None
        self._images.pop(item.key, None)
        return replace(ready, state=replace(ready.state, stamp=self._stamps.get(item.key)))

    def _send(self, body: ImageToVideoRequest) -> CreatedJob | MagicHourError:
        """Send one create, once. What is refused for now gets a new intent later."""
        if self._cancellation.cancelled or not self._state.may_create():
            return TaskKilledError("This task was killed before it submitted the job.")
        try:
            return self._client.create_image_to_video(body)
        except MagicHourError as error:
            return error
        except Exception as error:
            what = f"The create was interrupted ({type(error).__name__}) after it may have been sent."
            return SubmissionUnknownError(what)

    def _record(self, item: BatchItem, answer: CreatedJob | MagicHourError) -> MagicHourError | None:
        """Record what became of a create; its error, if the item goes back into the queue."""
        self._reserved.pop(item.key, None)
        intent = self._state.items[item.key]
        if isinstance(answer, CreatedJob):
            self._refusals, self.pause_seconds = 0, 0.0
            log.info(
                "Item %r: job %s is submitted for %s credits.", item.key, answer.id, answer.credits_charged
            )
            job = replace(
                intent,
                stage=ItemStage.SUBMITTED,
                project_id=answer.id,
                credits_charged=answer.credits_charged,
            )
            self.outstanding[item.key] = job
            self._write(job)
            return None
        if isinstance(answer, SubmissionUnknownError):
            log.error("Item %r: %s", item.key, answer.what)
            self._write(_with_error(intent, answer))
            return None
        goes_back = isinstance(answer, (*_FATAL, NetworkError, UnavailableError, PaymentRequiredError))
        if goes_back:
            self._write(replace(intent, stage=ItemStage.OPEN))
            self.to_submit.appendleft(item)
            return answer
        log.warning("Item %r: %s", item.key, answer.what)
        self._write(_with_error(replace(intent, stage=ItemStage.FAILED, cost=None), answer))
        return None

    def _write(self, state: ItemState) -> None:
        """Write a state. A store that fails loses no paid job: it is written again with the next ones."""
        try:
            self._state.write([state])
        except TaskKilledError as error:  # the other answers of the group are recorded first
            self._lost = error
        except MagicHourError as error:
            message = "The state of item %r (job %s) could not be written. %s"
            log.exception(message, state.key, state.project_id, error.what)

    def _must_stop(self, refused: list[MagicHourError]) -> bool:
        """Whether to submit no more for now; after a short pause if Magic Hour asks for one."""
        for error in refused:
            if isinstance(error, PaymentRequiredError):
                self._reach_budget(error.what)
                return True
        self._refusals += 1
        error = refused[0]
        pause = self._client.retry_policy.delay_seconds(error, self._refusals, is_create=True)
        if pause is not None and pause <= _LONGEST_PAUSE_SECONDS:
            log.info("%s Trying again in %.1f s.", error.what, pause)
            self._sleep(pause)
            return False
        longest = min(_LONGEST_DEFERRAL_SECONDS, max(_FIRST_DEFERRAL_SECONDS, 2 * self.pause_seconds))
        self.pause_seconds = max(error.retry_after or 0.0, longest)
        if isinstance(error, APIError) and error.status == 429 and self.outstanding:
            self.max_jobs = self.learned_limit = len(self.outstanding)
        log.warning("%s No more jobs are submitted for %.0f s.", error.what, self.pause_seconds)
        return True

    def _reach_budget(self, why: str) -> None:
        if not self.is_budget_reached:
            self.is_budget_reached = True
            log.warning("%d items are not submitted: %s", len(self.to_submit), why)

    # Downloading ----------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Ids of the jobs whose videos were complete before, and are not where they were."""
        return [str(job.project_id) for job in self.outstanding.values() if job.sha256 is not None]

    def download(self, project_ids: Iterable[str] | None) -> None:
        """Download, in the background, the videos of jobs that have ended; None: of all that may have."""
        ended = None if project_ids is None else set(project_ids)
        for key, job in self.outstanding.items():
            if ended is None or job.project_id in ended:
                self._fetches[self._downloads.submit(self._fetch, self.items[key], job)] = key

    def collect(self, wait_seconds: float = 0.0) -> None:
        """Record the downloads that have ended, after a wait for the first of them.

        Raises the errors of the account and of the state.
        """
        if not self._fetches:
            return
        done, _ = wait(self._fetches, wait_seconds, FIRST_COMPLETED)
        for future in done:
            key, found = self._fetches.pop(future), future.result()
            if found is None:
                continue  # it still runs
            del self.outstanding[key]
            if found.error:
                log.warning("Item %r: %s", key, found.message)
            self._write(found)
        self.log_progress()
        if self._lost is not None:
            raise self._lost
        if self._cancellation.cancelled:
            raise TaskKilledError(
                "This task was killed while it downloaded videos.",
                consequence="Its jobs continue at Magic Hour and their credits remain charged.",
            )

    def _fetch(self, item: BatchItem, job: ItemState) -> ItemState | None:
        """The state of a job that has ended, with its video; None if it still runs."""
        project_id, folder = str(job.project_id), self._folder
        done = replace(_without_error(job), stage=ItemStage.DONE)
        try:
            target = None if folder is None else Target.from_location(join(folder, item.file_name))
            is_ours = False
            if target is not None and (job.sha256 is not None or job.earlier):
                found = read_back(target)
                content = (found.size, found.hexdigest()) if found is not None else None
                if content == (job.size, job.sha256):  # it was complete, perhaps in another folder
                    return replace(done, path=target.path)
                is_ours = content is not None and self._is_ours(job, target, content)
            project, outcome = poll_job(self._client, project_id)
            if outcome is None:
                return None
            if outcome.credits_charged is not None:
                job, done = (replace(each, credits_charged=outcome.credits_charged) for each in (job, done))
            error = outcome.error()
            if error is not None or project is None:
                return _with_error(replace(job, stage=ItemStage.FAILED), error or MagicHourError("No job."))
            if target is None:
                return done
            saved = self._save(project_id, target, project, replaces=target.path if is_ours else None)
        except _FATAL:
            raise
        except MagicHourError as error:
            return _with_error(job, error)
        return replace(done, **{name: saved[name] for name in ("path", "size", "sha256")})

    def _save(
        self,
        project_id: str,
        target: Target,
        project: VideoProject | None = None,
        replaces: str | None = None,
    ) -> dict[str, Any]:
        """See `download_videos`. `project`: the job, if it was just read."""
        answers = iter([project])
        return download_videos(
            self._client,
            lambda: require_videos(next(answers, None) or get_video(self._client, project_id)),
            project_id,
            target.path,
            path_conn_id=getattr(self._folder, "conn_id", None),
            replaces=replaces,
        )

    def _is_ours(self, job: ItemState, target: Target, content: tuple[int, str]) -> bool:
        """Whether the file at an item's path is the video of an earlier version, and not a user's.

        A task that was killed after a download has not recorded what it saved: the video is compared.
        """
        if any((each.size, each.sha256) == content for each in job.earlier):
            return True
        for version in job.earlier:
            if version.sha256 is None:
                with suppress(DestinationError, JobError, NotFoundError):
                    self._save(str(version.project_id), target)
                    return True
        return False

    # What became of it ----------------------------------------------------------------------------

    def log_progress(self) -> None:
        """Log how far the batch has come, at most every ten seconds."""
        if self._clock() - self._logged_at >= _PROGRESS_EVERY_SECONDS:
            self._logged_at = self._clock()
            counts = self.counts()
            log.info(
                "Batch: %d of %d videos complete, %d rendering or downloading, %d to submit, %d failed, "
                "%d credits.",
                counts["complete"],
                counts["items"],
                len(self.outstanding),
                len(self.to_submit) + len(self._reserved),
                counts["failed"] + counts["refused"] + counts["unknown"],
                self._state.spent(),
            )

    def status(self, key: str) -> str:
        """See `ItemState.status`."""
        return self._item_state(key).status

    def _item_state(self, key: str) -> ItemState:
        return self._state.items.get(key) or ItemState(key, ItemStage.OPEN)

    def counts(self) -> dict[str, int]:
        """Items by their status; `unchanged` of the complete ones needed nothing from this task."""
        found = Counter(map(self.status, self.items))
        names = ("complete", "failed", "refused", "unknown", "submitted", "not_submitted")
        states = (self._state.items.get(key) for key in self.items)
        unchanged = sum(
            each is not None and each.stage is ItemStage.DONE and each.by != self._state.task
            for each in states
        )
        return {"items": len(self.items), **{name: found[name] for name in names}, "unchanged": unchanged}

    def results(self) -> Iterable[dict[str, Any]]:
        """The entries of the result manifest, in the order of the items."""
        for key, item in self.items.items():
            yield {**self._item_state(key).result(), "name": item.request.name}

    def report_unknown(self) -> list[str]:
        """Report the creates of unknown outcome, then record that: a Clear from now on is the user's answer.

        A killed attempt records nothing: the Clear may have come before.
        """
        unknown = [key for key in self.items if self.status(key) == "unknown"]
        if not unknown or self._cancellation.cancelled:
            return unknown
        log.error("The creates of these items have an unknown outcome: %s", ", ".join(map(repr, unknown)))
        interrupted = SubmissionUnknownError("An attempt was interrupted while it submitted this job.")
        states = [self._state.report(self._state.items[key]) for key in unknown]
        self._state.write(
            [each if each.error else _with_error(each, interrupted) for each in states], at_once=True
        )
        return unknown

    @property
    def is_waiting(self) -> bool:
        """Whether jobs render, or items can be submitted later."""
        return bool(self.outstanding or (self.to_submit and not self.is_budget_reached))

    def spent(self) -> int:
        """Credits that this run has spent on the batch."""
        return self._state.spent()

    def credits_left(self) -> float:
        """What `max_credits` leaves to this run."""
        return math.inf if self.max_credits is None else self.max_credits - self._state.spent()

    def can_retry(self) -> bool:
        """Whether another attempt can help a failed item."""
        states = [self._state.items[key] for key in self.items if self.status(key) == "failed"]
        return any(state.retryable for state in states)


def _check_images(item: BatchItem) -> Images | InvalidRequestError:
    try:
        return open_images(item.request)
    except InvalidRequestError as error:
        return error


def _without_error(state: ItemState) -> ItemState:
    return replace(state, error=None, code=None, message=None, retryable=False)


def _with_error(state: ItemState, error: MagicHourError) -> ItemState:
    return replace(
        state,
        error=type(error).__name__,
        code=error.code,
        message=error.what[:500],
        retryable=error.retryable,
    )
