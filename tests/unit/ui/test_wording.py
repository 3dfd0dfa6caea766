"""Values in a person's words."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest

from magichour_provider.client.models import JobStatus
from magichour_provider.ui import filters as wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "under 0.1 s"),
        (0.04, "under 0.1 s"),
        (0.2, "0.2 s"),
        (5, "5 s"),
        (5.04, "5 s"),
        (3.46, "3.5 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (72.1, "1 min 12 s"),
        (3599.7, "1 h"),
        (3725, "1 h 2 min"),
        (360_000, "100 h"),
    ],
)
def test_a_span_of_time_is_written_in_its_two_largest_units(value, text):
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 credits"), (1, "1 credit"), (120, "120 credits"), (12_340, "12,340 credits")],
)
def test_credits_are_counted(value, text):
    assert wording.credits_of(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (999_999, "1.0 MB"),
        (5_400_000_000, "5.4 GB"),
        (7 * 10**15, "7000.0 TB"),
    ],
)
def test_a_size_is_written_in_a_unit_that_suits_it(value, text):
    assert wording.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(24.0, "24 fps"), (23.976023, "23.976 fps"), (29.97, "29.97 fps")]
)
def test_a_frame_rate_has_no_idle_digits(value, text):
    assert wording.frame_rate(value) == text


def test_a_moment_is_written_in_utc_wherever_it_was_taken():
    taken = datetime(2026, 3, 14, 16, 9, 26, 999, tzinfo=timezone(timedelta(hours=1)))
    assert wording.moment(taken) == "2026-03-14 15:09:26 UTC"
    assert wording.machine_moment(taken) == "2026-03-14T15:09:26Z"
    assert wording.day(date(2026, 3, 14)) == "2026-03-14"


def airflow_states():
    from airflow.utils.state import TaskInstanceState

    return [None, *(str(state.value) for state in TaskInstanceState)]


def test_every_state_of_airflow_has_a_name_a_tone_and_a_sentence():
    for state in airflow_states():
        assert wording.state_name(state) != state
        assert wording.state_tone(state) == (state or "none")
        assert "Airflow calls" not in wording.state_sentence(state)


def test_a_state_that_is_not_known_keeps_its_name_and_reaches_no_class():
    assert wording.state_name("paused") == "paused"
    assert wording.state_tone('x" onload="') == "none"
    assert wording.state_sentence("paused") == "Airflow calls the task's state paused."


def test_every_choice_of_the_gallery_has_a_name_and_none_becomes_two_classes():
    assert wording.state_name("in progress") == "In progress"
    assert wording.state_tone("in progress") == "none"


def test_every_status_of_a_job_has_a_name():
    for status in JobStatus:
        assert wording.status_name(status.value) != status.value
    assert wording.status_name("paused") == "paused"


@pytest.mark.parametrize("address", ["https://magichour.ai/x", "http://127.0.0.1:1/x"])
def test_a_link_may_lead_to_the_web(address):
    assert wording.web_address(address) == address


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "//evil.example", " https://x"]
)
def test_a_link_leads_nowhere_else(address):
    assert wording.web_address(address) == ""


def test_every_filter_writes_text():
    assert {name: type(wording.FILTERS[name](1)) for name in ("amount", "credits", "seconds", "size")} == {
        "amount": str,
        "credits": str,
        "seconds": str,
        "size": str,
    }
