"""Lines in the log while a long transfer is under way."""

from __future__ import annotations

import logging

import pytest

from magichour_provider.storage.download import Progress

MB = 10**6


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def transfer(caplog):
    """Let a transfer come to so many bytes at so many seconds, and see what it has logged."""
    caplog.set_level(logging.INFO)

    def run(total, *steps):
        clock = Clock()
        progress = Progress("Landing a.mp4", total, clock=clock)
        for seconds, done in steps:
            clock.now = 1000.0 + seconds
            progress.reached(done)
        return [record.getMessage() for record in caplog.records]

    return run


def test_a_short_transfer_says_nothing(transfer):
    assert transfer(100 * MB, *((tenth / 10, tenth * MB) for tenth in range(50))) == []


def test_a_long_one_says_a_line_every_five_seconds_however_many_chunks_come(transfer):
    lines = transfer(1000 * MB, *((step / 100, step * MB // 10) for step in range(2001)))
    assert lines == [
        "Landing a.mp4: 50.0 MB of 1.00 GB (5 %), 10.0 MB/s, 1 min 35 s left.",
        "Landing a.mp4: 100.0 MB of 1.00 GB (10 %), 10.0 MB/s, 1 min 30 s left.",
        "Landing a.mp4: 150.0 MB of 1.00 GB (15 %), 10.0 MB/s, 1 min 25 s left.",
        "Landing a.mp4: 200.0 MB of 1.00 GB (20 %), 10.0 MB/s, 1 min 20 s left.",
    ]


def test_the_rate_is_that_of_the_last_seconds(transfer):
    lines = transfer(100 * MB, (5, 50 * MB), (10, 55 * MB))
    assert lines == [
        "Landing a.mp4: 50.0 MB of 100.0 MB (50 %), 10.0 MB/s, 5 s left.",
        "Landing a.mp4: 55.0 MB of 100.0 MB (55 %), 1.0 MB/s, 45 s left.",
    ]


def test_where_the_length_is_unknown_nothing_is_made_of_it(transfer):
    assert transfer(None, (5, 2500)) == ["Landing a.mp4: 2.5 kB, 500 bytes/s."]
    assert transfer(0, (5, 2500))[1:] == ["Landing a.mp4: 2.5 kB, 500 bytes/s."]


def test_a_transfer_that_stands_still_has_no_time_left_to_tell(transfer):
    assert transfer(10 * MB, (5, 5 * MB), (10, 5 * MB))[1] == (
        "Landing a.mp4: 5.0 MB of 10.0 MB (50 %), 0 bytes/s."
    )


def test_a_transfer_that_began_anew_has_no_negative_rate(transfer):
    assert transfer(10 * MB, (5, 5 * MB), (10, 1 * MB), (15, 2 * MB))[1:] == [
        "Landing a.mp4: 1.0 MB of 10.0 MB (10 %), 0 bytes/s.",
        "Landing a.mp4: 2.0 MB of 10.0 MB (20 %), 200.0 kB/s, 40 s left.",
    ]


def test_a_long_way_is_told_in_hours(transfer):
    assert transfer(1000 * MB, (5, 500_000))[0].endswith("100.0 kB/s, 2 h 46 min left.")


def test_a_storage_that_sends_more_than_it_said_leaves_no_negative_time(transfer):
    assert transfer(10 * MB, (5, 20 * MB))[0].endswith("4.0 MB/s, 0 s left.")
