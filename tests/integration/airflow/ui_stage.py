"""The pages as Airflow's own application serves them: a run, its clip, and a browser for each user."""

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
    """One run of the Dag `pages`, and a browser for each user; Mallory may not read that Dag."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    folder = tmp_path_factory.mktemp("pages")
    magichour_sandbox_server.control.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "browser_auth.SomeDagsAuthManager")
        users = ",".join(f"{name}:{role}" for name, role in USERS.items())
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", users)
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(folder / "passwords"))
        patch.setenv("LIVE_AIRFLOW_READABLE_DAGS", json.dumps({"mallory": ["another"]}))
        fields = {"host": magichour_sandbox_server.url, "password": magichour_sandbox_server.api_key}
        patch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps({"conn_type": "magichour", **fields}))
        run = dag_runner("tests/pages.py", folder=str(folder / "clips"))
        purge_cached_app()
        run_id = run.tasks["render"][0].run_id
        yield Stage(create_app(apps="core"), run_id, folder / "clips", magichour_sandbox_server)
        purge_cached_app()


@pytest.fixture
def ui(stage, monkeypatch):
    """The stage as it was in the beginning, with the clips' folder for a root."""
    from magichour_provider.ui import media

    monkeypatch.setattr(media, "answers", media.TTLCache())
    stage.set = monkeypatch
    stage.roots(str(stage.folder))
    content = stage.clip.read_bytes()
    with stage.nothing_forged():
        yield stage
    stage.clip.write_bytes(content)
    stage.sandbox.control.set_job(stage.project_id, status="complete")


class Stage:
    """What a test has at hand."""

    def __init__(self, app, run_id, folder, sandbox):
        self.app, self.run_id, self.folder, self.sandbox = app, run_id, folder, sandbox
        (self.clip,), (self.poster,) = (list(folder.glob(kind)) for kind in ("*.mp4", "*.jpg"))
        self.set = None

    @property
    def project_id(self):
        return self.clip.stem

    def is_of_this_run(self, card):
        return self.run_id in unquote(unescape(card))

    def roots(self, setting):

        self.set.setenv("AIRFLOW__MAGICHOUR__UI_VIDEO_ROOTS", setting)

    def get(self, path, task=None, *, user="alice", headers=None, method="GET", **query):
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
        from fastapi.testclient import TestClient

        cookies = {}
        if user is not None:
            one = SimpleAuthManagerUser(username=user, role=USERS[user])
            cookies = {"_token": get_auth_manager().generate_jwt(one)}
        if task is not None:
            query = {"dag_id": "pages", "run_id": self.run_id, "task_id": task, **query}
        browser = TestClient(self.app, cookies=cookies, follow_redirects=False, raise_server_exceptions=False)
        return browser.request(method, f"/magichour/{path}", params=query or None, headers=headers)

    def forge(self, task, **values):
        """Change what a task has returned, as whoever may edit XComs can."""
        with self._xcoms() as xcoms:
            xcoms[task].value = {**xcoms[task].value, **values}

    @contextmanager
    def nothing_forged(self):
        """Put back what the tasks have returned, in the end."""
        with self._xcoms() as xcoms:
            returned = {task: dict(xcom.value) for task, xcom in xcoms.items()}
        yield
        with self._xcoms() as xcoms:
            for task, value in returned.items():
                xcoms[task].value = value

    @contextmanager
    def _xcoms(self):
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = select(XComModel).where(XComModel.run_id == self.run_id, XComModel.key == "return_value")
            yield {xcom.task_id: xcom for xcom in session.scalars(found) if isinstance(xcom.value, dict)}


def words(answer):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())
