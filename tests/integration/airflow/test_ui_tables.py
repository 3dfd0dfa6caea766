"""What the pages read from Airflow's metadata database: on SQLite and PostgreSQL, or on MySQL."""

from __future__ import annotations

import json
import os
import uuid
import zlib
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs

import pytest
from postgres import postgres

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_4_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("Airflow 3.0 has no place for pages", allow_module_level=True)

from airflow.models import renderedtifields, taskinstance, xcom
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from magichour_provider.airflow_internals import task_state_rows
from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import JobDeletedError, NetworkError
from magichour_provider.ui import media, queries
from magichour_provider.ui.gallery import build_gallery
from magichour_provider.ui.queries import LINK_KEY
from magichour_provider.ui.task_page import build_task_page
from magichour_provider.ui.view_models import TaskKey

NOW = datetime.now(timezone.utc)
LIBRARY = "https://magichour.ai/my-library?videoId="
REFUND = {"project_id": "job1", "credits_charged": 0, "error": "ModerationError"}
XCom = xcom.XComModelV2 if AIRFLOW_V_3_4_PLUS else xcom.XComModel
Rendered = renderedtifields.RenderedTaskInstanceFields
TABLES = [DagRun, TaskInstance, XCom, Rendered, task_state_rows()]
if AIRFLOW_V_3_4_PLUS:  # the tables with the rows of before the upgrade
    TABLES += [xcom.XComModelV1, taskinstance.LegacyTaskDataOwner]
    TABLES += [renderedtifields.LegacyRenderedTaskInstanceFields]


AIRFLOWS_URL = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")


@pytest.fixture(
    scope="module", params=["mysql"] if AIRFLOWS_URL.startswith("mysql") else ["sqlite", "postgresql"]
)
def engine(request):
    """A database with the tables that the pages read, and no other."""
    with postgres() if request.param == "postgresql" else nullcontext("sqlite://") as url:
        url = AIRFLOWS_URL.replace("/airflow?", "/tables?") if request.param == "mysql" else url
        engine = create_tables(create_engine(url))
        yield engine
        engine.dispose()


def create_tables(engine):
    with engine.begin() as connection:
        for model in filter(None, TABLES):
            table = model.__table__.to_metadata(type(model.__table__.metadata)())
            for constraint in list(table.foreign_key_constraints):
                table.constraints.discard(constraint)
            table.create(connection)
    return engine


@pytest.fixture
def db(engine):
    with Session(engine) as session:
        yield Database(session)
        session.rollback()


class Database:
    """Writes what tasks leave in Airflow's tables. Times are minutes ago."""

    def __init__(self, session):
        self.session, self.runs = session, set()

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
        rendered=None,
        job_state=None,
        legacy=False,
        **xcoms,
    ):
        """A task instance with its link to the job, and its XComs; `legacy`: from before Airflow 3.4."""
        when, run = NOW - timedelta(minutes=ago), zlib.crc32(f"{dag_id} {run_id}".encode()) >> 1
        if run not in self.runs:
            self.runs.add(run)
            times = {"run_type": "manual", "run_after": NOW, "log_template_id": 1}
            self.add(DagRun, id=run, dag_id=dag_id, run_id=run_id, **times)
        index = {"region_index" if AIRFLOW_V_3_4_PLUS else "map_index": map_index}
        address = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
        ti_id = str(uuid.uuid4())
        with suppress(NotImplementedError):  # SQLAlchemy 1.4 does not know; there it is a text
            ti_id = TaskInstance.__table__.c.id.type.python_type(ti_id)
        self.add(
            TaskInstance, **address, **index, id=ti_id, state=state, operator=operator, pool="default_pool"
        )
        in_run = {**address, "map_index": map_index, "dag_run_id": run}
        owner, xcom_table, rendered_table = in_run, XCom, Rendered
        if legacy:
            self.add(taskinstance.LegacyTaskDataOwner, **address, map_index=map_index, task_instance_id=ti_id)
            xcom_table = xcom.XComModelV1
            rendered_table = renderedtifields.LegacyRenderedTaskInstanceFields
        elif AIRFLOW_V_3_4_PLUS:
            owner = {"task_instance_id": ti_id}
        if project_id is not None:
            xcoms[LINK_KEY] = LIBRARY + project_id
        for key, value in xcoms.items():
            self.add(xcom_table, **owner, key=key, value=value, timestamp=when)
        if rendered is not None:
            owner = {name: value for name, value in owner.items() if name != "dag_run_id"}
            self.add(rendered_table, **owner, rendered_fields=rendered)
        if job_state is not None:
            values = {"key": "magichour_job", "value": json.dumps(job_state), "updated_at": when}
            self.add(task_state_rows(), **address, **index, dag_run_id=run, **values)
        return TaskKey(dag_id, run_id, task_id, map_index)

    def video(self, dag_id, number, *, ago):
        """The three tasks of a video, one minute apart."""
        result = {"project_id": f"job{number}", "credits_charged": 1}
        for place, task_id in enumerate(("submit", "wait", "download")):
            where = {"ago": ago - place, "run_id": f"run{number}"}
            self.task(dag_id, task_id, f"job{number}", **where, return_value=result)

    def tasks_of_job(self, key):
        return queries.get_tasks_of_job(self.session, queries.get_task(self.session, key))

    def add(self, model, **values):
        self.session.execute(insert(model.__table__).values(**values))

    def charges(self, days=30, limit=1000):
        return queries.get_charges(self.session, ["a", "b"], NOW - timedelta(days=days), limit=limit)

    def credits(self, days=30):
        charges, _ = self.charges(days)
        return sorted((charge.dag_id, charge.credits) for charge in charges if charge.credits)


