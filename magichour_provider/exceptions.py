"""The one error tree.

    MagicHourError
    ├── ConfigurationError            the connection cannot be used as it stands
    │   └── UndefinedConnectionError
    ├── InvalidRequestError           refused here, before anything was sent
    │   ├── CatalogError              no known model version takes this combination
    │   ├── BudgetError               dearer than `max_credits`, or than the account's balance
    │   └── ImageError                missing, empty, too large, or not an accepted image
    ├── APIError                      Magic Hour answered with an error status
    │   ├── BadRequestError           400
    │   ├── AuthenticationError       401
    │   ├── PaymentRequiredError      402
    │   ├── PermissionDeniedError     403
    │   ├── NotFoundError             404
    │   ├── UnprocessableError        422
    │   ├── RateLimitError            429
    │   └── ServerError               5xx
    ├── NetworkError                  no answer, and nothing was bought by asking
    ├── InvalidResponseError         an answer that does not follow the API's contract
    ├── TaskKilledError              the task was told to stop, by a person or by its machine
    ├── SubmissionUnknownError        the create was sent and its outcome is unknown
    ├── JobError                      a job exists and did not come to a clip
    │   ├── JobFailedError            status `error`
    │   │   └── ModerationError       refused by content moderation
    │   ├── JobCanceledError          status `canceled`, done by a person in the web app
    │   ├── JobDeletedError           `enabled: false`, or gone with a 404
    │   ├── JobNotCompleteError       asked for the clip of a job that still runs
    │   └── WaitTimeoutError          the deadline passed; the job goes on
    ├── TransferError                 the clip exists; bringing it home failed
    │   ├── DownloadError             connection cut, wrong length, storage in trouble
    │   │   ├── LinkExpiredError      the signed link is not good any more
    │   │   ├── ResumeNotPossibleError     the rest of a broken download is not to be had
    │   │   └── ChecksumError         not the bytes that the storage says it has sent
    │   ├── NotAVideoError            the bytes are not a whole mp4
    │   └── DestinationError               the place to write to refuses
    └── PictureError                  no poster or contact sheet can be made of this clip

Every message says what happened, what it means for the job and for the credits, and whether trying
again can help. `retryable` says the last of these to programs.
"""

from __future__ import annotations

from typing import ClassVar

LIBRARY_URL = "https://magichour.ai/my-library"
"""The page of the web app that lists an account's videos."""


