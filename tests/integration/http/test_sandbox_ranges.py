"""Clips from the storage origin: parts, tags, checksums, large ones, several of one job."""

from __future__ import annotations

import base64
import hashlib
import io
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import av
import pytest

from magichour_provider.sandbox.checksums import Checksums
from magichour_provider.sandbox.padding import add_free_box

DAY = 86_400
MIB = 1 << 20
KINDS = ("etag-md5", "none", "content-md5", "goog", "sha-256", "digest")


def clip_url(magic, **fields):
    return magic.complete(**fields)["download"]["url"]


def part(magic, url, asked, **headers):
    return magic.files.get(url, headers={"Range": asked, **headers})


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=100-", 100, -1),
        ("bytes=-100", -100, -1),
        ("bytes=0-", 0, -1),
        ("bytes=100-99999999999", 100, -1),
        ("bytes=-99999999999", 0, -1),
        ("BYTES=5-5", 5, 5),
    ],
)
def test_a_range_gives_exactly_its_bytes(magic, asked, first, last):
    url = clip_url(magic)
    whole = magic.files.get(url).content
    size = len(whole)
    first, last = first % size, last % size
    answer = part(magic, url, asked)
    assert (answer.status_code, answer.content) == (206, whole[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"
    assert int(answer.headers["content-length"]) == last - first + 1
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=99999999-2", "bytes=-", "bytes=a-b", "lines=1-2", "5-9", "bytes=0-1,5-6"],
)
def test_a_range_that_is_none_or_several_gets_the_whole(magic, asked):
    url = clip_url(magic)
    answer = part(magic, url, asked)
    assert (answer.status_code, answer.content) == (200, magic.files.get(url).content)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("first", [0, 1, 1000])
def test_a_range_beyond_the_end_is_416_and_tells_the_size(magic, first):
    job = magic.complete()
    url = job["download"]["url"]
    size = len(magic.files.get(url).content)
    for asked in (f"bytes={size + first}-", "bytes=-0"):
        answer = part(magic, url, asked)
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
        assert b"InvalidRange" in answer.content
    assert magic.entry(job["id"])["downloads"] == 1


def test_if_range_takes_the_strong_etag_and_nothing_else(magic):
    url = clip_url(magic)
    whole = magic.files.get(url)
    etag = whole.headers["etag"]
    rest = part(magic, url, "bytes=100-", **{"If-Range": etag})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    assert rest.headers["etag"] == etag
    for other in ('"other"', f"W/{etag}", etag.strip('"'), whole.headers["last-modified"]):
        answer = part(magic, url, "bytes=100-", **{"If-Range": other})
        assert (answer.status_code, answer.content) == (200, whole.content), other
    assert part(magic, url, "bytes=9999999-", **{"If-Range": '"other"'}).status_code == 200


def test_where_ranges_are_off_there_is_only_the_whole(magic):
    magic.control.behaviour(ranges=False)
    url = clip_url(magic)
    whole = magic.files.get(url)
    answer = part(magic, url, "bytes=100-", **{"If-Range": whole.headers["etag"]})
    assert (answer.status_code, answer.content) == (200, whole.content)
    assert "accept-ranges" not in answer.headers
    assert part(magic, url, "bytes=99999999-").status_code == 200


def test_the_etag_and_the_date_outlive_the_link(magic):
    job = magic.complete()
    first = magic.files.get(job["download"]["url"])
    magic.control.advance_clock(DAY + 60)
    renewed = magic.get(job["id"])["download"]["url"]
    assert renewed != job["download"]["url"]
    rest = part(magic, renewed, "bytes=100-", **{"If-Range": first.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, first.content[100:])
    assert rest.headers["last-modified"] == first.headers["last-modified"]
    assert parsedate_to_datetime(rest.headers["last-modified"])


def test_no_two_clips_have_one_etag(magic):
    tags = {magic.files.get(clip_url(magic)).headers["etag"] for _ in range(2)}
    assert len(tags) == 2


@pytest.mark.parametrize("status", [403, 404])
def test_head_is_refused_as_the_url_is_signed_for_get(magic, status):
    magic.control.behaviour(expired_status=status, downloads_per_job=2)
    for link in magic.complete()["downloads"]:
        assert magic.files.head(link["url"]).status_code == status
        assert magic.files.get(link["url"]).status_code == 200


@pytest.mark.parametrize("status", [403, 404])
def test_a_link_that_expires_between_two_ranges_is_refused(magic, status):
    magic.control.behaviour(expired_status=status)
    job = magic.complete()
    url = job["download"]["url"]
    half = part(magic, url, "bytes=0-99")
    magic.control.advance_clock(DAY + 60)
    assert part(magic, url, "bytes=100-", **{"If-Range": half.headers["etag"]}).status_code == status
    assert part(magic, magic.get(job["id"])["download"]["url"], "bytes=100-").status_code == 206


def test_a_transfer_under_way_goes_on_when_its_link_expires(magic):
    magic.control.behaviour(video_padding_bytes=32 * MIB)
    url = clip_url(magic)
    with magic.files.stream("GET", url) as answer:
        pieces = answer.iter_raw(MIB)
        received = len(next(pieces))
        magic.control.advance_clock(DAY + 60)
        assert magic.files.get(url).status_code == 403
        received += sum(map(len, pieces))
    assert received == int(answer.headers["content-length"]) > 32 * MIB


def base64_of(digest):
    return base64.b64encode(digest.digest()).decode()


@pytest.mark.parametrize("padding", [0, 3 * MIB])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_checksum_is_that_of_the_whole_clip(magic, kind, padding):
    magic.control.behaviour(video_checksum=kind, video_padding_bytes=padding)
    url = clip_url(magic)
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
    assert checksums_in(part(magic, url, "bytes=10-")) == on_all
    assert (whole.headers["etag"] == f'"{md5.hexdigest()}"') == (kind == "etag-md5")
    assert whole.headers["etag"][0] == whole.headers["etag"][-1] == '"'


def checksums_in(answer):
    words = ("md5", "hash", "checksum", "digest")
    return {name: value for name, value in answer.headers.items() if any(word in name for word in words)}


def test_a_clip_that_was_replaced_is_another_entity(magic):
    job = magic.complete()
    url = job["download"]["url"]
    before = magic.files.get(url).headers["etag"]
    magic.control.replace_video(job["id"], b"x" * 1000)
    answer = part(magic, url, "bytes=100-", **{"If-Range": before})
    assert (answer.status_code, answer.content) == (200, b"x" * 1000)
    assert answer.headers["etag"] == f'"{hashlib.md5(b"x" * 1000).hexdigest()}"' != before


def test_a_file_that_was_written_anew_gets_new_checksums(tmp_path):
    checksums = Checksums()
    path = tmp_path / "clip.mp4"
    for content in (b"a", b"bc", b"def"):
        path.write_bytes(content)
        with path.open("rb") as file:
            assert checksums.of(file, "md5") == hashlib.md5(content).digest()
            assert checksums.of(file, "sha256") == hashlib.sha256(content).digest()


def test_a_transfer_under_way_gives_the_clip_that_was_there(magic):
    magic.control.behaviour(video_padding_bytes=32 * MIB)
    job = magic.complete()
    digest = hashlib.md5()
    with magic.files.stream("GET", job["download"]["url"]) as answer:
        pieces = answer.iter_raw(MIB)
        digest.update(next(pieces))
        magic.control.replace_video(job["id"], b"x")
        for piece in pieces:
            digest.update(piece)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'


def test_only_a_clip_that_is_there_can_be_replaced(magic):
    for job in ("unknown", magic.create()):
        with pytest.raises(ValueError, match="with a clip"):
            magic.control.replace_video(job, b"x")


def test_a_padded_clip_plays_and_is_larger_by_just_that(magic):
    image = magic.upload()
    plain = magic.files.get(clip_url(magic, image=image, model="ltx-2.5")).content
    magic.control.behaviour(video_padding_bytes=5 * MIB)
    padded = magic.files.get(clip_url(magic, image=image, model="ltx-2.5")).content
    assert padded.endswith((5 * MIB).to_bytes(4, "big") + b"free" + bytes(5 * MIB - 8))
    assert abs(len(padded) - 5 * MIB - len(plain)) <= 1000  # their marks differ
    with av.open(io.BytesIO(padded)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 120
        assert container.duration == 5_000_000


@pytest.mark.parametrize("size", [8, 1 << 30, (1 << 32) - 1, 1 << 32, 5 << 30])
def test_a_box_of_any_size_costs_no_disk_and_the_clip_plays(magic, tmp_path, size):
    path = tmp_path / "clip.mp4"
    path.write_bytes(magic.files.get(clip_url(magic)).content)
    before = path.stat()
    add_free_box(path, size)
    assert path.stat().st_size == before.st_size + size
    assert (path.stat().st_blocks - before.st_blocks) * 512 < MIB
    with path.open("rb") as file:
        file.seek(before.st_size)
        header = file.read(16)
    long = size > 0xFFFFFFFF
    assert header[:8] == (1 if long else size).to_bytes(4, "big") + b"free"
    assert not long or header[8:] == size.to_bytes(8, "big")
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0


def test_a_clip_of_a_gibibyte_can_be_had_from_its_end(magic):
    magic.control.behaviour(video_padding_bytes=1 << 30)
    url = clip_url(magic)
    answer = part(magic, url, "bytes=-100")
    assert (answer.status_code, answer.content) == (206, bytes(100))
    size = int(answer.headers["content-range"].rpartition("/")[2])
    assert 1 << 30 < size < (1 << 30) + MIB


@pytest.mark.parametrize("padding", [1, 7, -1, "much"])
def test_a_padding_that_is_no_box_is_refused(magic, padding):
    with pytest.raises(ValueError, match="video_padding_bytes"):
        magic.control.behaviour(video_padding_bytes=padding)


@pytest.mark.parametrize("padding", [0, MIB])
def test_a_job_may_have_several_downloads_each_a_clip_of_its_own(magic, padding):
    magic.control.behaviour(downloads_per_job=3, video_padding_bytes=padding)
    job = magic.complete()
    assert job["download"] == job["downloads"][0]
    answers = [magic.files.get(link["url"]) for link in job["downloads"]]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.headers["etag"] for answer in answers}) == 3
    assert len({len(answer.content) for answer in answers}) > 1
    for answer in answers:
        with av.open(io.BytesIO(answer.content)) as container:
            assert container.duration == 5_000_000
    paths = [urlsplit(link["url"]).path for link in job["downloads"]]
    assert paths == [f"/{job['id']}{further}/output.mp4" for further in ("", "/2", "/3")]
    assert magic.entry(job["id"])["downloads"] == 3


def test_a_link_is_good_for_its_own_clip_only(magic):
    magic.control.behaviour(downloads_per_job=2)
    first, second = (link["url"] for link in magic.complete()["downloads"])
    crossed = f"{second.partition('?')[0]}?{first.partition('?')[2]}"
    assert magic.files.get(crossed).status_code == 403


def test_a_deleted_job_loses_all_its_downloads(magic):
    magic.control.behaviour(downloads_per_job=2)
    job = magic.complete()
    magic.api.delete(f"/v1/video-projects/{job['id']}")
    assert [magic.files.get(link["url"]).status_code for link in job["downloads"]] == [404, 404]
    assert magic.get(job["id"])["downloads"] == []
