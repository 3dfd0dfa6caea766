"""Webhooks at a live Airflow with two triggerers: what they end, and what happens if they do not come."""

from __future__ import annotations

import json
import statistics
import threading
import time
from datetime import datetime

import httpx
import pytest
from live_airflow import LiveAirflow
from postgres import postgres
from runs import API_KEY, HELD_SECONDS, IMAGE, POLL, Run
from sandbox_process import sandbox as sandbox_process

from magichour_provider.client.webhooks import sign
from magichour_provider.sandbox import SandboxControl

SECRET = "whsec_LIVE_DISTINCTIVE"
MANY = 100


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    log = tmp_path_factory.mktemp("webhooks-sandbox") / "sandbox.log"
    arguments = ("--quick", "--api-key", API_KEY, "--credits", "1000000")
    with sandbox_process(log, *arguments) as url, SandboxControl(url) as control:
        control.url = url
        yield control


@pytest.fixture(scope="module")
def airflow(sandbox, dags, tmp_path_factory):
    connection = {"conn_type": "magichour", "host": sandbox.url, "password": API_KEY}
    hooked = {**connection, "extra": {"webhook_secret": SECRET}}
    env = {
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(hooked),
        "AIRFLOW_CONN_HOOKED": json.dumps(hooked),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__OPENLINEAGE__DISABLED": "True",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
        # A task sends its requests to an absent api-server again for 60 seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "13",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "5",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
    }
    home = tmp_path_factory.mktemp("webhooks")
    with postgres() as database, LiveAirflow(home, dags, database=database, env=env) as airflow:
        airflow.start("triggerer-2")
        yield airflow


@pytest.fixture
def start(airflow, sandbox, tmp_path):
    """Start a run whose jobs end when the test completes them. Webhooks go to the live Airflow."""

    def start(dag_id, run_id, *, conn_id="hooked"):
        url = f"{airflow.base_url}/magichour/webhooks/{conn_id}"
        sandbox.behaviour(webhook_url=url, webhook_secret=SECRET, render_seconds=HELD_SECONDS)
        airflow.trigger(dag_id, {"image": str(IMAGE), "folder": str(tmp_path)}, run_id=run_id)
        return Run(airflow, sandbox, dag_id, run_id, tmp_path)

    yield start
    sandbox.faults([])


def end_of(run, task_id="render", map_index=-1):
    """When the task ended, in epoch seconds."""
    return datetime.fromisoformat(run.task(task_id, map_index)["end_date"].replace("Z", "+00:00")).timestamp()


def fired_at(run):
    """When each trigger has fired, in epoch seconds."""
    events = map(json.loads, filter(None, run.log_files().splitlines()))
    fired = [event["timestamp"] for event in events if event["event"] == "Trigger fired event"]
    return [datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() for at in fired]


def submitted(run, count=1):
    run.until(lambda: len(run.jobs()) == count, "the jobs are submitted")
    return run.jobs()


