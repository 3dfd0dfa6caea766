"""An offline Magic Hour, for tests and for trying a Dag without spending credits.

`SandboxServer` runs it inside a program, `SandboxControl` controls one that is already running, and the
command `magichour-sandbox` starts it in a terminal. Needs the extra `sandbox`. Imports are lazy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magichour_provider.sandbox.app import SandboxServer
    from magichour_provider.sandbox.control import SandboxControl
    from magichour_provider.sandbox.schemas import Behaviour, Settings

__all__ = ["Behaviour", "SandboxControl", "SandboxServer", "Settings"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"SandboxControl": "control", "SandboxServer": "app"}.get(name, "schemas")
    return getattr(import_module(f"{__name__}.{module}"), name)
