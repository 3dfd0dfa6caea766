"""Magic Hour's API, without Airflow. This module holds what needs no HTTP library: the ids of projects."""

from __future__ import annotations

import re

from magichour_provider.exceptions import LIBRARY_URL

PROJECT_ID_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}"
"""Ids are opaque, but an id must not be able to change a path, a log line or a file name."""


def is_project_id(text: str) -> bool:
    """Whether `text` can be a project's id; the `None` of a template that found nothing cannot."""
    return text != "None" and re.fullmatch(PROJECT_ID_PATTERN, text) is not None


def library_url(project_id: str) -> str:
    """The page that shows a project in the web app (docs: integration/development-and-testing)."""
    return f"{LIBRARY_URL}?videoId={project_id}"


def parse_library_url(url: str) -> str | None:
    """The project id in a `library_url`; None if `url` is none."""
    start, _, project_id = url.partition("?videoId=")
    return project_id if start == LIBRARY_URL and is_project_id(project_id) else None
