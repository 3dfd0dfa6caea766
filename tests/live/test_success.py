"""A Clear after a success submits again, also if a cluster policy replaces on_success_callback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from live_airflow import LiveAirflow
from PIL import Image
from sandbox_process import sandbox

from magichour_provider.sandbox import SandboxControl

POLICY = """
def notify(context): pass
def task_policy(task):
    if task.dag_id == "policy":
        task.on_success_callback = notify
"""
DAG = """
from airflow.sdk import DAG
from magichour_provider.operators.image_to_video import ImageToVideoOperator
with DAG("{name}", schedule=None, is_paused_upon_creation=False) as dag:
    ImageToVideoOperator(
        task_id="render", image="{image}", model="ltx-2.3", resolution="480p", end_seconds=3,
        poll_interval=1, deferrable={deferrable}, state_path={state_path},
    )
"""
DAGS = {"plain": (True, None), "policy": (False, None), "assigned": (True, None)}
DAGS["file"] = (True, "{folder}/state.json")
"""`deferrable` and `state_path` of each Dag."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For each Dag the jobs of a run, and those after its task was cleared."""
    home = tmp_path_factory.mktemp("success")
    for folder in ("dags", "config"):
        (home / folder).mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(POLICY)
    Image.new("RGB", (320, 180), "orange").save(home / "cat.png")
    for name, (deferrable, state_path) in DAGS.items():
        path = state_path and state_path.format(folder=home)
        text = DAG.format(name=name, image=home / "cat.png", deferrable=deferrable, state_path=repr(path))
        if name == "assigned":
            text += "    dag.get_task('render').on_success_callback = lambda context: None\n"
        (home / "dags" / f"{name}.py").write_text(text)
    with sandbox(home / "sandbox.log", "--render-seconds", "1") as url, SandboxControl(url) as control:
        connection = {"conn_type": "magichour", "password": "k123456", "host": url}
        env = {"PYTHONPATH": str(home / "config"), "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection)}
        with LiveAirflow(Path(home), home / "dags", env=env) as airflow:
            first = {}
            for name in DAGS:
                first[name] = airflow.trigger(name)
                assert airflow.wait_for_run(name, first[name]) == "success"
            before = jobs_by_dag(control)
            for name, run_id in first.items():
                airflow.clear(name, run_id, ["render"])
                assert airflow.wait_for_run(name, run_id) == "success"
            yield before, jobs_by_dag(control)


def jobs_by_dag(control):
    names = [job["name"].split(" ")[0] for job in control.state()["jobs"]]
    return {name: names.count(name) for name in DAGS}


@pytest.mark.parametrize("name", DAGS)
def test_clear_after_success_submits_again(runs, name):
    before, after = runs
    assert (before[name], after[name]) == (1, 2)
