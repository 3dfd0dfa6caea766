"""The sandbox's storage origin: signed URLs, uploads, downloads and their ranges, checksums, large files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import socket
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_until

from magichour_provider.sandbox.render import add_free_box
from magichour_provider.sandbox.schemas import SandboxError
from magichour_provider.sandbox.storage import parse_range

DAY = 86_400
MIB = 1 << 20


def video_url(magic, **fields):
    return magic.complete(**fields)["download"]["url"]


def get_range(magic, url, asked, **headers):
    return magic.files.get(url, headers={"Range": asked, **headers})


# Uploads


def test_put_takes_any_content_type_and_may_be_repeated(magic, photo):
    target = magic.upload_target()
    for content, headers in ((b"first", {}), (photo, {"Content-Type": "text/plain"})):
        answer = magic.files.put(target["upload_url"], content=content, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
    (upload,) = magic.control.state()["uploads"]
    assert upload.pop("sha256") == hashlib.sha256(photo).hexdigest()
    assert upload == {"file_path": target["file_path"], "bytes": len(photo), "put_count": 2}


def test_put_without_a_length_is_411(magic):
    answer = magic.files.put(magic.upload_target()["upload_url"], content=iter([b"a", b"b"]))
    assert answer.status_code == 411
    assert magic.control.state()["uploads"][0]["put_count"] == 0


@contextlib.contextmanager
def unfinished_put(target, length):
    """A connection that has sent the first bytes of a PUT."""
    url = urlsplit(target["upload_url"])
    with socket.create_connection((url.hostname, url.port)) as wire:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        wire.sendall(head.encode() + b"only this")
        yield wire


def test_put_above_the_limit_of_the_tier_is_413(magic):
    magic.control.account(tier="free")
    with unfinished_put(magic.upload_target(), 200_000_001) as wire:
        assert wire.recv(100).startswith(b"HTTP/1.1 413 ")


def test_put_that_breaks_off_leaves_nothing(magic):
    target = magic.upload_target()
    with unfinished_put(target, 1000):
        pass
    assert wait_until(
        lambda: any(row["status"] == 400 for row in magic.control.state()["requests"]), timeout=180
    )
    assert magic.control.state()["uploads"][0].items() >= {"bytes": 0, "sha256": None, "put_count": 0}.items()
    assert magic.try_create(target["file_path"]).status_code == 422


# Signatures


@pytest.mark.parametrize("status", [403, 404])
def test_url_that_is_not_genuine_or_expired_is_refused(magic, photo, status):
    magic.control.behaviour(expired_status=status)
    put, got = magic.upload_target()["upload_url"], video_url(magic)
    changes = [
        lambda url: url.partition("?")[0],
        lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
        lambda url: url.replace("expires=", "expires=9"),
        lambda url: url.replace("signature=", "signature=%C3%A9"),
    ]
    for change in changes:
        assert magic.files.put(change(put), content=photo).status_code == status
        assert magic.files.get(change(got)).status_code == status
    assert magic.files.put(put, content=photo).status_code == magic.files.get(got).status_code == 200
    magic.control.advance_clock(DAY)
    assert magic.files.put(put, content=photo).status_code == magic.files.get(got).status_code == status


def test_key_on_a_signed_url_and_head_are_refused_and_count_as_no_download(magic, photo):
    headers = {"Authorization": f"Bearer {magic.server.api_key}"}
    job = magic.complete()
    put = magic.upload_target()["upload_url"]
    assert magic.files.head(job["download"]["url"]).status_code == 403, "no URL is signed for it"
    assert magic.files.get(job["download"]["url"], headers=headers).status_code == 400
    assert magic.files.put(put, content=photo, headers=headers).status_code == 400
    assert magic.entry(job["id"])["downloads"] == 0


def test_link_is_the_same_until_it_expires_and_the_entity_stays(magic):
    job = magic.complete()
    first = magic.files.get(job["download"]["url"])
    magic.control.advance_clock(DAY - 60)
    assert magic.get(job["id"])["download"] == job["download"]
    magic.control.advance_clock(120)
    renewed = magic.get(job["id"])["download"]
    assert renewed["url"] != job["download"]["url"]
    assert renewed["expires_at"] > job["download"]["expires_at"]
    assert get_range(magic, job["download"]["url"], "bytes=5-").status_code == 403
    rest = get_range(magic, renewed["url"], "bytes=100-", **{"If-Range": first.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, first.content[100:])
    assert parsedate_to_datetime(rest.headers["last-modified"])


# Ranges


@given(st.integers(1, 1000), st.integers(0, 1200), st.none() | st.integers(0, 1200))
def test_range_from_first_to_last_or_of_the_last_bytes(size, first, last):
    header, wanted = f"Bytes={first}-{'' if last is None else last}", list(range(size))
    if last is not None and last < first:
        assert parse_range(header, size) is None
    elif first >= size:
        with pytest.raises(SandboxError) as error:
            parse_range(header, size)
        assert (error.value.status, error.value.headers) == (416, {"Content-Range": f"bytes */{size}"})
    else:
        assert list(parse_range(header, size)) == wanted[first : None if last is None else last + 1]
    assert list(parse_range(f"bytes=-{first + 1}", size)) == wanted[-first - 1 :]


@pytest.mark.parametrize("header", ["bytes=-", "bytes=a-b", "lines=1-2", "5-9", "bytes=0-1,5-6", ""])
def test_other_ranges_are_ignored(header):
    assert parse_range(header, 100) is None


def test_range_is_206_with_its_bytes_and_headers(magic):
    job = magic.complete()
    url = job["download"]["url"]
    whole = magic.files.get(url)
    size = len(whole.content)
    assert (whole.status_code, int(whole.headers["content-length"])) == (200, size)
    answer = get_range(magic, url, "bytes=100-199")
    assert (answer.status_code, answer.content) == (206, whole.content[100:200])
    assert answer.headers["content-range"] == f"bytes 100-199/{size}"
    for each in (whole, answer):
        assert (each.headers["accept-ranges"], each.headers["content-type"]) == ("bytes", "video/mp4")
    beyond = get_range(magic, url, f"bytes={size}-")
    assert (beyond.status_code, b"InvalidRange" in beyond.content) == (416, True)
    assert magic.entry(job["id"])["downloads"] == 2


def test_if_range_matches_the_strong_etag_only(magic):
    url = video_url(magic)
    whole = magic.files.get(url)
    etag = whole.headers["etag"]
    assert get_range(magic, url, "bytes=100-", **{"If-Range": etag}).status_code == 206
    for other in ('"other"', f"W/{etag}", etag.strip('"'), whole.headers["last-modified"]):
        answer = get_range(magic, url, "bytes=100-", **{"If-Range": other})
        assert (answer.status_code, answer.content) == (200, whole.content), other


def test_ranges_are_ignored_if_the_switch_says_so(magic):
    magic.control.behaviour(ranges=False)
    url = video_url(magic)
    for asked in ("bytes=100-", "bytes=99999999-"):
        answer = get_range(magic, url, asked)
        assert (answer.status_code, "accept-ranges" in answer.headers) == (200, False)


# Checksums


def base64_of(digest):
    return base64.b64encode(digest.digest()).decode()


@pytest.mark.parametrize("kind", ["etag-md5", "none", "content-md5", "goog", "sha-256", "digest"])
def test_checksum_headers_are_those_of_the_whole_video(magic, kind):
    magic.control.behaviour(video_checksum=kind, video_padding_bytes=3 * MIB)
    url = video_url(magic)
    whole = magic.files.get(url)
    md5, sha256 = hashlib.md5(whole.content), hashlib.sha256(whole.content)
    on_all, on_whole = {
        "etag-md5": ({}, {}),
        "none": ({}, {}),
        "content-md5": ({}, {"content-md5": base64_of(md5)}),
        "goog": ({"x-goog-hash": f"md5={base64_of(md5)}"}, {}),
        "sha-256": ({}, {"x-amz-checksum-sha256": base64_of(sha256), "x-amz-checksum-type": "FULL_OBJECT"}),
        "digest": ({"repr-digest": f"sha-256=:{base64_of(sha256)}:"}, {}),
    }[kind]
    assert checksums_in(whole) == {**on_all, **on_whole}
    assert checksums_in(get_range(magic, url, "bytes=10-")) == on_all
    assert (whole.headers["etag"] == f'"{md5.hexdigest()}"') == (kind == "etag-md5")


def checksums_in(answer):
    words = ("md5", "hash", "checksum", "digest")
    return {name: value for name, value in answer.headers.items() if any(word in name for word in words)}


def test_replaced_video_is_another_entity_and_running_downloads_keep_the_old(magic):
    magic.control.behaviour(video_padding_bytes=32 * MIB)
    job = magic.complete()
    url = job["download"]["url"]
    digest = hashlib.md5()
    with magic.files.stream("GET", url) as answer:
        pieces = answer.iter_raw(MIB)
        digest.update(next(pieces))
        for content in (b"x" * 1000, b"y" * 1000):
            magic.control.replace_video(job["id"], content)
            new = get_range(magic, url, "bytes=100-", **{"If-Range": answer.headers["etag"]})
            assert (new.status_code, new.content) == (200, content)
            assert new.headers["etag"] == f'"{hashlib.md5(content).hexdigest()}"'
        for piece in pieces:
            digest.update(piece)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'


def test_unknown_job_cannot_be_set_and_only_a_complete_video_be_replaced(magic):
    with pytest.raises(ValueError, match="no job unknown"):
        magic.control.set_job("unknown", "canceled")
    for job, message in (("unknown", "no job unknown"), (magic.create(), "no video")):
        with pytest.raises(ValueError, match=message):
            magic.control.replace_video(job, b"x")


# Large videos, and several of one job


@pytest.mark.parametrize("size", [8, (1 << 32) - 1, 1 << 32])
def test_padding_of_any_size_needs_no_disk_and_the_video_plays(magic, tmp_path, size):
    path = tmp_path / "video.mp4"
    path.write_bytes(magic.files.get(video_url(magic)).content)
    before = path.stat()
    add_free_box(path, size)
    assert path.stat().st_size == before.st_size + size
    assert (path.stat().st_blocks - before.st_blocks) * 512 < MIB
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 120


def test_job_may_have_several_downloads_each_with_its_own_video_and_link(magic):
    magic.control.behaviour(downloads_per_job=3, video_padding_bytes=MIB)
    job = magic.complete()
    urls = [link["url"] for link in job["downloads"]]
    answers = [magic.files.get(url) for url in urls]
    assert len({answer.headers["etag"] for answer in answers}) == 3
    for answer in answers:
        with av.open(io.BytesIO(answer.content)) as container:
            assert container.duration == 5_000_000
    paths = [urlsplit(url).path for url in urls]
    assert paths == [f"/{job['id']}{further}/output.mp4" for further in ("", "/2", "/3")]
    assert magic.entry(job["id"])["downloads"] == 3
    crossed = f"{urls[1].partition('?')[0]}?{urls[0].partition('?')[2]}"
    assert magic.files.get(crossed).status_code == 403
    magic.api.delete(f"/v1/video-projects/{job['id']}")
    assert [magic.files.get(url).status_code for url in urls] == [404] * 3
