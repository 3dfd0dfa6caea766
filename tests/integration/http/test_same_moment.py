"""Fifty processes that start at the same moment with one `state_path` submit once."""

from __future__ import annotations

import multiprocessing
import time
from types import SimpleNamespace

import pytest

from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.jobs.state import FileBackend, JobStateStore
from magichour_provider.jobs.submit import Cancellation, DeferredTimeout, submit

PROCESSES = 50
FORK = multiprocessing.get_context("fork")


class NeverCancelled(Cancellation):
    def raise_if_cancelled(self):
        assert time.time() < self.deadline


def run(number, start, ids, path, conn_id, api_key, url):
    ti = SimpleNamespace(dag_id="dag", run_id=f"run_{number}", task_id="render", map_index=-1)
    store = JobStateStore(FileBackend.from_path(path, conn_id), ti)
    client = MagicHourClient.from_settings(ClientSettings(api_key, url))
    hook = SimpleNamespace(get_conn=lambda: client, get_video=client.get_video)
    request = VideoRequest.from_arguments(
        image="https://example.com/cat.png", end_seconds=3, model="ltx-2.3", resolution="480p", name=str(number)
    )
    start.wait()
    try:
        cancellation = NeverCancelled({}, time.time() + 120)
        ids.put(submit(request, store, hook, cancellation, DeferredTimeout()).id)
    except BaseException as error:
        ids.put(repr(error))


def race(sandbox, path, conn_id=None):
    """The ids that the processes got."""
    FileBackend.from_path(path, conn_id).read()  # imports what the children need
    start, ids = FORK.Barrier(PROCESSES), FORK.Queue()
    arguments = (start, ids, path, conn_id, sandbox.api_key, sandbox.url)
    processes = [FORK.Process(target=run, args=(number, *arguments)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    got = [ids.get(timeout=180) for _ in processes]
    for process in processes:
        process.join()
    return got


def submitted(sandbox):
    return [job["id"] for job in sandbox.control.state()["jobs"]]


def test_fifty_processes_with_one_local_file_submit_once(magichour_sandbox, tmp_path):
    got = race(magichour_sandbox, str(tmp_path / "cat.json"))
    assert set(got) == set(submitted(magichour_sandbox))
    assert len(submitted(magichour_sandbox)) == 1


@pytest.mark.usefixtures("s3")
def test_fifty_processes_with_one_s3_object_submit_once(magichour_sandbox):
    got = race(magichour_sandbox, "s3://clips/states/cat.json", "s3")
    assert set(got) == set(submitted(magichour_sandbox))
    assert len(submitted(magichour_sandbox)) == 1


def test_processes_whose_first_create_is_refused_submit_once(magichour_sandbox, tmp_path):
    fault = {"method": "POST", "path": "/v1/image-to-video", "status": 429, "times": 3}
    magichour_sandbox.control.faults([fault])
    got = race(magichour_sandbox, str(tmp_path / "cat.json"))
    assert set(got) == set(submitted(magichour_sandbox))
    assert len(submitted(magichour_sandbox)) == 1
