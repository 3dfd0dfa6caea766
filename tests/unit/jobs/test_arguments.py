"""Arguments in every form in which templates make them."""

from __future__ import annotations

import datetime as dt
import json
import os
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.client.pricing import Tier
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.arguments import (
    parse_flag,
    parse_id,
    parse_number,
    parse_path,
    parse_text,
    parse_whole_number,
    unrender,
)
from magichour_provider.jobs.reference import JobReference, job_name
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

JOB_ID = "c8tvqajtbbgfxkwq9qayqsosx"
JOB = {"project_id": JOB_ID, "model": None, "resolution": "720p", "credits_charged": 72, "audio": True}
NOT_GIVEN = [None, "", " \n", "None", " None ", "null", '""', "'None'"]
PARSERS = [parse_text, parse_id, parse_path, parse_number, parse_whole_number, parse_flag]


def renderings(value):
    """A value as it is, as text, as JSON and as a repr."""
    return [value, f" {value}\n", json.dumps(value), repr(value)]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("value", NOT_GIVEN)
def test_none_in_every_form_is_not_given(parse, value):
    assert parse("argument", value) is None


@pytest.mark.parametrize("value", NOT_GIVEN)
def test_request_reads_every_optional_argument_as_not_given(value):
    required = {"image": "https://example.com/a.png", "end_seconds": 5}
    optional = (
        "end_image", "prompt", "model", "resolution", "audio", "name", "image_conn_id", "max_credits",
        "max_credits_per_run",
    )  # fmt: skip
    assert VideoRequest.from_arguments(**required, **dict.fromkeys(optional, value)) == (
        VideoRequest.from_arguments(**required)
    )
    for name in required:
        with pytest.raises(InvalidRequestError, match=name):
            VideoRequest.from_arguments(**{**required, name: value})


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_number, 5),
        (parse_number, 2.5),
        (parse_whole_number, 9),
        (parse_flag, True),
        (parse_flag, False),
    ],
)
def test_number_or_flag_is_read_in_every_form(parse, value):
    read = [parse("argument", each) for each in renderings(value)]
    assert read == [value] * 4
    assert {type(each) for each in read} == {type(parse("argument", value))}


@given(st.sampled_from(["kling-3.0", "720p", "minio_conn", "s3://bucket/a b.png"]), st.integers(0, 3))
def test_id_or_path_is_read_in_every_form(value, form):
    assert parse_id("argument", renderings(value)[form]) == value
    assert parse_path("argument", renderings(value)[form]) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20261122, "20261122"),
        (2.5, "2.5"),
        (Decimal("1.50"), "1.50"),
        (True, "True"),
        (dt.date(2026, 11, 22), "2026-11-22"),
        (Tier.FREE, "free"),
        ("(slowly) closer", "(slowly) closer"),
        ("[1, 2]", "[1, 2]"),
        ('"She smiles" and leaves', '"She smiles" and leaves'),
        (json.dumps("Katze läuft"), "Katze läuft"),
        (repr("Katz'\n\\läuft"), "Katz'\n\\läuft"),
        ("'Stop!' 'Go!'", "'Stop!' 'Go!'"),
        ("('Stop!')", "('Stop!')"),
        ("'''Stop!'''", "'''Stop!'''"),
    ],
)
def test_text_is_what_a_template_would_print(value, text):
    assert parse_text("prompt", value) == text


def test_entry_of_a_folder_is_a_path(tmp_path):
    (tmp_path / "a.png").touch()
    (entry,) = os.scandir(tmp_path)
    assert VideoRequest.from_arguments(image=entry, end_seconds=5).image == str(tmp_path / "a.png")


def test_path_object_and_timedelta_are_read():
    assert parse_path("path", Path("/data/videos")) == Path("/data/videos")
    assert VideoRequest.from_arguments(image=Path("/a.png"), end_seconds=dt.timedelta(seconds=5)) == (
        VideoRequest("/a.png", 5)
    )


