"""What is said of a video in asset events, and that saying it can fail without harm."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from magichour_provider.jobs.reference import JobReference
from magichour_provider.lineage import emit_events, emit_video_events, file_uri
from magichour_provider.storage.locations import parse_location

JOB = JobReference("abc", model="kling-3.0", credits_charged=300)


def video(path, **change):
    return {
        "project_id": "abc", "path": path, "sha256": "0" * 64, "size": 12, "content_type": "video/mp4",
        "width": 640, "height": 360, "fps": 24.0, "duration": 5.0, **change,
    }  # fmt: skip


def reported(outlets, saved, job=JOB):
    events = OutletEventAccessors()
    saved = saved if "videos" in saved else {**saved, "videos": [saved]}
    emit_video_events({"outlet_events": events}, outlets, saved, job)
    return events


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/videos/abc.mp4", "file:///videos/abc.mp4"),
        (
            "/videos/dt=2026-11-22T00:00:00+00:00/a b.mp4",
            "file:///videos/dt=2026-11-22T00:00:00+00:00/a b.mp4",
        ),
        ("/videos/50%/#1?.mp4", "file:///videos/50%25/%231%3F.mp4"),
        ("/videos/größe.mp4", "file:///videos/gr%C3%B6%C3%9Fe.mp4"),
        ("s3a://bucket/50%/#1.mp4", "s3a://bucket/50%/#1.mp4"),
    ],
)
def test_the_uri_leads_back_to_the_video(path, uri):
    assert file_uri(path) == uri
    if path.startswith("/"):
        assert parse_location(uri) == Path(path)


def test_an_extra_is_json_with_the_names_of_the_contract():
    asset = Asset("videos")
    extra = reported([asset], video("/videos/abc.mp4"))[asset].extra
    assert json.loads(json.dumps(extra)) == {
        "project_id": "abc",
        "uri": "file:///videos/abc.mp4",
        "sha256": "0" * 64,
        "bytes": 12,
        "width": 640,
        "height": 360,
        "fps": 24.0,
        "duration": 5.0,
        "model": "kling-3.0",
        "credits": 300,
    }


def test_of_several_videos_an_asset_gets_the_first_and_an_alias_each():
    asset, alias = Asset("videos"), AssetAlias("all")
    first, second = video("s3://b/1.mp4"), video("s3://b/2.mp4", size=34)
    events = reported([asset, alias], {**first, "poster": None, "videos": [first, second]})
    assert events[asset].extra["uri"] == "s3://b/1.mp4"
    added = events[alias].asset_alias_events
    assert [(each.dest_asset_key.uri, each.extra["bytes"]) for each in added] == [
        ("s3://b/1.mp4", 12),
        ("s3://b/2.mp4", 34),
    ]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("s3://b/#1 größe?.mp4", "s3://b/%231 gr%C3%B6%C3%9Fe%3F.mp4"),
        ("/videos/#1 50%.mp4", "file:///videos/%231 50%25.mp4"),
    ],
)
def test_no_character_of_a_name_is_lost_in_the_asset_of_an_alias(path, uri):
    alias = AssetAlias("all")
    (event,) = reported([alias], {"videos": [video(path)]})[alias].asset_alias_events
    assert event.dest_asset_key.uri == uri
    assert event.extra["uri"] == file_uri(path)


def test_what_a_user_has_put_into_an_event_stays():
    asset, events = Asset("videos"), OutletEventAccessors()
    events[asset].extra = {"campaign": "spring", "model": "mine"}
    emit_video_events({"outlet_events": events}, [asset], {"videos": [video("/a.mp4")]}, JOB)
    assert events[asset].extra["campaign"] == "spring"
    assert events[asset].extra["model"] == "mine"
    assert events[asset].extra["project_id"] == "abc"


def test_an_event_that_cannot_be_reported_fails_nothing_and_hinders_no_other(caplog):
    class Broken(OutletEventAccessors):
        def __getitem__(self, key):
            if key == Asset("broken"):
                raise ConnectionError("no Airflow to ask")
            return super().__getitem__(key)

    events, fine = Broken(), Asset("fine")
    with caplog.at_level(logging.ERROR):
        emit_events(
            {"outlet_events": events}, [Asset("broken"), SimpleNamespace(url="x"), fine], [{"uri": "u"}]
        )
    assert events[fine].extra == {"uri": "u"}
    assert len(events) == 1
    assert "asset event of Asset(name='broken'" in caplog.text
