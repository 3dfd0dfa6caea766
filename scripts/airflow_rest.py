"""A small client of Airflow's REST API (v2): run a Dag, wait for it, read its results."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import httpx
from processes import wait_until

Json = dict[str, Any]
OnChange = Callable[[Json, "str | None"], None]
"""Called with a task instance and the state that it had before, each time that its state changes."""

FINISHED_RUN = frozenset({"success", "failed"})
FINISHED_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_NOT_FOUND_STATUS = 404
_ATTEMPTS = 4


class UnexpectedStateError(RuntimeError):
    """The wait cannot succeed any more: a Dag file does not import, or a task has ended in another state."""


class AirflowRest:
    """Airflow's REST API at `base_url`.

    :param admin: name and password for the login; None if SimpleAuthManager makes every user an admin.

    Every method raises httpx.HTTPStatusError, with Airflow's response in its message, if Airflow refuses, and
    TimeoutError, with the last state, if its wait ends. `map_index` -1 means an unmapped task.
    """

    def __init__(self, base_url: str, admin: tuple[str, str] | None = None) -> None:
        self.base_url = base_url
        self._admin = admin
        self._client = httpx.Client(base_url=base_url, timeout=120, trust_env=False)
        self._token: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # -- Airflow itself

    def health(self) -> Json:
        """`GET /monitor/health`: status and latest heartbeat of each part; the execution API answers, too."""
        answer: Json = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        # The first request builds all routes of the execution API. With 3.4 that takes half a minute on a
        # busy machine. A task gives up before that, and loses an attempt.
        self._client.get("/execution/health").raise_for_status()
        return answer

    def import_errors(self) -> dict[str, str]:
        """Stack traces of the Dag files that could not be imported, by file name."""
        errors = self.request("GET", "/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """Any other call: the JSON answer to `method` on `path` below /api/v2."""
        if self._token is None:
            self._token = self._new_token()
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                answer = self._client.request(method, f"/api/v2{path}", headers=headers, **kwargs)
            except httpx.ReadTimeout:
                # With dozens of tasks at once the api-server runs out of connections to its database.
                if method != "GET" or not attempts_left:
                    raise
                continue
            if method == "GET" and answer.is_server_error and attempts_left:
                time.sleep(1)
            elif not _was_locked_out(answer):
                break
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text[:2000]}",
                request=answer.request,
                response=answer,
            )
        return answer.json() if answer.content else None

    def token_of(self, name: str, password: str) -> str:
        """Log a user in; the token, which the UI keeps in its cookie `_token`."""
        body = {"username": name, "password": password}
        answer = self._client.post("/auth/token", json=body).raise_for_status()
        return str(answer.json()["access_token"])

    def _new_token(self) -> str:
        if self._admin is not None:
            return self.token_of(*self._admin)
        return str(self._client.get("/auth/token").raise_for_status().json()["access_token"])

    # -- Dags and runs

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> Json:
        """Wait until the Dag is known; UnexpectedStateError at once if any Dag file does not import."""
        found: list[Json] = []

        def is_known() -> bool:
            with suppress(_NotFound):
                found.append(self._get(f"/dags/{dag_id}"))
                return True
            if broken := self.import_errors():
                report = "\n".join(f"{name}:\n{trace}" for name, trace in broken.items())
                raise UnexpectedStateError(
                    f"Dag {dag_id!r} is not there, and these files do not import:\n{report}"
                )
            return False

        if not wait_until(is_known, timeout=timeout, every=0.3):
            raise TimeoutError(f"Dag {dag_id!r} was not found within {timeout:g} s.")
        return found[0]

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler start the Dag's runs."""
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Wait for the Dag, unpause it and start a run; its run id."""
        self.wait_for_dag(dag_id)
        self.unpause(dag_id)
        body = {
            "dag_run_id": run_id or f"run-{secrets.token_hex(4)}",
            "logical_date": None,
            "conf": dict(conf or {}),
        }
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Json:
        """The Dag run."""
        return self._get(_run_path(dag_id, run_id))

    def wait_for_run(
        self, dag_id: str, run_id: str, timeout: float = 120, *, on_change: OnChange | None = None
    ) -> str:
        """Wait until the run has ended: `success` or `failed`. `on_change` sees each task's changes."""
        seen: dict[tuple[str, int], str | None] = {}
        deadline = time.monotonic() + timeout
        while True:
            state = str(self.run(dag_id, run_id)["state"])
            for task in self.task_instances(dag_id, run_id):
                key = (task["task_id"], task["map_index"])
                before, seen[key] = seen.get(key), task["state"]
                if on_change is not None and before != task["state"]:
                    on_change(task, before)
            if state in FINISHED_RUN:
                return state
            if time.monotonic() >= deadline:
                raise TimeoutError(f"Run {run_id} of {dag_id} is {state} after {timeout:g} s; tasks: {seen}")
            time.sleep(0.3)

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Collection[str | tuple[str, int]] | None = None,
        *,
        only_failed: bool = False,
        downstream: bool = False,
        **options: Any,
    ) -> list[Json]:
        """Clear tasks of a run, so that they run again; the task instances that were cleared.

        `task_ids` None means all tasks; `(task_id, map_index)` means one of a mapped task. `options`: more
        fields of the request, such as `keep_task_state` of Airflow 3.4.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": only_failed,
            "reset_dag_runs": True,
            "include_downstream": downstream,
            **options,
        }
        if task_ids is not None:
            body["task_ids"] = [task if isinstance(task, str) else list(task) for task in task_ids]
        cleared: list[Json] = self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)[
            "task_instances"
        ]
        return cleared

    # -- Task instances

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Every task instance of a run, mapped ones too."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances"
        found: list[Json] = []
        while True:
            page = self._get(path, params={"limit": 100, "offset": len(found)})
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        """One task instance: `state`, `try_number`, `hostname`, `pid`, `trigger`, `rendered_fields`, ..."""
        return self._get(_task_path(dag_id, run_id, task_id, map_index))

    def rendered_fields(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        """The task's templated fields as rendered, which every user of the UI can read."""
        fields: Json = self.task_instance(dag_id, run_id, task_id, map_index)["rendered_fields"]
        return fields

    def wait_for_task_state(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: str | Collection[str],
        *,
        map_index: int = -1,
        timeout: float = 60,
    ) -> Json:
        """Wait until the task is in one of `states`; the task instance.

        Raises UnexpectedStateError at once if the task ends in another state.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        state: str | None = None
        while time.monotonic() < deadline:
            with suppress(_NotFound):
                task = self.task_instance(dag_id, run_id, task_id, map_index)
                state = task["state"]
                if state in wanted:
                    return task
                if state in FINISHED_TASK:
                    raise UnexpectedStateError(
                        f"{task_id} of {dag_id} ended as {state}, not as {sorted(wanted)}."
                    )
            time.sleep(0.2)
        raise TimeoutError(f"{task_id} of {dag_id} is {state} after {timeout:g} s, not {sorted(wanted)}.")

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark the task instance as `success`, `failed` or `skipped`, as a user does in the UI."""
        self.request("PATCH", _task_path(dag_id, run_id, task_id, map_index), json={"new_state": state})

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """An XCom's value, or None if there is none."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        with suppress(_NotFound):
            return self._get(path, params={"map_index": map_index, "stringify": False})["value"]
        return None

    def extra_links(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, str]:
        """The task's extra links: label to URL."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/links"
        links: dict[str, str] = self._get(path, params={"map_index": map_index})["extra_links"]
        return links

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try as text: a line for each message, and below it one for each error of a chain."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        answer = self._get(path, params={"map_index": map_index, "full_content": True})
        return "\n".join(_log_line(message) for message in answer["content"])

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        try:
            answer: Json = self.request("GET", path, params=params)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == _NOT_FOUND_STATUS:
                raise _NotFound(str(error), request=error.request, response=error.response) from None
            raise
        return answer


class _NotFound(httpx.HTTPStatusError):
    """404: not there, or not there yet."""


def _was_locked_out(answer: httpx.Response) -> bool:
    """Whether Airflow did nothing because its SQLite was locked for 5 seconds.

    The api-server writes its audit log in the event loop. If another request holds SQLite's lock at that
    moment and needs the loop to end, both wait until this one gives up.
    """
    return answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR and '"Database error"' in answer.text


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}"


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}"
    return path if map_index == -1 else f"{path}/{map_index}"


def _log_line(message: Json | str) -> str:
    if isinstance(message, str):
        return message
    level = str(message.get("level") or "").upper()
    parts = (message.get("timestamp"), level, message.get("event"))
    errors = [f"    {error['exc_type']}: {error['exc_value']}" for error in message.get("error_detail") or ()]
    return "\n".join([" ".join(str(part) for part in parts if part), *errors])
