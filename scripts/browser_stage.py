"""What a browser is shown: a live Airflow with users and rights, and a sandbox behind it.

    with stage(folder, dags, readable={"reader": ["open_videos"]}) as scene:
        token = scene.token("reader")

Airflow's database is a PostgreSQL: SQLite refuses pages under load, which a browser shows as errors.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from browser_auth import AUTH_MANAGER, READABLE_DAGS
from live_airflow import LiveAirflow
from postgres import postgres
from sandbox_process import sandbox

from magichour_provider.sandbox import SandboxControl

API_KEY = "mhk_live_browser_DISTINCTIVE"
ADMIN = "admin"
PASSWORDS: Mapping[str, str] = MappingProxyType(
    {ADMIN: "admins-password", "reader": "readers-password", "stranger": "strangers-password"}
)
_ROLES = {ADMIN: "admin", "reader": "viewer", "stranger": "viewer"}


@dataclass(frozen=True)
class Scene:
    """A live Airflow, its sandbox, and the folder below which its pages show videos."""

    airflow: LiveAirflow
    sandbox: SandboxControl
    sandbox_url: str
    videos: Path

    def token(self, user: str) -> str:
        """What logs a user in."""
        return self.airflow.token_of(user, PASSWORDS[user])


@contextmanager
def stage(
    folder: Path,
    dags: Sequence[Path],
    *,
    readable: Mapping[str, Sequence[str]] | None = None,
    sandbox_options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """A sandbox and an Airflow over the Dags of several folders, with the users of PASSWORDS.

    :param readable: the Dags that a user may see, by user; one who is not in it sees all.
    """
    all_dags, videos = folder / "dags", folder / "videos"
    for each in dags:
        shutil.copytree(each, all_dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    videos.mkdir()
    with (
        postgres() as database,
        sandbox(folder / "sandbox.log", "--api-key", API_KEY, *sandbox_options) as url,
        SandboxControl(url) as control,
        LiveAirflow(
            folder / "airflow",
            all_dags,
            database=database,
            admin=(ADMIN, PASSWORDS[ADMIN]),
            env=_users(folder, readable or {}) | _magic_hour(url, videos) | dict(env or {}),
        ) as airflow,
    ):
        yield Scene(airflow, control, url, videos)


def connection(url: str, key: str = API_KEY) -> dict[str, str]:
    """The connection to a sandbox, as Airflow's JSON has it."""
    return {"conn_type": "magichour", "host": url, "password": key}


def _magic_hour(url: str, videos: Path) -> dict[str, str]:
    return {
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection(url)),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__MAGICHOUR__UI_VIDEO_ROOTS": f"{videos}/{{dag_id}}/",
    }


def _users(folder: Path, readable: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The variables that give Airflow its users, whose passwords it finds in a file."""
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps(dict(PASSWORDS)))
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{_ROLES[user]}" for user in PASSWORDS),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        READABLE_DAGS: json.dumps({user: list(dags) for user, dags in readable.items()}),
    }
