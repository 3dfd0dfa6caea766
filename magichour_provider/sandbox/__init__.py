"""An offline Magic Hour, for tests and for trying a Dag without spending credits.

`SandboxServer` runs it inside a program, `SandboxControl` drives one that runs already, the command
`magichour-sandbox` starts it in a terminal. Needs the extra `sandbox`; nothing is imported before use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magichour_provider.sandbox.behaviour import Behaviour
    from magichour_provider.sandbox.control import SandboxControl
    from magichour_provider.sandbox.server import SandboxServer
    from magichour_provider.sandbox.state import Settings

__all__ = ["Behaviour", "SandboxControl", "SandboxServer", "Settings"]

_HOMES = {
    "Behaviour": "behaviour",
    "SandboxControl": "control",
    "SandboxServer": "server",
    "Settings": "state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
