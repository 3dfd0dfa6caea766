"""What is known of one submission, as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, Protocol

from magichour_provider.exceptions import ImageError


class Stage(str, Enum):
    """How far a submission has come."""

    INTENT = "intent"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    DONE = "done"


@dataclass(frozen=True)
class JobState:
    """What is known of one submission; ids, numbers and a hash.

    :param stage: `unknown` is an intent without an id of which a person has been told.
    :param fingerprint: hash of everything that changes the clip.
    :param at: when the create was about to be sent, ISO 8601.
    :param max_tries: the task's own when this was written; a Clear changes it, a retry does not.
    :param balance: the account's credits before the create.
    :param cost: what the clip costs by the catalogue, in credits.
    :param spent: credits of this task's earlier jobs in this run, as far as they were not refunded.
    :param elsewhere: another run has paid for this one.
    """

    stage: Stage
    fingerprint: str
    at: str
    max_tries: int
    name: str | None = None
    balance: int | None = None
    cost: int | None = None
    spent: int = 0
    project_id: str | None = None
    credits_charged: int | None = None
    elsewhere: bool = False

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> JobState:
        """Read what this version or a later one has written; ValueError where it cannot be used."""
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in stored.items() if key in known}
        try:
            return cls(**{**values, "stage": Stage(values.get("stage"))})
        except TypeError as error:
            raise ValueError(str(error)) from None

    def stored(self) -> dict[str, Any]:
        """The record as it is stored."""
        return {**asdict(self), "stage": self.stage.value}

    @property
    def spent_in_all(self) -> int:
        """Credits of this task's jobs in this run, this one's included."""
        return self.spent + (0 if self.elsewhere else self.credits_charged or 0)


def prefers_file_record(other: JobState, own: JobState, identify: Callable[[], str] | None) -> bool:
    """Whether the file's record is the one to go by, not the task's own.

    By what is asked for, first: the clear of a whole run may give a map index another image than the one of
    which its store tells. Then by time.
    """
    if identify is not None and own.fingerprint != other.fingerprint:
        with suppress(ImageError):
            asked = identify()
            if asked in (own.fingerprint, other.fingerprint):
                return asked == other.fingerprint
    return own.at < other.at


class Copy(Protocol):
    """Where a record is kept besides, for the tasks of other runs."""

    def read(self) -> dict[str, Any] | None:
        """What is there; None where there is nothing."""

    def write(self, stored: Mapping[str, Any]) -> None:
        """Put `stored` in its place."""

    def delete(self) -> None:
        """Remove it."""