def result(project_id, credits_charged=120, **more):
    return {"project_id": project_id, "credits_charged": credits_charged, **more}


def job_state(project_id, credits_charged=120, *, ago=60.0, **more):
    at = (NOW - timedelta(minutes=ago)).isoformat()
    return {"stage": "done", "at": at, **result(project_id, credits_charged, **more)}


def gallery_pages(session, dag_ids, **filters):
    """The keys of the cards of each page, newest first."""
    before = None
    while True:
        gallery = build_gallery(session, dag_ids, before=before, **filters)
        yield [card.key for card in gallery.cards]
        if gallery.older is None:
            return
        before = datetime.fromisoformat(parse_qs(gallery.older[1:])["before"][0])


# Task instances


def test_tasks_of_a_job_have_its_map_index_or_none(db):
    for index in (0, 1, 2):
        for task_id in ("submit", "download"):
            job = f"job{index}"
            db.task("a", task_id, job, map_index=index, return_value=result(job))
    db.task("a", "wait", "job1", return_value=result("job1"))
    db.task("a", "submit", "job1", run_id="another", map_index=1, return_value=result("job1"))
    rows = db.tasks_of_job(TaskKey("a", "run", "submit", 1))
    tasks = {(row.key.task_id, row.key.map_index) for row in rows}
    assert tasks == {("submit", 1), ("download", 1), ("wait", -1)}
    assert queries.get_task(db.session, TaskKey("a", "run", "submit", 9)) is None


@pytest.mark.parametrize(
    "rendered", ["job1", {"project_id": "job1"}, "{'project_id': 'job1', 'model': None}"]
)
def test_rendered_project_id_counts_before_the_first_result(db, rendered):
    db.task("a", "submit", "job1", return_value=result("job1"))
    fields = {"project_id": rendered, "magichour_conn_id": "magichour_default"}
    key = db.task("a", "wait", state="running", rendered=fields)
    row, other = db.tasks_of_job(key)
    assert (row.is_magichour, row.project_id, other.project_id) == (True, "job1", "job1")


@pytest.mark.skipif(not AIRFLOW_V_3_4_PLUS, reason="Airflow 3.4 has two tables")
def test_rows_from_before_an_upgrade_to_airflow_3_4_are_read(db):
    fields = {"name": "a name", "magichour_conn_id": "magichour_default"}
    for legacy, task_id in ((True, "submit"), (False, "wait")):
        db.task("a", task_id, "job1", legacy=legacy, rendered=fields, return_value=result("job1"))
    row, _ = db.tasks_of_job(TaskKey("a", "run", "submit"))
    assert (row.project_id, row.field("name")) == ("job1", "a name")
    assert [len(page) for page in gallery_pages(db.session, {"a"})] == [1]
    assert db.credits() == [("a", 120)]


@pytest.mark.parametrize("state", [None, "queued", "upstream_failed"])
def test_task_that_has_not_run_is_known_by_its_operator(db, state):
    for operator in ("ImageToVideoOperator", "VideoJobSensor", "DownloadVideoOperator"):
        row = queries.get_task(db.session, db.task("a", operator, state=state, operator=operator))
        assert row.is_magichour
        assert queries.get_tasks_of_job(db.session, row) == [row]
    assert not queries.get_task(db.session, db.task("a", "another", state=state)).is_magichour


