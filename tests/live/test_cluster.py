"""CeleryExecutor with two of each part: workers are killed, frozen, shut down and limited in time.

`make test-cluster` runs this. Each story below is played once, on one cluster.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from airflow_rest import FINISHED_RUN
from celery import Celery
from cluster_dags import VIDEOS
from live_cluster import disk_of, has_private_disks, live_cluster, worker
from processes import wait_until
from report import CLUSTER, CLUSTER_KILLS, FIVE_HUNDRED
from runs import CREATE, DEFERRABLE, IMAGE, MAPPED, PUT, SYNCHRONOUS, Starter
from test_kill_points import (
    POLLING,
    RESUMED,
    STORED,
    SUBMISSION,
    WAITING,
    Kill,
    assert_clear_refusal,
)

pytestmark = pytest.mark.timeout(7200)

AT_ONCE = 6
DAGS = Path(__file__).parent / "dags"
VISIBILITY_SECONDS = 20
"""How long the broker waits for a worker to acknowledge a task before another worker gets it."""
LIMIT_SECONDS = 45
"""Celery's time limits: long enough for a task to reach its create, which may take 62 seconds."""
REFUSED = "Task already running elsewhere, ignoring redelivered message"
"""The worker's message about a task that Airflow does not let it run."""
ENV = {
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBILITY_SECONDS),
    "AIRFLOW__OPENLINEAGE__DISABLED": "True",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
}
KILLS = [
    *(Kill(point, mode, dags="cluster") for point in SUBMISSION for mode in (SYNCHRONOUS, DEFERRABLE)),
    Kill(POLLING, SYNCHRONOUS, dags="cluster"),
    Kill(STORED, DEFERRABLE, dags="cluster"),
    Kill(WAITING, SYNCHRONOUS, dags="cluster"),
    Kill(RESUMED, DEFERRABLE, dags="cluster"),
]
DURING_CREATE = "during the create, after Magic Hour has received it"
HELD_CREATE = {**CREATE, "hold": "after"}
WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="module")
def cluster(s3, tmp_path_factory):
    dags = tmp_path_factory.mktemp("cluster-dags")
    for name in ("breaking_dags.py", "cluster_dags.py"):
        shutil.copy(DAGS / name, dags)
    s3.client().create_bucket(Bucket="states")
    env = {**ENV, "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(s3.connection)}
    home = tmp_path_factory.mktemp("cluster")
    with live_cluster(home, dags, concurrency=len(KILLS) + 2, env=env) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def cluster_starter(cluster, tmp_path_factory):
    starter = Starter(cluster, tmp_path_factory.mktemp("cluster-runs"))
    yield starter
    starter.close()


# -- A worker is killed with all its processes


@pytest.fixture(scope="module")
def killed(cluster, cluster_starter, tmp_path_factory):
    """Tasks at each point of a submission on one worker, and what became of them when it was killed."""
    gate = tmp_path_factory.mktemp("gate") / "open"
    runs = {}
    for number, kill in enumerate(KILLS):
        # A held request ends by its timeout, so those tasks start it at the same moment, and last.
        conf = {"gate": str(gate)} if kill.point.hold else {}
        runs[kill] = kill.start(cluster_starter, f"killed-{number}", **conf)
    reached = {kill: kill.reach(run) for kill, run in runs.items() if not kill.point.hold}
    for run in (run for kill, run in runs.items() if kill.point.hold):
        run.until_signed("ready")
    gate.touch()
    reached |= {kill: kill.reach(run) for kill, run in runs.items() if kill.point.hold}
    assert {cluster.part_of(victim["pid"]) for _, victim in reached.values()} == {"worker-1"}
    cluster.kill("worker-1")
    with taken_over(cluster), ThreadPoolExecutor(AT_ONCE) as pool:
        ends = dict(zip(reached, pool.map(lambda kill: kill.end(*reached[kill]), reached), strict=True))
        for run, victim in reached.values():
            run.until(lambda task=victim: len(deliveries(cluster, task)) > 1, "its message came again")
    cluster.restart("worker-1")
    return ends


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.id)
def test_worker_kill_pays_nothing_twice(kill, killed, report):
    row, errors, cleared = killed[kill]
    if kill.point.is_known:
        code = "reattached" if kill.point.paid else "submitted"
        assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", code, 1, 1)
    else:
        assert (row.ends, row.job) == ("failed, attempt 2", "unknown-reported")
        assert row.paid == row.rendered == kill.point.paid
        assert_clear_refusal(errors["AirflowFailException"], kill)
        assert (cleared.ends, cleared.paid) == ("success, attempt 3", cleared.requested)
    for each in filter(None, (row, cleared)):
        report.add(CLUSTER_KILLS, each, place=KILLS.index(kill))


