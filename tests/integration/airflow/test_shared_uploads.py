"""Mapped tasks that have one image, by `dag.test()`: what is uploaded, in this run and in later ones."""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from magichour_provider.jobs import upload_board

WEEK = 7 * 86400
SHARING = ("shared", "deferred", "not_durable")
MAPPED = 2


@pytest.fixture
def run_shared(run_dag, magichour_sandbox, tmp_path):
    """Run the Dag with images that no other test has; what its jobs were made of."""
    for number, name in enumerate(("first", "last")):
        noise = Image.effect_noise((320, 200), 40 + 40 * number)
        noise.convert("RGB").save(tmp_path / f"{name}.jpg")

    def run(file="tests/shared.py"):
        before = len(magichour_sandbox.control.state()["jobs"])
        result = run_dag(file, image=str(tmp_path / "first.jpg"), end_image=str(tmp_path / "last.jpg"))
        jobs = magichour_sandbox.control.state()["jobs"][before:]
        return SimpleNamespace(
            state=result.state,
            states={task_id: {str(ti.state) for ti in tis} for task_id, tis in result.tasks.items()},
            images={
                task_id: {
                    job["image_file_path"] for job in jobs if f" {task_id} " in job["name"].replace("[", " ")
                }
                for task_id in result.tasks
            },
            jobs=len(jobs),
        )

    return run


def puts(sandbox):
    return sum(upload["put_count"] for upload in sandbox.control.state()["uploads"])


def refused_creates(sandbox):
    return sum(
        row["count"]
        for row in sandbox.control.state()["requests"]
        if row["path"] == "/v1/image-to-video" and row["status"] == 422
    )


def test_an_image_is_uploaded_once_in_its_week_and_anew_when_it_is_gone(run_shared, magichour_sandbox):
    first = run_shared()
    assert first.state == "success"
    assert {task_id: len(images) for task_id, images in first.images.items()} == {
        **dict.fromkeys(SHARING, 1),
        "not_shared": MAPPED,
        "without_xcoms": MAPPED,
        "alone": 1,
    }
    uploaded = puts(magichour_sandbox)
    assert uploaded == len(SHARING) + 1 + 2 * MAPPED + 1

    second = run_shared()
    assert {name: second.images[name] for name in SHARING} == {name: first.images[name] for name in SHARING}
    assert puts(magichour_sandbox) == uploaded + 2 * MAPPED + 1
    assert refused_creates(magichour_sandbox) == 0

    magichour_sandbox.control.advance_clock(WEEK)
    third = run_shared()
    assert third.state == "success"
    assert all(len(third.images[name]) == 1 and third.images[name] != first.images[name] for name in SHARING)
    assert puts(magichour_sandbox) == 2 * uploaded + 2 * MAPPED + 1
    assert refused_creates(magichour_sandbox) == len(SHARING), "the others were told"
    assert third.jobs == first.jobs


def test_a_job_that_fails_as_its_image_is_gone_is_the_last_that_is_given_it(run_shared, magichour_sandbox):
    first = run_shared("tests/gone.py")
    magichour_sandbox.control.behaviour(missing_upload="job")
    magichour_sandbox.control.advance_clock(WEEK)
    second = run_shared("tests/gone.py")
    assert second.states["shared"] == {"success", "failed"}
    assert second.images["shared"] > first.images["shared"]
    third = run_shared("tests/gone.py")
    assert third.states["shared"] == {"success"}
    assert third.images["shared"] == second.images["shared"] - first.images["shared"]


@pytest.fixture
def xcoms(connection, context, monkeypatch):
    """The XComs of a mapped task, by key and map index; Airflow's answers are made up."""
    written = {}

    def push(key, value):
        written[key, context["ti"].map_index] = value

    def read(key, *_, earlier_runs=False):
        return [value for (of, _), value in written.items() if of == key]

    monkeypatch.setattr(context["ti"], "map_index", 3)
    monkeypatch.setattr(context["ti"], "xcom_push", push)
    monkeypatch.setattr(upload_board, "all_xcoms", read)
    monkeypatch.setattr(upload_board, "task_states", lambda *_: {})
    return written


