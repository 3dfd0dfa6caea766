"""Asset events and lineage under a live Airflow, with the real OpenLineage provider."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_airflow import LiveAirflow
from processes import wait_until
from sandbox_process import sandbox

from magichour_provider.sandbox import SandboxControl

pytest.importorskip("airflow.providers.openlineage")

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "dags_examples" / "images" / "grace_hopper.jpg"
PROMPT = "A prompt of the house that is nobody's business"
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS1zdG9yZQ"
SIGNED = f"https://cdn.example.com/stills/a.jpg?Expires=2000000000&Signature={SIGNATURE}"
API_KEY = "mhk_live_lineage_DISTINCTIVE"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A live Airflow whose OpenLineage events go to files, one for each."""
    home = tmp_path_factory.mktemp("lineage")
    dags, emitted = home / "dags", home / "emitted"
    emitted.mkdir()
    shutil.copytree(
        Path(__file__).parent / "lineage_dags", dags, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "dags_examples" / "on_a_new_video.py", dags)
    # Not in the run's conf, which Airflow itself puts into its OpenLineage events.
    (dags / "given.json").write_text(json.dumps({"image": str(IMAGE), "signed": SIGNED, "prompt": PROMPT}))
    with (
        sandbox(home / "sandbox.log", "--quick", "--api-key", API_KEY) as url,
        SandboxControl(url) as control,
    ):
        control.behaviour(render_seconds=2.0)
        connection = {"conn_type": "magichour", "host": url, "password": API_KEY}
        transport = {"type": "file", "log_file_path": str(emitted / "event"), "append": False}
        env = {
            "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
        }
        with LiveAirflow(home / "airflow", dags, env=env) as airflow:
            yield SimpleNamespace(airflow=airflow, sandbox=control, emitted=emitted, home=home)


@pytest.fixture(scope="module")
def lineage(live: SimpleNamespace) -> SimpleNamespace:
    """The run of the Dag `lineage`, and the events of its tasks."""
    run_id = live.airflow.trigger("lineage", {"folder": str(live.home)})
    assert live.airflow.wait_for_run("lineage", run_id, timeout=240) == "failed"
    states = {task["task_id"]: task["state"] for task in live.airflow.task_instances("lineage", run_id)}
    assert states == {"signed": "success", "fails": "failed", "land": "success", "by_hand": "success"}

    def of(task_id: str, kind: str) -> list[dict[str, Any]]:
        return [
            event
            for event in events(live.emitted)
            if (event["job"]["name"], event["eventType"]) == (f"lineage.{task_id}", kind)
        ]

    ends = [("signed", "COMPLETE"), ("land", "COMPLETE"), ("by_hand", "COMPLETE"), ("fails", "FAIL")]
    assert wait_until(lambda: all(of(*end) for end in ends), timeout=60)

    def returned(task_id: str) -> Any:
        return live.airflow.xcom("lineage", run_id, task_id)

    return SimpleNamespace(of=of, returned=returned, emitted=live.emitted, sandbox=live.sandbox)


