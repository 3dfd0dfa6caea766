"""Arguments with a closed set of values."""

from __future__ import annotations

from typing import Literal, get_args

ValidateModel = Literal["error", "warn", "off"]
"""What to do where no known version of a model takes a request."""

IfExists = Literal["skip", "overwrite", "fail"]
"""What to do where a target exists: leave this clip as it is, replace whatever is there, or refuse."""


OnUnknownCost = Literal["allow", "fail"]
"""What to do with a clip whose rate is not published."""


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise ValueError unless `value` is one of the literal type `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, not {value!r}.")
