"""`state_path`: a later run re-attaches to the job that an earlier one has paid for."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from attempts import jobs, killed_after_the_create, killed_while_waiting, raising
from PIL import Image

from magichour_provider.exceptions import NetworkError, TaskKilledError
from magichour_provider.jobs.state_backends import FileBackend

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "records" / "cat.json")


@pytest.fixture
def render(tries, context, path):
    """Render in a task instance of a new run, unless it is another attempt of the `same`."""
    runs = itertools.count()

    def one(*, same=False, **options):
        if not same:
            context["ti"].run_id = f"run_{next(runs)}"
            context["ti"].max_tries = 2
        return tries(**{"state_path": path, **options})

    one.path = path
    return one


def make_old(path, **changes):
    """The state as if it had been written long ago."""
    (job,) = stored_jobs(path)
    Path(path).write_text(json.dumps({**job, "at": "2026-01-01T00:00:00+00:00", **changes}))


def stored_jobs(path):
    return json.loads(Path(path).read_text())["magichour_jobs"]


def test_later_run_reattaches(render, magichour_sandbox):
    first = render()
    assert render() == first
    assert render(wait_for_completion=False)["project_id"] == first["project_id"]
    assert len(jobs(magichour_sandbox)) == 1


def test_later_run_waits_for_the_job_of_a_killed_run(render, monkeypatch, magichour_sandbox):
    killed_while_waiting(render, monkeypatch)
    result = render()
    (job,) = jobs(magichour_sandbox)
    assert (result["project_id"], result["status"]) == (job["id"], "complete")


def test_changed_image_submits_again(render, magichour_sandbox, tmp_path):
    image = tmp_path / "cat.png"
    results = []
    for shade in (10, 10, 90):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(image)
        results.append(render(image=str(image))["project_id"])
    assert results[0] == results[1] != results[2]
    assert len(jobs(magichour_sandbox)) == 2


def test_unknown_outcome_fails_every_run(render, monkeypatch, path, magichour_sandbox, fails_for_good):
    killed_after_the_create(render, monkeypatch)
    make_old(path)
    for _ in range(2):
        with fails_for_good("A previous attempt was interrupted at"):
            render()
    assert len(jobs(magichour_sandbox)) == 1
    second = render(same=True, cleared=True)
    assert render() == second
    assert len(jobs(magichour_sandbox)) == 2


@pytest.mark.parametrize("waits", [True, False])
def test_clear_after_success_submits_again_in_any_run(render, magichour_sandbox, waits):
    results = [render(wait_for_completion=waits) for _ in range(2)]
    results.append(render(wait_for_completion=waits, same=True, cleared=True))
    results.append(render(wait_for_completion=waits))
    ids = [result["project_id"] for result in results]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert len(jobs(magichour_sandbox)) == 2


def test_clear_of_one_run_is_no_clear_of_another(
    render, monkeypatch, path, magichour_sandbox, fails_for_good
):
    killed_after_the_create(render, monkeypatch)
    make_old(path, stage="unknown", max_tries=7)
    with fails_for_good("A previous attempt was interrupted at"):
        render()
    assert len(jobs(magichour_sandbox)) == 1


def test_clear_of_an_old_run_reattaches_to_what_a_later_run_has_paid(
    render, context, monkeypatch, magichour_sandbox, fails_for_good
):
    killed_after_the_create(render, monkeypatch)
    make_old(render.path)
    old = context["ti"].run_id
    with fails_for_good():
        render()
    second = render(same=True, cleared=True)
    context["ti"].run_id = old
    assert render(same=True, cleared=True) == second
    assert len(jobs(magichour_sandbox)) == 2


def test_unwritable_file_submits_nothing(render, monkeypatch, magichour_sandbox):
    with monkeypatch.context() as patch:
        patch.setattr(FileBackend, "write", raising(NetworkError("the store is away")))
        with pytest.raises(TaskKilledError):
            render()
    assert jobs(magichour_sandbox) == []
    render(same=True)
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"stage": "nonsense"}', '{"magic": 1}'])
def test_unreadable_file_submits_nothing(render, path, magichour_sandbox, fails_for_good, tmp_path, content):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "cat.json").write_text(content)
    with fails_for_good("record"):
        render()
    assert jobs(magichour_sandbox) == []


def test_refused_create_leaves_no_file(render, magichour_sandbox, fails_for_good, tmp_path):
    create = {"method": "POST", "path": "/v1/image-to-video", "times": 1}
    magichour_sandbox.control.faults([{**create, "status": 422, "body": {"message": "no"}}])
    with fails_for_good(match="422"):
        render()
    assert not (tmp_path / "records" / "cat.json").exists()


def test_state_in_a_store_without_conditional_writes_is_refused(render, magichour_sandbox, fails_for_good):
    with fails_for_good(match="memory:// has no conditional writes"):
        render(state_path="memory://bucket/records/cat.json")
    assert jobs(magichour_sandbox) == []


@pytest.fixture
def mapped(render, context, tmp_path):
    """Render one of two images as a map index of one run; each image has a file."""
    for name, shade in (("first", 10), ("second", 90)):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(tmp_path / f"{name}.png")

    def one(index, name, **options):
        context["ti"].map_index = index
        paths = {"image": str(tmp_path / f"{name}.png"), "state_path": str(tmp_path / f"{name}.json")}
        return render(same=True, **{**paths, **options})

    return one


def test_map_index_that_gets_another_image_by_a_clear_reattaches_to_its_job(
    mapped, monkeypatch, magichour_sandbox
):
    """The first index has its video. The second one's job runs, and is the only one left to be mapped."""
    first = mapped(0, "first")
    killed_while_waiting(mapped, monkeypatch, index=1, name="second")
    assert mapped(0, "second", cleared=True)["project_id"] != first["project_id"]
    assert len(jobs(magichour_sandbox)) == 2


def test_map_indexes_that_share_a_file_keep_a_job_each(mapped, path, monkeypatch, magichour_sandbox):
    for index, name in enumerate(("first", "second")):
        killed_while_waiting(mapped, monkeypatch, index=index, name=name, state_path=path)
    results = [mapped(index, name, state_path=path) for index, name in enumerate(("first", "second"))]
    assert {result["project_id"] for result in results} == {job["id"] for job in jobs(magichour_sandbox)}
    assert len(jobs(magichour_sandbox)) == 2


def test_run_keeps_its_job_if_another_run_asks_for_another_video(
    render, context, monkeypatch, magichour_sandbox
):
    killed_while_waiting(render, monkeypatch)
    run_id = context["ti"].run_id
    render(prompt="changed")
    context["ti"].run_id = run_id
    render(same=True)
    assert len(jobs(magichour_sandbox)) == 2
