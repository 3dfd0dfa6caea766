"""Magic Hour, asked by the API server for a page: what a job is doing, a fresh link to its clip, balances.

Answers are kept for some seconds, so that a page that many people look at costs few requests. Keys and signed
links stay in this process: a link leaves it only as the target of a redirect.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from airflow.secrets.environment_variables import EnvironmentVariablesBackend
from sqlalchemy import select
from sqlalchemy.orm import Session

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import (
    ConfigurationError,
    JobDeletedError,
    JobNotCompleteError,
    MagicHourError,
    NotFoundError,
)
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.ui.view_models import Balance

LOOK_SECONDS, BALANCE_SECONDS, LINK_SECONDS, FAILURE_SECONDS = 3.0, 60.0, 60.0, 5.0
"""How long an answer, and an error in place of one, is good for, in seconds."""
_PATIENCE = 10.0
"""Seconds: a page is not kept waiting for longer."""
_KEPT = 2000
_TURNS = 64
_ENV_PREFIX = "AIRFLOW_CONN_"

T = TypeVar("T")


@dataclass
class TTLCache:
    """Answers by their question, for some seconds each; whoever asks meanwhile waits for the same answer."""

    _answers: dict[Hashable, tuple[float, Callable[[], Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turns: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(_TURNS))
    )

    def get(self, question: Hashable, seconds: float, ask: Callable[[], T]) -> T:
        """The answer that is kept, else a new one. A MagicHourError is kept for a while, too."""
        with self._turns[hash(question) % _TURNS]:
            with self._lock:
                until, answer = self._answers.get(question, (0.0, ask))
            if time.monotonic() >= until:
                answer, seconds = _asked(ask, seconds)
                self._keep(question, time.monotonic() + seconds, answer)
        kept: T = answer()
        return kept

    def _keep(self, question: Hashable, until: float, answer: Callable[[], Any]) -> None:
        with self._lock:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            self._answers[question] = (until, answer)


def _asked(ask: Callable[[], T], seconds: float) -> tuple[Callable[[], T], float]:
    """What gives the answer, or raises the error, from now on, and for how long that is good."""
    try:
        new = ask()
    except MagicHourError as error:
        failed = error

        def fail() -> T:
            raise failed.with_traceback(None)

        return fail, FAILURE_SECONDS
    return lambda: new, seconds


_kept = TTLCache()


def project(conn_id: str, project_id: str) -> VideoProject:
    """Look at a job. Raises MagicHourError."""
    return _kept.get(
        ("project", conn_id, project_id), LOOK_SECONDS, lambda: _client(conn_id).get_video(project_id)
    )


def clip_link(conn_id: str, project_id: str) -> str:
    """A fresh signed link to the clip: for a redirect, and for nothing else. Raises MagicHourError."""
    return _kept.get(("link", conn_id, project_id), LINK_SECONDS, lambda: _fresh_link(conn_id, project_id))


def balance(conn_id: str) -> Balance:
    """Tier and credits of a connection's account, or why they cannot be read."""
    return _kept.get(("balance", conn_id), BALANCE_SECONDS, lambda: _balance(conn_id))


def connection_ids(session: Session) -> list[str]:
    """The connections of type `magichour` in the metadata database and the environment.

    What a secrets backend holds cannot be listed.
    """
    stored = session.scalars(
        select(Connection.conn_id).where(Connection.conn_type == MagicHourHook.conn_type)
    )
    return sorted({*filter(None, stored), *_in_environment()})


def _in_environment() -> list[str]:
    names = [name for name in os.environ if name.startswith(_ENV_PREFIX)]
    conn_ids = [name.removeprefix(_ENV_PREFIX).lower() for name in names]
    return [conn_id for conn_id in conn_ids if _is_ours(conn_id)]


def _is_ours(conn_id: str) -> bool:
    try:
        found = EnvironmentVariablesBackend().get_connection(conn_id)  # and asks no vault for each of them
    except Exception:
        return False  # it is not ours to say what is wrong with it
    return found is not None and found.conn_type == MagicHourHook.conn_type


def _settings(conn_id: str) -> ClientSettings:
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(f"Connection {conn_id!r} is not defined.") from None
    settings = settings_from_connection(connection)
    return replace(settings, timeout=min(settings.timeout, _PATIENCE), max_attempts=1)


def _client(conn_id: str) -> MagicHourClient:
    return _client_of(_settings(conn_id))


@lru_cache(maxsize=16)
def _client_of(settings: ClientSettings) -> MagicHourClient:
    return MagicHourClient.from_settings(settings)


def _fresh_link(conn_id: str, project_id: str) -> str:
    try:
        found = _client(conn_id).get_video(project_id)
    except NotFoundError:
        raise JobDeletedError(f"Job {project_id} is gone at Magic Hour.", project_id=project_id) from None
    if found.status != JobStatus.COMPLETE or not found.downloads:
        raise JobNotCompleteError(f"Job {project_id} has no clip to play.", project_id=project_id)
    return found.downloads[0].url.get_secret_value()


def _balance(conn_id: str) -> Balance:
    try:
        account = _client(conn_id).get_account()
    except NotFoundError:
        return Balance(conn_id, problem="This API does not tell tier and credits.")
    except MagicHourError as error:
        return Balance(conn_id, problem=str(error))
    return Balance(conn_id, tier=account.tier, credits=account.credits)