def test_other_operators_with_a_project_id_are_ignored(db):
    db.video("a", 1, ago=10)
    db.task("a", "returns_one", run_id="run1", project_id=None, return_value="x")
    key = db.task("a", "bigquery", run_id="run1", rendered={"project_id": "a-cloud-project"})
    row = queries.get_task(db.session, key)
    assert (row.is_magichour, row.project_id) == (False, None)
    ((card,),) = gallery_pages(db.session, {"a"})
    assert card.task_id == "download"


# The gallery


@pytest.mark.parametrize("state", [None, "success"])
def test_pages_of_the_gallery_show_each_video_once(db, state):
    for number in range(80):
        db.video("a" if number % 2 else "b", number, ago=10 + number * 1.5)
    pages = list(gallery_pages(db.session, {"a", "b"}, state=state))
    assert len(pages) > 2
    shown = [key.run_id for page in pages for key in page]
    assert sorted(shown) == sorted(f"run{number}" for number in range(80))
    assert shown[0] == "run0"


def test_failure_with_a_later_success_is_on_one_page(db):
    db.task("a", "wait", "late", run_id="late", ago=1000, state="failed", magichour_error=result("late"))
    db.task("a", "download", "late", run_id="late", ago=1, return_value=result("late"))
    for number in range(80):
        db.task("a", "wait", f"job{number}", run_id=f"run{number}", ago=10 + number, state="failed")
    shown = [key.run_id for page in gallery_pages(db.session, {"a"}, state="failed") for key in page]
    assert sorted(shown) == sorted(["late", *(f"run{number}" for number in range(80))])


def test_card_is_of_the_failed_else_the_waiting_else_the_download_task(db):
    file = result("done", path="/videos/done.mp4")
    db.task("a", "submit", "done", run_id="done", ago=9, return_value=result("done"))
    db.task("a", "download", "done", run_id="done", ago=8, return_value=file)
    db.task("a", "check", "done", run_id="done", ago=7, return_value=result("done"))
    for run_id in ("waiting", "failed"):
        db.task("a", "submit", run_id, run_id=run_id, ago=6, return_value=result(run_id))
        db.task("a", "wait", run_id, run_id=run_id, ago=5, state="deferred")
        db.task("a", "check", run_id, run_id=run_id, ago=3, return_value=result(run_id))
    error = {**REFUND, "project_id": "failed"}
    db.task("a", "publish", "failed", run_id="failed", ago=4, state="failed", magichour_error=error)
    cards = {card.key.run_id: card for card in build_gallery(db.session, {"a"}).cards}
    tasks = {run_id: card.key.task_id for run_id, card in cards.items()}
    assert tasks == {"done": "download", "waiting": "wait", "failed": "publish"}
    assert "moderation" in cards["failed"].failure


@pytest.mark.parametrize(
    ("image", "title"),
    [
        ("https://host/a%20cat.png?sig=hush", "a cat.png"),
        ("s3://stills/what?.png", "what?.png"),
        ("/data/a%20dog.png\n", "a%20dog.png"),
        ("/data/\udcff.png", "\\udcff.png"),
        (None, "submit"),
    ],
)
def test_card_is_named_by_its_image(db, image, title):
    if db.session.bind.dialect.name == "mysql" and image == "/data/\udcff.png":
        pytest.skip("MySQL stores no such text")
    rendered = {"image": image, "name": "None", "magichour_conn_id": "None"}
    key = db.task("a", "submit", "job1", rendered=rendered, return_value=result("job1"))
    assert media.conn_id_of_job([queries.get_task(db.session, key)]) == "magichour_default"
    (card,) = build_gallery(db.session, {"a"}).cards
    assert card.title == title


# Charges


@pytest.mark.parametrize("state", [None, {"spent": 30}])
def test_refund_of_a_later_task_counts(db, state):
    if state and task_state_rows() is None:
        pytest.skip("needs Airflow 3.3")
    state = state and job_state("job1", **state)
    db.task("a", "submit", "job1", ago=60, job_state=state, return_value=result("job1"))
    db.task("a", "wait", "job1", ago=30, state="failed", magichour_error=REFUND)
    (card,) = build_gallery(db.session, {"a"}).cards
    assert card.credits_charged == 0
    assert db.credits() == ([("a", 30)] if state else [])


