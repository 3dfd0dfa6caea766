"""The rights of FAB's and Keycloak's users on the pages (`make test-auth`)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from urllib.parse import parse_qs

import pytest
from ui_stage import staged, words

pytest.importorskip("airflow.providers.fab", reason="needs FAB's provider: make test-auth")
pytest.importorskip("airflow.providers.keycloak", reason="needs Keycloak's provider: make test-auth")

import requests
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager

from magichour_provider.ui import access, media

TASKS, XCOMS = "TASK_INSTANCE", "XCOM"
FAB_RESOURCES = {TASKS: ["DAG Runs", "Task Instances"], XCOMS: ["XComs"]}
PASSWORD = "not-a-secret"
KEYCLOAK = "http://keycloak.invalid"


@dataclass(frozen=True)
class Rights:
    """What a user may read; None: every Dag."""

    dag_id: str | None = "pages"
    entities: tuple[str, ...] = (TASKS, XCOMS)
    connections: bool = False


USERS = {
    "admin": Rights(dag_id=None, connections=True),
    "reader": Rights(),
    "keeper": Rights(connections=True),
    "without_xcoms": Rights(entities=(TASKS,)),
    "without_tasks": Rights(entities=(XCOMS,)),
}


class PublicOnly:
    """An auth manager of which only the public interface of every auth manager can be used."""

    def __init__(self, manager):
        self.manager = manager

    def __getattr__(self, name):
        assert not name.startswith("_")
        assert hasattr(BaseAuthManager, name), f"{name} is no part of BaseAuthManager"
        return getattr(self.manager, name)


def fab_cookies(stage):
    """Create a role with exactly these rights for each user, and log in by password."""
    from fastapi.testclient import TestClient

    manager = get_auth_manager()
    with manager.flask_app.app_context():
        security = manager.security_manager
        for name, rights in USERS.items():
            resources = [f"DAG:{rights.dag_id}"] + ["Connections"] * rights.connections
            role = security.add_role(name)
            for resource in sum((FAB_RESOURCES[entity] for entity in rights.entities), resources):
                security.add_permission_to_role(role, security.create_permission("can_read", resource))
            roles = [security.find_role("Admin")] if rights.dag_id is None else [role]
            assert security.add_user(name, name, name, f"{name}@example.com", roles, password=PASSWORD)
    client = TestClient(stage.app)

    def cookies_of(user):
        answer = client.post("/auth/token", json={"username": user, "password": PASSWORD})
        return {"_token": answer.raise_for_status().json()["access_token"]}

    return cookies_of


def keycloak_cookies(_stage):
    """Answer the manager's questions about permissions as a Keycloak does, with 200 or 403."""
    from airflow.providers.keycloak.auth_manager.user import KeycloakAuthManagerUser

    manager = get_auth_manager()
    manager.http_session.mount(KEYCLOAK, KeycloakStub())

    def cookies_of(user):
        claims = base64.urlsafe_b64encode(json.dumps({"sub": user, "exp": 4_000_000_000}).encode()).decode()
        token = f"header.{claims.rstrip('=')}.signature"
        account = KeycloakAuthManagerUser(user_id=user, name=user, access_token=token, refresh_token=token)
        return {"_token": manager.generate_jwt(account), "_access_token": token, "_refresh_token": token}

    return cookies_of


class KeycloakStub(requests.adapters.BaseAdapter):
    """Keycloak's token endpoint, as far as it decides on permissions."""

    def send(self, request, **_):
        claims = request.headers["Authorization"].split(".")[1]
        rights = USERS[json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]]
        asked = {name: values[0] for name, values in parse_qs(request.body).items()}
        about = json.loads(base64.b64decode(asked.get("claim_token", "e30=")))
        dag_id, entity = (about.get(name, [None])[0] for name in ("resource_id", "dag_entity"))
        is_allowed = {
            "Dag#GET": rights.dag_id in (None, dag_id) and (entity is None or entity in rights.entities),
            "Connection#GET": rights.connections,
        }[asked["permission"]]
        response = requests.Response()
        response.status_code, response._content = (200 if is_allowed else 403), b"{}"
        return response

    def close(self):
        pass


