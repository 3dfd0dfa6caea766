from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attempts import IMAGE, MODEL
from mail_server import MailServer
from ui_stage import stage, ui  # noqa: F401 (fixtures)

from magichour_provider import airflow_internals as compat
from magichour_provider.airflow_internals import NEVER_EXPIRE
from magichour_provider.exceptions import MagicHourError
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS, AIRFLOW_V_3_4_PLUS, AirflowFailException

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def dags_folder() -> Path:
    """The example Dags and those of the tests, in one folder, and a database beside it."""
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "dags_examples")
    (folder / "tests").symlink_to(ROOT / "tests" / "integration" / "airflow" / "dags")
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return folder


@pytest.fixture
def connection(monkeypatch, magichour_sandbox) -> Any:
    """The connection `magichour_default`, to the sandbox."""

    def connect(**fields: Any) -> None:
        sandbox = {"conn_type": "magichour", "password": magichour_sandbox.api_key}
        sandbox["host"] = magichour_sandbox.url
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps({**sandbox, **fields}))

    connect()
    return connect


@pytest.fixture
def mails(monkeypatch) -> Iterator[MailServer]:
    """A mail server, and the connection `smtp_default` to it."""
    with MailServer() as server:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(server.connection))
        yield server


@pytest.fixture
def run_dag(connection, dag_runner) -> Any:
    """Run a Dag of the folder with the sandbox's connection."""
    return dag_runner


@pytest.fixture(scope="session")
def dag_runner(dags_folder) -> Any:
    """Run a Dag of the folder by `dag.test()`; its task instances by id, mapped ones as a list.

    Tasks without a poll interval of their own poll often: the sandbox renders quicker than Magic Hour.
    """

    def run(file: str, **conf: Any) -> SimpleNamespace:
        from airflow.sdk import DAG

        names = runpy.run_path(str(dags_folder / file))
        (dag,) = {
            id(value): value
            for value in [getattr(v, "dag", v) for v in names.values()]
            if isinstance(value, DAG)
        }.values()
        for task in dag.tasks:
            if task.is_mapped and issubclass(task.operator_class, ImageToVideoOperator | VideoJobSensor):
                task.partial_kwargs.setdefault("poll_interval", 0.2)
            elif getattr(task, "poll_interval", 0.2) is None:
                task.poll_interval = 0.2
        run = dag.test(run_conf=conf)
        states = {}
        for ti in run.get_task_instances():
            states.setdefault(ti.task_id, []).append(ti)
        return SimpleNamespace(state=str(run.state), tasks=states)

    return run


class TaskInstance:
    """As much of a task instance as an operator touches."""

    dag_id, task_id, run_id, map_index = "a_dag", "a_task", "a_run", -1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_first_reschedule_date(self, context: Any) -> None:
        return None


class Variables(dict[str, Any]):
    """Airflow's variables, which a task instance reads and writes through its supervisor."""

    def get(self, key: str, default: Any = None, deserialize_json: bool = False) -> Any:
        return super().get(key, default)

    def set(self, key: str, value: Any, description: str, serialize_json: bool) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if AIRFLOW_V_3_4_PLUS:  # where the job state is in a variable, too
        monkeypatch.setattr("airflow.sdk.Variable", Variables())
    return {"ti": TaskInstance()}


@pytest.fixture
def endless(magichour_sandbox):
    """Renders do not end by themselves."""
    magichour_sandbox.control.behaviour(render_seconds=3600)


@pytest.fixture
def printed(capsys) -> Any:
    """What was printed so far, by `on_kill` too, which speaks from a thread."""

    def read() -> str:
        for thread in threading.enumerate():
            if thread.name == "magichour-killed":
                thread.join()
        return str(capsys.readouterr().out)

    return read


@pytest.fixture
def fails_for_good() -> Any:
    """Expect an error that Airflow does not retry: one of ours that our policy fails, or Airflow's own."""

    @contextmanager
    def expect(match: str | None = None) -> Iterator[pytest.ExceptionInfo[Exception]]:
        with pytest.raises((AirflowFailException, MagicHourError), match=match) as raised:
            yield raised
        if AIRFLOW_V_3_3_PLUS and isinstance(raised.value, MagicHourError):
            from airflow.sdk import RetryAction

            from magichour_provider.retry_policy import MagicHourRetryPolicy

            assert MagicHourRetryPolicy().evaluate(raised.value, 1, 3).action is RetryAction.FAIL
        else:
            assert isinstance(raised.value, AirflowFailException)

    return expect


class Store(dict):
    """The task state store's three verbs."""

    def set(self, key, value, *, retention=None):
        assert retention is NEVER_EXPIRE or key == "magichour_error"
        self[key] = value

    def delete(self, key):
        self.pop(key, None)


@pytest.fixture
def tries(context, monkeypatch):
    """Make one try after the other of the same task instance; `cleared` tells Airflow's way to say so."""
    store = Store()
    context["task_state_store"] = store
    context["ti"].max_tries = 2

    def one(*, cleared=False, accepted=True, **options):
        if cleared:
            context["ti"].max_tries += 3
        one.operator = ImageToVideoOperator(task_id="render", **{"image": IMAGE, **MODEL, **options})
        result = one.operator.execute(context)
        if accepted:
            one.succeed()
        return result

    def succeed():
        """What Airflow does once it knows of the success."""
        with monkeypatch.context() as patch:
            patch.setattr(compat, "task_states", lambda *_, **__: {"a_task": "success"})
            one.operator.on_success(context)

    one.succeed = succeed

    one.store = store
    return one
