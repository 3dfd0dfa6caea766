"""Arguments as templates make them, read by the same rules for every operator and the sensor.

A template renders to text, or with `render_template_as_native_obj` to what that text means in Python. So a
value may arrive as itself, as text, as JSON (`tojson`), or as a repr. An empty text, `None` and JSON's `null`
mean that nothing is given.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from datetime import date, time, timedelta
from enum import Enum
from numbers import Number
from typing import TYPE_CHECKING, Any, cast, get_args
from uuid import UUID

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.storage.locations import given_text

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument


_ONE_STRING = re.compile(r"""(["'])((?!\1)[^\\]|\\.)*\1""", re.DOTALL)


def parse_text(name: str, value: Any) -> str | None:
    """Read text. Native rendering may have made a number or a date of it, `tojson` a text in quotes."""
    found = unrender(value)
    if found is not None and isinstance(value, str) and not isinstance(found, str):
        return value  # a prompt that looks like a list is none
    if isinstance(found, Enum):
        found = found.value
    if isinstance(found, (Number, date, time, UUID)):
        found = str(found)
    if found is not None and not isinstance(found, str):
        raise InvalidRequestError(f"{name} must be a text, not {describe_type(name, value)}.")
    return found


def parse_id(name: str, value: Any) -> str | None:
    """Read the name of a model, a resolution or a connection."""
    return given_text(parse_text(name, value))


def parse_path(name: str, value: Any) -> PathArgument | None:
    """Read a path or an address; a path object stays one, because only its type can name a folder."""
    if hasattr(value, "joinpath") or hasattr(value, "__fspath__"):
        return cast("PathArgument", value)
    found = unrender(value)
    if found is not None and not isinstance(found, str):
        raise InvalidRequestError(f"{name} must be a path, not {describe_type(name, found)}.")
    return given_text(found)


def parse_number(name: str, value: Any) -> float | None:
    """Read a positive number, or a timedelta in seconds."""
    found = unrender(value)
    if found is None:
        return None
    try:
        if isinstance(found, timedelta):
            found = found.total_seconds()
        number = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidRequestError(f"{name} must be a positive number, not {describe_type(name, value)}.")
    return number


def parse_whole_number(name: str, value: Any) -> int | None:
    """Read a positive whole number."""
    number = parse_number(name, value)
    if number is not None and not number.is_integer():
        raise InvalidRequestError(f"{name} must be a whole number, not {describe_type(name, value)}.")
    return None if number is None else int(number)


def parse_flag(name: str, value: Any) -> bool | None:
    """Read true, false, or neither."""
    found = unrender(value)
    if found is None or isinstance(found, bool):
        return found
    text = str(found).strip().lower()
    if text in ("true", "1", "1.0", "yes", "on"):
        return True
    if text in ("false", "0", "0.0", "no", "off"):
        return False
    raise InvalidRequestError(f"{name} must be true or false, not {describe_type(name, value)}.")


def require_flag(name: str, value: object) -> bool:
    """Read a flag that is no template, when the Dag is parsed. Raises ValueError: any text would be true."""
    try:
        flag = parse_flag(name, value)
    except InvalidRequestError as error:
        raise ValueError(f"{error.what} It is no template.") from None
    if flag is None:
        raise ValueError(f"{name} must be true or false, not {value!r:.80}.")
    return flag


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise ValueError unless `value` is one of the literal type `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, not {value!r}.")


def unrender(value: Any) -> Any:
    """The value that a template has rendered as JSON or as a repr; None if nothing is given."""
    if not isinstance(value, str):
        return value
    text = given_text(value)
    if text is None or text[0] not in "{[(\"'":
        return None if text is None else value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, str) and not _ONE_STRING.fullmatch(text):
            return value  # 'Stop!' 'Go!' are two strings to a reader, and one to Python
        return unrender(found)
    return value


def describe_type(name: str, value: object) -> str:
    """What a wrong value is; if it is the output of several tasks, with how to map this one over it."""
    if isinstance(value, (str, Number, bytes)):
        return f"{value!r:.80}"
    if isinstance(value, (Sequence, Set)):
        return f"several values ({type(value).__name__}); map this task over them, with .expand({name}=...)"
    return "a dict" if isinstance(value, Mapping) else f"a value of type {type(value).__name__}"
