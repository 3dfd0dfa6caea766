"""Magic Hour in memory (httpx.MockTransport), and tasks whose attempts can be killed at any step."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import httpx

from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import TaskKilledError
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.jobs.run_budget import RunBudget
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.jobs.state_backends import FileBackend, TaskStateBackend
from magichour_provider.jobs.submit import Cancellation, DeferredTimeout, submit

CREDITS = 72


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


class Clock:
    """Seconds since the epoch; sleeping moves it on."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def killed(*_):
    """What happens to an attempt whose process is killed."""
    raise Killed


class Steps:
    """Counts what an attempt does to the outside; `event` happens before or after step number `at`."""

    def __init__(self, at=None, *, after=False, event=killed):
        self.at, self.after, self.event, self.done = at, after, event, 0

    def __call__(self, action):
        number, self.done = self.done, self.done + 1
        if number == self.at and not self.after:
            self.event()
        result = action()
        if number == self.at and self.after:
            self.event()
        return result


def respond(status, body):
    """An answer that can be streamed."""
    content = body if isinstance(body, str) else json.dumps(body)
    return httpx.Response(status, content=iter([content.encode()]))


class MagicHour:
    """The API. `faults` holds how the next creates are answered; `jobs` all jobs that were charged."""

    def __init__(self):
        self.jobs = {}
        self.faults = []
        self._ids = itertools.count()

    def __call__(self, request):
        path = request.url.path
        if path == "/v1/account":
            return respond(200, {"tier": "pro", "credits": 12_000 - CREDITS * len(self.jobs)})
        if request.method == "POST":
            return self._create(json.loads(request.content))
        job = self.jobs[path.rpartition("/")[2]]
        return respond(200, job)

    def _create(self, body):
        fault = self.faults.pop(0) if self.faults else None
        if fault in (429, 503, 402, 422):
            return respond(fault, {"message": "no"})
        if fault == "never connected":
            raise httpx.ConnectError("refused")
        if fault != "lost on the way":
            job = {
                "id": f"cm{next(self._ids)}",
                "status": "rendering",
                "enabled": True,
                "credits_charged": CREDITS,
                "name": body["name"],
                "prompt": body["style"].get("prompt") if "style" in body else body.get("prompt"),
            }
            self.jobs[job["id"]] = job
        if fault in ("lost on the way", "answer lost"):
            raise httpx.ReadTimeout("late")
        if fault == 502:
            return respond(502, "<html>")
        if fault == "unreadable":
            return respond(200, "{")
        return respond(200, {"id": job["id"], "credits_charged": CREDITS})

    def end(self, job_id, status):
        """Let a job fail, be canceled or deleted, or complete."""
        self.jobs[job_id] |= {
            "status": "complete" if status == "deleted" else status,
            "enabled": status != "deleted",
            "credits_charged": 0 if status in ("error", "canceled") else CREDITS,
            "error": {"code": "internal", "message": "no"} if status == "error" else None,
        }


class Store(dict):
    """The task state store's three verbs."""

    def set(self, key, value, *, retention=None):
        self[key] = value

    def delete(self, key):
        self.pop(key, None)


class Variables(dict):
    """Airflow's variables; each write is a step of the attempt."""

    steps = staticmethod(lambda call: call())

    def get(self, key, default=None, deserialize_json=False):
        return super().get(key, default)

    def set(self, key, value, description, serialize_json):
        self.steps(lambda: self.update({key: value}))

    def delete(self, key):
        self.steps(lambda: self.pop(key, None))


class CountedBackend:
    """A backend each of whose reads and writes is a step."""

    def __init__(self, backend, steps):
        self._backend, self._steps = backend, steps
        self.where, self.is_shared = backend.where, backend.is_shared
        self.how_to_clear = backend.how_to_clear

    def __getattr__(self, name):
        method = getattr(self._backend, name)
        return lambda *arguments: self._steps(lambda: method(*arguments))


class AlwaysRunning(Cancellation):
    """A task that no user has marked in Airflow."""

    def raise_if_cancelled(self):
        if self.cancelled:
            raise TaskKilledError("killed")


class Task:
    """One task instance, attempt by attempt.

    :param path: its `state_path`; None: a task state store of its own.
    :param variables: Airflow's, for the copy of a state if a Clear empties the store.
    """

    def __init__(self, magic, clock, *, path=None, run="run", map_index=-1, variables=None):
        self.variables = variables
        self.magic, self.clock, self.path = magic, clock, path
        self.store = Store()
        self.ti = SimpleNamespace(
            dag_id="dag", run_id=run, task_id="render", map_index=map_index, try_number=0, max_tries=2
        )
        self.cancellation = None

    def clear(self):
        self.ti.max_tries = self.ti.try_number + 2
        if self.variables is not None:
            self.store.clear()

    def states(self, steps):
        if self.path is None:
            copied_for = None
            if self.variables is not None:
                copied_for, self.variables.steps = self.ti.run_id, steps
            backend = TaskStateBackend(self.store, self.ti.try_number, self.clock.sleep, copied_for)
        else:
            backend = FileBackend(str(self.path))
        return JobStateStore(CountedBackend(backend, steps), self.ti, self.clock)

    def attempt(self, steps=None, *, on_sleep=None, **options):
        """One more attempt; what `submit` returns or raises."""
        self.ti.try_number += 1
        steps = steps or Steps()
        request = VideoRequest.from_arguments(
            **{"image": "https://example.com/cat.png", "end_seconds": 3, "model": "ltx-2.3"}
            | {"resolution": "480p", "name": f"{self.ti.run_id}", **options}
        )
        http = httpx.Client(transport=httpx.MockTransport(lambda sent: steps(lambda: self.magic(sent))))
        client = MagicHourClient(http, ClientSettings("a-key"))
        self.cancellation = AlwaysRunning({}, float("inf"))
        sleep = on_sleep or self.clock.sleep
        return submit(
            request, self.states(steps), client, self.cancellation, DeferredTimeout(), RunBudget(), sleep
        )

    def succeed(self, job_id):
        """What the listener does once Airflow has accepted the success."""
        self.states(Steps()).mark_done(job_id)
