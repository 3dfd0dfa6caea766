from __future__ import annotations

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.operators._base import describe_error
from magichour_provider.ui.error_help import explain


def every_error():
    found, rest = [], [errors.MagicHourError]
    while rest:
        kind = rest.pop()
        found.append(kind)
        rest += kind.__subclasses__()
    return sorted({kind.__name__ for kind in found if kind.__module__ == errors.__name__})


ABSTRACT = {"MagicHourError", "APIError", "JobError"}


@pytest.mark.parametrize("name", [name for name in every_error() if name not in ABSTRACT])
def test_every_error_has_words_of_its_own(name):
    failure = explain({"error": name, "message": "What happened."})
    assert failure.title != explain({}).title
    assert failure.advice
    assert failure.message == "What happened."


def test_what_became_of_the_credits_is_said_where_it_is_known():
    error = errors.ModerationError("Job x failed.", project_id="x", code="nsfw")
    refunded = explain(describe_error(error, project_id="x", credits_charged=0))
    assert refunded.spent == "The job's credits were refunded."
    assert refunded.code == "nsfw"
    timeout = errors.WaitTimeoutError("Job x had not ended.", project_id="x")
    late = explain(describe_error(timeout, credits_charged=120))
    assert late.spent == "120 credits are charged for the job."
    assert explain(describe_error(errors.CatalogError("No such length."))).spent is None


def test_a_task_without_a_reason_sends_its_reader_to_the_log():
    assert "log" in explain({}).advice
    assert "log" not in explain({"error": "SomethingNew", "message": "Oh.", "retryable": True}).advice
