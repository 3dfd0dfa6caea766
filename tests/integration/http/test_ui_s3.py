"""Videos in S3, shown by the pages: with a real client and a local server."""

from __future__ import annotations

import json
import random

import pytest

from magichour_provider.ui.media_files import (
    STORE_BLOCK_BYTES,
    MediaRefusedError,
    MediaUnavailableError,
    authorize,
    open_media,
    parse_roots,
)

BUCKET = "shown-videos"
ROOT = f"s3://s3@{BUCKET}/finished/{{dag_id}}/"
URL = f"s3://{BUCKET}/finished/a_dag/x.mp4"
VIDEO = b"\0\0\0\x18ftypisom" + random.Random(6).randbytes(2 * STORE_BLOCK_BYTES + 2**20)


def open_url(url=URL, root=ROOT, kind="video"):
    return open_media(authorize(url, dag_id="a_dag", rendered_path=None, roots=parse_roots(root)), kind)


def content(file):
    return b"".join(file.read(0, file.size))


@pytest.fixture
def put(s3):
    s3.create_bucket(Bucket=BUCKET)
    return lambda key="finished/a_dag/x.mp4", body=VIDEO: s3.put_object(Bucket=BUCKET, Key=key, Body=body)


@pytest.fixture
def requests(monkeypatch):
    """The requests to the store: each method, with its range."""
    from s3fs import S3FileSystem

    requests, original = [], S3FileSystem._call_s3

    async def watched(filesystem, method, *args, **kwargs):
        requests.append((method, kwargs.get("Range")))
        return await original(filesystem, method, *args, **kwargs)

    monkeypatch.setattr(S3FileSystem, "_call_s3", watched)
    return requests


def test_object_is_read_with_the_roots_connection(put):
    put()
    first, again = open_url(), open_url()
    assert (first.size, first.media_type) == (len(VIDEO), "video/mp4")
    assert content(first) == VIDEO
    put(body=VIDEO[:-1] + b".")
    assert first.etag == again.etag != open_url().etag


def test_any_part_is_read(put):
    put()
    draw, size = random.Random(7), len(VIDEO)
    edges = [0, 1, STORE_BLOCK_BYTES - 1, STORE_BLOCK_BYTES, size]
    for _ in range(15):
        start, end = sorted(draw.choice([*edges, draw.randrange(size)]) for _ in range(2))
        assert b"".join(open_url().read(start, end)) == VIDEO[start:end]


def test_requests_to_the_store_are_few_and_small(put, requests):
    put()
    assert len(b"".join(open_url().read(1000, 2000))) == 1000
    assert requests == [
        ("head_object", None),
        ("get_object", "bytes=0-11"),
        ("get_object", "bytes=1000-1999"),
    ]
    requests.clear()
    assert content(open_url()) == VIDEO
    assert [method for method, _ in requests] == ["head_object", *["get_object"] * 4]


def test_kind_is_checked_by_the_first_bytes(put, requests):
    put(body=b"password=secret" * 2**20)
    with pytest.raises(MediaRefusedError, match="no mp4") as refused:
        open_url()
    assert "password" not in str(refused.value)
    assert requests == [("head_object", None), ("get_object", "bytes=0-11")]
    put("finished/a_dag/x.jpg", b"\xff\xd8\xff\xe0 a poster")
    poster = open_url(f"s3://{BUCKET}/finished/a_dag/x.jpg", kind="poster")
    assert (poster.media_type, content(poster)) == ("image/jpeg", b"\xff\xd8\xff\xe0 a poster")


@pytest.mark.parametrize(("key", "reason"), [("x", "no regular file"), ("x/none.mp4", "does not exist")])
def test_folder_and_missing_object_are_refused(put, key, reason):
    put("finished/a_dag/x/y.mp4", VIDEO[:99])
    with pytest.raises(MediaRefusedError, match=reason):
        open_url(f"s3://{BUCKET}/finished/a_dag/{key}")


@pytest.mark.parametrize("key", ["[a]*.mp4", "a b/\u732b#+&%25.mp4", "%2e%2e/x.mp4", "what?x=1.mp4"])
def test_key_is_taken_literally(put, key):
    put(f"finished/a_dag/{key}", VIDEO[:100])
    put("finished/a_dag/a.mp4", VIDEO[:50])
    assert content(open_url(f"s3://{BUCKET}/finished/a_dag/{key}")) == VIDEO[:100]


def test_object_that_is_replaced_while_it_is_read_is_not_mixed(put):
    put()
    file = open_url()
    blocks = file.read(0, file.size)
    next(blocks)
    put(body=VIDEO[::-1])
    with pytest.raises(MediaUnavailableError):
        next(blocks)


def test_missing_bucket_is_refused_and_a_store_that_is_away_is_not(put, monkeypatch):
    with pytest.raises(MediaRefusedError, match="bucket"):
        open_url("s3://none/finished/a_dag/x.mp4", "s3://s3@none/finished/{dag_id}")
    extra = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}
    extra["config_kwargs"] = {"retries": {"max_attempts": 1}}
    fields = {"conn_type": "aws", "login": "an-access-key", "password": "a-secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(fields))
    with pytest.raises(MediaUnavailableError) as away:
        open_url(root=f"s3://away@{BUCKET}/finished/{{dag_id}}")
    assert "cannot read the file" in str(away.value)
    assert "secret" not in str(away.value)
