"""Why a task failed, for a person who looks at a page: in plain words, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magichour_provider.ui import coercion as told
from magichour_provider.ui.view_models import Failure

_SAID = "The message above says what to correct. Then clear the task."
_LATER = "Nothing is wrong with the task. Airflow retries it; if it has no retries left, clear it later."

_WORDS: Mapping[str, tuple[str, str]] = {
    "ModerationError": (
        "Magic Hour's moderation refused the image or the prompt",
        "Choose another image or another prompt: the same request will be refused again.",
    ),
    "JobFailedError": (
        "The render failed at Magic Hour",
        "Look at the code and the image. Clearing the submitting task orders a new clip.",
    ),
    "JobCanceledError": (
        "Somebody canceled the job in Magic Hour's web app",
        "Clear the submitting task to order a new clip.",
    ),
    "JobDeletedError": (
        "The job is gone at Magic Hour",
        "Check that the connection is of the account that ordered the clip. If the clip was deleted, clear "
        "the submitting task to order a new one.",
    ),
    "JobNotCompleteError": ("The clip was not finished yet", "Wait for the job with VideoJobSensor first."),
    "WaitTimeoutError": (
        "The render took longer than the task may wait",
        "The job goes on at Magic Hour. On Airflow 3.3, clear the task: it takes the same job up, and "
        "nothing is paid again. If that happens often, raise timeout.",
    ),
    "SubmissionUnknownError": (
        "Nobody can tell whether the clip was ordered",
        "Look for the job in the Magic Hour library before you clear the task: clearing orders a new clip, "
        "unless you hand the job over first, as the message says.",
    ),
    "BudgetError": (
        "The clip would have cost too much",
        "Raise the limit, add credits, or order a cheaper clip.",
    ),
    "PaymentRequiredError": (
        "The account has too few credits",
        "Add credits or change the plan at Magic Hour, then clear the task.",
    ),
    "CatalogError": ("This model does not take what was asked for", _SAID),
    "InvalidRequestError": ("The task's arguments cannot be used", _SAID),
    "BadRequestError": ("Magic Hour did not understand the request", _SAID),
    "UnprocessableError": ("Magic Hour refused the request", _SAID),
    "ImageError": ("The image cannot be used", _SAID),
    "ConfigurationError": ("The connection cannot be used", "Correct the connection, then clear the task."),
    "UndefinedConnectionError": ("The connection is not there", "Add the connection, then clear the task."),
    "AuthenticationError": (
        "Magic Hour refused the API key",
        "Put a good key into the connection, then clear the task. On Airflow 3.3 it takes up a job that was "
        "paid for.",
    ),
    "PermissionDeniedError": (
        "The plan or the key does not allow this",
        "Change the plan or the key's permissions at Magic Hour, then clear the task.",
    ),
    "NotFoundError": (
        "Magic Hour does not know the job",
        "Check the project id, and the connection's account.",
    ),
    "RateLimitError": ("Magic Hour asked for a pause", _LATER),
    "ServerError": ("Magic Hour had a problem of its own", _LATER),
    "InvalidResponseError": (
        "What answered does not seem to be Magic Hour",
        "Check the connection's host, and a proxy between. If both are right, clear the task later.",
    ),
    "NetworkError": ("Magic Hour could not be reached", _LATER),
    "TaskKilledError": ("The task was stopped", "Clear it: it goes on from where it was."),
    "DestinationError": ("The clip could not be put where it should land", _SAID),
    "NotAVideoError": ("What came was not a whole video", _LATER),
    "PictureError": ("The picture could not be made", _SAID),
    "TransferError": ("The clip could not be fetched", _LATER),
    "DownloadError": ("The clip could not be fetched", _LATER),
    "LinkExpiredError": ("The link to the clip ran out", _LATER),
    "ChecksumError": ("The clip that came was damaged", _LATER),
    "ResumeNotPossibleError": ("The clip could not be fetched", _LATER),
}

UNTOLD = Failure(
    title="The task failed",
    message="It left no reason that could be shown here.",
    advice=(
        "Read the task's log. On Airflow 3.3 clearing the task takes up a job that was ordered, and nothing "
        "is paid twice."
    ),
)
"""Of a task that has left no reason."""


def explain(failure: Mapping[str, Any]) -> Failure:
    """Read the XCom `failure` of a task; without one, say that there is none."""
    if not failure:
        return UNTOLD
    title, advice = _WORDS.get(str(failure.get("error")), (UNTOLD.title, _SAID))
    if failure.get("retryable") and advice == _SAID:
        advice = _LATER
    return Failure(
        title=title,
        message=str(failure.get("message") or UNTOLD.message),
        advice=advice,
        code=told.text(failure.get("code")),
        spent=_spent(told.whole(failure.get("credits_charged")), failure.get("project_id")),
    )


def _spent(credits_charged: int | None, project_id: object) -> str | None:
    if credits_charged:
        return f"{credits_charged} credits are charged for the job."
    if credits_charged == 0 and project_id:
        return "The job's credits were refunded."
    return None
