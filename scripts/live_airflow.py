"""A live Airflow: every part is a process, with ports and a folder of its own.

    with LiveAirflow(home, dags_folder) as airflow:
        run_id = airflow.trigger("my_dag")
        assert airflow.wait_for_run("my_dag", run_id) == "success"

LocalExecutor, and SQLite unless another database is given; `live_cluster.py` has CeleryExecutor. Everything
Airflow writes is below `home`; the caller's AIRFLOW_* variables and ~/airflow have no effect. The parts are
started one by one rather than by `airflow standalone`, which leaves its scheduler behind, and so that a test
can kill, freeze and restart each of them, and start more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

import httpx
import processes
from airflow_rest import AirflowRest, Json

PARTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    "worker": ("celery", "worker", "--skip-serve-logs"),
}
"""The parts of Airflow and the arguments that start them.

The log servers stay off: they listen on every interface, and here all parts share one folder of logs.
"""

_FIRST_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
_HEALTH_NAMES = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}
_JOB_TYPES = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob"}
_STARTUP_SECONDS = 900.0
_PART_NAME = """import os


def part_name():
    return os.environ.get("PART_NAME", "")
"""
"""Hostnames as on machines of their own; Airflow reads modules from its folder `config`."""


class LiveAirflowError(RuntimeError):
    """Airflow did not come up or a part of it died; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Place:
    """Where and how a part runs.

    :param arguments: for its command, in addition to those in `PARTS`.
    :param env: variables over those of this Airflow.
    :param inside: a command that runs the command which follows it, such as `("unshare", "--mount")`.
    """

    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    inside: Sequence[str] = ()


