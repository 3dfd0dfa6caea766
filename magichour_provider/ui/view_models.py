"""What the templates show: frozen values, free of signed URLs and keys.

Seconds are floats, credits and bytes integers, times in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from urllib.parse import quote, urlencode


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
    size: int | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a task failed, what to do, Magic Hour's error code, and what happened to the credits."""

    title: str
    message: str
    remedy: str | None = None
    code: str | None = None
    credits: str | None = None


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
    project_id: str | None = None
    library_url: str | None = None
    player: Player | None = None
    picture: str | None = None
    file: MediaInfo | None = None
    failure: Failure | None = None
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
    project_id: str | None = None


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
