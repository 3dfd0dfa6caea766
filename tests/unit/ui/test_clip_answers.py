"""Answers over real HTTP, behind the compression that Airflow puts around all of its answers."""

from __future__ import annotations

import os
import random
import tracemalloc
from email.utils import format_datetime
from pathlib import Path

import pytest

from magichour_provider.ui.media_files import find
from magichour_provider.ui.media_roots import parse_roots
from magichour_provider.ui.range_response import span

MIB = 1 << 20
GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture
def file(tmp_path, clip_bytes):
    path = tmp_path / "a_dag" / "x.mp4"
    path.parent.mkdir()
    path.write_bytes(clip_bytes)
    return path


@pytest.fixture
def open_clip(file):
    roots = parse_roots(f"{file.parent.parent}/{{dag_id}}")
    kept = []  # so that nothing is closed for want of a reference

    def open_clip():
        kept.append(find(str(file), dag_id="a_dag", rendered_path=None, roots=roots))
        return kept[-1]

    return open_clip


@pytest.fixture
def client(browser, open_clip):
    return browser(open_clip)


def is_open(file):
    return str(file) in (os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())


def ask(client, header=None, **headers):
    return client.get("/clip", headers={**({"Range": header} if header else {}), **headers})


# --- whole


def test_a_whole_clip(client, clip_bytes, file, patiently):
    answer = ask(client)
    assert answer.status_code == 200
    assert answer.content == clip_bytes
    headers = answer.headers
    assert headers["content-length"] == str(len(clip_bytes))
    assert headers["content-type"] == "video/mp4"
    assert headers["accept-ranges"] == "bytes"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"] == 'inline; filename="x.mp4"'
    assert headers["last-modified"].endswith(" GMT")
    assert headers["etag"].startswith('"')
    assert "content-range" not in headers
    assert "content-encoding" not in headers
    patiently(lambda: not is_open(file))


def test_a_head_says_the_same_without_the_bytes(client, file):
    whole = ask(client)
    head = client.head("/clip", headers={"Range": "bytes=0-4"})
    assert (head.status_code, head.content) == (200, b"")
    names = ("content-length", "content-type", "accept-ranges", "etag", "last-modified")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    assert "content-range" not in head.headers
    assert not is_open(file)


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("my clip-2.mp4", 'inline; filename="my clip-2.mp4"'),
        ('a"b\\c;.mp4', "inline; filename=\"a_b_c_.mp4\"; filename*=UTF-8''a%22b%5Cc%3B.mp4"),
        ("\u732b.mp4", "inline; filename=\"_.mp4\"; filename*=UTF-8''%E7%8C%AB.mp4"),
    ],
)
def test_a_files_name_cannot_break_a_header(browser, file, name, disposition):
    strange = file.rename(file.with_name(name))
    roots = parse_roots(str(file.parent))
    client = browser(lambda: find(str(strange), dag_id="a", rendered_path=f"{file.parent}/", roots=roots))
    assert ask(client).headers["content-disposition"] == disposition


def test_a_refusal_is_an_answer_too(browser, open_clip, file):
    file.unlink()
    answer = ask(browser(open_clip))
    assert answer.status_code == 403
    assert "does not exist" in answer.text


# --- ranges


def check_part(answer, content, start, stop):
    assert answer.status_code == 206
    assert answer.content == content[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"
    assert "etag" in answer.headers


@pytest.mark.parametrize("compression", [{}, GZIP], ids=["as a video element asks", "with gzip"])
def test_any_range_is_the_slice_of_the_bytes(client, clip_bytes, compression):
    size, draw = len(clip_bytes), random.Random(6)
    edges = [0, 1, 2, size - 2, size - 1]
    for _ in range(60):
        start, last = (draw.choice([*edges, draw.randrange(size)]) for _ in range(2))
        start, last = min(start, last), max(start, last)
        check_part(ask(client, f"bytes={start}-{last}", **compression), clip_bytes, start, last + 1)
        check_part(ask(client, f"bytes={start}-", **compression), clip_bytes, start, size)
        check_part(ask(client, f"bytes=-{last + 1}", **compression), clip_bytes, size - last - 1, size)


def test_a_range_may_reach_beyond_the_end(client, clip_bytes):
    size = len(clip_bytes)
    for header in (f"bytes=5-{size}", f"bytes=5-{10**40}", "BYTES=5-"):
        check_part(ask(client, header), clip_bytes, 5, size)
    check_part(ask(client, f"bytes=-{10**40}"), clip_bytes, 0, size)


@pytest.mark.parametrize("header", ["bytes={size}-", "bytes={size}-{size}", "bytes=99999999-", "bytes=-0"])
def test_a_range_with_nothing_in_it_is_a_416(client, clip_bytes, file, header):
    answer = ask(client, header.format(size=len(clip_bytes)))
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(clip_bytes)}"
    assert not is_open(file)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,4-5",
        "bytes=0-1,",
        "bytes=9-3",
        "bytes=-",
        "bytes=",
        "bytes",
        "bytes=a-b",
        "bytes=1",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes= 1-2",
        "items=0-1",
        "bytes=0x1-2",
        f"bytes={'9' * 5000}-",
    ],
)
@pytest.mark.parametrize("compression", [{}, GZIP], ids=["as a video element asks", "with gzip"])
def test_several_ranges_or_none_that_can_be_read_are_ignored(client, clip_bytes, header, compression):
    answer = ask(client, header, **compression)
    assert (answer.status_code, answer.content) == (200, clip_bytes)
    assert "content-range" not in answer.headers


