"""A small client of the control pages, for tests and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx


class SandboxControl:
    """Drives a running sandbox over HTTP. Every method raises ValueError where the sandbox refuses.

    :param url: the address of its API, such as `http://127.0.0.1:8808`.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/__sandbox__", timeout=30, trust_env=False)

    def __enter__(self) -> SandboxControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def state(self) -> dict[str, Any]:
        """Account, jobs with charges, uploads, request counts, fault rules left, requests being held."""
        return self._ask("GET", "/state")

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Replace the fault rules; `[]` clears them."""
        left: list[dict[str, Any]] = self._ask("POST", "/faults", [dict(rule) for rule in rules])["faults"]
        return left

    def release(self) -> list[dict[str, Any]]:
        """Let all requests go on that a `hold` rule keeps; which they were."""
        released: list[dict[str, Any]] = self._ask("POST", "/release")["released"]
        return released

    def set_job(
        self, project_id: str, status: str, *, code: str | None = None, message: str | None = None
    ) -> dict[str, Any]:
        """Set a job's state: `canceled`, `error` with its code and message, `complete`, or any to hold."""
        return self._ask("POST", f"/jobs/{project_id}", _given(status=status, code=code, message=message))

    def replace_video(self, project_id: str, content: bytes) -> None:
        """Put other bytes in the place of a job's first clip, under the same links."""
        self._ask("POST", f"/jobs/{project_id}/video", content=content)

    def account(self, *, tier: str | None = None, credits: int | None = None) -> dict[str, Any]:
        """Set tier, credits or both; gives the account as it is then."""
        return self._ask("POST", "/account", _given(tier=tier, credits=credits))

    def advance_clock(self, seconds: float) -> None:
        """Move the sandbox's time on, so that links expire and jobs end."""
        self._ask("POST", "/clock", {"advance": seconds})

    def behaviour(self, **switches: Any) -> dict[str, Any]:
        """Set switches of `behaviour.py`; gives all of them as they are then."""
        return self._ask("POST", "/behaviour", switches)

    def reset(self) -> None:
        """Bring everything back to the start; ports and URL stay."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> dict[str, Any]:
        answer = self._client.request(method, path, json=body, content=content)
        if answer.is_error:
            raise ValueError(f"The sandbox refuses: {answer.json()['message']}")
        given: dict[str, Any] = answer.json()
        return given


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