def test_job_is_counted_once_for_the_dag_that_paid(db):
    db.task("a", "submit", "job1", ago=60, return_value=result("job1"))
    db.task("a", "wait", "job1", ago=30, return_value=result("job1"))
    db.task("a", "sheet", "", ago=20, return_value={"path": "/sheet.jpg", "videos": 1})
    db.task("b", "wait", "job1", ago=10, return_value=result("job1"))
    assert db.credits() == [("a", 120)]
    assert build_gallery(db.session, {"a", "b"}, dag_id="b").chart is None
    assert build_gallery(db.session, {"a", "b"}, dag_id="a").chart.total == 120


def test_older_charges_are_not_counted_and_a_limit_of_rows_is_reported(db):
    for number in range(3):
        where = {"run_id": f"run{number}", "ago": 60 * 24 * 20 * number}
        db.task("a", "submit", f"job{number}", **where, return_value=result(f"job{number}"))
    assert [len(db.credits(days)) for days in (10, 30, 60)] == [1, 2, 3]
    assert [db.charges(60, limit=limit)[1] for limit in (3, 4)] == [True, False]


@pytest.mark.skipif(task_state_rows() is None, reason="needs Airflow 3.3")
class TestJobStates:
    """On Airflow 3.3 the state of a job says which task paid for it."""

    def test_earlier_jobs_of_the_task_count_and_a_state_without_a_job_does_not(self, db):
        db.task("a", "submit", state="failed", job_state=job_state(None, None))
        assert db.credits() == []
        state = job_state("job2", spent=30)
        db.task("a", "another", "job2", job_state=state, return_value=result("job2"))
        assert db.credits() == [("a", 30), ("a", 120)]

    def test_job_of_another_run_counts_there(self, db):
        db.task("a", "submit", "job1", run_id="first", ago=30, job_state=job_state("job1"))
        state = job_state("job1", elsewhere=True, spent=7)
        db.task("b", "submit", "job1", run_id="second", job_state=state, return_value=result("job1"))
        assert db.credits() == [("a", 120)]

    def test_job_counts_when_it_was_submitted(self, db):
        state = job_state("job1", elsewhere=True, ago=60 * 24 * 40)
        db.task("a", "submit", "job1", job_state=state, return_value=result("job1"))
        charges, _ = db.charges()
        assert {charge.at < NOW - timedelta(days=39) for charge in charges if charge.credits} == {True}

    def test_task_is_known_by_its_job_state(self, db):
        key = db.task("a", "submit", state="running", job_state=job_state("job1"))
        row = queries.get_task(db.session, key)
        assert (row.is_magichour, row.project_id) == (True, "job1")


def test_tab_shows_the_latest_status_and_magic_hours_first(db, monkeypatch):
    db.task("a", "submit", "job1", ago=2, return_value=result("job1", status="queued"))
    db.task("a", "wait", "job1", ago=1, return_value=result("job1", status="complete"))
    rows = db.tasks_of_job(TaskKey("a", "run", "submit"))

    def unreachable(conn_id, project_id):
        raise NetworkError("No answer.")

    monkeypatch.setattr(media, "get_project", unreachable)
    page, _ = build_task_page(rows)
    assert (page.status, page.credits_charged) == ("complete", 120)

    refunded = VideoProject.model_validate({"id": "job1", "status": "error", "credits_charged": 0})
    monkeypatch.setattr(media, "get_project", lambda conn_id, project_id: refunded)
    page, _ = build_task_page(rows)
    assert (page.status, page.credits_charged, page.is_live) == ("error", 0, True)


@pytest.mark.parametrize("error", [{}, {"error": "JobDeletedError", "message": "Job job1 was deleted."}])
@pytest.mark.parametrize("is_saved", [True, False])
def test_failure_after_a_deletion_says_that_it_may_be_on_purpose(db, monkeypatch, error, is_saved):
    deleted = VideoProject.model_validate({"id": "job1", "status": "complete", "enabled": False})
    monkeypatch.setattr(media, "get_project", lambda conn_id, project_id: deleted)
    key = db.task("a", "wait", "job1", ago=1, state="failed", **({"magichour_error": error} if error else {}))
    if is_saved:
        db.task("a", "download", "job1", return_value=result("job1", path="/videos/job1.mp4"))
    page, _ = build_task_page(db.tasks_of_job(key))
    assert page.failure.title == JobDeletedError.title
    texts = " ".join(filter(None, (page.failure.message, page.failure.remedy, *page.notes)))
    assert ("after it was saved" in texts) == is_saved
    assert ("on purpose, there is nothing to do" in texts) == (not is_saved)
    assert page.refresh_seconds is None
