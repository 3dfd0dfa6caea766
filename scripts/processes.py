"""Child processes that end with their parent, unless SIGKILL ends it.

Each child is the leader of a session of its own. A child may put its children into new process groups
(Airflow does so for every task and every Dag file that it parses), so a process group is not enough to find
them all again; none of them leaves the session.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

_CHECK_SECONDS = 0.1
_STARTUP_SECONDS = 600.0


def start(
    command: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path, user: str | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of a new session; what it prints is appended to the file `log`.

    :param user: the user that runs it, if the caller is root.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
        )


@contextlib.contextmanager
def announced(
    command: Sequence[str], listening: re.Pattern[str], log: Path, failed: type[Exception]
) -> Iterator[str]:
    """Run a server that prints its address, until the `with` block ends; its URL.

    :param listening: finds the URL, its first group, in what the server prints.
    :param log: the file for what it prints, which is overwritten.
    :param failed: raised if it prints no address for ten minutes, or ends; the message has the
        end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    children: list[subprocess.Popen[bytes]] = []

    def url() -> str | None:
        match = listening.search(log.read_text(encoding="utf-8", errors="replace"))
        return match.group(1) if match else None

    with sigterm_raises():
        try:
            with signals_held():
                env = os.environ | {"PYTHONUNBUFFERED": "1"}
                children.append(start(command, env=env, log=log, cwd=log.parent))
            wait_until(lambda: children[0].poll() is not None or url() is not None, timeout=_STARTUP_SECONDS)
            address = url()
            if address is None:
                raise failed(f"The server did not start. The end of {log}:\n{tail(log)}")
            yield address
        finally:
            with signals_held():
                stop(children)


def session_members(leader: int) -> list[int]:
    """Ids of the living processes in the session that `leader` began, also after its own end."""
    return [pid for pid in psutil.pids() if _session_of(pid) == leader and not _is_zombie(pid)]


def stop(children: Iterable[subprocess.Popen[bytes]], *, grace: float = 10.0) -> None:
    """End whole sessions: SIGTERM, up to `grace` seconds in all for them to go, then SIGKILL."""
    leaders = list(children)
    for child in leaders:
        _signal_all(_group_of(child), signal.SIGTERM)
        thaw(child)
    wait_until(lambda: not _living(leaders), timeout=grace)
    kill(leaders)


def kill(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """End whole sessions at once with SIGKILL, as a crash would, and wait until they are gone."""
    leaders = list(children)

    def none_left() -> bool:
        living = _living(leaders)
        _signal_all(living, signal.SIGKILL)
        return not living

    wait_until(none_left, timeout=10.0)
    for child in leaders:
        child.wait()


def freeze(child: subprocess.Popen[bytes]) -> None:
    """Stop a whole session (SIGSTOP) until `thaw`; returns when all its processes have stopped."""

    def stands_still() -> bool:
        moving = [pid for pid in session_members(child.pid) if not _is_stopped(pid)]
        _signal_all(moving, signal.SIGSTOP)
        return not moving

    wait_until(stands_still, timeout=10.0)


def thaw(child: subprocess.Popen[bytes]) -> None:
    """Continue a session after `freeze`."""
    _signal_all(session_members(child.pid), signal.SIGCONT)


def wait_until(condition: Callable[[], bool], *, timeout: float, every: float = _CHECK_SECONDS) -> bool:
    """Whether `condition` came true within `timeout` seconds, checked every `every` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack like Ctrl-C does, so that context managers clean up; exit status 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while children are started or stopped, and deliver them after it.

    Without it a signal between the start of a process and its registration would orphan that process,
    and a second Ctrl-C would cut the clean-up short. Does nothing outside the main thread. A signal that the
    process ignores, as a shell's background job does SIGINT, stays ignored, and never takes the place of one
    that it handles; children started meanwhile handle both.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before: dict[int, Any] = {
        number: signal.signal(number, lambda signum, _frame: held.append(signum))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        handled = [number for number in held if before[number] is not signal.SIG_IGN]
        if handled:
            signal.raise_signal(handled[0])


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that were free a moment ago, picked by the system."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a text file; empty if there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _living(leaders: Iterable[subprocess.Popen[bytes]]) -> list[int]:
    living = []
    for child in leaders:
        child.poll()
        living += session_members(child.pid)
    return living


def _group_of(child: subprocess.Popen[bytes]) -> list[int]:
    return [pid for pid in session_members(child.pid) if _process_group_of(pid) == child.pid]


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _process_group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return True


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