MANAGERS = {
    "fab": ("airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager", fab_cookies),
    "keycloak": (
        "airflow.providers.keycloak.auth_manager.keycloak_auth_manager.KeycloakAuthManager",
        keycloak_cookies,
    ),
}


@pytest.fixture(scope="module", params=MANAGERS)
def pages(request, dag_runner, magichour_sandbox_server, tmp_path_factory):
    """The pages under an auth manager of which they can use the public interface only, and two Dags."""
    auth_manager, log_in = MANAGERS[request.param]
    folder = tmp_path_factory.mktemp("pages")
    settings = {
        "AIRFLOW__CORE__AUTH_MANAGER": auth_manager,
        "AIRFLOW__KEYCLOAK_AUTH_MANAGER__CLIENT_ID": "airflow",
        "AIRFLOW__KEYCLOAK_AUTH_MANAGER__CLIENT_SECRET": PASSWORD,
        "AIRFLOW__KEYCLOAK_AUTH_MANAGER__REALM": "airflow",
        "AIRFLOW__KEYCLOAK_AUTH_MANAGER__SERVER_URL": KEYCLOAK,
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        staged(dag_runner, magichour_sandbox_server, folder, settings) as stage,
    ):
        stage.patch = patch
        stage.set_roots(str(stage.folder))
        stage.other_run_id = dag_runner("tests/other_pages.py").tasks["render"][0].run_id
        stage.cookies_of = log_in(stage)
        patch.setattr(access, "get_auth_manager", lambda: PublicOnly(get_auth_manager()))
        patch.setattr(media, "answers", media.TTLCache())
        yield stage


@pytest.mark.parametrize(("user", "sees_other"), [("admin", True), ("reader", False)])
def test_gallery_shows_only_the_videos_of_readable_dags(pages, user, sees_other):
    assert len(pages.cards(user=user)) == 2
    gallery = pages.get("", user=user)
    assert gallery.status_code == 200
    assert (pages.other_run_id in gallery.text.replace("%3A", ":").replace("%2B", "+")) is sees_other
    assert ("other_pages" in gallery.text) is sees_other


@pytest.mark.parametrize("user", ["admin", "reader"])
def test_reader_of_a_dag_sees_its_tab_video_and_poster(pages, user):
    assert 'data-testid="player"' in pages.get("task", "download", user=user).text
    assert pages.get("video", "download", user=user).content == pages.video.read_bytes()
    assert pages.get("poster", "download", user=user).content == pages.poster.read_bytes()


def test_other_dag_answers_like_a_missing_one(pages):
    other = {"dag_id": "other_pages", "run_id": pages.other_run_id}
    assert pages.get("task", "render", user="admin", **other).status_code == 200
    for path in ("task", "video", "poster"):
        hidden = pages.get(path, "render", user="reader", **other)
        missing = pages.get(path, "render", user="admin", dag_id="no_such_dag")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.text == missing.text


@pytest.mark.parametrize("user", ["without_xcoms", "without_tasks"])
def test_right_for_task_instances_and_for_xcoms_is_needed(pages, user):
    assert pages.get("", user=user).status_code == 200
    assert pages.cards(user=user) == []
    for path in ("task", "video", "poster"):
        assert pages.get(path, "download", user=user).status_code == 404


@pytest.mark.parametrize(("user", "sees"), [("admin", True), ("keeper", True), ("reader", False)])
def test_balances_need_the_right_to_read_connections(pages, user, sees):
    page = pages.get("balances", user=user)
    assert page.status_code == 200
    assert ("magichour_default" in page.text) is sees
    assert ("credits" in words(page)) is sees


def test_pages_need_a_login(pages):
    for path in ("", "balances", "task", "video", "poster"):
        assert pages.get(path, "download", user=None).status_code == 401