def test_digits_of_other_scripts_are_no_numbers():
    assert span("bytes=\u0663-\u0669", 100) is None


def test_compression_leaves_clips_alone(client, clip_bytes):
    answer = ask(client, **GZIP)
    assert answer.headers.get("content-encoding", "identity") == "identity"
    assert answer.headers["content-length"] == str(len(clip_bytes))
    assert answer.content == clip_bytes


# --- conditions


def test_what_is_known_is_not_sent_again(client, file):
    first = ask(client).headers
    for tag in (first["etag"], f"W/{first['etag']}", f'"other", {first["etag"]}', "*"):
        answer = ask(client, "bytes=0-4", **{"If-None-Match": tag})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == first["etag"]
        assert answer.headers["cache-control"] == first["cache-control"]
        assert not is_open(file)
    for tag in ('"other"', first["etag"].strip('"'), ""):
        assert ask(client, **{"If-None-Match": tag}).status_code == 200


def test_what_has_changed_is_sent_again(client, clip_bytes, file):
    etag = ask(client).headers["etag"]
    file.write_bytes(clip_bytes + b"more")
    answer = ask(client, "bytes=0-4", **{"If-None-Match": etag, "If-Range": etag})
    assert (answer.status_code, answer.content) == (200, clip_bytes + b"more")


def test_a_part_is_sent_if_the_rest_is_of_the_same_file(client, clip_bytes):
    first = ask(client).headers
    for validator in (first["etag"], first["last-modified"]):
        check_part(ask(client, "bytes=5-", **{"If-Range": validator}), clip_bytes, 5, len(clip_bytes))
    for other in ('"other"', f"W/{first['etag']}", "Sat, 01 Jan 2000 00:00:00 GMT", "", "*"):
        answer = ask(client, "bytes=5-", **{"If-Range": other})
        assert (answer.status_code, answer.content) == (200, clip_bytes)


def test_the_date_is_the_files(client, open_clip):
    with open_clip() as clip:
        assert ask(client).headers["last-modified"] == format_datetime(clip.last_modified, usegmt=True)


# --- large files and impatient clients


@pytest.fixture
def large(file):
    """200 MB that take no room on the disk."""
    with file.open("r+b") as handle:
        handle.truncate(200_000_000)
    return file


def test_a_large_clip_is_never_in_memory_as_a_whole(client, large):
    tracemalloc.start()
    try:
        with client.stream("GET", "/clip", headers={"Range": "bytes=100-"}) as answer:
            received = sum(len(chunk) for chunk in answer.iter_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == 200_000_000 - 100
    assert peak < 12 * MIB


@pytest.mark.parametrize("header", [{}, {"Range": "bytes=1000000-"}])
def test_a_client_that_goes_away_closes_the_file(client, large, header, patiently):
    with client.stream("GET", "/clip", headers=header) as answer:
        chunks = answer.iter_raw()  # would end the connection, if it were let go
        next(chunks)
        patiently(lambda: is_open(large))
    patiently(lambda: not is_open(large))


def test_a_clip_that_is_cut_meanwhile_breaks_the_connection(client, large, patiently):
    import httpx

    def read_on():
        with client.stream("GET", "/clip") as answer:
            chunks = answer.iter_raw()
            next(chunks)
            os.truncate(large, 1000)
            for _ in chunks:
                pass

    with pytest.raises(httpx.RemoteProtocolError):
        read_on()
    patiently(lambda: not is_open(large))
