"""What the pages read from Airflow's metadata database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import uuid
import zlib
from datetime import datetime, timedelta, timezone

import pytest
from postgres import postgres

from magichour_provider.airflow_internals import task_state_rows
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("Airflow shows no pages before 3.1", allow_module_level=True)

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import NetworkError
from magichour_provider.ui import gallery, media, queries, task_page
from magichour_provider.ui.queries import LINK_KEY as LINK
from magichour_provider.ui.view_models import TaskKey

NOW = datetime.now(timezone.utc)
LIBRARY = "https://magichour.ai/my-library?videoId="
REFUND = {"project_id": "job1", "credits_charged": 0, "error": "ModerationError"}
MODELS = [TaskInstance, XComModel, RenderedTaskInstanceFields, task_state_rows()]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request):
    """An empty database with the tables that the pages read, and no other."""
    if request.param == "sqlite":
        yield _filled(create_engine("sqlite://"))
        return
    with postgres() as url:
        engine = create_engine(url)
        yield _filled(engine)
        engine.dispose()


def _filled(engine):
    with engine.begin() as connection:
        for model in filter(None, MODELS):
            table = model.__table__.to_metadata(type(model.__table__.metadata)())
            for constraint in list(table.foreign_key_constraints):
                table.constraints.discard(constraint)
            table.create(connection)
    return engine


@pytest.fixture
def book(engine):
    with Session(engine) as session:
        yield Book(session)
        session.rollback()


class Book:
    """Writes down what tasks leave; times are minutes ago."""

    def __init__(self, session):
        self.session = session

    def task(
        self,
        dag_id,
        task_id,
        project_id=None,
        *,
        ago=0.0,
        run_id="run",
        map_index=-1,
        state="success",
        operator="AnOperator",
        **left,
    ):
        """A task instance with its link and XComs; `rendered` and `record` go where Airflow keeps those."""
        at = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        when = NOW - timedelta(minutes=ago)
        self._add(TaskInstance, **at, id=an_id(), state=state, operator=operator, pool="default_pool")
        number = zlib.crc32(f"{dag_id} {run_id}".encode()) >> 1
        rendered, record = left.pop("rendered", None), left.pop("record", None)
        if rendered is not None:
            self._add(RenderedTaskInstanceFields, **at, rendered_fields=rendered)
        if record is not None:
            self._add(
                task_state_rows(),
                **at,
                dag_run_id=number,
                key="magichour_job",
                value=json.dumps(record),
                updated_at=when,
            )
        if project_id is not None:
            left[LINK] = LIBRARY + project_id
        for key, value in left.items():
            self._add(XComModel, **at, dag_run_id=number, key=key, value=value, timestamp=when)
        return TaskKey(dag_id, run_id, task_id, map_index)

    def clip(self, dag_id, number, *, ago):
        """A clip's three tasks, a minute apart."""
        job = {"project_id": f"job{number}", "credits_charged": 1}
        for place, task_id in enumerate(("submit", "wait", "land")):
            self.task(
                dag_id, task_id, f"job{number}", ago=ago - place, run_id=f"run{number}", return_value=job
            )

    def _add(self, model, **values):
        self.session.execute(insert(model.__table__).values(**values))

    def credits(self, *dag_ids, days=30):
        since = NOW - timedelta(days=days)
        found, _ = queries.get_charges(self.session, dag_ids or ["a", "b"], since, limit=1000)
        return sorted((entry.dag_id, entry.credits) for entry in found if entry.credits)


def an_id():
    """As this Airflow has ids of task instances: a UUID, or its text."""
    return TaskInstance.__table__.c.id.type.python_type(str(uuid.uuid4()))


def told(project_id, credits_charged=120, **more):
    return {"project_id": project_id, "credits_charged": credits_charged, **more}


def pages_of(session, dag_ids, **narrowed):
    """The keys of the cards of each page, from the newest on."""
    from urllib.parse import parse_qs

    before = None
    while True:
        shown = gallery.build_gallery(session, dag_ids, before=before, **narrowed)
        yield [card.key for card in shown.cards]
        if shown.older is None:
            return
        before = datetime.fromisoformat(parse_qs(shown.older[1:])["before"][0])


def test_the_tasks_of_one_job_are_found_at_their_map_index_and_beside_it(book):
    for index in (0, 1, 2):
        job = f"job{index}"
        book.task("a", "submit", job, map_index=index, return_value=told(job))
        book.task("a", "land", job, map_index=index, return_value=told(job))
    book.task("a", "wait", "job1", return_value=told("job1"))
    book.task("a", "submit", "job1", run_id="another", map_index=1, return_value=told("job1"))
    row = queries.get_task(book.session, TaskKey("a", "run", "submit", 1))
    members = queries.get_tasks_of_job(book.session, row)
    found = {(member.key.task_id, member.key.map_index) for member in members}
    assert found == {("submit", 1), ("land", 1), ("wait", -1)}
    assert queries.get_task(book.session, TaskKey("a", "run", "submit", 9)) is None


