"""The errors of this provider.

    MagicHourError
    ├── ConfigurationError: UndefinedConnectionError
    ├── InvalidRequestError: BudgetError, ImageError
    ├── APIError: AuthenticationError, PaymentRequiredError, NotFoundError, UnavailableError
    ├── NetworkError, InvalidResponseError, WebhookError, TaskKilledError, SubmissionUnknownError
    ├── PictureError, BatchError
    ├── JobError: JobFailedError (ModerationError), JobDeletedError, JobNotCompleteError, WaitTimeoutError
    └── TransferError: DownloadError, NotAVideoError, DestinationError

A message has three sentences: what happened; what it means for the job and the credits; what to do.
Each class knows the last two, and a `title` for pages. `retryable` says whether another attempt can help.
"""

from __future__ import annotations

from typing import ClassVar

LIBRARY_URL = "https://magichour.ai/my-library"
"""The page of the web app that lists an account's videos."""


class MagicHourError(Exception):
    """Base of all errors of this provider.

    :param what: what happened, in one sentence.
    :param project_id: the job that the error is about, if there is one.
    :param code: the API's machine code, if it gave one (`nsfw`, `insufficient_credits`, ...).
    :param consequence: what it means for the job and the credits, instead of `default_consequence`.
    :param remedy: what to do, instead of `default_remedy`.

    `retry_after`: seconds that the server asked to wait, if it did.
    """

    title: ClassVar[str] = "The task failed"
    retryable: bool = False
    default_consequence: ClassVar[str] = "No job was created and no credits were spent."
    default_remedy: ClassVar[str] = "Another attempt cannot help."
    retry_after: float | None = None

    def __init__(
        self,
        what: str,
        *,
        project_id: str | None = None,
        code: str | None = None,
        consequence: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.project_id = project_id
        self.code = code
        self.consequence = self.default_consequence if consequence is None else consequence
        self.remedy = self.default_remedy if remedy is None else remedy
        super().__init__(" ".join(part for part in (what, self.consequence, self.remedy) if part))

    def replace_consequence(self, consequence: str) -> None:
        """Say what the error means for the job and the credits, where more is known than at its source."""
        MagicHourError.__init__(
            self,
            self.what,
            project_id=self.project_id,
            code=self.code,
            consequence=consequence,
            remedy=self.remedy,
        )


class ConfigurationError(MagicHourError):
    """The Airflow connection lacks a value or has one that cannot be used."""

    title = "The connection cannot be used"
    default_remedy = "Correct the connection, then clear the task."


class UndefinedConnectionError(ConfigurationError):
    """Airflow does not know the connection. It says the same while its secrets backend is unavailable."""

    title = "The connection is not defined"
    default_remedy = "Add the connection, then clear the task."


class InvalidRequestError(MagicHourError):
    """The provider refused the task's arguments before anything was sent."""

    title = "The task's arguments cannot be used"
    default_remedy = "Correct the task's arguments, then clear the task."


class BudgetError(InvalidRequestError):
    """The video costs more credits than the task or the account may spend.

    `code` is `insufficient_credits`, as in the API, if the account's balance is too low; None for a limit.
    """

    title = "The video costs more than the limit or the balance"
    default_remedy = "Raise the limit, add credits, or choose a shorter video or a cheaper model."


class ImageError(InvalidRequestError):
    """The image is missing, unreadable, empty, too large, or of a type that Magic Hour does not accept."""

    title = "The image cannot be used"
    default_remedy = "Correct the image, then clear the task."


class APIError(MagicHourError):
    """Magic Hour answered a request with an error status (docs: api-reference/errors).

    :param status: the HTTP status.
    :param message: the body's text.
    :param request: method and path.
    :param retry_after: seconds that the server asked to wait.
    """

    title = "Magic Hour refused the request"
    _JOB_CONSEQUENCE: ClassVar[str] = "Job {} and its credits are not affected."

    def __init__(
        self,
        *,
        status: int,
        code: str | None,
        message: str,
        request: str,
        project_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.retry_after = retry_after
        label = f"{status} {code}" if code else str(status)
        remedy = None
        if status in (400, 422):
            remedy = "Correct the task's arguments, then clear the task."
        elif status == 403:
            remedy = "Change the plan or the key's permissions at Magic Hour, then clear the task."
        elif status == 404 and project_id is None:
            remedy = "Check the connection's host: Magic Hour's API has this endpoint."
        super().__init__(
            f"Magic Hour answered {request} with {label}: {message.rstrip('.')}.",
            project_id=project_id,
            code=code,
            consequence=None if project_id is None else self._JOB_CONSEQUENCE.format(project_id),
            remedy=remedy,
        )


class AuthenticationError(APIError):
    """401: the API key is missing, wrong or revoked."""

    title = "Magic Hour refused the API key"
    default_remedy = "Put a valid API key into the connection's password, then clear the task."


class PaymentRequiredError(APIError):
    """402: too few credits, or a plan that does not include this."""

    title = "The account has too few credits"
    default_remedy = "Add credits or change the plan at Magic Hour, then clear the task."


class NotFoundError(APIError):
    """404: this account has no such project, or the API has no such endpoint."""

    title = "Magic Hour does not know the job or the address"
    default_remedy = "Check the project id, and that the API key belongs to the account of the job."
    _JOB_CONSEQUENCE = "This account has no job {}; the request cost nothing."


class UnavailableError(APIError):
    """429, 408, 425, 5xx: Magic Hour limits the rate of requests, or has a problem."""

    title = "Magic Hour is busy or has a problem"
    retryable = True
    default_remedy = "Retry later."


class NetworkError(MagicHourError):
    """No answer came to a request that costs nothing, or no connection was made."""

    title = "Magic Hour could not be reached"
    retryable = True
    default_consequence = "This request spent no credits."
    default_remedy = "Retry later."


class InvalidResponseError(MagicHourError):
    """An answer arrived that does not follow the API's documentation."""

    title = "The answer does not seem to come from Magic Hour"
    retryable = True
    default_consequence = "This request spent no credits."
    default_remedy = "Check the connection's host and proxy; if both are right, retry later."


class TaskKilledError(MagicHourError):
    """The task was stopped, by a user or by its machine."""

    title = "The task was stopped"
    retryable = True
    default_remedy = "Clear the task to continue."


class SubmissionUnknownError(MagicHourError):
    """The create was sent and no usable answer came: the job may exist and may have been charged.

    It is never sent again automatically, as the API has no idempotency key.
    """

    title = "It is unknown whether the job was submitted"
    default_consequence = "The job may exist and its credits may have been spent."
    default_remedy = (
        f"Search the Magic Hour library ({LIBRARY_URL}) for the job before you submit again: "
        "a second submission may be charged a second time."
    )


class BatchError(MagicHourError):
    """A part of a batch has no video. `retryable`: another attempt can help some of its items."""

    title = "A part of the batch has no video"
    default_consequence = (
        "The other videos are complete. Failed jobs are refunded. Jobs that still render, and videos that "
        "could not be downloaded, stay paid: the next attempt re-attaches to them at no cost."
    )
    default_remedy = "Read the result manifest, correct what failed, then clear this task."

    def __init__(self, what: str, *, retryable: bool) -> None:
        super().__init__(what)
        self.retryable = retryable


class JobError(MagicHourError):
    """The job `project_id` exists and has no video."""

    title = "The job has no video"


class JobFailedError(JobError):
    """The job ended with status `error`, or a user canceled it in the web app; its credits are refunded.

    `code` is the API's, an open set (`nsfw`, `invalid_image_file`, ...), or `canceled`.
    """

    title = "The job failed at Magic Hour"
    default_consequence = "The job has ended and its credits are refunded."
    default_remedy = "Correct the cause, then clear the submitting task: the same request would fail again."


class ModerationError(JobFailedError):
    """Content moderation refused the image or the prompt."""

    title = "Magic Hour's moderation refused the image or the prompt"
    default_remedy = "Change the image or the prompt: the same request would be refused again."


class JobDeletedError(JobError):
    """The project was deleted, or this account has no such project."""

    title = "The job does not exist at Magic Hour"
    default_consequence = "Its video is not available, and its credits are spent."
    default_remedy = (
        "Check the project id and the account. If you clear the submitting task, it submits another job, "
        "which is charged again."
    )


class JobNotCompleteError(JobError):
    """The video was requested before the job was complete."""

    title = "The job is not complete yet"
    retryable = True
    default_consequence = "The job is still running at Magic Hour, at no further charge."
    default_remedy = "Wait for it with VideoJobSensor before this task, or retry later."


class WaitTimeoutError(JobError):
    """The deadline passed before the job ended. The API cannot cancel a job."""

    title = "The job took longer than the task may wait"
    retryable = True
    default_consequence = "The job is still running at Magic Hour and its credits stay charged."
    default_remedy = (
        "Get its video at no cost: retry or clear this task (on Airflow 3.3, or with state_path), or use "
        "VideoJobSensor and DownloadVideoOperator with its id."
    )


class TransferError(MagicHourError):
    """The video exists and is paid for, and could not be downloaded to its destination.

    :param is_final: another attempt would fail in the same way.
    """

    title = "The video could not be downloaded"
    retryable = True
    default_consequence = "The video is still at Magic Hour, and downloading it again costs nothing."
    default_remedy = "Retry later."

    def __init__(
        self, what: str, *, consequence: str | None = None, remedy: str | None = None, is_final: bool = False
    ) -> None:
        if is_final:
            self.retryable = False
            remedy = f"Another attempt would fail, too: save the video in the web app ({LIBRARY_URL})."
        super().__init__(what, consequence=consequence, remedy=remedy)


class DownloadError(TransferError):
    """The connection was cut, length or checksum are wrong, or the storage has a problem."""


class NotAVideoError(TransferError):
    """The downloaded bytes are not a complete mp4; nothing was published."""

    title = "The downloaded file is not a complete video"


class DestinationError(TransferError):
    """The destination cannot be written: no such folder, no permission, no space, or the file exists."""

    title = "The video cannot be written to its destination"
    retryable = False
    default_remedy = "Correct the destination, then clear the task."


class PictureError(MagicHourError):
    """No picture can be made of a video: it is missing, no mp4, damaged, or too large to decode."""

    title = "The picture could not be made"
    default_consequence = "The video itself is unchanged, and no credits were spent."
    default_remedy = "Check the video, then clear the task."


class WebhookError(MagicHourError):
    """A webhook was refused. The message is always the same; `code` says why, for logs and metrics.

    `code`: `signature`, `timestamp` or `body`.
    """

    title = "The webhook was refused"
    default_consequence = "It has no effect on jobs and credits."
    default_remedy = "If it is genuine, Magic Hour sends it again."

    def __init__(self, code: str) -> None:
        super().__init__("The webhook was refused.", code=code)
