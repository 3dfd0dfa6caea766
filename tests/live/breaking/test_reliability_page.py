"""`docs/reliability.md` says what the tests of this folder have seen; the last of them."""

from __future__ import annotations

import pytest
from report import WRITE, Report


@pytest.mark.skipif(WRITE, reason="the page is being written")
def test_the_page_says_what_was_seen(report: Report, request: pytest.FixtureRequest) -> None:
    assert report.missing() == [], "`make reliability` writes the page anew"
    chosen = request.config.option.keyword or any("::" in argument for argument in request.config.args)
    if not chosen:
        assert report.left_over() == [], "`make reliability` writes the page anew"
