"""A retry re-attaches to the paid job: the operator, the sandbox, a store like Airflow's."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from attempts import CREATES, IMAGE, Killed, jobs, killed_after_the_create, killed_while_waiting, raising

from magichour_provider import airflow_internals as compat
from magichour_provider.exceptions import InvalidResponseError, WaitTimeoutError
from magichour_provider.jobs.state_backends import KEY, RECOVERED_KEY
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.version_compat import AirflowTaskTimeout, TaskDeferred

pytestmark = pytest.mark.usefixtures("connection")


@pytest.mark.parametrize(
    ("options", "paid"),
    [({}, 1), ({"name": "changed"}, 1), ({"cleared": True}, 1), ({"prompt": "changed"}, 2)],
)
def test_attempt_after_a_kill_reattaches_unless_another_video_is_asked_for(
    tries, monkeypatch, magichour_sandbox, options, paid
):
    killed_while_waiting(tries, monkeypatch)
    result = tries(**options)
    found = jobs(magichour_sandbox)
    assert len(found) == paid
    assert (result["project_id"], result["status"]) == (found[-1]["id"], "complete")


@pytest.mark.parametrize("status", ["error", "canceled"])
def test_retry_submits_again_after_a_failed_job(tries, monkeypatch, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    killed_while_waiting(tries, monkeypatch)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], status)
    magichour_sandbox.control.behaviour(render_seconds=0)
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 2


def test_clear_after_unaccepted_success_reattaches(tries, magichour_sandbox):
    """Killed after the last line of the task, or its XCom could not be stored: a retry, or a Clear."""
    first = tries(accepted=False)
    assert tries(accepted=False)["project_id"] == first["project_id"]
    assert tries(cleared=True)["project_id"] == first["project_id"]
    assert len(jobs(magichour_sandbox)) == 1
    assert tries(cleared=True)["project_id"] != first["project_id"]


@pytest.mark.parametrize("state", ["failed", "running", None])
def test_success_that_airflow_did_not_accept_is_not_recorded(tries, context, monkeypatch, state):
    tries(accepted=False)
    monkeypatch.setattr(compat, "task_states", lambda *_, **__: {"a_task": state})
    tries.operator.on_success(context)
    assert tries.store[KEY]["stage"] == "submitted"


def test_clear_while_the_outcome_is_reported_reports_it_again(
    tries, monkeypatch, magichour_sandbox, fails_for_good
):
    """Killed while the balance is read for the message."""
    from magichour_provider.jobs import reattach

    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(reattach, "get_balance", raising(Killed()))
        with pytest.raises(Killed):
            tries()
        with pytest.raises(Killed):
            tries(cleared=True)
    with fails_for_good(match="may have been spent"):
        tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1


@pytest.mark.parametrize("body", ["<html>not found</html>", {"message": "not found"}])
def test_passing_404_keeps_the_job(tries, monkeypatch, magichour_sandbox, body):
    killed_while_waiting(tries, monkeypatch)
    fault = {"path": "/v1/video-projects/*", "status": 404, "body": body, "times": 1}
    magichour_sandbox.control.faults([fault])
    with contextlib.suppress(InvalidResponseError):
        tries()
    tries()
    assert len(jobs(magichour_sandbox)) == 1


def test_passing_404_of_the_state_store_keeps_the_job(tries, context, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    context["ti"].try_number = 2
    answers = [None]
    monkeypatch.setattr(
        type(tries.store), "get", lambda store, key: answers.pop() if answers else dict.get(store, key)
    )
    tries()
    assert answers == []
    assert len(jobs(magichour_sandbox)) == 1


def test_recovered_id_without_an_unknown_outcome_is_dropped(tries, magichour_sandbox, fails_for_good):
    first = tries()
    tries.store[RECOVERED_KEY] = first["project_id"]
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    for cleared in (True, False):
        with fails_for_good(match="for this name"):
            tries(cleared=cleared, prompt="another")


def test_unreadable_credits_keep_the_job(tries, magichour_sandbox):
    answer = {"id": "cmAnotherJob1", "credits_charged": "many"}
    magichour_sandbox.control.faults([{**CREATES, "status": 200, "body": answer, "times": 1}])
    assert tries(wait_for_completion=False)["project_id"] == "cmAnotherJob1"


@pytest.fixture
def killed_in_create(connection, tries, monkeypatch):
    """A first try that was killed after the server had taken the create."""
    killed_after_the_create(tries, monkeypatch)


@pytest.mark.usefixtures("killed_in_create")
@pytest.mark.parametrize("first", [{}, {"cleared": True}, {"prompt": "changed"}])
def test_kill_in_the_create_is_reported_before_a_clear_submits_again(
    tries, magichour_sandbox, fails_for_good, first
):
    for options in (first, {}):
        with fails_for_good(match="12000 credits before") as stopped:
            tries(**options)
        assert jobs(magichour_sandbox)[0]["name"] in str(stopped.value)
        assert "magichour.ai/my-library" in str(stopped.value)
    assert len(jobs(magichour_sandbox)) == 1
    tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 2


def test_missing_image_reattaches(tries, monkeypatch, magichour_sandbox, tmp_path):
    image = tmp_path / "still.jpg"
    image.write_bytes(Path(IMAGE).read_bytes())
    killed_while_waiting(tries, monkeypatch, image=str(image))
    image.unlink()
    assert tries(image=str(image))["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_clear_is_detected_with_fewer_retries(tries, context, magichour_sandbox):
    first = tries()
    context["ti"].max_tries = 1  # the first try, and no retries any more
    assert tries()["project_id"] != first["project_id"]


@pytest.fixture
def refuse(tries, monkeypatch):
    """Let the state store refuse writes of a stage: the first of them, or all."""
    write = type(tries.store).set

    def start(stage, times=1):
        refused = []

        def broken(store, key, value, *, retention):
            if value["stage"] == stage and len(refused) < times:
                refused.append(value)
                raise RuntimeError("the API server restarts")
            write(store, key, value, retention=retention)

        monkeypatch.setattr(type(tries.store), "set", broken)

    return start


def test_state_store_error_after_the_create_keeps_the_job(tries, refuse, magichour_sandbox, caplog):
    refuse("submitted")
    result = tries()
    (job,) = jobs(magichour_sandbox)
    assert (result["project_id"], result["status"]) == (job["id"], "complete")
    assert job["id"] in caplog.text
    assert tries()["project_id"] == job["id"]


def test_unsaved_job_is_saved_before_the_deferral(tries, refuse, magichour_sandbox):
    refuse("submitted")
    with pytest.raises(TaskDeferred):
        tries(deferrable=True)
    assert tries.store[KEY]["project_id"] == jobs(magichour_sandbox)[0]["id"]


def test_unsaved_job_is_saved_when_the_task_ends(tries, context, refuse, magichour_sandbox):
    refuse("submitted", times=2)
    with pytest.raises(TaskDeferred):
        tries(deferrable=True)
    assert tries.store[KEY]["stage"] == "intent"
    (job,) = jobs(magichour_sandbox)
    event = {"ending": "complete", "project_id": job["id"], "status": "complete", "credits_charged": 70}
    tries.operator.execute_complete(context, event)
    tries.succeed()
    record = tries.store[KEY]
    assert (record["stage"], record["project_id"], record["credits_charged"]) == ("done", job["id"], 70)


def test_unknown_outcome_is_reported_without_a_store(tries, refuse, magichour_sandbox, fails_for_good):
    magichour_sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    refuse("unknown")
    with fails_for_good(match="search the Magic Hour library"):
        tries()
    assert len(jobs(magichour_sandbox)) == 1


def test_state_of_a_later_version_is_read(tries, magichour_sandbox):
    first = tries()
    tries.store[KEY]["something_new"] = 1
    assert tries()["project_id"] == first["project_id"]


@pytest.mark.parametrize("trouble", [RuntimeError("disk"), AirflowTaskTimeout("time is up")])
def test_error_after_the_create_reattaches(tries, magichour_sandbox, monkeypatch, trouble):
    with monkeypatch.context() as patch:
        patch.setattr(ImageToVideoOperator, "_announce", raising(trouble))
        with pytest.raises(type(trouble)):
            tries()
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_unreadable_state_submits_nothing(tries, magichour_sandbox, fails_for_good):
    tries.store[KEY] = {"stage": "beyond"}
    with fails_for_good(match="cannot be read"):
        tries()
    assert jobs(magichour_sandbox) == []


def test_timeout_reattaches(tries, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=600)
    with pytest.raises(WaitTimeoutError):
        tries(timeout=3)  # long enough to submit on a busy machine
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], "complete")
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1


def test_no_wait_retry_reattaches_and_clear_submits(tries, magichour_sandbox):
    first = tries(wait_for_completion=False)
    assert tries(wait_for_completion=False)["project_id"] == first["project_id"]
    assert tries(wait_for_completion=False, cleared=True)["project_id"] != first["project_id"]


def test_durable_false_writes_no_state(tries, magichour_sandbox):
    tries(durable=False)
    assert tries.store == {}


def test_state_holds_ids_numbers_and_a_hash(tries, monkeypatch):
    secrets = {"prompt": "a secret prompt", "image": "https://example.com/a.png?sig=SECRET"}
    killed_while_waiting(tries, monkeypatch, **secrets)
    record = tries.store[KEY]
    assert {type(value) for value in record.values()} <= {str, int, bool, type(None)}
    assert "secret" not in str(record).lower()


def test_refused_create_restores_the_earlier_state(tries, magichour_sandbox, fails_for_good):
    first = tries()
    record = dict(tries.store[KEY])
    magichour_sandbox.control.faults([{**CREATES, "status": 422, "body": {"message": "no"}, "times": 1}])
    with fails_for_good(match="422"):
        tries(cleared=True)
    assert tries.store[KEY] == record
    assert tries()["project_id"] != first["project_id"], "the Clear still holds for the next try"


def test_unknown_outcome_compares_balances(tries, magichour_sandbox, fails_for_good):
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
def test_recovered_id_reattaches(tries, magichour_sandbox, fails_for_good):
    with fails_for_good(match=RECOVERED_KEY):
        tries()
    (job,) = jobs(magichour_sandbox)
    tries.store[RECOVERED_KEY] = job["id"]
    assert tries(cleared=True)["project_id"] == job["id"]
    assert len(jobs(magichour_sandbox)) == 1
    assert RECOVERED_KEY not in tries.store


@pytest.mark.usefixtures("killed_in_create")
@pytest.mark.parametrize("found", ["cmNotOfThisAccount", "https://magichour.ai/my-library", 5])
def test_wrong_recovered_id_submits_nothing(tries, magichour_sandbox, fails_for_good, found):
    tries.store[RECOVERED_KEY] = found
    with fails_for_good(match="is not the id of a job of this account"):
        tries(cleared=True)
    assert len(jobs(magichour_sandbox)) == 1


def test_no_wait_reattach_returns_the_present_status(tries, monkeypatch, magichour_sandbox):
    killed_while_waiting(tries, monkeypatch)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], "complete")
    result = tries(wait_for_completion=False, name="another name")
    assert (result["status"], result["name"]) == ("complete", "a_dag a_task a_run")


def test_xcom_error_keeps_the_job(tries, context, monkeypatch, magichour_sandbox):
    monkeypatch.setattr(context["ti"], "xcom_push", raising(RuntimeError("the API server is gone")))
    assert tries()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 1