def another_uploads(xcoms, context, tries):
    """Let another map index upload the image that the next tries are of."""
    store = dict(tries.store)
    tries(wait_for_completion=False)
    tries.store.clear()
    tries.store.update(store)
    (key,) = [key for key, _ in xcoms if key.startswith(upload_board.UPLOAD_KEY)]
    xcoms[key, 7] = xcoms.pop((key, 3))
    return xcoms[key, 7]


def creates(sandbox, *statuses):
    rows = sandbox.control.state()["requests"]
    return sum(
        row["count"]
        for row in rows
        if row["path"] == "/v1/image-to-video" and (not statuses or row["status"] in statuses)
    )


def test_a_task_that_is_not_mapped_asks_for_no_xcoms(connection, tries, monkeypatch):
    monkeypatch.setattr(upload_board, "all_xcoms", lambda *_, **__: pytest.fail("It asks."))
    tries()


def test_a_refused_path_costs_one_more_create_and_no_second_job(
    xcoms, context, tries, magichour_sandbox, monkeypatch
):
    def alarm(*_):
        pytest.fail("It rings.")

    another_uploads(xcoms, context, tries)
    magichour_sandbox.control.advance_clock(WEEK)
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        result = tries()
        assert signal.getsignal(signal.SIGALRM) is alarm, "held twice, and given back"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (creates(magichour_sandbox, 200), creates(magichour_sandbox, 422)) == (2, 1)
    assert tries.store["magichour_job"]["project_id"] == result["project_id"]
    assert puts(magichour_sandbox) == 2


def test_a_create_that_is_refused_for_something_else_is_sent_twice_at_most(
    xcoms, context, tries, magichour_sandbox, fails_for_good
):
    another_uploads(xcoms, context, tries)
    magichour_sandbox.control.faults([{"path": "/v1/image-to-video", "status": 422}])
    with fails_for_good():
        tries()
    assert creates(magichour_sandbox, 422) == 2
    with fails_for_good():
        tries(image="https://example.com/still.png")
    assert creates(magichour_sandbox, 422) == 3
    assert "magichour_job" not in tries.store


def test_a_refusal_that_is_not_in_the_apis_words_is_final(
    xcoms, context, tries, magichour_sandbox, fails_for_good
):
    another_uploads(xcoms, context, tries)
    page = {"path": "/v1/image-to-video", "status": 422, "body": "<html>a gateway</html>"}
    magichour_sandbox.control.faults([page])
    with fails_for_good():
        tries()
    assert creates(magichour_sandbox, 422) == 1


def test_a_task_whose_job_has_failed_uses_no_upload_from_before_it(xcoms, context, tries, magichour_sandbox):
    other = another_uploads(xcoms, context, tries)
    other["at"] = time.time() - 60
    magichour_sandbox.control.behaviour(render_seconds=3600)
    tries(wait_for_completion=False, told=False)
    first, mine = magichour_sandbox.control.state()["jobs"]
    assert mine["image_file_path"] == first["image_file_path"] == other["file_path"]
    magichour_sandbox.control.set_job(mine["id"], "error")
    tries(wait_for_completion=False, told=False)
    assert magichour_sandbox.control.state()["jobs"][-1]["image_file_path"] != other["file_path"]


def test_without_a_record_a_later_try_uploads_anew(xcoms, context, tries, magichour_sandbox):
    other = another_uploads(xcoms, context, tries)
    other["at"] = time.time() - 60
    tries(durable=False, told=False)
    assert puts(magichour_sandbox) == 1
    context["ti"].try_number = 2
    tries(durable=False, told=False)
    assert puts(magichour_sandbox) == 2


def test_a_path_that_was_refused_gives_its_credits_of_the_run_back_in_between(
    xcoms, context, tries, magichour_sandbox, monkeypatch
):
    from airflow.sdk import DAG

    from magichour_provider.jobs import run_budget_xcom as xcom_board

    monkeypatch.setattr(xcom_board, "all_xcoms", lambda key, *_: upload_board.all_xcoms(key))
    monkeypatch.setattr(xcom_board, "task_states", lambda *_: {})
    another_uploads(xcoms, context, tries)
    magichour_sandbox.control.advance_clock(WEEK)
    with DAG("a_dag", schedule=None):
        result = tries(max_credits_per_run=100)
    assert result["status"] == "complete"
    entry = xcoms[xcom_board.KEY, 3]
    assert (entry["spent"], entry["reserved"]) == (result["credits_charged"], 0)
