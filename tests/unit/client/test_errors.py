from __future__ import annotations

import inspect
import re

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.exceptions import MagicHourError


def every_class():
    return [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MagicHourError)
    ]


def test_module_docstring_draws_the_tree():
    drawn = set(re.findall(r"\w+Error", errors.__doc__.partition("A message")[0]))
    assert drawn == {kind.__name__ for kind in every_class()}


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
def test_every_class_has_title_consequence_and_remedy(kind):
    assert kind.title
    assert not kind.title.endswith(".")
    assert re.search("credit|charge|cost", kind.default_consequence)
    assert kind.default_remedy.endswith(".")
    assert not kind.retryable or re.search("[Rr]etry|[Cc]lear", kind.default_remedy)


def test_api_error_about_a_job_names_it():
    error = protocol.api_error(status=401, code=None, message="no", request="GET /x", project_id="cm1")
    assert "cm1" in str(error)
    assert "No job was created" not in str(error)