@pytest.mark.parametrize(
    ("parse", "value", "says"),
    [
        (parse_text, {"a": 1}, "not a dict"),
        (parse_text, b"\xff" * 5000, "must be a text"),
        *[
            (parse_path, value, r"\.expand\(argument=\.\.\.\)")
            for value in (["a.png", "b.png"], "['a.png']", '["a.png"]', "[]")
        ],
        (parse_path, "{'a': 1}", "must be a path, not a dict"),
        (parse_path, 20261122, "must be a path, not 20261122"),
        (parse_number, True, "positive number"),
        (parse_number, "nan", "positive number"),
        (parse_number, "1" * 400, "positive number"),
        (parse_number, [5], r"\.expand\("),
        (parse_whole_number, "2.5", "whole number"),
        (parse_flag, "loud", "true or false"),
        (parse_flag, 2, "true or false"),
    ],
)
def test_wrong_value_is_refused_in_short(parse, value, says):
    with pytest.raises(InvalidRequestError, match=says) as refused:
        parse("argument", value)
    assert len(str(refused.value)) < 400
    assert "no credits were spent" in str(refused.value)


@pytest.mark.parametrize("name", ["wait_for_completion", "deferrable", "durable"])
def test_flag_that_is_no_template_is_read_when_the_dag_is_parsed(name):
    def make(value):
        return ImageToVideoOperator(task_id="t", image="a.png", end_seconds=5, **{name: value})

    assert getattr(make("false"), name) is False
    for value in ("{{ params.flag }}", "", [True]):
        with pytest.raises(ValueError, match=f"{name} must be true or false"):
            make(value)


@pytest.mark.parametrize("value", ["{{ params.delete }}", None, "maybe"])
def test_text_does_not_delete_a_video(value):
    with pytest.raises(ValueError, match="delete_remote must be true or false"):
        DownloadVideoOperator(task_id="t", project_id="cm1", path="/tmp/", delete_remote=value)


@given(st.text() | st.text(alphabet="{}[]()'\"\\,:01 eN", max_size=20))
def test_no_text_breaks_the_reading(text):
    unrender(text)
    assert parse_text("prompt", f"a{text}") == f"a{text}"


@pytest.mark.parametrize("value", [JOB_ID, *renderings(JOB_ID), *renderings(JOB), {"project_id": JOB_ID}])
def test_job_is_read_in_every_form(value):
    assert JobReference.from_value(value).project_id == JOB_ID


def test_job_keeps_what_its_submitter_knew():
    assert JobReference.from_value(json.dumps(JOB)) == JobReference(JOB_ID, None, "720p", 72)
    assert JobReference.from_value({"project_id": "cm1", "model": 5, "credits_charged": True}) == (
        JobReference("cm1")
    )
    assert JobReference.from_value(12345).project_id == "12345"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        *[(each, "not nothing") for each in NOT_GIVEN],
        ([JOB, JOB], r"several values \(list\).*\.expand\(project_id=\.\.\.\)"),
        (json.dumps([JOB]), r"\.expand\(project_id=\.\.\.\)"),
        ({"id": JOB_ID}, "not a dict"),
        (True, "not True"),
        (1.5, "not 1.5"),
        ("https://magichour.ai/", "not 'https"),
        ("x" * 10_000, "not 'xxx"),
    ],
)
def test_what_is_no_job_is_refused_with_its_cause(value, says):
    with pytest.raises(InvalidRequestError, match=says) as refused:
        JobReference.from_value(value)
    assert len(str(refused.value)) < 400


RUN = "manual__2026-11-22T13:48:24.123456+00:00_abcdef"


def name(dag_id="render_products", task_id="render", map_index=-1, run_id=RUN):
    ti = SimpleNamespace(dag_id=dag_id, task_id=task_id, map_index=map_index, run_id=run_id)
    return job_name({"ti": ti})


def test_a_job_is_named_after_dag_task_index_and_run():
    assert name() == f"render_products render {RUN}"
    assert name(map_index=7) == f"render_products render[7] {RUN}"
    assert job_name({}) is None


@pytest.mark.parametrize("lengths", [(60, 60), (10, 200), (200, 10), (250, 250)])
def test_a_long_name_keeps_index_and_run_and_says_which_task(lengths):
    long = {"dag_id": "d" * lengths[0], "task_id": "t" * lengths[1]}
    changes = [
        {"map_index": 8}, {"map_index": 9}, {"map_index": 9, "task_id": long["task_id"] + "2"},
        {"map_index": 9, "dag_id": long["dag_id"] + "2"},
    ]  # fmt: skip
    names = {name(**{**long, **change}) for change in changes}
    assert len(names) == 4
    for each in names:
        assert len(each) <= 100
        assert each.endswith((f"[8] {RUN}", f"[9] {RUN}"))

    names = {name(run_id="r" * 200 + end, map_index=3) for end in "ab"}
    assert len(names) == 2
    assert all(len(each) <= 100 and "render_products render[3] rrr" in each for each in names)
