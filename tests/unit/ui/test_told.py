from __future__ import annotations

import pytest

from magichour_provider.ui import coercion as told


@pytest.mark.parametrize("value", [0, 5, 3.5, 10**12])
def test_numbers_are_numbers(value):
    assert told.number(value) == value
    assert told.whole(value) == int(value)


@pytest.mark.parametrize(
    "value", [None, True, "5", [5], {}, -1, 10**400, float("nan"), float("inf"), -float("inf")]
)
def test_anything_else_is_none(value):
    assert told.number(value) is None
    assert told.whole(value) is None


def test_a_text_is_one_that_is_not_empty():
    assert told.text("a") == "a"
    assert [told.text(value) for value in ("", None, 1, ["a"])] == [None] * 4
