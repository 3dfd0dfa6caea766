"""A sheet stays small enough for a mail any is on it, and nothing on it overlaps."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from magichour_provider.storage.drawing import FOOTER, MARGIN, MAX_HEIGHT, WIDTH, plan_sheet

COUNTS = (1, 2, 3, 5, 12, 50, 100, 1000)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("frames", [1, 3, 12, 99])
def test_it_is_bounded_and_has_a_place_for_every_video_or_says_so(count, frames):
    for aspect, columns in product([0.01, 9 / 16, 1, 16 / 9, 100], [None, 1, 3, 99]):
        plan = plan_sheet(count, frames=frames, aspect=aspect, columns=columns)
        check(plan, count, frames)


def check(plan, count, frames):
    assert plan.width <= WIDTH
    assert plan.height <= MAX_HEIGHT
    assert 1 <= plan.frames <= frames
    shown = count - plan.left_out
    assert 1 <= shown <= plan.rows * plan.columns
    corners = [plan.corner(index) for index in range(shown)]
    floor = plan.height - MARGIN - (FOOTER if plan.left_out else 0)
    for left, top in corners:
        assert MARGIN <= left <= plan.width - MARGIN - plan.cell_width
        assert MARGIN < top <= floor - plan.cell_height
    for (left, top), (next_left, next_top) in pairwise(corners):
        assert next_left >= left + plan.cell_width or next_top >= top + plan.cell_height


def test_few_videos_get_all_their_frames_and_much_room():
    plan = plan_sheet(2, frames=3, aspect=16 / 9)
    assert (plan.columns, plan.rows, plan.frames, plan.left_out) == (1, 2, 3, 0)


def test_more_videos_get_more_columns_then_fewer_frames_then_a_last_line():
    plans = [plan_sheet(count, frames=3, aspect=16 / 9) for count in (2, 8, 40, 400)]
    assert [plan.columns for plan in plans] == sorted(plan.columns for plan in plans)
    assert [plan.frames for plan in plans] == sorted((plan.frames for plan in plans), reverse=True)
    assert plans[0].columns < plans[1].columns
    assert plans[1].frames > plans[2].frames
    assert [plan.left_out > 0 for plan in plans] == [False, False, False, True]


def test_columns_can_be_asked_for():
    assert [plan_sheet(12, frames=1, aspect=1, columns=n).columns for n in (1, 3, 4)] == [1, 3, 4]


def test_what_was_left_out_before_stays_left_out():
    assert plan_sheet(4, frames=1, aspect=1, left_out=7).left_out == 7
