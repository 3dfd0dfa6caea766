"""What the templates show: frozen values, free of signed URLs and keys, and the filters that write them.

Seconds are floats, credits and bytes integers, times in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any
from urllib.parse import quote, urlencode

from magichour_provider.storage.locations import format_bytes


@dataclass(frozen=True, order=True)
class TaskKey:
    """A task instance; `map_index` is -1 if it is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def query(self) -> str:
        """The query of the pages' own addresses that names it."""
        return urlencode(vars(self), quote_via=quote)

    @property
    def airflow_path(self) -> str:
        """The path of its page in Airflow's UI, below the base path, without a leading slash."""
        dag_id, run_id, task_id = (quote(part, safe="") for part in (self.dag_id, self.run_id, self.task_id))
        mapped = f"/mapped/{self.map_index}" if self.map_index >= 0 else ""
        return f"dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}"


@dataclass(frozen=True)
class Player:
    """The addresses of a video and its poster. `path` is its file, None if Magic Hour serves it."""

    video: str
    poster: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class MediaInfo:
    """What a task returned about its file: bytes, pixels, frames per second, seconds."""

    path: str
    sha256: str | None
    size: int | None
    width: int | None
    height: int | None
    fps: float | None
    duration: float | None


@dataclass(frozen=True)
class Failure:
    """Why a task failed, what to do, Magic Hour's error code, and what happened to the credits."""

    title: str
    message: str
    remedy: str | None = None
    code: str | None = None
    credits: str | None = None


@dataclass(frozen=True)
class BatchSummary:
    """A batch: how many of its items have which status, its result manifest, and its first failures.

    :param failures: key, status, code and message of each.
    """

    counts: tuple[tuple[str, int], ...]
    manifest: str | None
    failures: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class BatchVideo:
    """One item of a batch. `play`: the address of the page that plays its video; None: there is none."""

    key: str
    status: str
    credits_charged: int | None
    library_url: str | None
    size: int | None
    play: str | None
    code: str | None
    message: str | None


@dataclass(frozen=True)
class BatchFilter:
    """Items of a batch by their status: how many there are, and the address of their list."""

    name: str
    count: int
    address: str
    is_chosen: bool


@dataclass(frozen=True)
class BatchVideos:
    """One page of the videos of a batch: those from `first` to `last` of `total`, read from a file.

    :param source: the file. `previous` and `next`: addresses of the pages beside this one.
    """

    videos: tuple[BatchVideo, ...]
    filters: tuple[BatchFilter, ...]
    first: int
    last: int
    total: int
    source: str
    previous: str | None
    next: str | None


@dataclass(frozen=True)
class TaskPage:
    """The tab of one task instance: Airflow's `state` of the task, and Magic Hour's `status` of its job.

    :param is_live: whether the status was read from Magic Hour for this page.
    :param picture: address of the contact sheet that the task made.
    :param notes: sentences about what cannot be shown, and why.
    :param refresh_seconds: when the page loads itself again; None if nothing will change.
    """

    key: TaskKey
    operator: str
    state: str | None
    status: str | None = None
    is_live: bool = False
    name: str | None = None
    model: str | None = None
    resolution: str | None = None
    end_seconds: float | None = None
    prompt: str | None = None
    image: str | None = None
    credits_charged: int | None = None
    submitted_at: datetime | None = None
    noticed_by: str | None = None
    project_id: str | None = None
    library_url: str | None = None
    player: Player | None = None
    picture: str | None = None
    file: MediaInfo | None = None
    failure: Failure | None = None
    batch: BatchSummary | None = None
    videos: BatchVideos | None = None
    notes: tuple[str, ...] = ()
    refresh_seconds: int | None = None


@dataclass(frozen=True)
class Card:
    """One video of the gallery; `title` is its name, its image's name, or its task's id."""

    key: TaskKey
    title: str
    state: str | None
    updated_at: datetime | None
    credits_charged: int | None = None
    model: str | None = None
    resolution: str | None = None
    duration: float | None = None
    player: Player | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Charge:
    """Credits charged for a job, for the Dag and at the time of its submission."""

    dag_id: str
    at: datetime
    credits: int


