"""A new try takes up what an earlier one has paid for: the operator, the sandbox, a store like Airflow's."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from magichour_provider import airflow_internals as compat
from magichour_provider.exceptions import InvalidResponseError
from magichour_provider.jobs.state import RECOVERED_KEY, KEY
from magichour_provider.operators.image_to_video import ImageToVideoOperator

pytestmark = pytest.mark.usefixtures("connection")

IMAGE = "dags_examples/images/grace_hopper.jpg"
CREATES = {"method": "POST", "path": "/v1/image-to-video"}


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


def jobs(sandbox):
    return sandbox.control.state()["jobs"]


def raising(error):
    def stop(*args):
        raise error

    return stop


def killed_while_waiting(tries, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(ImageToVideoOperator, "_wait", raising(Killed()))
        with pytest.raises(Killed):
            tries(**options)


def test_a_try_that_was_killed_while_waiting_is_gone_on_with(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    result = tries()
    (job,) = jobs(magichour_sandbox)
    assert (result["project_id"], result["status"]) == (job["id"], "complete")


def test_a_job_that_became_complete_meanwhile_is_taken_as_it_is(tries, monkeypatch, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=0)
    killed_while_waiting(tries, monkeypatch)
    assert tries()["project_id"] == jobs(magichour_sandbox)[0]["id"]
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("status", ["error", "canceled"])
def test_a_job_that_came_to_nothing_is_submitted_anew(tries, monkeypatch, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    killed_while_waiting(tries, monkeypatch)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], status)
    magichour_sandbox.control.behaviour(render_seconds=0)
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 2


def test_another_request_is_another_job(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    tries(prompt="changed")
    assert len(jobs(magichour_sandbox)) == 2


def test_another_name_is_the_same_job(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    tries(name="changed")
    assert len(jobs(magichour_sandbox)) == 1


def test_a_cleared_success_is_rendered_anew(tries, magichour_sandbox):
    first = tries()
    second = tries(cleared=True)
    assert first["project_id"] != second["project_id"]
    assert len(jobs(magichour_sandbox)) == 2


def test_a_success_that_airflow_never_heard_of_is_not_paid_for_again(tries, magichour_sandbox):
    """Killed after the last line of the task, or its XCom could not be stored: a retry, or a Clear."""
    first = tries(told=False)
    assert tries(told=False)["project_id"] == first["project_id"]
    assert tries(cleared=True)["project_id"] == first["project_id"]
    assert len(jobs(magichour_sandbox)) == 1
    assert tries(cleared=True)["project_id"] != first["project_id"]


@pytest.mark.parametrize("state", ["failed", "running", None])
def test_success_that_airflow_did_not_accept_is_not_recorded(tries, context, monkeypatch, state):
    tries(told=False)
    monkeypatch.setattr(compat, "task_states", lambda *_, **__: {"a_task": state})
    tries.operator.on_success(context)
    assert tries.store[KEY]["stage"] == "submitted"


def test_a_clear_while_a_person_is_being_told_tells_them_again(
    tries, monkeypatch, magichour_sandbox, fails_for_good
):
    """Killed while the balance is read for the message."""
    from magichour_provider.jobs import submit as purchase

    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(purchase, "get_balance", raising(Killed()))
        with pytest.raises(Killed):
            tries()
        with pytest.raises(Killed):
            tries(cleared=True)
    with fails_for_good(match="may have been spent"):
        tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("body", ["<html>not found</html>", {"message": "not found"}])
def test_a_passing_404_does_not_lose_the_job(tries, monkeypatch, magichour_sandbox, body):
    killed_while_waiting(tries, monkeypatch)
    fault = {"path": "/v1/video-projects/*", "status": 404, "body": body, "times": 1}
    magichour_sandbox.control.faults([fault])
    with contextlib.suppress(InvalidResponseError):
        tries()
    tries()
    assert len(jobs(magichour_sandbox)) == 1


def test_a_store_that_forgets_for_a_moment_does_not_lose_the_job(
    tries, context, monkeypatch, magichour_sandbox
):
    killed_while_waiting(tries, monkeypatch)
    context["ti"].try_number = 2
    answers = [None]
    monkeypatch.setattr(
        type(tries.store), "get", lambda store, key: answers.pop() if answers else dict.get(store, key)
    )
    tries()
    assert answers == []
    assert len(jobs(magichour_sandbox)) == 1


def test_a_found_job_that_nobody_asked_for_is_not_kept_for_later(tries, magichour_sandbox, fails_for_good):
    first = tries()
    tries.store[RECOVERED_KEY] = first["project_id"]
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    for cleared in (True, False):
        with fails_for_good(match="for this name"):
            tries(cleared=cleared, prompt="another")


def test_a_price_that_cannot_be_read_does_not_lose_the_job(tries, magichour_sandbox):
    answer = {"id": "cmAnotherJob1", "credits_charged": "many"}
    magichour_sandbox.control.faults([{**CREATES, "status": 200, "body": answer, "times": 1}])
    assert tries(wait_for_completion=False)["project_id"] == "cmAnotherJob1"


def test_a_cleared_failure_takes_the_job_up(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1


@pytest.fixture
def killed_in_create(connection, tries, monkeypatch):
    """A first try that was killed after the server had taken the create."""
    from magichour_provider.client.sync import MagicHourClient

    create = MagicHourClient.create_image_to_video

    def killed_after(client, *arguments):
        create(client, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MagicHourClient, "create_image_to_video", killed_after)
        with pytest.raises(Killed):
            tries()


@pytest.mark.usefixtures("killed_in_create")
def test_a_try_that_was_killed_inside_the_create_stops_the_next_ones_until_a_person_clears_it(
    tries, magichour_sandbox, fails_for_good
):
    for _ in range(2):
        with fails_for_good(match="12000 credits before") as stopped:
            tries()
        assert jobs(magichour_sandbox)[0]["name"] in str(stopped.value)
        assert "magichour.ai/my-library" in str(stopped.value)
    assert len(jobs(magichour_sandbox)) == 1
    tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 2


@pytest.mark.usefixtures("killed_in_create")
def test_a_clear_by_somebody_who_was_not_told_yet_tells_them_first(tries, magichour_sandbox, fails_for_good):
    with fails_for_good(match="clear the task: it submits again"):
        tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1
    tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 2


@pytest.mark.usefixtures("killed_in_create")
def test_a_changed_request_does_not_settle_an_unknown_outcome(tries, magichour_sandbox, fails_for_good):
    with fails_for_good(match="library"):
        tries(prompt="changed")
    assert len(jobs(magichour_sandbox)) == 1


def test_a_paid_job_is_not_lost_with_its_image(tries, monkeypatch, magichour_sandbox, tmp_path):
    image = tmp_path / "still.jpg"
    image.write_bytes(Path(IMAGE).read_bytes())
    killed_while_waiting(tries, monkeypatch, image=str(image))
    image.unlink()
    assert tries(image=str(image))["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_a_clear_is_seen_when_the_dag_has_fewer_retries_by_now(tries, context, magichour_sandbox):
    first = tries()
    context["ti"].max_tries = 1  # the first try, and no retries any more
    assert tries()["project_id"] != first["project_id"]


def test_a_store_that_fails_after_the_create_does_not_let_go_of_the_job(
    tries, monkeypatch, magichour_sandbox, caplog
):
    refused = []

    def broken(store, key, value, *, retention):
        if value["stage"] == "submitted" and not refused:
            refused.append(value)
            raise RuntimeError("the API server restarts")
        store[key] = value

    monkeypatch.setattr(type(tries.store), "set", broken)
    result = tries()
    (job,) = jobs(magichour_sandbox)
    assert (result["project_id"], result["status"]) == (job["id"], "complete")
    assert job["id"] in caplog.text
    assert tries()["project_id"] == job["id"]


def test_a_record_of_a_later_version_is_read(tries, magichour_sandbox):
    first = tries()
    tries.store[KEY]["something_new"] = 1
    assert tries()["project_id"] == first["project_id"]


def test_a_record_that_cannot_be_read_pays_for_nothing(tries, magichour_sandbox, fails_for_good):
    tries.store[KEY] = {"stage": "beyond"}
    with fails_for_good(match="cannot be read"):
        tries()
    assert jobs(magichour_sandbox) == []


def test_a_create_of_unknown_outcome_stops_the_next_try_too(tries, magichour_sandbox, fails_for_good):
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    for _ in range(2):
        with fails_for_good(match="library"):
            tries()
    assert len(jobs(magichour_sandbox)) == 1


def test_a_create_that_was_not_taken_leaves_no_record(tries, magichour_sandbox, fails_for_good):
    magichour_sandbox.control.faults([{**CREATES, "status": 422, "body": {"message": "no"}, "times": 1}])
    with fails_for_good(match="422"):
        tries()
    assert KEY not in tries.store
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("trouble", [RuntimeError("disk"), AirflowTaskTimeout("time is up")])
def test_trouble_after_the_create_may_be_retried(tries, magichour_sandbox, monkeypatch, trouble):
    with monkeypatch.context() as patch:
        patch.setattr(ImageToVideoOperator, "_announce", raising(trouble))
        with pytest.raises(type(trouble)):
            tries()
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_a_passed_deadline_may_be_retried(tries, magichour_sandbox):
    from magichour_provider.exceptions import WaitTimeoutError

    magichour_sandbox.control.behaviour(render_seconds=1)
    with pytest.raises(WaitTimeoutError):
        tries(timeout=0.3)
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_without_waiting_a_retry_returns_the_same_job_and_a_clear_a_new_one(tries, magichour_sandbox):
    first = tries(wait_for_completion=False)
    assert tries(wait_for_completion=False)["project_id"] == first["project_id"]
    assert tries(wait_for_completion=False, cleared=True)["project_id"] != first["project_id"]


def test_who_does_not_want_a_record_has_none(tries, magichour_sandbox):
    tries(durable=False)
    assert tries.store == {}


def test_the_record_holds_ids_numbers_and_a_hash(tries, monkeypatch):
    killed_while_waiting(
        tries, monkeypatch, prompt="a secret prompt", image="https://example.com/a.png?sig=SECRET"
    )
    record = tries.store[KEY]
    assert set(record) == {
        "stage",
        "fingerprint",
        "at",
        "max_tries",
        "name",
        "balance",
        "cost",
        "spent",
        "project_id",
        "credits_charged",
        "elsewhere",
        "run",
        "task",
        "attempt",
        "intent_id",
    }
    assert "secret" not in str(record).lower()


def test_what_was_known_before_a_create_that_was_not_taken_is_known_after_it(
    tries, magichour_sandbox, fails_for_good
):
    first = tries()
    record = dict(tries.store[KEY])
    magichour_sandbox.control.faults([{**CREATES, "status": 422, "body": {"message": "no"}, "times": 1}])
    with fails_for_good(match="422"):
        tries(cleared=True)
    assert tries.store[KEY] == record
    assert tries()["project_id"] != first["project_id"], "the Clear still holds for the next try"


def test_an_unknown_outcome_says_what_the_balance_does(tries, magichour_sandbox, fails_for_good):
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    hint = "12000 credits before, and has 11928 now, 72 fewer; the video costs 72"
    for _ in range(2):
        with fails_for_good(match=hint):
            tries()
    magichour_sandbox.control.account(credits=12_000)
    with fails_for_good(match="has 12000 now, as many"):
        tries()
    magichour_sandbox.control.faults([{"path": "/v1/account", "status": 500}])
    with fails_for_good(match="cannot be read now"):
        tries()
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.usefixtures("killed_in_create")
def test_a_job_that_a_person_has_found_is_taken_up(tries, magichour_sandbox, fails_for_good):
    with fails_for_good(match=RECOVERED_KEY):
        tries()
    (job,) = jobs(magichour_sandbox)
    tries.store[RECOVERED_KEY] = job["id"]
    assert tries(cleared=True)["project_id"] == job["id"]
    assert len(jobs(magichour_sandbox)) == 1
    assert RECOVERED_KEY not in tries.store


@pytest.mark.usefixtures("killed_in_create")
@pytest.mark.parametrize("found", ["cmNotOfThisAccount", "https://magichour.ai/my-library", 5])
def test_a_mistyped_id_pays_for_nothing(tries, magichour_sandbox, fails_for_good, found):
    tries.store[RECOVERED_KEY] = found
    with fails_for_good(match="is not the id of a job of this account"):
        tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1


def test_a_job_taken_up_without_waiting_is_told_as_it_is(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], "complete")
    result = tries(wait_for_completion=False, name="another name")
    assert (result["status"], result["name"]) == ("complete", "a_dag a_task a_run")


def test_an_unknown_outcome_is_told_although_it_cannot_be_recorded(
    tries, monkeypatch, magichour_sandbox, fails_for_good
):
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    write = type(tries.store).set

    def broken(store, key, value, *, retention):
        if value["stage"] == "unknown":
            raise RuntimeError("the API server is gone")
        write(store, key, value, retention=retention)

    monkeypatch.setattr(type(tries.store), "set", broken)
    with fails_for_good(match="search the Magic Hour library"):
        tries()
    assert len(jobs(magichour_sandbox)) == 1


def test_an_xcom_that_cannot_be_written_is_no_reason_to_let_go_of_the_job(
    tries, context, monkeypatch, magichour_sandbox
):
    monkeypatch.setattr(context["ti"], "xcom_push", raising(RuntimeError("the API server is gone")))
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_a_job_that_could_not_be_recorded_is_recorded_before_the_task_defers(
    tries, monkeypatch, magichour_sandbox
):
    write, refused = type(tries.store).set, []

    def broken_once(store, key, value, *, retention):
        if value["stage"] == "submitted" and not refused:
            refused.append(value)
            raise RuntimeError("the API server restarts")
        write(store, key, value, retention=retention)

    monkeypatch.setattr(type(tries.store), "set", broken_once)
    with pytest.raises(TaskDeferred):
        tries(deferrable=True)
    assert tries.store[KEY]["project_id"] == jobs(magichour_sandbox)[0]["id"]


def test_a_job_that_could_never_be_recorded_is_recorded_when_its_task_ends(
    tries, context, monkeypatch, magichour_sandbox
):
    write = type(tries.store).set

    def broken(store, key, value, *, retention):
        if value["stage"] == "submitted":
            raise RuntimeError("the API server restarts")
        write(store, key, value, retention=retention)

    with monkeypatch.context() as patch:
        patch.setattr(type(tries.store), "set", broken)
        with pytest.raises(TaskDeferred):
            tries(deferrable=True)
    (job,) = jobs(magichour_sandbox)
    event = {"ending": "complete", "project_id": job["id"], "status": "complete", "credits_charged": 70}
    tries.operator.execute_complete(context, event)
    tries.succeed()
    record = tries.store[KEY]
    assert (record["stage"], record["project_id"], record["credits_charged"]) == ("done", job["id"], 70)
