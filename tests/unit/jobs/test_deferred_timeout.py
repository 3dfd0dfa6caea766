"""Airflow's alarm and a create in flight, with real signals."""

from __future__ import annotations

import signal
import time

import pytest

from magichour_provider.jobs.submit import DeferredTimeout


class Rang(BaseException):
    """Airflow's AirflowTaskTimeout."""


@pytest.fixture
def alarm_in():
    """Set an alarm as Airflow does."""

    def ring(_signum, _frame):
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_alarm_that_is_due_rings_at_the_release(alarm_in):
    with DeferredTimeout(60) as alarm:
        alarm.hold()
        alarm_in(0.01)
        while signal.getitimer(signal.ITIMER_REAL)[0] < 1:  # the grace has begun
            time.sleep(0.001)
        with pytest.raises(Rang):
            alarm.release()


def test_the_grace_is_not_endless(alarm_in):
    with DeferredTimeout(0.02) as alarm:
        alarm.hold()
        alarm_in(0.01)
        with pytest.raises(Rang):
            time.sleep(10)


def test_an_alarm_that_is_not_due_rings_in_its_time(alarm_in):
    with DeferredTimeout(60) as alarm:
        alarm_in(0.1)
        alarm.hold()
        alarm.release()
        with pytest.raises(Rang):
            time.sleep(10)


def test_an_error_goes_before_the_alarm_and_gives_it_back(alarm_in):
    def refused():
        with DeferredTimeout(60) as alarm:
            alarm.hold()
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refused()
    alarm_in(0.01)
    with pytest.raises(Rang):
        time.sleep(10)


def test_without_an_alarm_nothing_happens():
    with DeferredTimeout(60) as alarm:
        alarm.hold()
        alarm.release()
