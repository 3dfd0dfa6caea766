"""File names, targets and errors of places."""

from __future__ import annotations

import errno
import re
import string
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from magichour_provider.exceptions import DestinationError
from magichour_provider.storage.locations import (
    ObjectPath,
    classify_error,
    format_bytes,
    parse_location,
    redact,
)
from magichour_provider.storage.publish import temporary_name
from magichour_provider.storage.targets import add_number, resolve_target, safe_id, video_file_name

IDS = st.text(min_size=1, max_size=300)
SAFE = set(string.ascii_letters + string.digits + "._-")


@given(project_id=IDS, name=st.text(max_size=200), index=st.integers(1, 99))
def test_file_name_stays_in_its_folder_and_is_visible(project_id, name, index):
    made = video_file_name(project_id, template="{name}-{project_id}.mp4", name=name, index=index)
    folder = Path("/videos")
    assert (folder / made).parent == folder
    assert not made.startswith((".", "-"))
    assert not set(made) & set("/\\\0 \n'\"$")
    assert len(temporary_name(made).encode()) <= 255


@given(first=IDS | st.text(sorted(SAFE), min_size=1), second=IDS)
def test_safe_ids_of_different_projects_differ(first, second):
    assume(first != second)
    assert safe_id(first) != safe_id(second)
    assert set(safe_id(first)) <= SAFE
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", first):
        assert safe_id(first) == first


@given(stem=st.text("ab.", min_size=1, max_size=9), indexes=st.sets(st.integers(1, 999), min_size=2))
def test_numbers_keep_the_videos_of_a_job_apart(stem, indexes):
    assert len({add_number(f"{stem}.mp4", index) for index in indexes}) == len(indexes)


@pytest.mark.parametrize(
    ("template", "name", "made"),
    [
        ("{project_id}.mp4", "x", "p1.mp4"),
        ("{name}-{project_id}.mp4", "A day/at sea", "A_day_at_sea-p1.mp4"),
        ("{name}-{project_id}.mp4", "日の出", "日の出-p1.mp4"),
        ("{name}-{project_id}.mp4", None, "video-p1.mp4"),
        ("{name}-{project_id}.mp4", "../..", "video-p1.mp4"),
        ("{project_id}-{index}.mp4", None, "p1-1.mp4"),
    ],
)
def test_template_names_the_video(template, name, made):
    assert video_file_name("p1", template=template, name=name) == made


@pytest.mark.parametrize(
    "template",
    ["video.mp4", "", "{{project_id}}.mp4", "{projectid}", "{0}{project_id}", "{project_id.__class__}",
     "{project_id!r}", "{project_id:>99}", "{project_id", "a/{project_id}",
     ".{project_id}", "\\{project_id}"],
)  # fmt: skip
def test_unusable_template_is_refused(template, tmp_path):
    with pytest.raises(DestinationError, match="file_name"):
        resolve_target(f"{tmp_path}/", "p1", file_name=template)


def test_relative_target_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_target("out/", "p1").path == str(tmp_path / "out" / "p1.mp4")


def test_existing_folder_of_a_store_is_a_folder(memory_store):
    memory_store.pipe("/bucket/videos/x", b"x")
    assert resolve_target("memory://bucket/videos", "p1").path == "memory://bucket/videos/p1.mp4"
    assert resolve_target("memory://bucket/other", "p1").path == "memory://bucket/other"


@given(
    user=st.text(string.ascii_letters, min_size=8), key=st.text(string.ascii_letters + "/._- ", max_size=40)
)
def test_redacted_url_has_no_user_info_and_no_query(user, key):
    assert redact(f"s3://{user}@bucket/{key}?X-Sig={user}") == f"s3://bucket/{key}"
    place = parse_location(f"s3://{user}@bucket/{key}")
    assert place == ObjectPath("s3", f"s3://bucket/{key.rstrip()}", user)


@pytest.mark.parametrize(
    ("error", "cause", "permanent"),
    [
        (FileNotFoundError("x"), "does not exist", True),
        (PermissionError("x"), "permission denied", True),
        (OSError(errno.ENOSPC, "x"), "no space left", True),
        (OSError(errno.ENAMETOOLONG, "x"), "name too long", True),
        (OSError(errno.ENOSYS, "x"), "function not implemented", True),
        (OSError(errno.EIO, "broken"), "broken", False),
        (RuntimeError("two\nlines?a=SECRET"), "RuntimeError: two lines?...", False),
        (TimeoutError("slow"), "slow", False),
        (ImportError("x"), "no driver for s3://", True),
        (ValueError("//user@host/x?Sig=1"), "//host/x?...", True),
    ],
)
def test_error_is_classified(error, cause, permanent):
    found = classify_error(error, ObjectPath("s3", "s3://bucket/key", "some_conn"))
    assert cause in found.cause
    assert found.permanent is permanent


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3.21e9, "3.21 GB")],
)
def test_bytes_are_formatted(size, text):
    assert format_bytes(size) == text


class AzureError(Exception):
    """As azure.core raises it: its `response` is an object, not the dict of botocore."""

    status_code, response = 403, object()


def test_errors_of_azure_and_google_are_recognised_in_the_forms_of_their_drivers():
    place = parse_location("abfs://some_conn@container/key")
    of_a_block = RuntimeError("Failed to upload block")
    of_a_block.__cause__ = AzureError()
    for error in (AzureError(), of_a_block, OSError("Forbidden: https://example.com/b/o")):
        found = classify_error(error, place)
        assert found.permanent
        assert "refused the credentials of connection 'some_conn'" in found.cause
