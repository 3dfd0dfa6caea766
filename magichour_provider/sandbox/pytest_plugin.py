"""The sandbox as a pytest fixture: `def test_my_dag(magichour_sandbox): ...`.

Loaded by pytest wherever this package is installed, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from magichour_provider.sandbox.server import SandboxServer

RENDER_SECONDS = 0.5
"""How long a render takes under the fixtures."""


@pytest.fixture(scope="session")
def magichour_sandbox_server() -> Iterator[SandboxServer]:
    """One sandbox for the whole session, with tiny clips. Tests use `magichour_sandbox`."""
    try:
        from magichour_provider.sandbox.behaviour import Behaviour
        from magichour_provider.sandbox.server import SandboxServer
        from magichour_provider.sandbox.state import Settings
    except ModuleNotFoundError as error:
        pytest.fail(
            "The fixture magichour_sandbox needs the extra: "
            f"pip install 'airflow-provider-magichour[sandbox]' ({error})",
            pytrace=False,
        )
    settings = Settings(quick=True, behaviour=Behaviour(render_seconds=RENDER_SECONDS))
    with SandboxServer(settings) as server:
        yield server


@pytest.fixture
def magichour_sandbox(magichour_sandbox_server: SandboxServer) -> SandboxServer:
    """A sandbox as good as new: `.url`, `.api_key`, and `.control` for faults, ledger and clock."""
    magichour_sandbox_server.control.reset()
    return magichour_sandbox_server
