"""Fifty processes that start at the same moment with one `state_path` submit once."""

from __future__ import annotations

import multiprocessing

import pytest
import racer

from magichour_provider.jobs.state_backends import FileBackend, StateConflictError

PROCESSES = 50
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["racer", "airflow.sdk.io", "airflow.providers.amazon.aws.hooks.s3"])


def race(sandbox, path, environment=None):
    """The ids that the processes got."""
    start, results = SERVER.Barrier(PROCESSES), SERVER.Queue()
    arguments = (start, results, path, environment or {}, sandbox.api_key, sandbox.url)
    processes = [SERVER.Process(target=racer.run, args=(number, *arguments)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    ids = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return set(ids)


def submitted(sandbox):
    return [job["id"] for job in sandbox.control.state()["jobs"]]


def test_fifty_processes_with_one_local_file_submit_once(magichour_sandbox, tmp_path):
    ids = race(magichour_sandbox, str(tmp_path / "cat.json"))
    assert [*ids] == submitted(magichour_sandbox)


@pytest.mark.usefixtures("s3")
def test_fifty_processes_with_one_s3_object_submit_once(magichour_sandbox, s3_environment):
    ids = race(magichour_sandbox, "s3://s3@videos/states/cat.json", s3_environment)
    assert [*ids] == submitted(magichour_sandbox)


def test_fifty_processes_whose_first_creates_are_refused_submit_once(magichour_sandbox, tmp_path):
    fault = {"method": "POST", "path": "/v1/image-to-video", "status": 429, "times": 3}
    magichour_sandbox.control.faults([fault])
    ids = race(magichour_sandbox, str(tmp_path / "cat.json"))
    assert [*ids] == submitted(magichour_sandbox)


def test_s3_object_is_written_only_in_the_version_that_was_read(s3, s3_environment, monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    file = FileBackend("s3://s3@videos/states/cat.json")
    assert file.read() == (None, None)
    first = file.write({"magichour_jobs": [{"a": 1}]}, None)
    for stale in (None, '"of-another-version"'):
        with pytest.raises(StateConflictError):
            file.write({"magichour_jobs": []}, stale)
    assert file.read() == ({"magichour_jobs": [{"a": 1}]}, first)
    file.write(None, first)
    assert file.read()[0] == {"magichour_jobs": []}
