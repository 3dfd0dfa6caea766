"""Mapped tasks that have one image, by `dag.test()`: what is uploaded, in this run and in later ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

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
        before = len(magichour_sandbox.control.ledger()["jobs"])
        result = run_dag(file, image=str(tmp_path / "first.jpg"), end_image=str(tmp_path / "last.jpg"))
        jobs = magichour_sandbox.control.ledger()["jobs"][before:]
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
    return sum(upload["put_count"] for upload in sandbox.control.ledger()["uploads"])


def refused_creates(sandbox):
    return sum(
        row["count"]
        for row in sandbox.control.ledger()["requests"]
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
