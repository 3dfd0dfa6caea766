"""The tab of a batch, as Airflow's own application serves it, after a real run with failures."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from html import escape, unescape
from pathlib import Path

import pytest
from attempts import CREATES, IMAGE
from ui_stage import words

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 has no place for pages")

ITEMS, CREDITS = 120, 72
REFUSED = {7, 70, 119}
"""Numbers of the items that moderation refuses."""


@pytest.fixture(scope="module")
def batch(stage, dag_runner, tmp_path_factory):
    """A batch with refused items, a create of unknown outcome, and too few credits for the last items."""
    folder = tmp_path_factory.mktemp("batch")
    prompts = ["nsfw" if number in REFUSED else f"video {number}" for number in range(ITEMS)]
    image = str(Path(IMAGE).absolute())
    items = [{"key": f"item <{n}>", "image": image, "prompt": prompt} for n, prompt in enumerate(prompts)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    stage.sandbox.control.account(credits=1_000_000)
    stage.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    conf = {"catalogue": str(folder / "items.jsonl"), "folder": str(folder / "videos")}
    run = dag_runner("tests/batch.py", credits=(ITEMS - 10) * CREDITS, **conf)
    assert run.state == "failed"
    return Tab(stage, run.tasks["render"][0].run_id, folder / "videos")


@pytest.fixture
def tab(batch, ui):
    """The tab of the batch, whose folder is a root."""
    ui.set_roots(str(batch.folder))
    return batch


class Tab:
    """The tab of one batch, for a user who may read it."""

    def __init__(self, ui, run_id, folder):
        self.ui, self.run_id, self.folder = ui, run_id, folder

    def get(self, path="task", **query):
        return self.ui.get(path, **{"dag_id": "batch", "run_id": self.run_id, "task_id": "render", **query})

    def rows(self, **query):
        """The keys of the listed videos, with their statuses."""
        page = self.get(**query)
        assert page.status_code == 200
        found = re.findall(r'data-testid="video-row"><th[^>]*>([^<]*)</th><td>([^<]*)</td>', page.text)
        return {unescape(key): status for key, status in found}

    def entries(self):
        """The result manifest, by key."""
        lines = (self.folder / "manifest.jsonl").read_text().splitlines()
        return {entry["key"]: entry for entry in map(json.loads, lines)}

    def link(self, page, name):
        found = re.search(rf'<a class="button" href="([^"]*)" data-testid="{name}"', page.text)
        return None if found is None else unescape(found[1])

    @contextmanager
    def waiting(self):
        """The task instance as it was while it waited in the triggerer."""
        from airflow.models import xcom
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from magichour_provider.airflow_internals import join_xcom

        table = getattr(xcom, "XComModelV2", None) or xcom.XComModel  # the table of Airflow 3.4
        query = select(TaskInstance, table).join(table, join_xcom(table, TaskInstance))
        query = query.where(TaskInstance.run_id == self.run_id, table.key == "magichour_batch")

        def write(state, **values):
            with create_session() as session:
                ((ti, summary),) = session.execute(query)
                before = str(ti.state), {name: summary.value[name] for name in values}
                ti.state, summary.value = state, {**summary.value, **values}
                return before

        state, values = write("deferred", manifest=None)
        yield
        write(state, **values)


def test_list_of_a_batch_is_filtered_and_paged(tab):
    every = tab.rows() | tab.rows(page=2)
    assert list(every) == [f"item <{n}>" for n in range(ITEMS)]
    by_filter = {
        name: set(tab.rows(status=name) | tab.rows(status=name, page=2))
        for name in ("complete", "rendering", "failed", "unknown", "not submitted")
    }
    assert by_filter["failed"] == {
        f"item <{n}>" for n in REFUSED if f"item <{n}>" not in by_filter["not submitted"]
    }
    assert len(by_filter["unknown"]) == 1
    assert by_filter["rendering"] == set()
    assert len(by_filter["not submitted"]) in range(5, 11), "credits of refused items are free again"
    assert sum(map(len, by_filter.values())) == ITEMS
    page = tab.get()
    assert tab.link(page, "previous") is None
    following = tab.ui.get(tab.link(page, "next"))
    assert "101 to 120 of 120" in words(following)
    assert tab.link(following, "next") is None
    assert "1 to 100 of 120" in words(tab.ui.get(tab.link(following, "previous")))


def test_failures_are_named_with_their_errors(tab):
    for name, statuses in (("failed", ("failed", "refused")), ("unknown", ("unknown",))):
        page = words(tab.get(status=name)).partition("read from")[0].partition(" Videos ")[2]
        failures = [entry for entry in tab.entries().values() if entry["status"] in statuses]
        assert failures
        for failure in failures:
            assert f"{failure['key']} {failure['status'].capitalize()}" in page
            assert " ".join(failure["message"].split()) in page


def test_video_of_an_item_is_played_from_its_file(tab):
    key = "item <101>"
    label = f'aria-label="Play {escape(key)}"'
    link = unescape(re.search(f'<a href="([^"]*)" {label}', tab.get(page=2).text)[1])
    playing = tab.ui.get(link)
    assert "101 to 120 of 120" in words(playing), "the list stays where it was"
    source = unescape(re.search(r'data-testid="player"[^>]* src="([^"]*)"', playing.text)[1])
    part = tab.ui.get(source, headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.headers["content-type"]) == (206, "video/mp4")
    assert part.content == Path(tab.entries()[key]["path"]).read_bytes()[100:300]


def test_waiting_batch_is_listed_from_its_state(tab):
    with tab.waiting():
        page = tab.get()
        assert 'data-refresh-seconds="15"' in page.text
        assert "magichour_batch.jsonl" in words(page)
        assert "as soon as it is submitted" in words(page)
        listed = tab.rows() | tab.rows(page=2)
    ended = tab.rows() | tab.rows(page=2)
    assert listed == {key: status for key, status in ended.items() if key in listed}
    assert {status for key, status in ended.items() if key not in listed} == {"Not submitted"}


def test_batch_outside_the_roots_says_why_it_has_no_list(tab):
    tab.ui.set_roots("")
    page = tab.get()
    assert 'data-testid="videos"' not in page.text
    assert 'data-testid="batch-failures"' in page.text
    assert "ui_video_roots" in words(page)
    assert tab.get("video", item="item <1>").status_code == 404


def test_items_are_hidden_with_their_dag(tab):
    for path in ("task", "video"):
        hidden = tab.get(path, item="item <1>", user="mallory")
        assert hidden.status_code == 404
        assert hidden.text == tab.get(path, item="item <1>", run_id="no_such_run").text
        assert tab.get(path, item="item <1>", user=None).status_code == 401


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"status": "lost"}, 422),
        ({"page": "0"}, 422),
        ({"page": "many"}, 422),
        ({"page": "9" * 9}, 200),
        ({"item": "../../etc/passwd"}, 200),
        ({"item": "\0"}, 200),
        ({"item": "x" * 5000}, 200),
    ],
)
def test_any_query_breaks_no_page(tab, query, status):
    assert tab.get(**query).status_code == status


def test_page_has_neither_key_nor_link(tab):
    for page in (tab.get(), tab.get(status="failed"), tab.get(item="item <1>")):
        assert tab.ui.sandbox.api_key not in page.text
        assert "Signature" not in page.text
        assert "javascript:" not in page.text
        assert "item <1>" not in page.text, "keys are text"
