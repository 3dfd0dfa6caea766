"""What a Dag that is scheduled on an asset gets to read, from tasks in every mode."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

KEYS = {"project_id", "uri", "sha256", "bytes", "width", "height", "fps", "duration", "model", "credits"}
IMAGE = Path(__file__).parents[3] / "dags_examples" / "images" / "grace_hopper.jpg"


def events() -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
    """The extras of all asset events of the Dag's tasks: by task and map index, then by asset."""
    query = """select e.source_task_id, e.source_map_index, a.name, e.extra
               from asset_event e join asset a on a.id = e.asset_id where e.source_dag_id = 'outlets'"""
    with sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db") as database:
        rows = database.execute(query).fetchall()
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for task_id, map_index, name, extra in rows:
        found.setdefault((task_id, map_index), {})[name] = json.loads(extra)
    return found


@pytest.fixture(scope="module")
def known_assets(dags_folder) -> None:
    """Let Airflow know the assets of the Dags; before 3.1 `dag.test()` does not do so by itself."""
    subprocess.run([sys.executable, "-m", "airflow", "dags", "reserialize"], check=True, capture_output=True)


@pytest.fixture
def reported(known_assets, run_dag, tmp_path) -> Any:
    """The run, its events, and what its tasks returned."""
    run = run_dag("tests/outlets.py", folder=str(tmp_path / "videos"), image=str(IMAGE))
    assert run.state == "success", {name: str(tis[0].state) for name, tis in run.tasks.items()}
    run.events = events()
    run.returned = lambda task_id, index=0: run.tasks[task_id][index].xcom_pull(
        task_ids=task_id, map_indexes=run.tasks[task_id][index].map_index
    )
    return run


def of_job(job, **change):
    unknown = dict.fromkeys(("sha256", "bytes", "width", "height", "fps"))
    return {
        **unknown,
        "project_id": job["project_id"],
        "uri": f"magichour://projects/{job['project_id']}",
        "duration": job["end_seconds"],
        "model": job["model"],
        "credits": job["credits_charged"],
        **change,
    }


def of_video(video, **change):
    return {
        "project_id": video["project_id"],
        "uri": f"file://{video['path']}",
        "sha256": video["sha256"],
        "bytes": video["size"],
        **{key: video[key] for key in ("width", "height", "fps", "duration")},
        **change,
    }


def test_every_task_says_in_its_asset_events_what_it_knows(reported, magichour_sandbox):
    submitted, rendered, resumed = map(reported.returned, ("submit", "render", "resumed"))
    assert reported.events["submit", -1] == {"outlets_submitted": of_job(submitted)}
    job = of_job(rendered)
    assert reported.events["render", -1] == {"outlets_rendered": job, job["uri"]: job}
    assert reported.events["resumed", -1] == {"outlets_resumed": of_job(resumed)}
    assert reported.events["wait", -1] == {"outlets_waited": of_job(reported.returned("wait"))}
    assert reported.events["poke", -1] == {"outlets_poked": of_job(reported.returned("poke"))}

    cost = {job["id"]: job["credits_charged"] for job in magichour_sandbox.control.state()["jobs"]}
    saved = of_video(reported.returned("save"), model="ltx-2.3", credits=cost[rendered["project_id"]])
    assert reported.events["save", -1] == {
        "outlets_saved": {**saved, "campaign": "spring", "model": "mine"},
        saved["uri"]: saved,
        "outlets_rendered": saved,
        "outlets_poked": saved,
    }
    by_id = of_video(reported.returned("by_id"), model=None, credits=cost[resumed["project_id"]])
    assert reported.events["by_id", -1] == {"outlets_saved_by_id": by_id, by_id["uri"]: by_id}
    for index in (0, 1):
        video = of_video(
            reported.returned("mapped", index), model="ltx-2.3", credits=cost[rendered["project_id"]]
        )
        assert reported.events["mapped", index] == {"outlets_mapped": video}

    if AIRFLOW_V_3_1_PLUS:
        batch = reported.events.pop(("batch", -1))
        returned = reported.returned("batch")
        counts = {name: returned[name] for name in returned if name != "credits_charged"}
        event = {"uri": f"file://{returned['manifest']}", "credits": 2 * min(cost.values()), **counts}
        assert batch == {"outlets_batch": event, event["uri"]: event}
        assert (event["items"], event["complete"]) == (2, 2)

    assert all(set(extra) >= KEYS for events in reported.events.values() for extra in events.values())
    assert None not in cost.values()
    assert len(reported.events) == 9
