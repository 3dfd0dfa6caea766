"""A state file on a disk: what it may be, and shares that offer less than a disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os

import pytest
from world import Clock, MagicHour, Task

from magichour_provider.exceptions import InvalidRequestError, MagicHourError, SubmissionUnknownError
from magichour_provider.jobs.state_backends import FileBackend, StateConflictError

STATE = {"magichour_jobs": []}


def raising(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_write_fails_if_the_file_is_not_what_was_read(tmp_path):
    one, other = FileBackend(tmp_path / "a.json"), FileBackend(tmp_path / "a.json")
    version = one.read()[1]
    other.write(STATE, other.read()[1])
    with pytest.raises(StateConflictError):
        one.write(STATE, version)


def test_link_to_a_file_stays_one(tmp_path):
    real, link = tmp_path / "real" / "a.json", tmp_path / "link.json"
    link.symlink_to(real)
    FileBackend(link).write(STATE, None)
    assert link.is_symlink()
    assert FileBackend(real).read() == FileBackend(link).read()
    assert FileBackend(real).read()[0] == STATE


@pytest.mark.parametrize(
    "path", ["/dev/zero", "{tmp}/pipe", "{tmp}", "{tmp}/new/", "memory://bucket", "s3://b/"]
)
def test_pipe_device_or_folder_is_refused(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequestError):
        FileBackend(path.format(tmp=tmp_path)).read()


@pytest.mark.parametrize("content", [b"\x00\x01", b"[" * 100_000, b'"' + b"x" * (5 << 20) + b'"', b"5"])
def test_other_content_is_kept_and_not_repeated(tmp_path, content):
    file = tmp_path / "video.mp4"
    file.write_bytes(content)
    with pytest.raises(SubmissionUnknownError, match="holds no state") as refused:
        FileBackend(file).read()
    assert len(str(refused.value)) < 700
    assert file.read_bytes() == content


def test_file_of_very_many_jobs_forgets_the_oldest_and_says_so(tmp_path, caplog):
    path = tmp_path / "a.json"
    state = {"stage": "done", "max_tries": 2, "project_id": "cm1"}
    jobs = [{**state, "fingerprint": f"f{n}", "at": f"{n + 1000}-01-01T00:00:00"} for n in range(1000)]
    path.write_text(json.dumps({"magichour_jobs": jobs}))
    task = Task(MagicHour(), Clock(), path=path)
    job = task.attempt()
    stored = json.loads(path.read_text())["magichour_jobs"]
    assert len(stored) == 1000
    assert stored[-1]["project_id"] == job.id
    assert "Use one file for each video" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_share_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog, number):
    monkeypatch.setattr(fcntl, "flock", raising(number))
    file = FileBackend(tmp_path / "a.json")
    file.write(STATE, None)
    assert file.read()[0] == STATE
    assert "no conditional writes" in caplog.text
    with pytest.raises(StateConflictError):
        file.write(STATE, b"something else")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_share_without_fsync_is_used_and_a_disk_that_fails_is_one_of_our_errors(
    tmp_path, monkeypatch, number
):
    monkeypatch.setattr(os, "fsync", raising(number))
    file = FileBackend(tmp_path / "a.json")
    if number not in (errno.EROFS, errno.ENOSPC):
        file.write(STATE, None)
        assert file.read()[0] == STATE
    else:
        with pytest.raises(MagicHourError, match=r"cannot be written.* paid nothing"):
            file.write(STATE, None)