# -- What another worker does not see


def test_retry_on_another_worker_without_image(cluster, cluster_starter, report):
    if not has_private_disks():
        pytest.skip("needs a disk for each worker: Linux, and root or user namespaces")
    shutil.copy(IMAGE, cluster.home / "disks" / "worker-1" / IMAGE.name)
    image = str(disk_of(cluster) / IMAGE.name)
    run = cluster_starter.start("cluster_deferrable", "image-on-its-disk", image=image, stop_at="defer")
    assert_reattaches_after_kill(cluster, run)
    what = "its worker is killed after the id is stored, and has the only copy of the image"
    row = run.row(what, DEFERRABLE)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", "reattached", 1, 1)
    report.add(CLUSTER, row)


def test_retry_on_another_worker_with_state_in_s3(cluster, cluster_starter, s3, report):
    run = cluster_starter.start("cluster_state_in_s3", "state-in-s3", stop_at="defer")
    assert_reattaches_after_kill(cluster, run)
    state = json.loads(s3.client().get_object(Bucket="states", Key="state-in-s3.json")["Body"].read())
    assert run.only_job()["id"] in json.dumps(state)
    row = run.row("its worker is killed after the id is stored; `state_path` is in S3", DEFERRABLE)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", "reattached", 1, 1)
    report.add(CLUSTER, row)


def assert_reattaches_after_kill(cluster, run):
    STORED.reach(run)
    assert cluster.part_of(run.until_in("running")["pid"]) == "worker-1"
    cluster.kill("worker-1")
    with taken_over(cluster):
        assert run.finish() == "success"
        assert run.task()["hostname"] == "worker-2"
    cluster.restart("worker-1")


def test_state_on_the_disk_of_a_worker_is_refused(cluster_starter, report):
    run = cluster_starter.start("cluster_state_on_disk", "state-on-its-disk")
    assert run.wait() == "failed"
    message = run.errors(run.task())["InvalidRequestError"]
    for part in ("on the disk of one of them", "CeleryExecutor", "shared_folders"):
        assert part in message
    row = run.row("`state_path` is on the disk of one worker", DEFERRABLE)
    assert (row.ends, row.job, row.paid) == ("failed, attempt 1", "not-submitted", 0)
    report.add(CLUSTER, row)


# -- The broker delivers a message again while its task runs


def test_redelivery_starts_no_second_attempt(cluster, cluster_starter, report):
    submits = cluster_starter.start("breaking_synchronous", "redelivered-in-its-create", hold=HELD_CREATE)
    waits = cluster_starter.start("breaking_synchronous", "redelivered-in-its-wait")
    submits.until_held()
    WAITING.reach(waits)
    with redelivery(cluster) as redeliver:
        for run in (submits, waits):
            task = run.until_in("running")
            run.until(
                lambda task=task: redeliver() or is_refused_again(cluster, task), "the message is refused"
            )
    submits.sandbox.release()
    for run, point in ((submits, DURING_CREATE), (waits, WAITING.what)):
        assert run.finish() == "success"
        row = run.row(f"the broker delivers its message again {point}", SYNCHRONOUS)
        assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 1", "submitted", 1, 1)
        report.add(CLUSTER, row)


# -- Celery ends a task at its time limits


@pytest.mark.parametrize("limit", ["soft", "hard"])
def test_time_limit_pays_nothing_twice(limit, limited, report):
    submits, waits = limited[limit]
    what = f"Celery's {limit} time limit passes"
    row = submits.row(f"{what} {DURING_CREATE}", SYNCHRONOUS)
    assert (row.ends, row.job, row.paid) == ("failed, attempt 2", "unknown-reported", 1)
    report.add(CLUSTER, row)
    row = waits.row(f"{what} {WAITING.what}", SYNCHRONOUS)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", "reattached", 1, 1)
    report.add(CLUSTER, row)


