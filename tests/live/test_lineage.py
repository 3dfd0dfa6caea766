"""OpenLineage events under a live Airflow, with the real OpenLineage provider."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from live_dags import PROMPT, SIGNATURE
from runs import API_KEY, Run

Event = dict[str, Any]
ENDS = {"signed": "COMPLETE", "download": "COMPLETE", "by_hook": "COMPLETE", "fails": "FAIL"}


class Lineage(NamedTuple):
    """The run of the Dag, and where its events are."""

    run: Run
    folder: Path

    def events(self, task_id, kind):
        """The events of a task, oldest first."""
        every = [json.loads(path.read_text() or "{}") for path in sorted(self.folder.iterdir())]
        wanted = (f"live_lineage.{task_id}", kind)
        return [event for event in every if event and (event["job"]["name"], event["eventType"]) == wanted]

    def end(self, task_id):
        (event,) = self.events(task_id, ENDS[task_id])
        return event


@pytest.fixture(scope="module")
def lineage(starter, sandbox, lineage_events):
    """A run of the Dag, once all its events are there."""
    run = starter.start_at(sandbox, "live_lineage", "lineage")
    assert run.wait() == "failed"
    states = {task_id: state for (task_id, _), (state, _) in run.ends().items()}
    assert states == {"signed": "success", "fails": "failed", "download": "success", "by_hook": "success"}
    lineage = Lineage(run, lineage_events)
    run.until(lambda: all(lineage.events(*end) for end in ENDS.items()), "all events are there")
    return lineage


def test_deferred_submission_leads_from_image_to_job(lineage):
    job, event = lineage.run.xcom("signed"), lineage.end("signed")
    assert names(event["inputs"]) == [("https://cdn.example.com", "images/a.jpg")]
    assert names(event["outputs"]) == [("magichour", f"projects/{job['project_id']}")]
    assert event["outputs"][0]["facets"]["dataSource"]["name"] == "Magic Hour"
    assert job_facet(event) == {
        "project_id": job["project_id"],
        "url": job["url"],
        "model": "ltx-2.3",
        "resolution": "480p",
        "end_seconds": 3.0,
        "credits": job["credits_charged"],
        "prompt_sha256": hashlib.sha256(PROMPT.encode()).hexdigest(),
    }
    starts = lineage.events("signed", "START")
    assert len(starts) == 2, "it was resumed"
    assert [names(start["inputs"]) for start in starts] == [names(event["inputs"])] * 2


def test_download_leads_from_job_to_video_with_checksum_and_size(lineage):
    video, job, event = lineage.run.xcom("download"), lineage.run.xcom("signed"), lineage.end("download")
    assert names(event["inputs"]) == [("magichour", f"projects/{video['project_id']}")]
    (output,) = event["outputs"]
    assert names([output]) == [("file", video["path"])]
    assert output["facets"]["version"]["datasetVersion"] == video["sha256"]
    assert output["outputFacets"]["outputStatistics"]["size"] == video["size"]
    for key in ("width", "height", "fps", "duration", "content_type"):
        assert output["facets"]["magichour_video"][key] == video[key]
    assert {key: job_facet(event)[key] for key in ("project_id", "url", "model", "credits")} == {
        "project_id": video["project_id"],
        "url": job["url"],
        "model": "ltx-2.3",
        "credits": job["credits_charged"],
    }


def test_failed_job_has_an_event(lineage):
    event = lineage.end("fails")
    (job,) = [job for job in lineage.run.jobs() if " fails " in job["name"]]
    ((namespace, image),) = names(event["inputs"])
    assert (namespace, Path(image).name) == ("file", "grace_hopper.jpg")
    assert names(event["outputs"]) == [("magichour", f"projects/{job['id']}")]
    assert job_facet(event)["project_id"] == job["id"]
    assert job_facet(event)["credits"] == job["credits_charged"] == 0


def test_hook_in_a_users_own_task_reports_inputs_and_outputs(lineage):
    event = lineage.end("by_hook")
    rendered, made = lineage.run.xcom("signed")["project_id"], lineage.run.xcom("by_hook")
    inputs = dict(names(event["inputs"]))
    assert inputs.keys() == {"file", "magichour"}
    assert inputs["magichour"] == f"projects/{rendered}"
    (video,) = {name for namespace, name in names(event["outputs"]) if namespace == "file"}
    assert video.endswith("/by hook.mp4")
    assert ("magichour", f"projects/{made}") in names(event["outputs"])


def test_no_event_holds_a_key_a_signature_or_a_prompt(lineage):
    secrets = (API_KEY, SIGNATURE, "Signature=", PROMPT)
    texts = [path.read_text() for path in lineage.folder.iterdir()]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []


def names(datasets):
    return [(each["namespace"], each["name"]) for each in datasets]


def job_facet(event):
    facet = event["run"]["facets"]["magichour_job"]
    return {key: value for key, value in facet.items() if not key.startswith("_")}