def test_webhook_ends_a_deferred_operator_with_two_requests(start, sandbox):
    run = start("webhook_operator", "operator")
    run.until_counts(deferred=1, **{"None": 1})
    job = run.only_job()
    run.complete()
    ended = time.time()
    assert run.wait() == "success"
    seconds = end_of(run) - ended
    print(f"from the end of the job to the end of its task: {seconds:.1f} s")
    assert run.only_job()["polls"] <= 2, "one for the wait, one for the download"
    assert run.xcom(key="magichour_noticed_by") == "webhook"
    assert run.xcom()["project_id"] == job["id"]
    assert "killed" not in run.log_files().lower()
    assert SECRET not in run.log_files()
    assert (run.folder / f"{job['id']}.mp4").exists()
    page = httpx.get(
        f"{run.airflow.base_url}/magichour/task",
        params={"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "render"},
        cookies={"_token": run.airflow._new_token()},
        trust_env=False,
    ).text
    assert "a webhook of Magic Hour" in page


def test_webhook_ends_a_sensor_without_a_worker(start):
    run = start("webhook_sensor", "sensor")
    run.until(lambda: "This sensor waits for job" in run.log_files(), "the sensor waits")
    run.complete()
    assert run.wait() == "success"
    assert run.workers("wait") == 0
    # The last is the download's. A triggerer that starts slowly polls first: the job may have ended.
    assert run.only_job()["polls"] <= 3
    assert run.xcom("wait", "magichour_noticed_by") == "webhook"


def test_video_of_a_forgotten_job_starts_a_dag(start, airflow, sandbox):
    airflow.unpause("magichour_when_a_video_is_ready")
    airflow.unpause("magichour_submit_and_forget")
    run = start("magichour_submit_and_forget", "forget", conn_id="magichour_default")
    assert run.wait() == "success"
    (job,) = run.jobs()
    run.complete()

    def runs():
        found = airflow.request("GET", "/dags/magichour_when_a_video_is_ready/dagRuns")["dag_runs"]
        return [each for each in found if each["state"] in ("success", "failed")]

    run.until(runs, "the other Dag has run")
    (reaction,) = runs()
    assert reaction["state"] == "success"
    where = ("magichour_when_a_video_is_ready", reaction["dag_run_id"], "download")
    assert airflow.xcom(*where, map_index=0)["project_id"] == job["id"]
    assert run.only_job()["polls"] == 1, "the download's"


def test_jobs_that_end_in_the_same_second_all_end_by_webhooks(start):
    run = start("webhook_many", "many")
    run.until_counts(deferred=MANY)
    before = {job["id"]: job["polls"] for job in submitted(run, MANY)}
    run.complete()
    ended = time.time()
    assert run.wait() == "success"
    polls = [job["polls"] - before[job["id"]] for job in run.jobs()]
    waits = [at - ended for at in fired_at(run)]
    tasks = [end_of(run, map_index=index) - ended for index in range(MANY)]
    print(f"{MANY} jobs end at once: their waits end after {statistics.median(waits):.1f} s (median)")
    print(f"and {max(waits):.1f} s (at most), their tasks after {statistics.median(tasks):.1f} s (median)")
    print(f"with {sum(polls)} polls")
    assert max(polls) <= 2
    noticed = [run.xcom(key="magichour_noticed_by", map_index=index) for index in range(MANY)]
    assert noticed.count("webhook") >= MANY - 5


@pytest.mark.parametrize("fault", ["never", "wrong_signature", "old_timestamp"])
def test_job_without_a_genuine_webhook_ends_by_polling(start, sandbox, fault):
    run = start("webhook_operator", f"without-{fault}")
    sandbox.faults([{"path": "video.*", "origin": "webhook", "webhook": fault}])
    run.until_counts(deferred=1, **{"None": 1})
    run.complete()
    assert run.wait() == "success"
    assert run.xcom(key="magichour_noticed_by") is None
    assert sum(job["credits_charged"] > 0 for job in run.jobs()) == 1


def test_doubled_and_late_webhooks_change_nothing(start, sandbox):
    run = start("webhook_operator", "doubled")
    sandbox.faults(
        [
            {"path": "video.completed", "origin": "webhook", "webhook": "twice"},
            {"path": "video.started", "origin": "webhook", "delay": 5},
        ]
    )
    run.until_counts(deferred=1, **{"None": 1})
    run.complete()
    assert run.wait() == "success"
    assert len(run.jobs()) == 1


def test_triggerer_killed_at_the_moment_of_the_webhook(start, airflow):
    run = start("webhook_many", "triggerer-killed")
    run.until_counts(deferred=MANY)
    airflow.kill("triggerer")
    run.complete()
    airflow.start("triggerer")
    assert run.wait() == "success"
    assert len(run.jobs()) == MANY


def test_api_server_killed_right_after_the_answer(start, airflow, sandbox):
    run = start("webhook_operator", "api-server-killed")
    run.until_counts(deferred=1, **{"None": 1})
    sandbox.faults([{**POLL, "delay": 3}])
    seen = len(sandbox.state()["webhooks"])
    run.complete()
    run.until(lambda: len(sandbox.state()["webhooks"]) > seen, "the webhook is answered")
    airflow.kill("api-server")
    airflow.start("api-server")
    assert run.wait() == "success"
    assert len(run.jobs()) == 1


def test_flood_of_forged_posts_leaves_the_pages_working(start, airflow, sandbox):
    url = f"{airflow.base_url}/magichour/webhooks/hooked"
    body = json.dumps({"type": "video.completed", "payload": {"id": "cm1", "status": "complete"}}).encode()
    at = str(int(time.time()))
    headers = {
        "magic-hour-event-signature": sign(body, "whsec_another", at),
        "magic-hour-event-timestamp": at,
    }
    answers, slowest = [], 0.0
    before = memory_of(airflow)

    def flood():
        with httpx.Client(trust_env=False, timeout=120) as client:
            for _ in range(2500):
                answers.append(client.post(url, content=body, headers=headers))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    cookies = {"_token": airflow._new_token()}
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        page = httpx.get(f"{airflow.base_url}/magichour/", cookies=cookies, trust_env=False, timeout=120)
        assert page.status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    assert {(answer.status_code, answer.content) for answer in answers} == {(401, b"")}
    assert len(answers) == 10_000
    grown = (memory_of(airflow) - before) / 2**20
    print(
        f"10,000 forged posts: the API server grew by {grown:.0f} MiB, the slowest page took {slowest:.1f} s"
    )
    assert grown < 50


def memory_of(airflow):
    import psutil

    server = psutil.Process(airflow.processes["api-server"].pid)
    return sum(each.memory_info().rss for each in (server, *server.children(recursive=True)))
