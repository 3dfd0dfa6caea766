"""The filters of the templates, the states, and how values of XComs and errors are read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from airflow.utils.state import TaskInstanceState

from magichour_provider import exceptions
from magichour_provider.client.models import JobStatus
from magichour_provider.operators._base import describe_error as describe
from magichour_provider.ui.queries import FAILED, IN_PROGRESS, STATES, SUCCESS, as_integer, as_number, as_text
from magichour_provider.ui.task_page import UNKNOWN_FAILURE, explain
from magichour_provider.ui.view_models import FILTERS

AIRFLOW_STATES = [None, *(str(state.value) for state in TaskInstanceState)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "under 0.1 s"), (0.2, "0.2 s"), (5, "5 s"), (5.04, "5 s"), (3.46, "3.5 s"), (9.96, "10 s")],
        *[(59.4, "59 s"), (59.6, "1 min"), (72.1, "1 min 12 s"), (3599.7, "1 h"), (3725, "1 h 2 min")],
    ],
)
def test_seconds(value, text):
    assert FILTERS["seconds"](value) == text


def test_credits_and_moments():
    texts = [FILTERS["credits"](value) for value in (0, 1, 12_340)]
    assert texts == ["0 credits", "1 credit", "12,340 credits"]
    moment = datetime(2026, 3, 14, 16, 9, 26, 999, tzinfo=timezone(timedelta(hours=1)))
    assert FILTERS["moment"](moment) == "2026-03-14 15:09:26 UTC"


@pytest.mark.parametrize("state", AIRFLOW_STATES)
def test_each_state_of_airflow_has_a_name_a_class_a_sentence_and_a_kind(state):
    assert FILTERS["state_name"](state) != state
    assert FILTERS["state_class"](state) == (state or "none")
    assert "in Airflow is" not in FILTERS["state_sentence"](state)
    assert sum(state in states for states in STATES.values()) == (state is not None)


def test_unknown_state_has_no_class_and_each_status_a_name():
    assert FILTERS["state_class"]('x" onload="') == FILTERS["state_class"]("in progress") == "none"
    assert FILTERS["state_sentence"]("paused") == "The state of the task in Airflow is paused."

    assert {"failed", "upstream_failed"} <= STATES[FAILED]
    assert "deferred" in STATES[IN_PROGRESS]
    assert "success" in STATES[SUCCESS]
    for status in JobStatus:
        assert FILTERS["status_name"](status.value) != status.value
    assert FILTERS["status_name"]("paused") == "paused"


def test_plausible_numbers_and_texts_are_taken_and_nothing_else():
    for value in (0, 5, 3.5, 10**12):
        assert (as_number(value), as_integer(value)) == (value, int(value))
    for value in (None, True, "5", [5], {}, -1, 10**400, float("nan"), float("inf")):
        assert (as_number(value), as_integer(value)) == (None, None)
    assert [as_text(value) for value in ("a", "", None, 1, ["a"])] == ["a", None, None, None, None]


def test_error_is_explained_by_its_class():
    error = exceptions.ModerationError("Job x failed.", project_id="x", code="nsfw")
    failure = explain(describe(error, project_id="x", credits_charged=0))
    assert failure.title == exceptions.ModerationError.title
    assert failure.remedy == exceptions.ModerationError.default_remedy
    assert failure.remedy not in failure.message
    assert failure.message.startswith("Job x failed.")
    assert (failure.code, failure.credits) == ("nsfw", None), "the message says that they are refunded"
    deleted = exceptions.JobDeletedError("Job x was deleted.", consequence="", project_id="x")
    assert explain(describe(deleted, credits_charged=0)).credits == "The credits of the job were refunded."
    timeout = exceptions.WaitTimeoutError("Job x had not ended.", project_id="x")
    assert explain(describe(timeout, credits_charged=1200)).credits == "The job was charged 1,200 credits."
    assert explain(describe(exceptions.ConfigurationError("No key."))).credits is None
    own = explain(describe(exceptions.ConfigurationError("No key.", remedy="Add one.")))
    assert own.message.endswith("Add one.")
    assert own.remedy is None, "that of the class would be a second one"


def test_unknown_error_is_explained_by_its_message():
    assert explain({}) == UNKNOWN_FAILURE
    for name in ("SomethingNew", "annotations", "ClassVar", None, ["x"]):
        failure = explain({"error": name, "message": "What happened."})
        assert (failure.title, failure.message) == ("The task failed", "What happened.")
