"""One of many processes that submit the same video at the same moment."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.jobs.run_budget import RunBudget
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.jobs.state_backends import FileBackend
from magichour_provider.jobs.submit import Cancellation, DeferredTimeout, submit

REQUEST = {"image": "https://example.com/cat.png", "end_seconds": 3, "model": "ltx-2.3", "resolution": "480p"}


class NeverCancelled(Cancellation):
    def raise_if_cancelled(self):
        assert time.time() < self.deadline


def run(number, start, results, path, environment, api_key, url):
    """Put the job's id into `results`, or the error."""
    os.environ.update(environment)
    ti = SimpleNamespace(dag_id="dag", run_id=f"run_{number}", task_id="render", map_index=-1)
    store = JobStateStore(FileBackend(path), ti)
    client = MagicHourClient.from_settings(ClientSettings(api_key, url))
    request = VideoRequest.from_arguments(**REQUEST, name=str(number))
    start.wait()
    try:
        cancellation = NeverCancelled({}, time.time() + 300)
        results.put(submit(request, store, client, cancellation, DeferredTimeout(), RunBudget()).id)
    except BaseException as error:
        results.put(repr(error))
