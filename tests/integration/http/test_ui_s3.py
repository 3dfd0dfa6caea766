"""Clips that have landed in S3, shown by the pages: by a real client and a local server."""

from __future__ import annotations

import json
import random

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from magichour_provider.ui.media import respond
from magichour_provider.ui.media_files import (
    STORE_BLOCK_BYTES,
    MediaRefusedError,
    MediaUnavailableError,
    open_media,
    parse_roots,
)

MIB = 1 << 20
ROOT = "s3://s3@videos/finished/{dag_id}/"
CLIP = b"\0\0\0\x18ftypisom" + random.Random(6).randbytes(2 * STORE_BLOCK_BYTES + MIB)
URL = "s3://videos/finished/a_dag/x.mp4"


@pytest.fixture
def put(s3):
    return lambda key, body=CLIP: s3.put_object(Bucket="videos", Key=key, Body=body)


@pytest.fixture
def look():
    def look(url=URL, root=ROOT, **fields):
        fields = {"dag_id": "a_dag", "rendered_path": None, **fields}
        return open_media(url, roots=parse_roots(root), **fields)

    return look


@pytest.fixture
def browser(look):
    def clip(request: Request) -> Response:
        return respond(look(), request)

    with TestClient(Starlette(routes=[Route("/clip", clip)])) as client:
        client.headers["Accept-Encoding"] = "identity"
        yield client


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the store: each method, with its range."""
    from s3fs import S3FileSystem

    requests, really = [], S3FileSystem._call_s3

    async def watched(filesystem, method, *args, **kwargs):
        requests.append((method, kwargs.get("Range")))
        return await really(filesystem, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", watched)
    return requests


def test_a_clip_is_read_from_s3_by_the_roots_connection(put, look, s3):
    put("finished/a_dag/x.mp4")
    clip = look()
    assert (clip.name, clip.size, clip.media_type) == ("x.mp4", len(CLIP), "video/mp4")
    assert b"".join(clip.read(0, clip.size)) == CLIP


def test_the_etag_is_that_of_one_content(put, look):
    put("finished/a_dag/x.mp4")
    first, again = look(), look()
    put("finished/a_dag/x.mp4", CLIP[:-1] + b".")
    other = look()
    assert first.etag == again.etag != other.etag


def test_any_range_is_the_slice_of_the_bytes(put, browser):
    put("finished/a_dag/x.mp4")
    draw, size = random.Random(7), len(CLIP)
    edges = [0, 1, STORE_BLOCK_BYTES - 1, STORE_BLOCK_BYTES, size - 1]
    for _ in range(15):
        start, last = sorted(draw.choice([*edges, draw.randrange(size)]) for _ in range(2))
        part = browser.get("/clip", headers={"Range": f"bytes={start}-{last}"})
        assert (part.status_code, part.content) == (206, CLIP[start : last + 1])
        assert part.headers["content-range"] == f"bytes {start}-{last}/{size}"
    whole = browser.get("/clip")
    assert (whole.status_code, whole.content) == (200, CLIP)
    assert browser.get("/clip", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert browser.get("/clip", headers={"If-Range": '"x"', "Range": "bytes=1-"}).content == CLIP
    assert browser.get("/clip", headers={"Range": f"bytes={size}-"}).status_code == 416


def test_a_small_range_takes_three_requests_and_no_more_bytes_than_it_has(put, browser, asked):
    put("finished/a_dag/x.mp4")
    browser.get("/clip", headers={"Range": "bytes=1000-1999"})
    assert asked == [
        ("head_object", None),
        ("get_object", "bytes=0-11"),
        ("get_object", "bytes=1000-1999"),
    ]


def test_a_whole_clip_takes_two_requests_and_one_for_each_block(put, browser, asked):
    put("finished/a_dag/x.mp4")
    browser.get("/clip")
    assert [method for method, _ in asked] == ["head_object", *["get_object"] * 4]


def test_what_is_no_clip_is_refused_by_its_first_bytes(put, look, asked):
    put("finished/a_dag/x.mp4", b"password=secret" * MIB)
    with pytest.raises(MediaRefusedError, match="no mp4") as refused:
        look()
    assert "password" not in str(refused.value)
    assert asked == [("head_object", None), ("get_object", "bytes=0-11")]


def test_a_poster_is_a_jpeg(put, look):
    put("finished/a_dag/x.jpg", b"\xff\xd8\xff\xe0 a poster")
    poster = look("s3://videos/finished/a_dag/x.jpg", kind="poster")
    assert poster.media_type == "image/jpeg"
    assert b"".join(poster.read(0, poster.size)) == b"\xff\xd8\xff\xe0 a poster"
    with pytest.raises(MediaRefusedError, match="no mp4"):
        look("s3://videos/finished/a_dag/x.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "s3://videos/finished/b_dag/x.mp4",
        "s3://videos/finished/a_dag-secret/x.mp4",
        "s3://videos/finished/a_dag/../b_dag/x.mp4",
        "s3://videos/finished/a_dag//x.mp4",
        "s3://videos/secret.mp4",
        "s3://secret/finished/a_dag/x.mp4",
        "s3://other@videos/finished/a_dag/x.mp4",
        "s3://s3@videos/finished/a_dag/x.mp4",
        "s3a://videos/finished/a_dag/x.mp4",
        "s3://videos/finished/a_dag/x.mp4?versionId=1",
    ],
)
def test_what_lies_elsewhere_is_refused_without_a_request(s3, put, look, asked, url):
    s3.create_bucket(Bucket="secret")
    s3.put_object(Bucket="secret", Key="finished/a_dag/x.mp4", Body=CLIP[:99])
    for key in ("b_dag/x.mp4", "a_dag-secret/x.mp4", "a_dag/../b_dag/x.mp4", "a_dag//x.mp4", "a_dag/x.mp4"):
        put(f"finished/{key}", CLIP[:99])
    put("secret.mp4", CLIP[:99])
    with pytest.raises(MediaRefusedError, match="does not lie below"):
        look(url, rendered_path=url)
    assert asked == []


@pytest.mark.parametrize(("key", "why"), [("x", "no regular file"), ("x/none.mp4", "does not exist")])
def test_a_folder_or_nothing_is_refused(put, look, key, why):
    put("finished/a_dag/x/y.mp4", CLIP[:99])
    with pytest.raises(MediaRefusedError, match=why):
        look(f"s3://videos/finished/a_dag/{key}")


@pytest.mark.parametrize("key", ["[a]*.mp4", "a b/\u732b#+&%25.mp4", "%2e%2e/x.mp4"])
def test_a_key_is_taken_as_it_is_written(put, look, key):
    put(f"finished/a_dag/{key}", CLIP[:100])
    put("finished/a_dag/a.mp4", CLIP[:50])
    clip = look(f"s3://videos/finished/a_dag/{key}")
    assert b"".join(clip.read(0, clip.size)) == CLIP[:100]


def test_under_a_shared_root_the_rendered_field_vouches(put, look):
    put("finished/x.mp4")
    url, shared = "s3://videos/finished/x.mp4", "s3://s3@videos"
    assert look(url, shared, rendered_path="s3://another@videos/finished/").size == len(CLIP)
    for rendered_path in (None, "s3://s3@videos/other/"):
        with pytest.raises(MediaRefusedError):
            look(url, shared, rendered_path=rendered_path)


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new_one(put, look):
    put("finished/a_dag/x.mp4")
    clip = look()
    blocks = clip.read(0, clip.size)
    next(blocks)
    put("finished/a_dag/x.mp4", CLIP[::-1])
    with pytest.raises(MediaUnavailableError):
        next(blocks)


# --- a store that gives nothing


def test_a_bucket_that_is_not_there_is_a_refusal_that_says_so(look):
    with pytest.raises(MediaRefusedError, match="bucket on its path, does not exist"):
        look("s3://none/finished/a_dag/x.mp4", "s3://s3@none/finished/{dag_id}")


def test_a_store_that_is_away_is_no_refusal(look, monkeypatch):
    extra = {
        "endpoint_url": "http://127.0.0.1:9",
        "region_name": "us-east-1",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    fields = {"conn_type": "aws", "login": "an-access-key", "password": "a-secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(fields))
    with pytest.raises(MediaUnavailableError) as away:
        look(root="s3://away@videos/finished/{dag_id}")
    assert "cannot read the file" in str(away.value)
    assert "secret" not in str(away.value)