@pytest.fixture(scope="module")
def limited(cluster, cluster_starter):
    """For each kind of limit a run that was in its create, and one that waited, when it passed."""
    options = {"soft": "task_soft_time_limit", "hard": "task_time_limit"}
    runs = {}
    for limit, option in options.items():
        env = {"AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps({option: LIMIT_SECONDS})}
        place = worker(cluster.home, f"worker-{limit}", f"limited-{limit}", env=env)
        cluster.start(f"worker-{limit}", place=place)
        submits = cluster_starter.start(f"cluster_limited_{limit}", f"{limit}-in-create", hold=HELD_CREATE)
        waits = cluster_starter.start(f"cluster_limited_{limit}", f"{limit}-in-wait")
        runs[limit] = (submits, waits)
    for submits, waits in runs.values():
        submits.until_held()
        WAITING.reach(waits)
        assert {run.task()["try_number"] for run in (submits, waits)} == {1}, "the limit passed too early"
    for pair in runs.values():
        for run in pair:
            run.until(lambda run=run: run.task()["try_number"] == 2, "the limit has passed")
            run.finish()
    for limit in options:
        cluster.kill(f"worker-{limit}")
    return runs


# -- A worker shuts down while its tasks run


def test_warm_shutdown_lets_submission_and_download_end(cluster, cluster_starter, report):
    downloads = cluster_starter.start("cluster_download", "shut-down-in-its-download")
    cut = {"path": "*", "method": "GET", "origin": "storage", "times": 1}
    downloads.sandbox.faults([{**cut, "truncate": 1000}, {**cut, "hold": "before"}])
    WAITING.reach(downloads)
    downloads.complete()
    submits = cluster_starter.start("cluster_deferrable", "shut-down-in-its-create", hold=HELD_CREATE)
    for run in (downloads, submits):
        run.until_held()
    shut_down = cluster.terminate("worker-1")
    submits.until(lambda: "Warm shutdown" in worker_log(cluster, "worker-1"), "the worker shuts down")
    with taken_over(cluster):
        for run in (downloads, submits):
            run.sandbox.release()
        submits.until(lambda: shut_down.poll() is not None, "the worker has ended")
        assert [submits.finish(), downloads.finish()] == ["success", "success"]
    cluster.restart("worker-1")

    assert shut_down.returncode == 0
    row = submits.row(f"its worker shuts down (SIGTERM) {DURING_CREATE}", DEFERRABLE)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 1", "submitted", 1, 1)
    report.add(CLUSTER, row)
    video = downloads.xcom("download")
    assert [path.stat().st_size for path in downloads.folder.iterdir()] == [video["size"]]
    assert downloads.ends()["download", -1] == ("success", 1)
    what = "the worker of its download shuts down (SIGTERM) in the middle of the video"
    row = downloads.row(what, DEFERRABLE, requested=1)
    report.add(CLUSTER, replace(row, job="submitted"))


# -- A worker comes back after another has its tasks


def test_worker_that_returns_pays_nothing_twice(cluster, cluster_starter, report):
    held_upload = {**PUT, "hold": "after"}
    between = cluster_starter.start("cluster_synchronous", "frozen-before-create", hold=held_upload)
    during = cluster_starter.start("cluster_synchronous", "frozen-in-create", hold=HELD_CREATE)
    for run in (between, during):
        run.until_held()
    tasks = [run.until_in("running") for run in (between, during)]
    cluster.freeze("worker-1")
    with taken_over(cluster):
        try:
            assert [between.finish(), during.finish()] == ["success", "failed"]
        finally:
            for run in (between, during):
                run.sandbox.release()
            cluster.thaw("worker-1")
        for run, task in zip((between, during), tasks, strict=True):
            run.until_gone(task)
            run.complete()
    cluster.wait_until_healthy()

    what = "its worker is frozen {}, until another has ended the task"
    row = between.row(what.format("between upload and create"), SYNCHRONOUS)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", "submitted", 1, 1)
    report.add(CLUSTER, row)
    row = during.row(what.format(DURING_CREATE), SYNCHRONOUS)
    assert (row.ends, row.job, row.paid) == ("failed, attempt 2", "unknown-reported", 1)
    report.add(CLUSTER, row)


# -- Five hundred videos


def test_five_hundred_videos_wait_without_a_worker(cluster, cluster_starter, report):
    begin = time.monotonic()
    run = cluster_starter.start("cluster_videos", "five-hundred")
    run.sandbox.account(credits=100 * VIDEOS)
    until(lambda: is_deferred(run))
    submitted = time.monotonic()
    run.until_polled()
    triggers = sorted(run.triggerers().values())
    slots = max(slots_in_use(cluster) for _ in range(10))
    polled = time.monotonic()
    run.complete()
    until(lambda: run.state() in FINISHED_RUN)
    end = time.monotonic()

    assert slots == 0
    assert len(triggers) == 2
    creates = [each["count"] for each in run.sandbox.state()["requests"] if each["path"] == CREATE["path"]]
    row = run.row(f"{VIDEOS} videos", MAPPED)
    assert (row.ends, row.job) == ("success, attempt 1", "submitted")
    assert sum(creates) == row.requested == row.paid == row.rendered == VIDEOS
    polls = sum(job["polls"] for job in run.jobs())
    report.set_figures(
        FIVE_HUNDRED,
        {
            "videos": VIDEOS,
            "create requests, and videos that were charged": f"{sum(creates)}, {row.paid}",
            "all submitted after": f"{submitted - begin:.0f} s",
            "all waited for": f"{polled - submitted:.0f} s",
            "worker slots in use meanwhile": slots,
            "triggers of each triggerer": " and ".join(map(str, triggers)),
            "polls": polls,
            "from the last render to the end of the run": f"{end - polled:.0f} s",
        },
    )


def until(condition):
    """Wait for five hundred tasks: each check lists them all."""
    assert wait_until(condition, timeout=7200, every=5)


def is_deferred(run):
    counts = run.counts()
    assert "failed" not in counts
    return counts == {"deferred": VIDEOS}


def slots_in_use(cluster):
    """How many tasks Celery's workers run at this moment."""
    with Celery(broker=cluster.env["AIRFLOW__CELERY__BROKER_URL"]) as app:
        active = app.control.inspect(timeout=5).active()
    assert {name.partition("@")[2] for name in active} >= set(WORKERS)
    return sum(len(tasks) for tasks in active.values())


# -- Helpers


@contextmanager
def taken_over(cluster):
    """The other worker serves the queue of the first one, too."""
    with Celery(broker=cluster.env["AIRFLOW__CELERY__BROKER_URL"]) as app:
        where = {"destination": ["celery@worker-2"], "reply": True, "timeout": 60}
        assert app.control.add_consumer("worker-1", **where)
        try:
            yield
        finally:
            assert app.control.cancel_consumer("worker-1", **where)


@contextmanager
def redelivery(cluster):
    """A function that delivers again what is not acknowledged in time; a worker does so each 100 s."""
    with Celery(broker=cluster.env["AIRFLOW__CELERY__BROKER_URL"]) as app:
        app.conf.broker_transport_options = {"visibility_timeout": VISIBILITY_SECONDS}
        with app.connection_for_read() as connection:
            yield partial(connection.default_channel.qos.restore_visible, num=100, interval=1)


def worker_log(cluster, name):
    """What a worker has printed since the start of the cluster."""
    return (cluster.parts_logs_dir / f"{name}.log").read_text(encoding="utf-8")


def deliveries(cluster, task):
    """Celery's ids of the messages with which a task was delivered to the workers."""
    logs = "".join(worker_log(cluster, name) for name in WORKERS)
    return re.findall(rf"\[([-0-9a-f]{{36}})\] Executing workload[^\n]*{task['id']}", logs)


def is_refused_again(cluster, task):
    """Whether the broker has delivered a running task again, and the worker has not run it."""
    logs = "".join(worker_log(cluster, name) for name in WORKERS)
    ids = deliveries(cluster, task)
    return len(ids) > 1 and f"[{ids[0]}] {REFUSED}" in logs