class LiveAirflow(AirflowRest):
    """A running Airflow with its REST API, from `__enter__` to `__exit__`.

    :param home: AIRFLOW_HOME, created if it is missing. An earlier run's database in it is used again.
    :param dags_folder: folder of the Dag files.
    :param database: SQLAlchemy's URL of the metadata database (`postgres.py`); None: SQLite in `home`.
    :param admin: name and password of an admin among the users of `env`; None: every user is an admin.
    :param env: variables for every part, over those set here (AIRFLOW_CONN_..., AIRFLOW__SECTION__KEY).
    :param more: parts to start beside the four usual ones, such as `triggerer-2`.
    :param python: the interpreter whose environment holds Airflow.

    `processes` holds the running parts by name, for tests that kill one.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        database: str | None = None,
        admin: tuple[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        more: Mapping[str, Place] | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        self.home = home.resolve()
        self.database = database or f"sqlite:///{self.home / 'airflow.db'}"
        self.logs_dir = self.home / "logs"
        self.parts_logs_dir = self.home / "logs" / "parts"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.startup_seconds: float | None = None
        self._orphaned: list[subprocess.Popen[bytes]] = []
        self._started_at: dict[str, datetime] = {}
        self._places = {**dict.fromkeys(_FIRST_PARTS, Place()), **(more or {})}
        self._python = str(python)
        self._cleanup = ExitStack()
        port, *log_ports = processes.free_ports(3)
        super().__init__(f"http://127.0.0.1:{port}", admin)
        self.env = _environment(self.home, dags_folder.resolve(), port, log_ports)
        if database is not None:
            self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
        if admin is not None:
            self.env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = "False"
        self.env |= dict(env or {})

    def __enter__(self) -> LiveAirflow:
        begin = time.monotonic()
        (self.home / "config").mkdir(parents=True, exist_ok=True)
        (self.home / "config" / "part_name.py").write_text(_PART_NAME)
        with ExitStack() as cleanup:
            cleanup.enter_context(processes.sigterm_raises())
            cleanup.callback(self.stop)
            self._migrate()
            for name in self._places:
                self._start(name)
            self.wait_until_healthy()
            self._cleanup = cleanup.pop_all()
        self.startup_seconds = time.monotonic() - begin
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def stop(self) -> None:
        """End every part that still runs; called by `__exit__`."""
        with processes.signals_held():
            processes.stop([*self.processes.values(), *self._orphaned])
            self.processes.clear()
            self._orphaned.clear()
            self.close()

    def start(self, name: str, *arguments: str, place: Place | None = None) -> None:
        """Start one more part, such as a `triggerer-2`, with more arguments; wait until it is healthy."""
        self._places[name] = place or Place(arguments)
        self._start(name)
        self.wait_until_healthy()

    def kill(self, name: str, *, with_children: bool = True) -> None:
        """End one part with SIGKILL, as a crash would; else its children live on until `stop`."""
        child = self.processes.pop(name)
        if with_children:
            processes.kill([child])
            return
        self._orphaned.append(child)
        child.kill()
        child.wait()

    def terminate(self, name: str) -> subprocess.Popen[bytes]:
        """Ask one part to end (SIGTERM), as a deployment does; its process, which ends in its own time."""
        child = self.processes.pop(name)
        self._orphaned.append(child)
        child.terminate()
        return child

    def freeze(self, name: str) -> None:
        """Stop one part and all its children (SIGSTOP) until `thaw`."""
        processes.freeze(self.processes[name])

    def thaw(self, name: str) -> None:
        """Continue a frozen part."""
        processes.thaw(self.processes[name])

    def restart(self, name: str) -> None:
        """Start one part again, ending it first if it still runs, and wait until it is healthy."""
        with processes.signals_held():
            if name in self.processes:
                processes.stop([self.processes.pop(name)])
        self._start(name)
        self.wait_until_healthy()

    def part_of(self, process_id: int) -> str | None:
        """The name of the running part that a process belongs to."""
        session = os.getsid(process_id)
        return next((name for name, child in self.processes.items() if child.pid == session), None)

    def triggerer_id(self, name: str = "triggerer") -> int | None:
        """Id by which Airflow knows the running triggerer of that name; None while it has yet to register."""
        job = self._job(name)
        return None if job is None else int(job["id"])

    def airflow(self, *arguments: str) -> str:
        """Run an `airflow` command in this Airflow's environment; what it prints.

        Raises LiveAirflowError with its output if it fails.
        """
        done = subprocess.run(
            [self._python, "-m", "airflow", *arguments],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LiveAirflowError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_until_healthy(self, timeout: float = _STARTUP_SECONDS) -> None:
        """Wait until the database and every running part is healthy, by a heartbeat of its present process.

        Raises LiveAirflowError if a part dies or the time is up.
        """
        waiting: list[str] = list(self.processes)

        def is_healthy() -> bool:
            self.check_alive()
            waiting[:] = self._unhealthy()
            return not waiting

        if not processes.wait_until(is_healthy, timeout=timeout, every=0.3):
            logs = "\n".join(self._log_tail(name) for name in waiting)
            raise LiveAirflowError(f"Not healthy after {timeout:g} s: {', '.join(waiting)}.\n{logs}")

    def _migrate(self) -> None:
        with processes.signals_held():
            child = self._spawn("db-migrate", ("db", "migrate"), Place())
            self.processes["db-migrate"] = child
        processes.wait_until(lambda: child.poll() is not None, timeout=_STARTUP_SECONDS)
        if child.poll() != 0:
            raise LiveAirflowError(f"airflow db migrate failed.\n{self._log_tail('db-migrate')}")
        del self.processes["db-migrate"]

    def _start(self, name: str) -> None:
        place = self._places[name]
        with processes.signals_held():
            self._started_at[name] = datetime.now(timezone.utc)
            self.processes[name] = self._spawn(name, (*PARTS[_kind(name)], *place.arguments), place)

    def _spawn(self, name: str, arguments: tuple[str, ...], place: Place) -> subprocess.Popen[bytes]:
        command = [*place.inside, self._python, "-m", "airflow", *arguments]
        env = self.env | {"PART_NAME": name} | dict(place.env)
        return processes.start(command, env=env, log=self._log_of(name), cwd=self.home)

    def check_alive(self) -> None:
        """Raise LiveAirflowError, with the end of its log, if a part has ended by itself."""
        for name, child in self.processes.items():
            if (code := child.poll()) is not None:
                raise LiveAirflowError(f"{name} ended with code {code}.\n{self._log_tail(name)}")

    def _unhealthy(self) -> list[str]:
        try:
            health = self.health()
        except httpx.HTTPError:
            return ["api-server"]
        database = [] if health["metadatabase"]["status"] == "healthy" else ["metadatabase"]
        workers = self._workers() if any(_kind(part) == "worker" for part in self.processes) else ()
        waiting = []
        for part in self.processes:
            kind = _kind(part)
            if kind == "worker":
                is_healthy = part in workers
            elif kind == "api-server":
                is_healthy = self._responds(part)
            else:
                is_healthy = self._has_new_heartbeat(part, health)
            if not is_healthy:
                waiting.append(part)
        return database + waiting

    def _has_new_heartbeat(self, part: str, health: Json) -> bool:
        name = _HEALTH_NAMES[_kind(part)]
        status = health.get(name) or {}
        seen_at = status.get(f"latest_{name}_heartbeat")
        if _kind(part) in _JOB_TYPES:  # of several, `health` has the one with the last heartbeat
            seen_at = (self._job(part) or {}).get("latest_heartbeat")
        if status.get("status") != "healthy" or not seen_at:
            return False
        return _time(seen_at) >= self._started_at[part]

    def _job(self, part: str) -> Json | None:
        """What that part has registered since it was started."""
        params = {"job_type": _JOB_TYPES[_kind(part)], "hostname": part, "limit": 100}
        jobs = self.request("GET", "/jobs", params=params)["jobs"]
        return next((job for job in jobs if _time(job["start_date"]) >= self._started_at[part]), None)

    def _responds(self, api_server: str) -> bool:
        port = self._places[api_server].env.get("AIRFLOW__API__PORT", self.env["AIRFLOW__API__PORT"])
        # The first request to the execution API builds it: seconds, in which no task can start.
        url = f"http://127.0.0.1:{port}/execution/health"
        try:
            return httpx.get(url, timeout=120, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _workers(self) -> list[str]:
        """Names of the Celery workers that answer a ping."""
        from celery import Celery  # type: ignore[import-untyped]

        with Celery(broker=self.env["AIRFLOW__CELERY__BROKER_URL"]) as app:
            return [name.rpartition("@")[2] for answer in app.control.ping(timeout=2) for name in answer]

    def _log_of(self, name: str) -> Path:
        return self.parts_logs_dir / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        path = self._log_of(name)
        return f"--- the end of {path}:\n{processes.tail(path)}"


def _kind(name: str) -> str:
    """What a part is: `triggerer-2` is a triggerer."""
    return name if name in PARTS else name.rpartition("-")[0]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _environment(home: Path, dags_folder: Path, port: int, log_ports: list[int]) -> dict[str, str]:
    """The caller's variables without its Airflow's, and the configuration of this one.

    The secrets of this Airflow are in the airflow.cfg that it writes into its home, so they last as long.
    """
    outside = {key: value for key, value in os.environ.items() if not key.lstrip("_").startswith("AIRFLOW_")}
    url = f"http://127.0.0.1:{port}"
    return outside | {
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_ISSUER": "live-airflow",  # 3.0.6 makes no token without an issuer
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "part_name.part_name",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        # A file is parsed when it is new or has changed. Parsing all every 30 s takes most of a core.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[0]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[1]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A worker may notice only after this many seconds that its task has deferred. A trigger that fires
        # before that fails the task ("state mismatch", apache/airflow#71580); 5 is too much for quick videos.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
