from __future__ import annotations

import json
from dataclasses import replace

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.client.models import VideoProject
from magichour_provider.polling import outcome
from magichour_provider.polling.outcome import Outcome, TerminalStatus


def project(status="complete", **fields):
    return VideoProject.model_validate({"id": "cm1", "status": status, **fields})


LINK = [{"url": "https://s/x?sig=SECRET", "expires_at": "2026-11-23T00:00:00Z"}]


@pytest.mark.parametrize("status", ["draft", "queued", "rendering", "a-new-one"])
def test_a_job_goes_on_while_it_is_not_known_to_have_ended(status):
    assert outcome.of_project(project(status)) is None


@pytest.mark.parametrize(
    ("job", "ending", "error"),
    [
        (project("error", error={"code": "x", "message": "y"}), TerminalStatus.FAILED, errors.JobFailedError),
        (
            project("error", error={"code": "nsfw", "message": "y"}),
            TerminalStatus.FAILED,
            errors.ModerationError,
        ),
        (project("error"), TerminalStatus.FAILED, errors.JobFailedError),
        (project("canceled"), TerminalStatus.CANCELED, errors.JobCanceledError),
        (project("complete", enabled=False), TerminalStatus.DELETED, errors.JobDeletedError),
        (project("rendering", enabled=False), TerminalStatus.DELETED, errors.JobDeletedError),
    ],
)
def test_every_other_ending_is_its_own_error(job, ending, error):
    ended = outcome.of_project(job)
    assert ended.ending is ending
    assert type(ended.error()) is error


def test_complete_is_no_error():
    assert outcome.of_project(project()).error() is None


@pytest.mark.parametrize(
    ("status", "ending", "error"),
    [
        (404, TerminalStatus.DELETED, errors.JobDeletedError),
        (401, TerminalStatus.REFUSED, errors.AuthenticationError),
        (403, TerminalStatus.REFUSED, errors.PermissionDeniedError),
    ],
)
def test_a_refusal_ends_the_wait_as_itself(status, ending, error):
    refusal = protocol.api_error(status=status, code="c", message="why", request="GET /x", project_id="cm1")
    ended = outcome.of_error("cm1", refusal)
    assert ended.ending is ending
    raised = Outcome.from_event(ended.as_event()).error()
    assert type(raised) is error
    assert "cm1" in str(raised)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_does_not_end_the_wait(status):
    error = protocol.api_error(status=status, code=None, message="", request="GET /x", project_id="cm1")
    assert outcome.of_error("cm1", error) is None
    assert outcome.of_error("cm1", errors.NetworkError("cut")) is None


def test_an_event_survives_json_and_holds_no_link():
    job = project("complete", name="n", end_seconds=5, credits_charged=120, downloads=LINK)
    ended = replace(outcome.of_project(job), queued_seconds=1.5, rendering_seconds=30.0)
    event = ended.as_event()
    assert "SECRET" not in json.dumps(event)
    assert Outcome.from_event(json.loads(json.dumps(event))) == ended


def test_an_event_of_an_older_version_is_read():
    old = {"ending": "complete", "project_id": "cm1", "status": "complete"}
    assert Outcome.from_event(old).queued_seconds is None


@pytest.mark.parametrize("event", [{}, {"status": "complete"}, {"ending": "new", "project_id": "x"}])
def test_a_foreign_event_is_refused(event):
    with pytest.raises(ValueError, match=r"VideoJobTrigger|Ending"):
        Outcome.from_event(event)


def test_the_clip_of_an_unfinished_job_cannot_be_had():
    with pytest.raises(errors.JobNotCompleteError, match="rendering"):
        outcome.download_urls(project("rendering"))


def test_a_complete_job_without_a_link_is_not_taken_for_a_clip():
    with pytest.raises(errors.InvalidResponseError, match="names no clip"):
        outcome.download_urls(project("complete"))
