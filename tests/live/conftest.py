"""Two live Airflows: one for everything that leaves it alone, and one whose parts are killed.

With `-n 2 --dist loadgroup` they run at the same time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live_airflow import LiveAirflow
from mail_server import MailServer
from postgres import postgres
from report import Report
from runs import API_KEY, EXAMPLES, SCHEDULER_DIES, Starter
from s3_server import s3_server
from sandbox_process import sandbox as sandbox_process
from statsd_server import StatsdServer

from magichour_provider.sandbox import SandboxControl

HERE = Path(__file__).parent
AT_ONCE = 6
"""Scenarios that are played at the same time."""
HEARTBEAT_TIMEOUT = 3600 if SCHEDULER_DIES else 30
"""Seconds after which Airflow gives up a task whose supervisor is silent: on a busy machine, any task."""
SENSOR_JOBS = ("complete", "literal", "reference", "cleared", "marked", "fails", "endless", "slow")
PARTS_MODULES = {"test_batch", "test_harness", "test_moving_parts", "test_pods", "test_two_triggerers"}
LAST_MODULE = "test_secrets"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items):
    """Give each Airflow's tests to one process, those that wait for scenarios late, the secrets' last."""

    def place(item):
        return item.path.stem == LAST_MODULE, _scenario_of(item) is not None

    items.sort(key=lambda item: place(item) if item.path.parent == HERE else (False, False))
    for item in items:
        if item.path.parent == HERE:
            group = "parts" if item.path.stem in PARTS_MODULES else "main"
            item.add_marker(pytest.mark.xdist_group(group))
            item.add_marker(pytest.mark.live)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def report(request):
    """Rows for docs/reliability.md: compared with the page, or written into it by `make reliability`."""
    report = Report()
    yield report
    config = request.config
    if not (config.option.keyword or any("::" in argument for argument in config.args)):
        report.end()


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory):
    """The sandbox of the connection `magichour_default`: tiny videos after two seconds, one API key."""
    log = tmp_path_factory.mktemp("sandbox") / "sandbox.log"
    with sandbox_process(log, "--quick", "--api-key", API_KEY, "--credits", "1000000") as url:
        yield url


@pytest.fixture(scope="session")
def sandbox(sandbox_url):
    with SandboxControl(sandbox_url) as control:
        yield control


@pytest.fixture(scope="session")
def sensor_jobs(sandbox, sandbox_url):
    """Jobs for `sensor_dags.py`: one is complete, the others render until a test completes them."""
    video = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 3, "model": "ltx-2.3"}
    headers = {"Authorization": f"Bearer {API_KEY}"}
    jobs: dict[str, str] = {}
    for name in SENSOR_JOBS:
        answer = httpx.post(f"{sandbox_url}/v1/image-to-video", json=video, headers=headers, trust_env=False)
        jobs[name] = answer.raise_for_status().json()["id"]
        sandbox.set_job(jobs[name], "complete" if name == "complete" else "rendering")
    return jobs


@pytest.fixture(scope="session")
def statsd():
    return StatsdServer()


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A local S3 with two empty buckets, `images` and `videos`."""
    with s3_server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        for bucket in ("images", "videos"):
            server.client().create_bucket(Bucket=bucket)
        yield server


@pytest.fixture(scope="session")
def mails():
    with MailServer() as server:
        yield server


@pytest.fixture(scope="session")
def dags(tmp_path_factory):
    """The example Dags and those of these tests."""
    folder = tmp_path_factory.mktemp("dags")
    for source in (EXAMPLES, HERE / "dags"):
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def lineage_events(tmp_path_factory):
    """The folder of the OpenLineage events, one a file."""
    return tmp_path_factory.mktemp("lineage")


@pytest.fixture(scope="session")
def airflow(sandbox_url, s3, mails, statsd, dags, lineage_events, sensor_jobs, tmp_path_factory):
    """A live Airflow with connections to the sandbox, the S3 and the mail server; nothing kills its parts."""
    transport = {"type": "file", "log_file_path": str(lineage_events / "event"), "append": False}
    env = {
        "LIVE_JOBS": json.dumps(sensor_jobs),
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(
            {"conn_type": "magichour", "host": sandbox_url, "password": API_KEY}
        ),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(s3.connection),
        "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(mails.connection),
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
        # Airflow's default. Below it, the race that our trigger guards against is hardly ever lost.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
    }
    with (
        # SQLite answers "database is locked" under load, and a triggerer ends itself by it.
        postgres() as database,
        LiveAirflow(tmp_path_factory.mktemp("airflow"), dags, env=env, database=database) as airflow,
    ):
        yield airflow


@pytest.fixture(scope="session")
def played(request, airflow, tmp_path_factory):
    """Wait for a scenario. All that this session's tests ask for are played from the start, side by side."""
    folder = tmp_path_factory.mktemp("scenarios")
    items = [item for item in request.session.items if not item.get_closest_marker("skip")]
    scenarios = {each.id: each for item in items if (each := _scenario_of(item)) is not None}

    def play(scenario):
        starter = Starter(airflow, folder)
        try:
            return scenario.play(starter, re.sub(r"\W+", "-", scenario.id))
        finally:
            starter.close()

    pool = ThreadPoolExecutor(AT_ONCE)
    plays = {name: pool.submit(play, scenario) for name, scenario in scenarios.items()}
    yield lambda scenario: plays[scenario.id].result()
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def starter(airflow, played, tmp_path_factory):
    """Starts runs, while the scenarios are played in the background."""
    starter = Starter(airflow, tmp_path_factory.mktemp("runs"))
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def parts(dags, tmp_path_factory):
    """An Airflow for tests that kill its parts; a triggerer is given up when it is silent for 10 seconds."""
    env = {
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__OPENLINEAGE__DISABLED": "True",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
        # A task sends its requests to an absent api-server again for 30 seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "7",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "5",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    }
    home = tmp_path_factory.mktemp("parts")
    with postgres() as database, LiveAirflow(home, dags, database=database, env=env) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def parts_starter(parts, tmp_path_factory):
    """Starts runs at the Airflow whose parts are killed."""
    starter = Starter(parts, tmp_path_factory.mktemp("parts-runs"))
    yield starter
    starter.close()


@pytest.fixture
def script_env():
    """Environment of a script that imports those of `scripts/`."""
    return os.environ | {"PYTHONPATH": str(HERE.parents[1] / "scripts"), "PYTHONDONTWRITEBYTECODE": "1"}


def _scenario_of(item):
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("scenario") if callspec else None
