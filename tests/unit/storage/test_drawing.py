"""A sheet stays small enough for a mail with any videos on it, and nothing on it overlaps."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.storage.drawing import FOOTER, MARGIN, MAX_HEIGHT, WIDTH, plan_sheet


@given(
    count=st.integers(1, 1500),
    frames=st.integers(1, 99),
    aspect=st.floats(0.01, 100),
    columns=st.none() | st.integers(1, 99),
)
def test_sheet_is_bounded_and_has_a_place_for_every_video_or_says_so(count, frames, aspect, columns):
    plan = plan_sheet(count, frames=frames, aspect=aspect, columns=columns)
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


def test_more_videos_get_more_columns_then_fewer_frames_then_a_last_line():
    plans = [plan_sheet(count, frames=3, aspect=16 / 9) for count in (2, 8, 40, 400)]
    assert (plans[0].columns, plans[0].frames) == (1, 3)
    assert [plan.columns for plan in plans] == sorted(plan.columns for plan in plans)
    assert [plan.frames for plan in plans] == sorted((plan.frames for plan in plans), reverse=True)
    assert plans[0].columns < plans[1].columns
    assert plans[1].frames > plans[2].frames
    assert [plan.left_out > 0 for plan in plans] == [False, False, False, True]
    assert plan_sheet(4, frames=1, aspect=1, left_out=7).left_out == 7
    assert [plan_sheet(12, frames=1, aspect=1, columns=n).columns for n in (1, 3, 4)] == [1, 3, 4]
