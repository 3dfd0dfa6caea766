"""What a template renders to, read as the type that it stands for. Each raises InvalidRequestError."""

from __future__ import annotations

import math
import os
from types import MappingProxyType
from typing import Any

from magichour_provider.exceptions import InvalidRequestError

_FLAGS = MappingProxyType(
    {
        "true": True,
        "1": True,
        "yes": True,
        "false": False,
        "0": False,
        "no": False,
        "": None,
        "none": None,
    }
)


def text(name: str, value: Any) -> str | None:
    """Read a string or a path; an empty one, and the `None` that a template renders to, is none."""
    read = os.fspath(value) if isinstance(value, os.PathLike) else value
    if read is None or (isinstance(read, str) and read.strip() in ("", "None")):
        return None
    if not isinstance(read, str):
        raise InvalidRequestError(f"{name} must be a string, not {type(value).__name__}.")
    return read.strip() if name in ("image", "end_image") else read


def number(name: str, value: Any) -> float | None:
    """Read a positive number, or none."""
    if value is None or (isinstance(value, str) and value.strip() in ("", "None")):
        return None
    try:
        read = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        read = math.nan
    if not 0 < read < math.inf:
        raise InvalidRequestError(f"{name} must be a positive number, not {value!r:.80}.")
    return read


def whole_number(name: str, value: Any) -> int | None:
    """Read a positive whole number, or none."""
    read = number(name, value)
    if read is not None and not read.is_integer():
        raise InvalidRequestError(f"{name} must be a whole number, not {value!r:.80}.")
    return None if read is None else int(read)


def flag(name: str, value: Any) -> bool | None:
    """Read true, false, or neither."""
    if value is None or isinstance(value, bool):
        return value
    try:
        return _FLAGS[str(value).strip().lower()]
    except KeyError:
        raise InvalidRequestError(f"{name} must be true or false, not {value!r:.80}.") from None
