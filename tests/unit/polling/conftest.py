"""An event loop with a virtual clock, and a client without HTTP: hours of waiting pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter

import pytest

from magichour_provider.client import protocol
from magichour_provider.client.models import VideoProject
from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import MagicHourError
from magichour_provider.polling.intervals import PollIntervals
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.scheduler import PollScheduler

SETTINGS = ClientSettings("key", "https://api.example.com")


def api_error(status, retry_after=None):
    return protocol.api_error(
        status=status, code=None, message="no", request="GET /x", project_id="cm1", retry_after=retry_after
    )


class _Selector(selectors.SelectSelector):
    def select(self, timeout=None):
        events = super().select(timeout if timeout is None else 0)
        if not events and timeout:
            self.loop.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer as soon as nothing else is left to do."""

    def __init__(self):
        selector = _Selector()
        selector.loop = self
        self.now = 10_000.0
        super().__init__(selector)

    def time(self):
        return self.now


class Api:
    """Magic Hour as the scheduler sees it. `ends` has the time at which each job ends."""

    def __init__(self, loop):
        self.loop = loop
        self.settings = SETTINGS
        self.lookup_errors, self.poll_errors = [], []
        self.lookups = 0
        self.latency = 0.01
        self.ends = {}
        self.polls, self.clients = [], []
        self.under_way = self.most_under_way = 0

    async def read_settings(self):
        self.lookups += 1
        await asyncio.sleep(0.01)
        if self.lookup_errors:
            raise self.lookup_errors.pop(0)
        return self.settings

    async def build(self, settings, *, max_connections):
        self.clients.append(Client(self, settings))
        return self.clients[-1]

    def count(self, project_id):
        return sum(each == project_id for _, each in self.polls)


class Client:
    def __init__(self, api, settings):
        self.api, self.settings = api, settings
        self.is_closed = False

    async def get_video(self, project_id):
        api = self.api
        assert not self.is_closed
        api.polls.append((api.loop.time(), project_id))
        api.under_way += 1
        api.most_under_way = max(api.most_under_way, api.under_way)
        try:
            await asyncio.sleep(api.latency)
        finally:
            api.under_way -= 1
        error = api.poll_errors.pop(0) if api.poll_errors else None
        if isinstance(error, MagicHourError):
            raise error
        ended = api.loop.time() >= api.ends.get(project_id, 1e12)
        return VideoProject(id=project_id, status="complete" if ended else "rendering", credits_charged=72)

    async def aclose(self):
        self.is_closed = True


class Recorder:
    """Stands for Airflow's Stats."""

    def __init__(self):
        self.counts, self.gauges, self.timings = Counter(), [], []

    def incr(self, stat, count=1, *, tags=None):
        self.counts[stat] += count

    def gauge(self, stat, value, *, tags=None):
        self.gauges.append((stat, value, tags))

    def timing(self, stat, dt, *, tags=None):
        self.timings.append((stat, dt))


@pytest.fixture
def loop():
    loop = VirtualTimeLoop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def api(loop):
    return Api(loop)


@pytest.fixture
def poller(loop):
    def make(project_id="cm1", *, timeout=60.0, poll_interval=1.0, **fields):
        now = loop.time()
        fields = {"intervals": PollIntervals(), **fields}
        return Poller(project_id, deadline=now + timeout, started=now, poll_interval=poll_interval, **fields)

    return make


@pytest.fixture
def run(loop, api):
    """Run `steps(scheduler)`, or wait for pollers, with a scheduler of its own."""

    def run(*pollers, steps=None, stats=None):
        async def main():
            scheduler = PollScheduler(
                api.read_settings, stats, {"conn_id": "mh"}, build=api.build, clock=loop.time
            )
            if steps is not None:
                return await steps(scheduler)
            return await asyncio.gather(*(scheduler.wait(each) for each in pollers))

        return loop.run_until_complete(main())

    return run
