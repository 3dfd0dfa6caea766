"""`state_path`: what one run has paid for, a later run takes up. Operator, sandbox, a store for each run."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from magichour_provider.exceptions import NetworkError, TaskKilledError
from magichour_provider.jobs.state import KEY, JobStateStore
from magichour_provider.jobs.state_file import RecordFile
from magichour_provider.operators.image_to_video import ImageToVideoOperator

pytestmark = pytest.mark.usefixtures("connection")


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


def jobs(sandbox):
    return sandbox.control.state()["jobs"]


def raising(error):
    def stop(*args, **kwargs):
        raise error

    return stop


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "records" / "cat.json")


@pytest.fixture
def render(tries, context, path):
    """Render in a task instance of a new run, unless it is another try of the `same`."""

    def one(*, same=False, **options):
        if not same:
            tries.store.clear()
            context["ti"].max_tries = 2
        result = tries(**{"state_path": path, **options})
        for its_own in ("queued_seconds", "rendering_seconds"):  # each run tells what it has seen itself
            result.pop(its_own)
        return result

    return one


def killed_while_waiting(render, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(ImageToVideoOperator, "_wait", raising(Killed()))
        with pytest.raises(Killed):
            render(**options)


def killed_inside_the_create(render, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(JobStateStore, "submitted", raising(Killed()))
        with pytest.raises(Killed):
            render()


def test_a_later_run_takes_up_what_an_earlier_one_has_rendered(render, magichour_sandbox):
    first = render()
    assert render() == first
    assert render(wait_for_completion=False)["project_id"] == first["project_id"]
    assert len(jobs(magichour_sandbox)) == 1


def test_a_later_run_waits_for_the_job_of_a_run_that_was_killed(render, monkeypatch, magichour_sandbox):
    killed_while_waiting(render, monkeypatch)
    result = render()
    (job,) = jobs(magichour_sandbox)
    assert (result["project_id"], result["status"]) == (job["id"], "complete")


@pytest.mark.parametrize("status", ["error", "canceled"])
def test_a_job_that_came_to_nothing_is_submitted_anew(render, monkeypatch, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    killed_while_waiting(render, monkeypatch)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], status)
    magichour_sandbox.control.behaviour(render_seconds=0)
    second = render()
    assert render() == second
    assert len(jobs(magichour_sandbox)) == 2


def test_an_image_that_has_changed_is_rendered_anew(render, magichour_sandbox, tmp_path):
    image = tmp_path / "cat.png"
    results = []
    for shade in (10, 10, 90):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(image)
        results.append(render(image=str(image))["project_id"])
    assert results[0] == results[1] != results[2]
    assert len(jobs(magichour_sandbox)) == 2


def test_another_record_is_another_clip(render, magichour_sandbox, tmp_path):
    render()
    render(state_path=str(tmp_path / "other.json"))
    assert len(jobs(magichour_sandbox)) == 2


def test_a_create_of_unknown_outcome_is_not_repeated_by_any_run(
    render, monkeypatch, magichour_sandbox, fails_for_good
):
    killed_inside_the_create(render, monkeypatch)
    for _ in range(2):
        with fails_for_good("An earlier try was cut off at"):
            render()
    assert len(jobs(magichour_sandbox)) == 1
    second = render(same=True, cleared=True)
    assert render() == second
    assert len(jobs(magichour_sandbox)) == 2


@pytest.mark.parametrize("waits", [True, False])
def test_clearing_a_success_renders_anew_whichever_run_has_paid(render, magichour_sandbox, waits):
    results = [render(wait_for_completion=waits) for _ in range(2)]
    results.append(render(wait_for_completion=waits, same=True, cleared=True))
    results.append(render(wait_for_completion=waits))
    ids = [result["project_id"] for result in results]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert len(jobs(magichour_sandbox)) == 2


def test_what_a_person_cleared_in_one_run_is_cleared_in_no_other(
    render, monkeypatch, path, magichour_sandbox, fails_for_good
):
    killed_inside_the_create(render, monkeypatch)
    file = RecordFile.of(path, None)
    file.write({**file.read(), "stage": "unknown", "max_tries": 7})
    with fails_for_good("An earlier try was cut off at"):
        render()
    assert len(jobs(magichour_sandbox)) == 1


def test_a_clear_of_an_old_run_takes_up_what_a_later_one_has_paid_for(
    render, tries, context, monkeypatch, magichour_sandbox, fails_for_good
):
    """However old the record of the old run's own: the newer one is in the file."""
    killed_inside_the_create(render, monkeypatch)
    old = {KEY: {**tries.store[KEY], "stage": "unknown", "at": "2026-01-01T00:00:00+00:00"}}
    with fails_for_good():
        render()
    second = render(same=True, cleared=True)
    tries.store.clear()
    tries.store.update(old)
    assert render(same=True, cleared=True) == second
    assert len(jobs(magichour_sandbox)) == 2


