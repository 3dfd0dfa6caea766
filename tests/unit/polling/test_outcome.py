from __future__ import annotations

import json

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client.models import VideoProject
from magichour_provider.polling import outcome
from magichour_provider.polling.outcome import Outcome, TerminalStatus
from tests.unit.polling.conftest import api_error


def project(status="complete", **fields):
    return VideoProject.model_validate({"id": "cm1", "status": status, **fields})


LINK = [{"url": "https://s/x?sig=SECRET", "expires_at": "2026-11-23T00:00:00Z"}]


@pytest.mark.parametrize("status", ["draft", "queued", "rendering", "a-new-one"])
def test_a_job_goes_on_while_it_is_not_known_to_have_ended(status):
    assert outcome.from_project(project(status)) is None


@pytest.mark.parametrize(
    ("job", "ending", "error"),
    [
        (project("error", error={"code": "x", "message": "y"}), TerminalStatus.FAILED, errors.JobFailedError),
        (project("error", error={"code": "nsfw"}), TerminalStatus.FAILED, errors.ModerationError),
        (project("error"), TerminalStatus.FAILED, errors.JobFailedError),
        (project("canceled"), TerminalStatus.CANCELED, errors.JobFailedError),
        (project("complete", enabled=False), TerminalStatus.DELETED, errors.JobDeletedError),
        (project("rendering", enabled=False), TerminalStatus.DELETED, errors.JobDeletedError),
    ],
)
def test_every_other_ending_is_its_own_error(job, ending, error):
    ended = outcome.from_project(job)
    assert ended.ending is ending
    assert type(ended.error()) is error


@pytest.mark.parametrize(
    ("status", "ending", "error"),
    [
        (404, TerminalStatus.DELETED, errors.JobDeletedError),
        (401, TerminalStatus.REFUSED, errors.AuthenticationError),
        (403, TerminalStatus.REFUSED, errors.APIError),
    ],
)
def test_outcome_keeps_the_error_of_a_refused_poll(status, ending, error):
    ended = outcome.from_error("cm1", api_error(status))
    assert ended.ending is ending
    raised = Outcome.from_event(ended.as_event()).error()
    assert type(raised) is error
    assert "cm1" in str(raised)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_outcome_of_transient_error_is_none(status):
    assert outcome.from_error("cm1", api_error(status)) is None
    assert outcome.from_error("cm1", errors.NetworkError("cut")) is None


def test_event_survives_json_without_url():
    job = project("complete", name="n", end_seconds=5, credits_charged=120, downloads=LINK)
    ended = outcome.from_project(job)
    assert ended.error() is None
    event = ended.as_event()
    assert "SECRET" not in json.dumps(event)
    assert Outcome.from_event(json.loads(json.dumps(event))) == ended


def test_event_of_another_version_is_read():
    other = {"ending": "complete", "project_id": "cm1", "status": "complete", "queued_seconds": 1.5}
    assert Outcome.from_event(other) == Outcome(TerminalStatus.COMPLETE, "cm1", status="complete")


@pytest.mark.parametrize("event", [{}, {"status": "complete"}, {"ending": "new", "project_id": "x"}])
def test_event_of_another_trigger_is_refused(event):
    with pytest.raises(ValueError, match=r"VideoJobTrigger|TerminalStatus"):
        Outcome.from_event(event)


def test_videos_of_a_job_without_any_raises():
    with pytest.raises(errors.JobNotCompleteError, match="rendering"):
        outcome.require_videos(project("rendering"))
    with pytest.raises(errors.InvalidResponseError, match="no video"):
        outcome.require_videos(project("complete"))