def events(folder: Path) -> list[dict[str, Any]]:
    """Every event that Airflow has sent, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["namespace"], each["name"]) for each in datasets]


def job_of(event: dict[str, Any]) -> dict[str, Any]:
    facet = event["run"]["facets"]["magichour_job"]
    return {key: value for key, value in facet.items() if not key.startswith("_")}


def test_a_dag_that_is_scheduled_on_an_asset_reads_all_about_the_clip(live: SimpleNamespace) -> None:
    airflow = live.airflow
    airflow.wait_for_dag("magichour_on_a_new_video")
    airflow.unpause("magichour_on_a_new_video")
    folder = live.home / "clips"
    run_id = airflow.trigger("magichour_new_video", {"image": str(IMAGE), "folder": str(folder)})
    assert airflow.wait_for_run("magichour_new_video", run_id) == "success"
    clip, job = (airflow.xcom("magichour_new_video", run_id, task_id) for task_id in ("download", "render"))

    def follower() -> list[dict[str, Any]]:
        return list(airflow.request("GET", "/dags/magichour_on_a_new_video/dagRuns")["dag_runs"])

    assert wait_until(follower, timeout=60)
    (run,) = follower()
    assert run["run_type"] == "asset_triggered"
    assert airflow.wait_for_run("magichour_on_a_new_video", run["dag_run_id"]) == "success"
    # Not before: Airflow 3.3.2 answers 500 while a run that the event has begun waits in the queue.
    (event,) = airflow.request("GET", "/assets/events", params={"source_dag_id": "magichour_new_video"})[
        "asset_events"
    ]
    assert event["extra"] == {
        "project_id": clip["project_id"],
        "uri": f"file://{folder}/{clip['project_id']}.mp4",
        "sha256": hashlib.sha256(Path(clip["path"]).read_bytes()).hexdigest(),
        "bytes": Path(clip["path"]).stat().st_size,
        "width": clip["width"],
        "height": clip["height"],
        "fps": clip["fps"],
        "duration": clip["duration"],
        "model": "ltx-2.3",
        "credits": job["credits_charged"],
    }
    (line,) = airflow.xcom("magichour_on_a_new_video", run["dag_run_id"], "catalogue")
    assert line.startswith(f"{event['extra']['uri']}: 3.0 s, {clip['width']} x {clip['height']}, ")
    assert line.endswith(f"{job['credits_charged']} credits (ltx-2.3)")


def test_a_submission_that_was_deferred_leads_from_image_to_project(
    lineage: SimpleNamespace,
) -> None:
    job = lineage.returned("signed")
    (event,) = lineage.of("signed", "COMPLETE")
    assert names(event["inputs"]) == [("https://cdn.example.com", "stills/a.jpg")]
    assert names(event["outputs"]) == [("magichour", f"projects/{job['project_id']}")]
    assert event["outputs"][0]["facets"]["dataSource"]["name"] == "Magic Hour"
    assert job_of(event) == {
        "project_id": job["project_id"],
        "url": job["url"],
        "model": "ltx-2.3",
        "resolution": "480p",
        "end_seconds": 3.0,
        "credits": job["credits_charged"],
        "prompt_sha256": hashlib.sha256(PROMPT.encode()).hexdigest(),
    }
    assert job["credits_charged"] > 0
    starts = lineage.of("signed", "START")
    assert len(starts) == 2, "it was resumed"
    assert [names(start["inputs"]) for start in starts] == [names(event["inputs"])] * 2


def test_a_landing_leads_from_the_project_to_a_clip_with_checksum_and_size(lineage: SimpleNamespace) -> None:
    clip, job = lineage.returned("land"), lineage.returned("signed")
    (event,) = lineage.of("land", "COMPLETE")
    assert names(event["inputs"]) == [("magichour", f"projects/{clip['project_id']}")]
    (output,) = event["outputs"]
    assert names([output]) == [("file", clip["path"])]
    assert output["facets"]["version"]["datasetVersion"] == clip["sha256"]
    assert output["outputFacets"]["outputStatistics"]["size"] == clip["size"]
    for key in ("width", "height", "fps", "duration", "content_type"):
        assert output["facets"]["magichour_clip"][key] == clip[key]
    told = {key: job_of(event)[key] for key in ("project_id", "url", "model", "credits")}
    assert told == {
        "project_id": clip["project_id"],
        "url": job["url"],
        "model": "ltx-2.3",
        "credits": job["credits_charged"],
    }


def test_a_failed_job_is_told_with_what_was_submitted(lineage: SimpleNamespace) -> None:
    (event,) = lineage.of("fails", "FAIL")
    (job,) = [job for job in lineage.sandbox.state()["jobs"] if job["name"].startswith("lineage fails ")]
    assert names(event["inputs"]) == [("file", str(IMAGE))]
    assert names(event["outputs"]) == [("magichour", f"projects/{job['id']}")]
    assert job_of(event)["project_id"] == job["id"]
    assert job_of(event)["credits"] == job["credits_charged"] == 0


def test_the_hook_in_a_task_of_ones_own_reports_what_it_read_and_made(lineage: SimpleNamespace) -> None:
    (event,) = lineage.of("by_hand", "COMPLETE")
    rendered, made = lineage.returned("signed")["project_id"], lineage.returned("by_hand")
    assert set(names(event["inputs"])) == {("file", str(IMAGE)), ("magichour", f"projects/{rendered}")}
    (clip,) = {name for namespace, name in names(event["outputs"]) if namespace == "file"}
    assert clip.endswith("/by hand.mp4")
    assert ("magichour", f"projects/{made}") in names(event["outputs"])


def test_no_event_holds_a_key_a_signature_or_a_prompt(lineage: SimpleNamespace) -> None:
    found = {
        (path.name, secret)
        for path in lineage.emitted.iterdir()
        for secret in (API_KEY, SIGNATURE, "Signature=", PROMPT)
        if secret in path.read_text()
    }
    assert found == set()
