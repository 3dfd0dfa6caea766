"""What the pages show: frozen values, made by the rooms that read, and read by the templates.

No field holds a signed URL or a key. Seconds are floats, credits and bytes integers, moments in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from urllib.parse import quote, urlencode


@dataclass(frozen=True, order=True)
class TaskKey:
    """A task instance; `map_index` is -1 for one that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def query(self) -> str:
        """The query by which our own addresses name it."""
        return urlencode(
            {
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "task_id": self.task_id,
                "map_index": self.map_index,
            },
            quote_via=quote,
        )

    @property
    def airflow_path(self) -> str:
        """The path of its page in Airflow's UI, below the base path, without a slash before it."""
        dag_id, run_id, task_id = (quote(part, safe="") for part in (self.dag_id, self.run_id, self.task_id))
        mapped = f"/mapped/{self.map_index}" if self.map_index >= 0 else ""
        return f"dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}"


@dataclass(frozen=True)
class Player:
    """A clip that can be played.

    :param video: our own address that answers with the bytes, or leads to a fresh link.
    :param poster: our own address of its poster frame.
    :param origin: where the bytes come from: `storage`, where it has landed, or `magic-hour`.
    :param place: where it has landed, as a person may read it.
    """

    video: str
    origin: str
    poster: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Landed:
    """What is known of the file that has landed: bytes, pixels, seconds."""

    place: str
    size: int | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a task failed, in plain words.

    :param title: what happened, in a few words.
    :param message: the error's own sentences.
    :param advice: what to do.
    :param code: Magic Hour's.
    :param spent: what became of the credits.
    """

    title: str
    message: str
    advice: str
    code: str | None = None
    spent: str | None = None


@dataclass(frozen=True)
class TaskPage:
    """The tab of one task instance.

    :param operator: name of the task's class.
    :param state: Airflow's state of the task instance.
    :param status: Magic Hour's status of the job.
    :param is_live: whether Magic Hour was asked for it just now.
    :param picture: our own address of the contact sheet that the task has made.
    :param notes: sentences about what cannot be shown, and why.
    :param refresh_seconds: when to look again; None where nothing will change.
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
    queued_seconds: float | None = None
    rendering_seconds: float | None = None
    submitted_at: datetime | None = None
    project_id: str | None = None
    library_url: str | None = None
    player: Player | None = None
    picture: str | None = None
    landed: Landed | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    refresh_seconds: int | None = None


@dataclass(frozen=True)
class Card:
    """One clip of the gallery; `title` is its name, else its image's, else its task."""

    key: TaskKey
    title: str
    state: str | None
    when: datetime | None
    credits_charged: int | None = None
    model: str | None = None
    resolution: str | None = None
    duration: float | None = None
    player: Player | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Bar:
    """A piece of a day's bar: a Dag's credits. Coordinates in the chart's own units, from its top left."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True)
class Chart:
    """Credits by day and Dag, stacked.

    :param series: the Dags, most expensive first; the last may stand for all others.
    :param grid: height and label of each line.
    :param labels: middle and text of the days that are named below.
    :param table: the same figures: a row for each day, newest first, with credits by series.
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
class Filters:
    """What the gallery is narrowed to, and what it may be: Dags and states that the user can choose."""

    dag_ids: tuple[str, ...]
    states: tuple[str, ...]
    dag_id: str | None = None
    state: str | None = None


@dataclass(frozen=True)
class Gallery:
    """The page for all clips.

    :param older: address of the page with older clips.
    :param newest: address of the first page, where this is a later one.
    """

    cards: tuple[Card, ...]
    filters: Filters
    chart: Chart | None
    older: str | None = None
    newest: str | None = None
    notes: tuple[str, ...] = ()