@pytest.mark.parametrize(
    "asked_for", ["job1", {"project_id": "job1"}, "{'project_id': 'job1', 'model': None}"]
)
def test_a_task_that_has_said_nothing_yet_is_about_the_job_that_it_was_given(book, asked_for):
    book.task("a", "submit", "job1", return_value=told("job1"))
    rendered = {"project_id": asked_for, "magichour_conn_id": "magichour_default"}
    key = book.task("a", "wait", state="running", rendered=rendered)
    row = queries.get_task(book.session, key)
    assert row.is_magichour
    assert row.project_id == "job1"
    assert len(queries.get_tasks_of_job(book.session, row)) == 2


@pytest.mark.parametrize("state", [None, "queued", "upstream_failed"])
def test_a_task_that_has_not_run_is_magichour_by_its_operator(book, state):
    for operator in ("ImageToVideoOperator", "VideoJobSensor", "DownloadVideoOperator"):
        key = book.task("a", operator, state=state, operator=operator)
        row = queries.get_task(book.session, key)
        assert row.is_magichour
        assert queries.get_tasks_of_job(book.session, row) == [row]
    assert not queries.get_task(book.session, book.task("a", "another", state=state)).is_magichour


def test_a_task_of_another_kind_with_a_project_id_is_none_of_ours(book):
    book.clip("a", 1, ago=10)
    key = book.task(
        "a", "bigquery", run_id="run1", project_id=None, rendered={"project_id": "a-cloud-project"}
    )
    book.task("a", "says_so", run_id="run1", **{"state": "success"})
    book._add(
        XComModel,
        dag_id="a",
        run_id="run1",
        task_id="says_so",
        map_index=-1,
        dag_run_id=7,
        key="project_id",
        value="a-cloud-project",
        timestamp=NOW,
    )
    assert not queries.get_task(book.session, key).is_magichour
    assert queries.get_task(book.session, key).project_id is None
    ((card,),) = pages_of(book.session, {"a"})
    assert card.task_id == "land"


@pytest.mark.parametrize("state", [None, "success"])
def test_leafing_through_the_gallery_shows_each_clip_once(book, state):
    for number in range(80):
        book.clip("a" if number % 2 else "b", number, ago=10 + number * 1.5)
    pages = list(pages_of(book.session, {"a", "b"}, state=state))
    assert len(pages) > 2
    shown = [key.run_id for page in pages for key in page]
    assert sorted(shown) == sorted(f"run{number}" for number in range(80))
    assert shown[0] == "run0"


def test_a_failure_that_another_task_went_on_from_later_is_on_some_page(book):
    book.task("a", "wait", "late", run_id="late", ago=1000, state="failed", magichour_error=told("late"))
    book.task("a", "land", "late", run_id="late", ago=1, state="success", return_value=told("late"))
    for number in range(100):
        book.task("a", "wait", f"job{number}", run_id=f"run{number}", ago=10 + number, state="failed")
    shown = [key.run_id for page in pages_of(book.session, {"a"}, state="failed") for key in page]
    assert shown.count("late") == 1
    assert len(shown) == 101


def test_a_clips_card_is_of_the_task_that_failed_else_of_one_that_goes_on_else_of_the_one_that_landed_it(
    book,
):
    landed = told("landed", path="/clips/landed.mp4")
    book.task("a", "submit", "landed", run_id="landed", ago=9, return_value=told("landed"))
    book.task("a", "land", "landed", run_id="landed", ago=8, return_value=landed)
    book.task("a", "look", "landed", run_id="landed", ago=7, return_value=told("landed"))
    for run_id in ("waiting", "failed"):
        book.task("a", "submit", run_id, run_id=run_id, ago=6, return_value=told(run_id))
        book.task("a", "wait", run_id, run_id=run_id, ago=5, state="deferred")
        book.task("a", "look", run_id, run_id=run_id, ago=3, return_value=told(run_id))
    book.task(
        "a", "check", "failed", run_id="failed", ago=4, state="failed", magichour_error=told("failed", 0)
    )
    cards = {card.key.run_id: card for card in gallery.build_gallery(book.session, {"a"}).cards}
    assert {run_id: card.key.task_id for run_id, card in cards.items()} == {
        "landed": "land",
        "waiting": "wait",
        "failed": "check",
    }
    assert cards["failed"].failure is not None


def test_a_clips_card_tells_what_it_has_cost_in_the_end(book):
    book.task("a", "submit", "job1", ago=2, return_value=told("job1"))
    book.task(
        "a", "wait", "job1", ago=1, state="failed", magichour_error=told("job1", 0, error="ModerationError")
    )
    (card,) = gallery.build_gallery(book.session, {"a"}).cards
    assert card.credits_charged == 0