class MagicHourError(Exception):
    """Base of all errors of this provider.

    :param what: what happened, one or two sentences.
    :param consequence: what it means for the job and the credits; the class knows the usual one.
    :param remedy: what to do; the class knows the usual one.

    `retry_after`: seconds that the server asked to wait, if it did.
    """

    retryable: ClassVar[bool] = False
    retry_after: float | None = None
    default_consequence: ClassVar[str] = "No job was created and no credits were spent."
    default_remedy: ClassVar[str] = "Trying again cannot help."

    def __init__(self, what: str, *, consequence: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.consequence = self.default_consequence if consequence is None else consequence
        self.remedy = self.default_remedy if remedy is None else remedy
        super().__init__(" ".join(part for part in (what, self.consequence, self.remedy) if part))


class ConfigurationError(MagicHourError):
    """The Airflow connection is missing something, or holds something unknown."""

    default_remedy = "Correct the connection; trying again cannot help before that."


class UndefinedConnectionError(ConfigurationError):
    """Airflow knows no connection of this id; it says so, too, while its secrets backend is away."""


class InvalidRequestError(MagicHourError):
    """Refused on this side, before anything was sent."""

    default_remedy = "Correct the task's arguments; trying again cannot help before that."


class CatalogError(InvalidRequestError):
    """No known version of the model takes this duration, resolution, audio or end image."""

    default_remedy = (
        "Correct the task's arguments, or pass validate_model='warn' if Magic Hour has changed its models; "
        "trying again cannot help before that."
    )


class BudgetError(InvalidRequestError):
    """The clip costs more credits than the task or the account may spend.

    :param code: `insufficient_credits`, as the API has it, where it is the account; None where it is a limit.
    """

    default_remedy = "Raise the limit, add credits, or choose a shorter clip or a cheaper model."

    def __init__(self, what: str, *, code: str | None = None, remedy: str | None = None) -> None:
        self.code = code
        super().__init__(what, remedy=remedy)


class ImageError(InvalidRequestError):
    """The image is missing, unreadable, empty, too large, or of a kind that Magic Hour does not take."""

    default_remedy = "Correct the image; trying again cannot help before that."


class APIError(MagicHourError):
    """Magic Hour answered a request with an error status.

    :param status: the HTTP status.
    :param code: the machine code of the body, where it has one (`insufficient_credits`, ...).
    :param message: the body's text.
    :param request: method and path, for the reader of a log.
    :param project_id: the job that was asked about; None when none exists yet.
    """

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
        self.code = code
        self.message = message
        self.request = request
        self.project_id = project_id
        self.retry_after = retry_after
        label = f"{status} {code}" if code else str(status)
        super().__init__(
            f"Magic Hour answered {request} with {label}: {message.rstrip('.')}.",
            consequence=None if project_id is None else self._about(project_id),
        )

    @staticmethod
    def _about(project_id: str) -> str:
        return f"Job {project_id} and its credits are unaffected by this."


class BadRequestError(APIError):
    """400: the request does not follow the schema."""


class AuthenticationError(APIError):
    """401: the API key is missing, wrong or revoked."""

    default_remedy = (
        "Put a valid API key into the connection's password; trying again cannot help until then."
    )


class PaymentRequiredError(APIError):
    """402: not enough credits, or a plan that does not include this."""

    default_remedy = "Add credits or change the plan at Magic Hour; trying again cannot help before that."


class PermissionDeniedError(APIError):
    """403: the account's plan or the key's permissions do not allow this."""

    default_remedy = "Change the plan or the key's permissions; trying again cannot help before that."


class NotFoundError(APIError):
    """404: no such project for this account, or no such endpoint."""

    default_remedy = "Check the project id, and that the API key is of its account; trying again cannot help."

    @staticmethod
    def _about(project_id: str) -> str:
        return f"This account has no job {project_id}; asking for it cost nothing."


class UnprocessableError(APIError):
    """422: understood, and refused: a file path, a model's limits, an extension."""

    default_remedy = "Correct the task's arguments; trying again cannot help before that."


class RateLimitError(APIError):
    """429: too many requests. `retry_after` is in seconds, where the server gave it."""

    retryable = True
    default_remedy = "Trying again later can help."


class ServerError(APIError):
    """5xx, 408, 425: Magic Hour or something before it is in trouble."""

    retryable = True
    default_remedy = "Trying again later can help."


class NetworkError(MagicHourError):
    """No answer came to a request that buys nothing, or a connection was never made."""

    retryable = True
    default_consequence = "No credits were spent by this request."
    default_remedy = "Trying again can help."


class InvalidResponseError(MagicHourError):
    """An answer arrived that does not follow the API's contract."""

    retryable = True
    default_consequence = "No credits were spent by this request."
    default_remedy = "Check the connection's host; trying again may help."


class TaskKilledError(MagicHourError):
    """The task was told to stop, by a person or by its machine, and has stopped."""

    retryable = True
    default_remedy = "Trying again goes on from here."


class SubmissionUnknownError(MagicHourError):
    """The create was sent and no usable answer came: the job may exist and may have been charged.

    Never sent again by the client: the API has no idempotency key.
    """

    default_consequence = "The job may exist and its credits may have been spent."
    default_remedy = (
        f"Look in the Magic Hour library ({LIBRARY_URL}) before submitting again: "
        "trying again may pay a second time."
    )


class JobError(MagicHourError):
    """A job exists and has not come to a clip.

    :param project_id: the job.
    """

    def __init__(
        self, what: str, *, project_id: str, consequence: str | None = None, remedy: str | None = None
    ) -> None:
        self.project_id = project_id
        super().__init__(what, consequence=consequence, remedy=remedy)


class JobFailedError(JobError):
    """The job ended with status `error`; Magic Hour refunds the credits of failed jobs.

    :param code: the API's error code, an open set (`nsfw`, `invalid_image_file`, ...).
    """

    default_consequence = "The job has ended and its credits are refunded."
    default_remedy = "The same request is likely to fail again: correct the cause first."

    def __init__(self, what: str, *, project_id: str, code: str | None, remedy: str | None = None) -> None:
        self.code = code
        super().__init__(what, project_id=project_id, remedy=remedy)


class ModerationError(JobFailedError):
    """Content moderation refused the image or the prompt."""

    default_remedy = "Change the image or the prompt; the same request will be refused again."


class JobCanceledError(JobError):
    """A person canceled the job in Magic Hour's web app; the credits are refunded in full."""

    default_consequence = "The job has ended and its credits are refunded."
    default_remedy = "Clear the submitting task to render it anew."


class JobDeletedError(JobError):
    """The project was deleted, or this account has no such project: there is no clip to be had from it."""

    default_consequence = "The clip is not available; whatever it cost is spent."
    default_remedy = "Check the project id and the account; clear the submitting task to render it anew."


class JobNotCompleteError(JobError):
    """The clip was asked for before the job was complete."""

    retryable = True
    default_consequence = "The job goes on at Magic Hour, at no further charge."
    default_remedy = "Wait for it with VideoJobSensor before this task, or retry later."


class WaitTimeoutError(JobError):
    """The deadline passed before the job ended; nothing can cancel it from here."""

    retryable = True
    default_consequence = "The job goes on at Magic Hour and its credits stay charged."
    default_remedy = (
        "Its clip can still be had, for nothing: on Airflow 3.3 by a retry of this task, or by its id with "
        "VideoJobSensor and DownloadVideoOperator. A longer timeout avoids this."
    )


class TransferError(MagicHourError):
    """The clip exists and is paid for; bringing it to its target failed."""

    retryable = True
    default_consequence = "The clip is safe at Magic Hour and downloading it again costs nothing."
    default_remedy = "Trying again can help."


class DownloadError(TransferError):
    """The connection was cut, the length is not the announced one, or the storage is in trouble."""


class LinkExpiredError(DownloadError):
    """The signed link is not good any more; the project hands out a new one."""


class ResumeNotPossibleError(DownloadError):
    """The rest of a download that broke is not to be had; the whole may be."""


class ChecksumError(DownloadError):
    """What arrived has not the checksum that the storage gave; nothing was published."""


class NotAVideoError(TransferError):
    """What arrived is not a whole mp4; nothing was published under the target's name."""


class DestinationError(TransferError):
    """The target cannot be written: no such folder, no right, no space, or it exists already."""

    retryable = False
    default_remedy = "Correct the target and clear this task; trying again cannot help before that."


class PictureError(MagicHourError):
    """No picture can be made of a clip: it is not there, not an mp4, damaged, or too large to decode."""

    default_consequence = "The file itself is untouched, and no credits were spent."
    default_remedy = "Check the clip; trying again cannot help before that."