def test_what_another_run_has_paid_is_no_part_of_this_runs_budget(render, tries, context, path):
    def records():
        read = JobStateStore(context, durable=True)
        read.keep_in(RecordFile.of(path, None))
        assert read.read().credits_charged == 72
        return read

    render()
    assert records().spent == 72
    tries.store.clear()
    assert records().spent == 0
    render()
    assert records().spent == 0, "also once it is this run's own record"
    render(same=True, cleared=True)
    assert records().spent == 72
    file = RecordFile.of(path, None)
    file.write({**file.read(), "at": "2100-01-01T00:00:00+00:00"})
    assert records().spent == 72, "what this run has spent, whatever another has since"


def test_where_the_file_cannot_be_written_nothing_is_paid(render, tries, monkeypatch, magichour_sandbox):
    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", raising(NetworkError("the store is away")))
        with pytest.raises(TaskKilledError):
            render()
    assert jobs(magichour_sandbox) == []
    assert KEY not in tries.store
    render(same=True)
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"stage": "nonsense"}', '{"magic": 1}'])
def test_a_file_that_makes_no_sense_is_shown_to_a_person(
    render, path, magichour_sandbox, fails_for_good, tmp_path, content
):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "cat.json").write_text(content)
    with fails_for_good("record"):
        render()
    assert jobs(magichour_sandbox) == []


def test_an_id_that_did_not_reach_the_file_is_brought_there_by_the_next_try(
    render, monkeypatch, magichour_sandbox, fails_for_good, path
):
    write = RecordFile.write

    def fail(self, stored):
        if stored["project_id"]:
            raise NetworkError("the store is away")
        write(self, stored)

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", fail)
        killed_while_waiting(render, patch)
    assert RecordFile.of(path, None).read()["project_id"] is None
    first = render(same=True)
    assert RecordFile.of(path, None).read()["project_id"] == first["project_id"]
    assert render() == first
    assert len(jobs(magichour_sandbox)) == 1


def test_a_create_that_was_not_taken_leaves_no_file(render, magichour_sandbox, fails_for_good, tmp_path):
    create = {"method": "POST", "path": "/v1/image-to-video", "times": 1}
    magichour_sandbox.control.faults([{**create, "status": 422, "body": {"message": "no"}}])
    with fails_for_good(match="422"):
        render()
    assert list((tmp_path / "records").iterdir()) == []


def test_the_file_is_replaced_as_a_whole(tmp_path):
    """Who is cut off, or reads meanwhile, finds one record or the other."""
    file, before = tmp_path / "cat.json", tmp_path / "before.json"
    RecordFile.of(str(file), None).write({"number": 1})
    before.hardlink_to(file)
    RecordFile.of(str(file), None).write({"number": 2})
    assert [json.loads(each.read_text())["number"] for each in (before, file)] == [1, 2]
    assert sorted(tmp_path.iterdir()) == [before, file]


def test_a_record_in_an_object_store(render, memory_store, magichour_sandbox):
    first = render(state_path="memory://bucket/records/cat.json")
    assert json.loads(memory_store.cat("/bucket/records/cat.json"))["project_id"] == first["project_id"]
    assert render(state_path="memory://bucket/records/cat.json") == first
    assert len(jobs(magichour_sandbox)) == 1


def test_a_file_on_its_own_is_refused(render, magichour_sandbox, fails_for_good):
    with fails_for_good("state_path needs durable=True"):
        render(durable=False)
    assert jobs(magichour_sandbox) == []


@pytest.fixture
def mapped(render, tries, tmp_path):
    """Render one of two images as a map index of one run; each index has a store, each image a file."""
    stores = {}
    for name, shade in (("first", 10), ("second", 90)):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(tmp_path / f"{name}.png")

    def one(index, name, **options):
        tries.store.clear()
        tries.store.update(stores.get(index, {}))
        try:
            return render(
                same=True,
                image=str(tmp_path / f"{name}.png"),
                state_path=str(tmp_path / f"{name}.json"),
                **options,
            )
        finally:
            stores[index] = dict(tries.store)

    return one


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_map_index_that_gets_another_image_by_a_clear_takes_up_that_images_job(
    mapped, context, monkeypatch, magichour_sandbox, order
):
    """The first one has its clip; the second one's job goes on, and is the only one left to be mapped."""
    names = {0: "first", 1: "second"}
    made = {}
    for index in order:
        if index == 0:
            made[0] = mapped(0, names[0])
        else:
            killed_while_waiting(mapped, monkeypatch, index=1, name=names[1])
    again = mapped(0, "second", cleared=True)
    assert again["project_id"] != made[0]["project_id"]
    assert len(jobs(magichour_sandbox)) == 2
    assert mapped(0, "first")["project_id"] == made[0]["project_id"]
    assert len(jobs(magichour_sandbox)) == 2


def test_a_run_goes_on_with_its_own_job_whatever_another_has_asked_for_meanwhile(
    render, tries, monkeypatch, magichour_sandbox
):
    killed_while_waiting(render, monkeypatch)
    own = {KEY: {**tries.store[KEY], "at": "2026-01-01T00:00:00+00:00"}}
    tries.store.clear()
    render(same=True, prompt="changed")
    tries.store.clear()
    tries.store.update(own)
    render(same=True)
    assert len(jobs(magichour_sandbox)) == 2
