"""How images and videos are named in lineage, and what the operators and the hook say of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from magichour_provider import lineage
from magichour_provider.jobs.reference import JobReference
from magichour_provider.lineage import batch_lineage, download_lineage, image_dataset, submission_lineage

SIGNED = "https://who:secret@cdn.example.com:8443/stills/a%20b.jpg?X-Amz-Signature=5f3c9a5f3c9a#top"
PROMPT = "She smiles; the camera moves slowly closer"
SAVED = {
    "project_id": "abc", "path": "s3://videos/2026/abc.mp4", "sha256": "ab" * 32, "size": 12,
    "content_type": "video/mp4", "width": 640, "height": 360, "fps": 24.0, "duration": 5.0,
}  # fmt: skip

RESULT = {**SAVED, "videos": [SAVED]}


def submission(**change):
    given = {
        "image": "/stills/a.jpg",
        "end_image": None,
        "prompt": PROMPT,
        "model": "kling-3.0",
        "resolution": "720p",
        "end_seconds": "5",
        "project_id": "abc",
        "credits_charged": 300,
    }
    return submission_lineage(**{**given, **change})


def as_json(operator_lineage):
    pytest.importorskip("openlineage.client")
    from openlineage.client.serde import Serde

    return json.loads(Serde.to_json(operator_lineage))


def names(datasets):
    return [(each["namespace"], each["name"]) for each in datasets]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/stills/a b.jpg", ("file", "/stills/a b.jpg")),
        ("stills/a.jpg", ("file", os.path.abspath("stills/a.jpg"))),  # noqa: PTH100
        ("~/a.jpg", ("file", os.path.expanduser("~/a.jpg"))),  # noqa: PTH111
        ("file:///stills/a%20b.jpg", ("file", "/stills/a b.jpg")),
        ("s3://bucket/stills/a.jpg", ("s3://bucket", "stills/a.jpg")),
        ("s3://some_conn@bucket/stills/a.jpg", ("s3://bucket", "stills/a.jpg")),
        ("s3a://bucket/a.jpg", ("s3://bucket", "a.jpg")),
        ("gs://bucket/a.jpg", ("gs://bucket", "a.jpg")),
        ("gcs://bucket/a.jpg", ("gs://bucket", "a.jpg")),
        ("memory://bucket", ("memory://bucket", "/")),
        (SIGNED, ("https://cdn.example.com:8443", "stills/a%20b.jpg")),
        ("https://example.com", ("https://example.com", "/")),
        ("api-assets/id/a.jpg", ("magichour", "api-assets/id/a.jpg")),
        ("saved-items/id/a.jpg", ("magichour", "saved-items/id/a.jpg")),
        (Path("/stills/a.jpg"), ("file", "/stills/a.jpg")),
        ("file://elsewhere/a.jpg", None),
        ("/stills/not-utf8-\udce9.jpg", None),
        ("https://[broken/a.jpg", None),
        ("", None),
    ],
)
def test_an_image_is_named_after_the_place_that_holds_it(path, name):
    assert image_dataset(path) == name


def test_a_submission_leads_from_its_images_to_the_project():
    found = as_json(submission(end_image="s3://b/last.png"))
    assert names(found["inputs"]) == [("file", "/stills/a.jpg"), ("s3://b", "last.png")]
    assert names(found["outputs"]) == [("magichour", "projects/abc")]
    facet = found["run_facets"]["magichour_job"]
    assert {key: value for key, value in facet.items() if not key.startswith("_")} == {
        "project_id": "abc",
        "url": "https://magichour.ai/my-library?videoId=abc",
        "model": "kling-3.0",
        "resolution": "720p",
        "end_seconds": 5.0,
        "credits": 300,
        "prompt_sha256": hashlib.sha256(PROMPT.encode()).hexdigest(),
    }
    assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")


def test_before_it_is_submitted_there_is_no_project():
    found = as_json(submission(project_id=None, credits_charged=None, prompt=None, image=SIGNED))
    assert names(found["inputs"]) == [("https://cdn.example.com:8443", "stills/a%20b.jpg")]
    assert found["outputs"] == []
    assert "project_id" not in found["run_facets"]["magichour_job"]
    assert "prompt_sha256" not in found["run_facets"]["magichour_job"]


@pytest.mark.parametrize("odd", [{"image": None}, {"end_seconds": "{{ n }}"}, {"prompt": 5}, {"image": ""}])
def test_what_a_task_was_given_amiss_breaks_no_lineage(odd):
    assert names(as_json(submission(**odd))["outputs"]) == [("magichour", "projects/abc")]


def test_no_signature_and_no_prompt_is_in_the_lineage():
    text = json.dumps(as_json(submission(image=SIGNED, end_image=SIGNED)))
    assert not [secret for secret in (PROMPT, "Signature", "5f3c9a", "who", "secret") if secret in text]


def test_a_download_leads_from_the_project_to_the_video():
    job = JobReference("abc", "kling-3.0", "720p", 300)
    found = as_json(download_lineage(job, RESULT))
    assert names(found["inputs"]) == [("magichour", "projects/abc")]
    (video,) = found["outputs"]
    assert (video["namespace"], video["name"]) == ("s3://videos", "2026/abc.mp4")
    assert video["facets"]["version"]["datasetVersion"] == "ab" * 32
    ours = {key: value for key, value in video["facets"]["magichour_video"].items() if key[0] != "_"}
    wanted = ("project_id", "content_type", "duration", "width", "height", "fps")
    assert ours == {key: SAVED[key] for key in wanted}
    statistics = video["outputFacets"]["outputStatistics"]
    assert (statistics["size"], statistics["fileCount"]) == (12, 1)
    assert found["run_facets"]["magichour_job"]["credits"] == 300


def test_every_video_of_a_project_is_in_the_lineage_and_none_that_did_not_arrive():
    job = JobReference("abc")
    second = {**SAVED, "path": "/videos/2.mp4"}
    found = as_json(download_lineage(job, {**SAVED, "videos": [SAVED, second]}))
    assert names(found["outputs"]) == [("s3://videos", "2026/abc.mp4"), ("file", "/videos/2.mp4")]
    assert as_json(download_lineage(job, None))["outputs"] == []


COUNTS = {"items": 9, "complete": 4, "unchanged": 1, "failed": 1, "refused": 1, "unknown": 1, "submitted": 1}
SUMMARY = {
    **COUNTS,
    "not_submitted": 1,
    "credits_charged": 300,
    "manifest": "s3://shop/videos/manifest.jsonl",
}


@pytest.mark.parametrize("path", ["s3://conn@shop/videos", None, ""])
def test_a_batch_leads_from_its_manifest_to_its_folder_and_its_results(path):
    found = as_json(batch_lineage("s3://conn@stills/list.jsonl", path, {**SUMMARY, "state": "s3://shop/x"}))
    assert names(found["inputs"]) == [("s3://stills", "list.jsonl")]
    *folder, results = found["outputs"]
    assert names([results]) == [("s3://shop", "videos/manifest.jsonl")]
    assert names(folder) == ([("s3://shop", "videos")] if path else [])
    assert [each["outputFacets"]["outputStatistics"]["fileCount"] for each in folder] == [4] * len(folder)
    facet = {key: value for key, value in found["run_facets"]["magichour_batch"].items() if key[0] != "_"}
    assert facet == {**COUNTS, "not_submitted": 1, "credits": 300}


@pytest.mark.parametrize("items", [[{"image": SIGNED}], None, "[{'image': 'a.png'}]", 5])
def test_items_of_a_batch_are_no_dataset_and_before_its_end_there_is_no_output(items):
    found = as_json(batch_lineage(items, "/videos", None))
    assert (found["inputs"], found["outputs"]) == ([], [])


COLLECTOR = "airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector"


class Collector:
    def __init__(self):
        self.inputs, self.outputs = [], []

    def add_input_asset(self, context, *, uri):
        self.inputs.append(uri)

    def add_output_asset(self, context, *, uri):
        self.outputs.append(uri)


@pytest.fixture
def collector(monkeypatch):
    found = Collector()
    monkeypatch.setattr(COLLECTOR, lambda: found)
    return found


@pytest.mark.parametrize(
    ("image", "uris"),
    [
        ("/stills/a b.jpg", ["file:///stills/a b.jpg"]),
        ("s3a://conn@bucket/a.jpg", ["s3://bucket/a.jpg"]),
        (SIGNED, ["https://cdn.example.com:8443/stills/a%20b.jpg"]),
        ("api-assets/id/a.jpg", []),
        ("", []),
    ],
)
def test_the_hook_reports_the_image_that_it_has_read(collector, image, uris):
    lineage.collect_upload(object(), image)
    assert (collector.inputs, collector.outputs) == (uris, [])


def test_the_hook_reports_projects_and_videos(collector):
    lineage.collect_submission(object(), "abc")
    lineage.collect_download(object(), "abc", RESULT)
    assert collector.inputs == ["magichour://projects/abc"]
    assert collector.outputs == ["magichour://projects/abc", "s3://videos/2026/abc.mp4"]


def test_a_collector_that_fails_fails_no_transfer(monkeypatch, caplog):
    def broken():
        raise RuntimeError("no plugin manager")

    monkeypatch.setattr(COLLECTOR, broken)
    lineage.collect_submission(object(), "abc")
    assert "could not be collected" in caplog.text


def test_without_the_openlineage_provider_there_is_none_and_nothing_breaks():
    program = """
import sys
import airflow.sdk
from magichour_provider.lineage import download_lineage
sys.modules["airflow.providers.openlineage"] = sys.modules["openlineage"] = None
from magichour_provider.jobs.reference import JobReference
from magichour_provider.operators.image_to_video import ImageToVideoOperator
task = ImageToVideoOperator(task_id="render", image="a.jpg", end_seconds=5)
assert task.get_openlineage_facets_on_start() is None
assert task.get_openlineage_facets_on_complete(None) is None
assert download_lineage(JobReference("abc"), None) is None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