def test_each_job_is_counted_once_and_for_who_has_paid(book):
    book.task("a", "submit", "job1", ago=60, return_value=told("job1"))
    book.task("a", "wait", "job1", ago=30, return_value=told("job1"))
    book.task("a", "sheet", "", ago=20, return_value={"path": "/sheet.jpg", "clips": 1})
    book.task("b", "wait", "job1", ago=10, return_value=told("job1"))
    assert book.credits() == [("a", 120)]
    assert gallery.build_gallery(book.session, {"a", "b"}, dag_id="b").chart is None
    assert gallery.build_gallery(book.session, {"a", "b"}, dag_id="a").chart.total == 120


def test_a_refund_of_which_the_waiting_task_tells_is_taken_off(book):
    book.task("a", "submit", "job1", ago=60, return_value=told("job1"))
    book.task(
        "a", "wait", "job1", ago=30, state="failed", magichour_error=told("job1", 0, error="ModerationError")
    )
    assert book.credits() == []


def test_what_was_spent_before_the_window_is_not_counted(book):
    book.task("a", "submit", "job1", ago=60 * 24 * 40, return_value=told("job1"))
    assert book.credits() == []
    assert book.credits(days=60) == [("a", 120)]


def test_the_reader_is_told_where_there_was_more_than_could_be_read(book):
    for number in range(3):
        book.task("a", "submit", f"job{number}", run_id=f"run{number}", return_value=told(f"job{number}"))
    assert queries.get_charges(book.session, ["a"], NOW - timedelta(days=1), limit=3)[1]
    assert not queries.get_charges(book.session, ["a"], NOW - timedelta(days=1), limit=4)[1]


@pytest.mark.skipif(task_state_rows() is None, reason="Airflow keeps no record before 3.3")
class TestByRecords:
    """On Airflow 3.3 the records say who has paid."""

    def record(self, project_id, credits_charged=120, *, ago=60.0, **more):
        at = (NOW - timedelta(minutes=ago)).isoformat()
        return {
            "stage": "done",
            "at": at,
            "project_id": project_id,
            "credits_charged": credits_charged,
            **more,
        }

    def test_a_record_counts_with_what_the_task_has_spent_before(self, book):
        book.task("a", "submit", "job2", record=self.record("job2", spent=30), return_value=told("job2"))
        assert book.credits() == [("a", 30), ("a", 120)]

    def test_a_record_without_a_job_counts_for_nothing(self, book):
        book.task("a", "submit", state="failed", record=self.record(None, None))
        assert book.credits() == []

    def test_a_refund_is_taken_off_what_a_record_says(self, book):
        record = self.record("job1", spent=30)
        book.task("a", "submit", "job1", ago=30, record=record, return_value=told("job1"))
        book.task("a", "wait", "job1", state="failed", magichour_error=told("job1", 0))
        assert book.credits() == [("a", 30)]

    def test_a_job_that_another_run_has_paid_for_counts_once_and_when_it_was_paid(self, book):
        book.task("a", "submit", "job1", run_id="first", ago=30, record=self.record("job1"))
        again = self.record("job1", elsewhere=True, spent=7)
        book.task("b", "submit", "job1", run_id="second", record=again, return_value=told("job1"))
        assert book.credits() == [("a", 120)]

    def test_a_job_that_was_paid_for_long_ago_and_is_taken_up_now_is_not_counted_now(self, book):
        again = self.record("job1", elsewhere=True, ago=60 * 24 * 40)
        book.task("a", "submit", "job1", record=again, return_value=told("job1"))
        found, _ = queries.get_charges(book.session, ["a"], NOW - timedelta(days=30), limit=10)
        assert {entry.at < NOW - timedelta(days=39) for entry in found if entry.credits} == {True}

    def test_a_task_is_one_of_ours_by_its_record_alone(self, book):
        key = book.task("a", "submit", state="running", record=self.record("job1"))
        row = queries.get_task(book.session, key)
        assert row.is_magichour
        assert row.project_id == "job1"


def test_the_tab_shows_the_last_word_on_a_job_and_magic_hours_over_it(book, monkeypatch):
    book.task("a", "submit", "job1", ago=2, return_value=told("job1", status="queued"))
    ended = told("job1", status="complete")
    book.task("a", "wait", "job1", ago=1, return_value=ended)
    row = queries.get_task(book.session, TaskKey("a", "run", "submit"))
    rows = queries.get_tasks_of_job(book.session, row)

    def unreachable(conn_id, project_id):
        raise NetworkError("Nobody answers.")

    monkeypatch.setattr(media, "get_project", unreachable)
    page = task_page.build_task_page(rows)[0]
    assert (page.status, page.credits_charged) == ("complete", 120)

    refunded = VideoProject.model_validate({"id": "job1", "status": "error", "credits_charged": 0})
    monkeypatch.setattr(media, "get_project", lambda conn_id, project_id: refunded)
    page = task_page.build_task_page(rows)[0]
    assert (page.status, page.credits_charged, page.is_live) == ("error", 0, True)
