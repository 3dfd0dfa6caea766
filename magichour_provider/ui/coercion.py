"""What tasks have told, read as what it should be: an XCom may hold anything, and breaks no page."""

from __future__ import annotations

_MOST = 10**12
"""No length, size or price is beyond it."""


def text(value: object) -> str | None:
    """A text that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """A number from 0 up to a limit that none of ours comes near, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _MOST else None


def whole(value: object) -> int | None:
    """The same as an integer."""
    found = number(value)
    return None if found is None else int(found)