@dataclass(frozen=True)
class Bar:
    """A Dag's part of a day's bar. Coordinates in the chart's units, from its top left."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True)
class Chart:
    """Credits by day and Dag, stacked.

    :param series: the Dags, the one with the most credits first; `totals` are their credits.
    :param grid: height and text of each line; `labels`: position and text of the days below.
    :param table: the same credits by day and Dag, newest day first.
    """

    width: float
    height: float
    bars: tuple[Bar, ...]
    series: tuple[str, ...]
    totals: tuple[int, ...]
    grid: tuple[tuple[float, str], ...]
    labels: tuple[tuple[float, str], ...]
    table: tuple[tuple[date, Mapping[str, int]], ...]
    total: int
    days: int


@dataclass(frozen=True)
class Balance:
    """A connection's account; `problem` says why it could not be read."""

    conn_id: str
    tier: str | None = None
    credits: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Gallery:
    """The page of all videos: `dag_id` and `state` are chosen of `dag_ids` and `states`.

    :param older: address of the next page, with older videos.
    :param newest: address of the first page, if this is a later one.
    """

    cards: tuple[Card, ...]
    dag_ids: tuple[str, ...]
    states: tuple[str, ...]
    dag_id: str | None
    state: str | None
    chart: Chart | None
    older: str | None = None
    newest: str | None = None
    notes: tuple[str, ...] = ()


# Filters

_STATUSES: Mapping[str, str] = {
    "draft": "Draft",
    "queued": "In Magic Hour's queue",
    "rendering": "Rendering",
    "complete": "Rendered",
    "error": "Failed at Magic Hour",
    "canceled": "Canceled at Magic Hour",
}

_STATE_SENTENCES: Mapping[str | None, str] = {
    None: "The task has not started.",
    "awaiting_input": "The task is waiting for a user's answer.",
    "deferred": "The task is waiting in the triggerer. It occupies no worker.",
    "failed": "The task failed.",
    "queued": "The task is waiting for a worker.",
    "removed": "The task was removed from its Dag.",
    "restarting": "The task is restarting.",
    "running": "The task is running on a worker.",
    "scheduled": "The task will be queued soon.",
    "skipped": "The task was skipped.",
    "success": "The task succeeded.",
    "up_for_reschedule": "The task will check again soon. It occupies no worker.",
    "up_for_retry": "The task failed. Airflow will retry it.",
    "upstream_failed": "The task did not run because an upstream task failed.",
}


def seconds(value: float) -> str:
    """A duration: `5 s`, `3.5 s`, `1 min 12 s`, `1 h 2 min`."""
    if round(value, 1) < 10:
        return f"{round(value, 1):g} s" if value >= 0.05 else "under 0.1 s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = {"h": hours, "min": minutes, "s": 0 if hours else rest}
    return " ".join(f"{number:,} {unit}" for unit, number in parts.items() if number)


FILTERS: Mapping[str, Callable[[Any], str]] = {
    "credits": lambda value: f"{value:,} credit{'' if value == 1 else 's'}",
    "item_status": lambda value: {"submitted": "rendering"}.get(value, value).replace("_", " ").capitalize(),
    # As Airflow writes a time, in UTC; page.js replaces it with the user's time zone.
    "moment": lambda value: f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC",
    "seconds": seconds,
    "size": format_bytes,
    # A part of a CSS class, so one of a closed set.
    "state_class": lambda value: value if value and value in _STATE_SENTENCES else "none",
    "state_name": lambda value: (value or "not started").replace("_", " ").capitalize(),
    "state_sentence": lambda value: (
        _STATE_SENTENCES.get(value) or f"The state of the task in Airflow is {value}."
    ),
    "status_name": lambda value: _STATUSES.get(value, value),
}
"""For the templates' environment, by their names in the templates."""
