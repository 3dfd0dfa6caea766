"""Files over real HTTP: whole, in ranges, on conditions, behind Airflow's compression."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import wait_until

from magichour_provider.ui.media import parse_range
from magichour_provider.ui.media_files import authorize, open_media, parse_roots

MIB = 1 << 20
GZIP = {"Accept-Encoding": "gzip, deflate, br"}
VIDEO = b"\0\0\0\x18ftypisom" + bytes(range(256)) * 40
SIZE = len(VIDEO)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a_dag" / "x.mp4"
    path.parent.mkdir()
    path.write_bytes(VIDEO)
    return path


@pytest.fixture
def open_file(file):
    roots = parse_roots(f"{file.parent.parent}/{{dag_id}}")
    kept = []  # so that the garbage collector closes no file

    def open_file():
        kept.append(open_media(authorize(str(file), dag_id="a_dag", rendered_path=None, roots=roots)))
        return kept[-1]

    return open_file


@pytest.fixture
def client(client_for, open_file):
    return client_for(open_file)


def is_open(file):
    return str(file) in (os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())


def get(client, header=None, **headers):
    return client.get("/video", headers={**({"Range": header} if header else {}), **headers})


def check_part(response, start, stop):
    assert (response.status_code, response.content) == (206, VIDEO[start:stop])
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["content-length"] == str(stop - start)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["accept-ranges"] == "bytes"
    assert "etag" in response.headers


def test_get_without_range_returns_the_whole_file(client, file):
    response = get(client)
    assert (response.status_code, response.content) == (200, VIDEO)
    expected = {
        "content-length": str(SIZE),
        "content-type": "video/mp4",
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "content-disposition": "inline; filename*=UTF-8''x.mp4",
    }
    assert expected.items() <= dict(response.headers).items()
    assert response.headers["etag"].startswith('"')
    assert not {"content-range", "content-encoding"} & set(response.headers)
    assert wait_until(lambda: not is_open(file), timeout=30)


def test_head_returns_the_headers_of_get(client, file):
    whole, head = get(client), client.head("/video", headers={"Range": "bytes=0-4"})
    assert (head.status_code, head.content) == (200, b"")
    without = {"date": "", "vary": ""}  # the middleware of some versions adds `vary` to a GET alone
    assert {**head.headers, **without} == {**whole.headers, **without}
    assert not is_open(file)


def test_file_name_is_escaped_in_content_disposition(client_for, file):
    name, quoted = 'a"b\\c; \u732b-2.mp4', "a%22b%5Cc%3B%20%E7%8C%AB-2.mp4"
    roots, folder = parse_roots(str(file.parent)), f"{file.parent}/"
    strange = str(file.rename(file.with_name(name)))
    allowed = authorize(strange, dag_id="a", rendered_path=folder, roots=roots)
    response = get(client_for(lambda: open_media(allowed)))
    assert response.headers["content-disposition"] == f"inline; filename*=UTF-8''{quoted}"


# Ranges


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, SIZE - 1), last=st.integers(0, SIZE - 1), gzip=st.booleans())
@example(first=0, last=0, gzip=True)
@example(first=0, last=SIZE - 1, gzip=True)
@example(first=SIZE - 1, last=SIZE - 1, gzip=False)
def test_any_range_returns_its_bytes(client, first, last, gzip):
    first, last = sorted((first, last))
    headers = GZIP if gzip else {}
    check_part(get(client, f"bytes={first}-{last}", **headers), first, last + 1)
    check_part(get(client, f"bytes={first}-", **headers), first, SIZE)
    check_part(get(client, f"bytes=-{last + 1}", **headers), SIZE - last - 1, SIZE)
    for beyond in (SIZE, SIZE + last, 10**40):
        check_part(get(client, f"BYTES={first}-{beyond}", **headers), first, SIZE)
    check_part(get(client, f"bytes=-{10**40}", **headers), 0, SIZE)


@given(st.integers(1, 10**6), st.text(st.sampled_from("bytes=-0123456789, ax\u0663"), max_size=30))
def test_any_range_header_is_ignored_or_gives_bytes_of_the_file(size, header):
    for text in (header, f"bytes={header}"):
        part = parse_range(text, size)
        assert part is None or not part or 0 <= part.start < part.stop <= size


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE}", "bytes=99999999-", "bytes=-0"])
def test_empty_range_returns_416(client, file, header):
    response = get(client, header)
    assert (response.status_code, response.content) == (416, b"")
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert not is_open(file)


@pytest.mark.parametrize(
    "header",
    [
        *["bytes=0-1,4-5", "bytes=0-1,", "bytes=9-3", "bytes=-", "bytes=", "bytes", "bytes=a-b", "bytes=1"],
        *["bytes=+1-2", "bytes=1_0-20", "bytes= 1-2", "items=0-1", "bytes=0x1-2", f"bytes={'9' * 5000}-"],
    ],
)
def test_several_or_invalid_ranges_return_the_whole_file(client, header):
    for headers in ({}, GZIP):
        response = get(client, header, **headers)
        assert (response.status_code, response.content) == (200, VIDEO)
        assert response.headers.get("content-encoding", "identity") == "identity"
        assert response.headers["content-length"] == str(SIZE)
        assert "content-range" not in response.headers
    assert parse_range("bytes=\u0663-\u0669", 100) is None, "digits of another script"


# Conditions


def test_if_none_match_returns_304(client, file):
    first = get(client).headers
    for tag in (first["etag"], f"W/{first['etag']}", f'"other", {first["etag"]}', "*"):
        response = get(client, "bytes=0-4", **{"If-None-Match": tag})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == first["etag"]
        assert response.headers["cache-control"] == first["cache-control"]
        assert not is_open(file)
    for tag in ('"other"', first["etag"].strip('"'), ""):
        assert get(client, **{"If-None-Match": tag}).status_code == 200


def test_changed_file_is_sent_whole(client, file):
    etag = get(client).headers["etag"]
    file.write_bytes(VIDEO + b"more")
    response = get(client, "bytes=0-4", **{"If-None-Match": etag, "If-Range": etag})
    assert (response.status_code, response.content) == (200, VIDEO + b"more")


def test_if_range_needs_the_strong_etag(client):
    first = get(client).headers
    check_part(get(client, "bytes=5-", **{"If-Range": first["etag"]}), 5, SIZE)
    for other in ('"other"', f"W/{first['etag']}", "Sat, 01 Jan 2000 00:00:00 GMT", "", "*"):
        response = get(client, "bytes=5-", **{"If-Range": other})
        assert (response.status_code, response.content) == (200, VIDEO)


# Large files and clients that disconnect


@pytest.fixture
def large(file):
    """200 MB that take no space on the disk."""
    with file.open("r+b") as handle:
        handle.truncate(200_000_000)
    return file


def test_large_file_is_streamed(client, large):
    tracemalloc.start()
    try:
        with client.stream("GET", "/video", headers={"Range": "bytes=100-"}) as response:
            received = sum(len(chunk) for chunk in response.iter_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == 200_000_000 - 100
    assert peak < 12 * MIB


@pytest.mark.parametrize("header", [{}, {"Range": "bytes=1000000-"}])
def test_disconnect_closes_the_file(client, large, header):
    with client.stream("GET", "/video", headers=header) as response:
        chunks = response.iter_raw()  # without a reference, the connection would end here
        next(chunks)
        assert wait_until(lambda: is_open(large), timeout=30)
    assert wait_until(lambda: not is_open(large), timeout=30)


def test_file_that_is_truncated_breaks_the_connection(client, large):
    def read_all():
        with client.stream("GET", "/video") as response:
            chunks = response.iter_raw()
            next(chunks)
            os.truncate(large, 1000)
            for _ in chunks:
                pass

    with pytest.raises(httpx.RemoteProtocolError):
        read_all()
    assert wait_until(lambda: not is_open(large), timeout=30)
