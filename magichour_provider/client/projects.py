"""How a project is named, and where a person finds it."""

from __future__ import annotations

import re

PROJECT_ID_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}"
"""Ids are opaque, but one that could change a path, a log line or a file name is none."""

LIBRARY_PAGE = "https://magichour.ai/my-library"


def is_project_id(text: str) -> bool:
    """Whether this can be a project's id; the `None` of a template that found nothing cannot."""
    return text != "None" and re.fullmatch(PROJECT_ID_PATTERN, text) is not None


def library_url(project_id: str) -> str:
    """The page that shows the project to a person (docs: integration/development-and-testing)."""
    return f"{LIBRARY_PAGE}?videoId={project_id}"


def project_id_in(url: str) -> str | None:
    """The project whose page `library_url` has named; None where it is no such address."""
    start, _, project_id = url.partition("?videoId=")
    return project_id if start == LIBRARY_PAGE and is_project_id(project_id) else None
