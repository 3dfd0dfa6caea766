"""The service that every subject polls: prepared responses, after a pause, and a count of the requests.

A process with two ports of 127.0.0.1: one for the subjects, and one by which `LocalServer` controls it. It
does so little for a poll that it keeps up with any of them; each `PollMetrics` has its CPU time as evidence.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bodies import ANSWERS

_HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@dataclass
class PollMetrics:
    """Counts since the last reset; times are monotonic seconds."""

    polls: int = 0
    polled_jobs: int = 0
    sockets: int = 0
    peak_sockets: int = 0
    unknown: int = 0
    cpu: float = 0.0
    at: float = 0.0


@dataclass
class _State:
    pause: float = 0.0
    counts: PollMetrics = field(default_factory=PollMetrics)
    jobs: dict[bytes, float] = field(default_factory=dict)
    open: int = 0

    def snapshot(self) -> PollMetrics:
        return PollMetrics(
            **{
                **vars(self.counts),
                "polled_jobs": len(self.jobs),
                "sockets": self.open,
                "cpu": time.process_time(),
                "at": time.monotonic(),
            }
        )

    def reset(self) -> None:
        self.jobs.clear()
        self.counts = PollMetrics(peak_sockets=self.open)


class _Connection(asyncio.Protocol):
    def __init__(self, state: _State) -> None:
        self._state = state
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            path = self._buffer.split(b" ", 2)[1].partition(b"?")[0]
            self._buffer = self._buffer[end + 4 :]
            self.asked(path)

    def asked(self, path: bytes) -> None:
        raise NotImplementedError

    def reply(self, status: bytes, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_HEAD % (status, len(body)) + body)


class _Poll(_Connection):
    """A subject's connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        state = self._state
        state.open += 1
        state.counts.peak_sockets = max(state.counts.peak_sockets, state.open)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.open -= 1

    def asked(self, path: bytes) -> None:
        job = path.rstrip(b"/").rpartition(b"/")[2]
        body = next((body for start, body in ANSWERS.items() if path.startswith(start)), None)
        if body is None:
            self._state.counts.unknown += 1
            self.reply(b"404 Not Found", b"{}")
            return
        self._state.counts.polls += 1
        self._state.jobs.setdefault(job, time.monotonic())
        body = body.replace(b"%ID%", job)
        if self._state.pause:
            asyncio.get_running_loop().call_later(self._state.pause, self.reply, b"200 OK", body)
        else:
            self.reply(b"200 OK", body)


class _Control(_Connection):
    """`/counts`, `/jobs` (job: time of its first poll), `/reset/<milliseconds that an answer takes>`."""

    def asked(self, path: bytes) -> None:
        answer: object = {}
        if path == b"/counts":
            answer = vars(self._state.snapshot())
        elif path == b"/jobs":
            answer = {job.decode(): at for job, at in self._state.jobs.items()}
        else:
            self._state.pause = float(path.rpartition(b"/")[2]) / 1000
            self._state.reset()
        self.reply(b"200 OK", json.dumps(answer).encode())


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    state = _State()
    ports = []
    for kind in (_Poll, _Control):
        server = await loop.create_server(lambda kind=kind: kind(state), "127.0.0.1", 0, backlog=4096)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # the end of the parent is ours


class LocalServer:
    """Start the server, steer it, and end it."""

    def __enter__(self) -> LocalServer:
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        port, control = self._process.stdout.readline().split()
        self.address = f"127.0.0.1:{port}"
        self._control = f"http://127.0.0.1:{control}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def reset(self, answer_ms: float) -> None:
        """Set the counts to zero; respond after so many milliseconds from now on."""
        self._ask(f"/reset/{answer_ms}")

    def counts(self) -> PollMetrics:
        """The counts since the last reset."""
        return PollMetrics(**self._ask("/counts"))

    def jobs(self) -> dict[str, float]:
        """Every job that was polled since, with the time (monotonic seconds) of the first poll."""
        return self._ask("/jobs")

    def _ask(self, path: str) -> dict[str, float]:
        with self._opener.open(self._control + path, timeout=30) as answer:
            return json.load(answer)


if __name__ == "__main__":
    asyncio.run(_serve())
