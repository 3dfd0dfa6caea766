from __future__ import annotations

import inspect

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.exceptions import MagicHourError


def every_class():
    return [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MagicHourError)
    ]


def test_the_drawn_tree_is_the_tree():
    drawn = {line.split("──")[1].split()[0] for line in errors.__doc__.splitlines() if "──" in line}
    assert drawn | {"MagicHourError"} == {kind.__name__ for kind in every_class()}


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_means_for_credits_and_whether_to_try_again(kind):
    text = f"{kind.default_consequence} {kind.default_remedy}"
    assert any(word in text for word in ("credit", "charge", "cost", "spent")), text
    assert "again" in text or "anew" in text or "retry" in text or not kind.retryable, text


def test_an_error_about_a_job_does_not_claim_that_there_is_none():
    error = protocol.api_error(status=401, code=None, message="no", request="GET /x", project_id="cm1")
    assert "cm1" in str(error)
    assert "No job was created" not in str(error)
