"""Fifty processes that start at the same moment with one `state_path` submit once."""

from __future__ import annotations

import json
import multiprocessing

import pytest
import racer
from s3_server import s3_server

from magichour_provider.exceptions import InvalidRequestError
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


@pytest.fixture
def careless_s3(tmp_path, monkeypatch):
    """The environment of a store that ignores the conditions of conditional writes, and its client."""
    with s3_server(tmp_path / "s3.log", has_conditions=False) as server:
        environment = {"AIRFLOW_CONN_CARELESS": json.dumps(server.connection)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = server.client()
        client.create_bucket(Bucket="videos")
        yield environment, client


def test_fifty_processes_submit_nothing_if_the_s3_ignores_conditions(magichour_sandbox, careless_s3):
    environment, _ = careless_s3
    (error,) = race(magichour_sandbox, "s3://careless@videos/cat.json", environment)
    assert "ignores the conditions" in error
    assert submitted(magichour_sandbox) == []


@pytest.mark.parametrize("content", [None, {"magichour_jobs": [{"a": 1}]}])
def test_s3_that_ignores_conditions_keeps_the_state_that_it_has(careless_s3, content):
    _, client = careless_s3
    if content is not None:
        client.put_object(Bucket="videos", Key="cat.json", Body=json.dumps(content))
    for _ in range(2):
        file = FileBackend("s3://careless@videos/cat.json")
        read, version = file.read()
        with pytest.raises(InvalidRequestError, match="both pay") as refused:
            file.write({"magichour_jobs": [{"b": 2}]}, version)
        assert not refused.value.retryable
        assert (read or {}) == (content or {})
    assert FileBackend("s3://careless@videos/cat.json").read()[0] == content
