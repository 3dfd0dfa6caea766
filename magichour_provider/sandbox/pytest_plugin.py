"""The sandbox as a pytest fixture: `def test_my_dag(magichour_sandbox): ...`.

pytest loads this module in every environment that has the provider, so it imports nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from magichour_provider.sandbox import SandboxServer


@pytest.fixture(scope="session")
def magichour_sandbox_server() -> Iterator[SandboxServer]:
    """One sandbox for the session, with tiny videos. Tests use `magichour_sandbox`."""
    try:
        from magichour_provider.sandbox import Behaviour, SandboxServer, Settings
    except ModuleNotFoundError as error:
        pytest.fail(
            "The fixture magichour_sandbox needs the extra: "
            f"pip install 'airflow-provider-magichour[sandbox]' ({error})",
            pytrace=False,
        )
    settings = Settings(quick=True, behaviour=Behaviour(render_seconds=0.5))
    with SandboxServer(settings) as server:
        yield server


@pytest.fixture
def magichour_sandbox(
    magichour_sandbox_server: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> SandboxServer:
    """A sandbox in its initial state: `.url`, `.api_key`, and `.control` for faults, state and clock."""
    magichour_sandbox_server.control.reset()
    for name in ("NO_PROXY", "no_proxy"):  # a proxy of the environment does not reach this machine
        monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
    return magichour_sandbox_server
