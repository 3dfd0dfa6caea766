"""The pages in Airflow's own application: one run of the Dag `pages`, and a client for each user."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from html import unescape
from urllib.parse import unquote

import pytest

USERS = {"alice": "ADMIN", "bob": "VIEWER", "mallory": "VIEWER"}


@pytest.fixture(scope="module")
def stage(dag_runner, magichour_sandbox_server, tmp_path_factory):
    """One run of the Dag `pages` for the tests of a file. Mallory may not read this Dag."""
    folder = tmp_path_factory.mktemp("pages")
    users = ",".join(f"{name}:{role}" for name, role in USERS.items())
    settings = {
        "AIRFLOW__CORE__AUTH_MANAGER": "browser_auth.SomeDagsAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords"),
        "LIVE_AIRFLOW_READABLE_DAGS": json.dumps({"mallory": ["another"]}),
    }
    with staged(dag_runner, magichour_sandbox_server, folder, settings) as stage:
        yield stage


@contextmanager
def staged(dag_runner, sandbox, folder, settings):
    """Run the Dag `pages`, and serve Airflow's application with the auth manager of these settings."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    sandbox.control.reset()
    connection = {"conn_type": "magichour", "host": sandbox.url, "password": sandbox.api_key}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(connection))
        run = dag_runner("tests/pages.py", folder=str(folder / "videos"))
        purge_cached_app()
        run_id = run.tasks["render"][0].run_id
        yield Stage(create_app(apps="core"), run_id, folder / "videos", sandbox)
        purge_cached_app()


@pytest.fixture
def ui(stage, monkeypatch):
    """The stage in its first state, with the folder of the videos as a root."""
    from magichour_provider.ui import media

    monkeypatch.setattr(media, "answers", media.TTLCache())
    stage.patch = monkeypatch
    stage.set_roots(str(stage.folder))
    content = stage.video.read_bytes()
    with stage.results_restored():
        yield stage
    stage.video.write_bytes(content)
    stage.sandbox.control.set_job(stage.project_id, status="complete")


class Stage:
    """Airflow's application with a run, its video and its poster."""

    def __init__(self, app, run_id, folder, sandbox):
        self.app, self.run_id, self.folder, self.sandbox = app, run_id, folder, sandbox
        (self.video,), (self.poster,) = (list(folder.glob(kind)) for kind in ("*.mp4", "*.jpg"))
        self.patch = None

    @property
    def project_id(self):
        return self.video.stem

    def cards(self, **query):
        """The HTML of the gallery's cards of this run; other tests may have run the Dag, too."""
        cards = self.get("", **query).text.split('data-testid="card"')[1:]
        return [card for card in cards if self.run_id in unquote(unescape(card))]

    def set_roots(self, setting):
        self.patch.setenv("AIRFLOW__MAGICHOUR__UI_VIDEO_ROOTS", setting)

    def cookies_of(self, user):
        """The cookies of a user's browser."""
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        account = SimpleAuthManagerUser(username=user, role=USERS[user])
        return {"_token": get_auth_manager().generate_jwt(account)}

    def get(self, path, task=None, *, user="alice", headers=None, method="GET", **query):
        from fastapi.testclient import TestClient

        cookies = {} if user is None else self.cookies_of(user)
        if task is not None:
            query = {"dag_id": "pages", "run_id": self.run_id, "task_id": task, **query}
        client = TestClient(self.app, cookies=cookies, follow_redirects=False, raise_server_exceptions=False)
        return client.request(method, f"/magichour/{path}", params=query or None, headers=headers)

    def forge(self, task, **values):
        """Change what a task returned, as every user who may edit XComs can."""
        with self._results() as results:
            results[task].value = {**results[task].value, **values}

    @contextmanager
    def results_restored(self):
        """Undo what is forged."""
        with self._results() as results:
            returned = {task: dict(xcom.value) for task, xcom in results.items()}
        yield
        with self._results() as results:
            for task, value in returned.items():
                results[task].value = value

    @contextmanager
    def _results(self):
        """The rows of the returned values, by task, in a session that commits."""
        from airflow.models import xcom
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from magichour_provider.airflow_internals import join_xcom

        table = getattr(xcom, "XComModelV2", None) or xcom.XComModel  # the table of Airflow 3.4
        query = select(TaskInstance.task_id, table).join(table, join_xcom(table, TaskInstance))
        query = query.where(TaskInstance.run_id == self.run_id, table.key == "return_value")
        with create_session() as session:
            yield {task: row for task, row in session.execute(query) if isinstance(row.value, dict)}


def words(response):
    """The text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", response.text)).split())
