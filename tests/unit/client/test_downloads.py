"""Response headers of downloads, checksums, resuming, and reading ahead."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from base64 import b64encode
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from magichour_provider.client import downloads
from magichour_provider.client.downloads import (
    Checksum,
    DownloadHeaders,
    LinkExpiredError,
    ResumeNotPossibleError,
    ResumePoint,
    decompress,
    parse_checksums,
    read_ahead,
    redirect_target,
)
from magichour_provider.exceptions import DownloadError

ETAG = '"v1"'
RESUME = ResumePoint(100, ETAG)
DATE = "Tue, 03 Nov 2026 10:00:00 GMT"
LATER = "Tue, 03 Nov 2026 10:00:01 GMT"
PART = {"Content-Range": "bytes 100-999/1000", "ETag": ETAG, "Content-Length": "900"}


def whole(status=200, resume_from=None, **headers):
    named = CIMultiDict({key.replace("_", "-"): value for key, value in headers.items()})
    return DownloadHeaders.from_response(status, named, resume_from)


def part(headers=PART, resume_from=RESUME, **changes):
    return DownloadHeaders.from_response(206, CIMultiDict({**headers, **changes}), resume_from)


HEADER_NAMES = [
    *("Content-Range", "Content-Length", "Content-Type", "Content-MD5", "ETag", "Last-Modified", "Date"),
    *("Digest", "Repr-Digest", "x-goog-hash", "x-amz-checksum-sha256"),
]


class TestHeaders:
    def test_whole_file(self):
        for status in (200, 203):
            found = whole(status, Content_Length="1000", ETag=ETAG, Content_Type="video/mp4")
            assert found == DownloadHeaders(1000, 0, ETAG, "video/mp4")

    def test_200_after_a_range_request_starts_at_zero(self):
        assert whole(200, RESUME, Content_Length="1000", ETag='"v2"').start == 0

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    @pytest.mark.parametrize("resume_from", [None, RESUME])
    def test_link_expired(self, status, resume_from):
        with pytest.raises(LinkExpiredError):
            whole(status, resume_from)

    @pytest.mark.parametrize("status", [100, 201, 204, 300, 304, 405, 416, 429, 500, 503])
    def test_other_status_is_a_download_error_without_the_url(self, status):
        with pytest.raises(DownloadError, match=str(status)) as caught:
            whole(status, Location="https://elsewhere.example/video.mp4")
        assert type(caught.value) is DownloadError
        assert "elsewhere" not in str(caught.value)

    @pytest.mark.parametrize(
        ("etag", "validator"),
        [
            (ETAG, ETAG),
            ('""', '""'),
            (f"W/{ETAG}", None),
            ("v1", None),
            ('"v1', None),
            ('"v\xe9"', None),
            ('"v\udcff"', None),
            ('"v" "w"', None),
            ("", None),
        ],
    )
    def test_validator_is_a_strong_etag(self, etag, validator):
        assert whole(ETag=etag).validator == validator

    def test_weak_etag_is_not_replaced_by_a_date(self):
        assert whole(ETag=f"W/{ETAG}", Last_Modified=DATE, Date=LATER).validator is None

    @pytest.mark.parametrize(
        ("modified", "answered", "is_good"),
        [
            (DATE, LATER, True),
            (DATE, DATE, False),
            (LATER, DATE, False),
            (DATE, "Tue, 03 Nov 2026 10:00:01 -0000", False),
            ("yesterday", LATER, False),
            (DATE, "", False),
            ("Tue, 03 Nov 2026 10:00:00 +9999999999", LATER, False),
        ],
    )
    def test_validator_is_a_date_only_if_it_is_older_than_the_response(self, modified, answered, is_good):
        assert whole(Last_Modified=modified, Date=answered).validator == (modified if is_good else None)

    @pytest.mark.parametrize("length", ["", "-1", "1.5", "ten", "\u0661\u0662", "9" * 5000, "5, 5", " 5"])
    def test_unreadable_length_is_none(self, length):
        assert whole(Content_Length=length).size is None

    @given(
        headers=st.dictionaries(
            st.sampled_from(HEADER_NAMES),
            st.text(st.characters(codec=None), max_size=40)
            | st.sampled_from([*PART.values(), DATE, LATER, "sha-256=:AAAA:", "bytes 100-"]),
        ),
        status=st.sampled_from([200, 206, 416]),
        resume_from=st.sampled_from([None, RESUME, ResumePoint(100, DATE)]),
    )
    def test_any_headers_raise_nothing_but_download_errors(self, headers, status, resume_from):
        try:
            found = DownloadHeaders.from_response(status, CIMultiDict(headers), resume_from)
        except DownloadError:
            return
        assert found.start == (resume_from.offset if status == 206 and resume_from else 0)


class TestResume:
    def test_request_headers_ask_for_the_rest_of_the_same_file(self):
        assert RESUME.request_headers() == {"Range": "bytes=100-", "If-Range": ETAG}

    @given(offset=st.integers(0, 10**15), size=st.integers(0, 10**15) | st.none())
    def test_content_range_of_the_requested_part_is_accepted(self, offset, size):
        resume_from = ResumePoint(offset, ETAG)
        total = "*" if size is None else size
        found = part({"Content-Range": f"bytes {offset}-{offset + 5}/{total}"}, resume_from, ETag=ETAG)
        assert (found.start, found.size) == (offset, size)

    @given(asked=st.integers(0, 10**6), answered=st.integers(0, 10**6))
    def test_content_range_of_another_part_is_refused(self, asked, answered):
        content_range = {"Content-Range": f"bytes {answered}-{answered + 5}/2000000"}
        if asked == answered:
            assert part(content_range, ResumePoint(asked, ETAG)).start == asked
        else:
            with pytest.raises(ResumeNotPossibleError):
                part(content_range, ResumePoint(asked, ETAG))

    @pytest.mark.parametrize(
        "changes",
        [
            {"Content-Range": "bytes */1000"},
            {"Content-Range": "lines 100-999/1000"},
            {"Content-Range": "bytes 100-999"},
            {"Content-Range": ""},
            {"Content-Range": f"bytes 100-{'9' * 5000}/1000"},
            {"Content-Range": "bytes \u0661\u0660\u0660-999/1000"},
            {"Content-Range": "bytes -100-999/1000"},
            {"ETag": '"v2"'},
            {"ETag": f"W/{ETAG}"},
            {"ETag": ""},
        ],
    )
    def test_part_of_another_file_is_refused(self, changes):
        with pytest.raises(ResumeNotPossibleError):
            part(**changes)

    def test_part_without_a_range_or_a_request_is_refused(self):
        with pytest.raises(ResumeNotPossibleError):
            part({"ETag": ETAG})
        with pytest.raises(DownloadError):
            part(resume_from=None)
        with pytest.raises(DownloadError):
            part({}, resume_from=None)

    @pytest.mark.parametrize(("total", "size"), [("1000", 1000), ("5000", 5000), ("*", None)])
    def test_range_from_the_first_byte_needs_no_request(self, total, size):
        found = part(resume_from=None, **{"Content-Range": f"bytes 0-999/{total}"})
        assert (found.start, found.size, found.validator) == (0, size, ETAG)

    @pytest.mark.parametrize("unit", ["Bytes ", "BYTES ", "bytes="])
    def test_unit_of_a_range_is_read_in_each_spelling(self, unit):
        assert part(**{"Content-Range": f"{unit}100-999/1000"}).start == 100

    def test_whole_file_may_be_called_a_part_without_a_range(self):
        assert part({"Content-Length": "1000", "ETag": ETAG}, None) == DownloadHeaders(1000, 0, ETAG)
        with pytest.raises(ResumeNotPossibleError):
            part({"Content-Length": "1000", "ETag": ETAG}, RESUME)

    def test_part_need_not_repeat_the_validator(self):
        only_range = {"Content-Range": PART["Content-Range"]}
        assert part(only_range).start == 100
        assert part(only_range, ResumePoint(100, DATE)).start == 100

    def test_part_with_another_date_is_refused(self):
        only_range, resume_from = {"Content-Range": PART["Content-Range"]}, ResumePoint(100, DATE)
        assert part(only_range, resume_from, **{"Last-Modified": DATE}).start == 100
        with pytest.raises(ResumeNotPossibleError):
            part(only_range, resume_from, **{"Last-Modified": LATER})

    def test_416_means_that_the_rest_is_not_available(self):
        with pytest.raises(ResumeNotPossibleError, match="byte 100"):
            whole(416, RESUME)


SIGNED = "https://storage.example/a/output.mp4?sig=S%2FIGNED"


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        ("location", "target"),
        [
            ("https://other.example/b?sig=%2B", "https://other.example/b?sig=%2B"),
            ("/b?x", "https://storage.example/b?x"),
            ("b", "https://storage.example/a/b"),
            ("//other.example/b", "https://other.example/b"),
            (" ?x=1 ", "https://storage.example/a/output.mp4?x=1"),
            ("/a b?x=%20ä#c", "https://storage.example/a%20b?x=%20%C3%A4#c"),
            ('/\udce4\\"', "https://storage.example/%E4%5C%22"),
            ("//müller.example/b", "https://müller.example/b"),
        ],
    )
    def test_target(self, status, location, target):
        assert redirect_target(status, {"location": location}, SIGNED) == target

    @pytest.mark.parametrize("status", [200, 206, 300, 304, 403, 500])
    def test_other_status_leads_nowhere(self, status):
        assert redirect_target(status, {"location": "/b"}, SIGNED) is None

    @pytest.mark.parametrize(
        ("url", "location"),
        [
            (SIGNED, None),
            (SIGNED, "https://[::1"),
            (SIGNED, "https://other.example:99999/"),
            (SIGNED, "http://other.example/?SECRET"),
            (SIGNED, "file:///etc/passwd"),
            (SIGNED, "data:video/mp4,SECRET"),
            ("http://s/", "ftp://other.example/"),
        ],
    )
    def test_unusable_target(self, url, location):
        with pytest.raises(DownloadError, match="redirects") as refused:
            redirect_target(302, {} if location is None else {"location": location}, url)
        assert not refused.value.retryable
        assert "SECRET" not in str(refused.value)

    def test_http_may_lead_to_https(self):
        assert redirect_target(302, {"location": SIGNED}, "http://s/") == SIGNED


def decode(coding, body, piece=100):
    async def pieces():
        for at in range(0, len(body), piece):
            yield body[at : at + piece]

    async def read():
        return [block async for block in decompress(coding, pieces())]

    return asyncio.run(read())


def encode(coding, content):
    wbits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "raw": -15}[coding]
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(content) + compressor.flush()


class TestCodings:
    @given(content=st.binary(max_size=2000), piece=st.integers(1, 3000))
    def test_each_coding_is_decoded(self, content, piece):
        for coding in ("gzip", "x-gzip", "deflate"):
            assert b"".join(decode(coding, encode(coding, content), piece)) == content
        assert b"".join(decode("deflate", encode("raw", content), piece)) == content
        twice = encode("gzip", content) + encode("gzip", b"more")
        assert b"".join(decode("gzip", twice, piece)) == content + b"more"

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_cut_or_damaged_body_is_a_download_error(self, coding):
        body = encode(coding, bytes(range(256)) * 40)
        for wrong in (body[:-1], body[:10], body[:20] + b"x" * 50, b"\0" * 30):
            with pytest.raises(DownloadError, match=coding):
                decode(coding, wrong)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    @pytest.mark.parametrize("rest", [bytes(16), b"\n", b"<html>"])
    def test_bytes_after_the_last_member_are_ignored(self, coding, rest):
        assert b"".join(decode(coding, encode(coding, b"a video") + rest, 3)) == b"a video"

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_mp4_that_is_only_called_compressed_passes_as_it_is(self, coding):
        content = b"\0\0\0\x18ftypisom" * 99
        assert b"".join(decode(coding, content)) == content

    def test_blocks_are_small_however_well_they_compress(self):
        blocks = decode("gzip", encode("gzip", bytes(20 << 20)), 1 << 20)
        assert sum(map(len, blocks)) == 20 << 20
        assert max(map(len, blocks)) <= 1 << 20

    @pytest.mark.parametrize("name", ["gzip", "GZIP", " x-gzip ", "deflate", "aws-chunked,gzip"])
    def test_coded_file_has_no_size_and_no_checksum(self, name):
        found = whole(
            Content_Encoding=name, Content_Length="5", ETag=f'"{"0" * 32}"', Content_Type="video/mp4"
        )
        coding = name.lower().strip().removeprefix("aws-chunked,")
        assert found == DownloadHeaders(None, content_type="video/mp4", coding=coding)

    @pytest.mark.parametrize("name", ["", "identity", "aws-chunked", "utf-8", "binary"])
    def test_name_that_is_no_coding_changes_nothing(self, name):
        assert whole(Content_Encoding=name, Content_Length="5") == DownloadHeaders(5)

    @pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "gzip, br", "compress"])
    def test_other_coding_is_refused_for_good(self, name):
        with pytest.raises(DownloadError, match="compresses it by") as refused:
            whole(Content_Encoding=name)
        assert not refused.value.retryable

    def test_compressed_part_is_refused(self):
        with pytest.raises(ResumeNotPossibleError):
            part(**{"Content-Encoding": "gzip"})


CONTENT = b"a video"


def hexed(algorithm):
    return hashlib.new(algorithm, CONTENT).hexdigest()


def based(algorithm):
    return b64encode(hashlib.new(algorithm, CONTENT).digest()).decode()


MD5, SHA1, SHA256 = (Checksum(name, hexed(name)) for name in ("md5", "sha1", "sha256"))


class TestChecksums:
    @pytest.mark.parametrize(
        ("headers", "found"),
        [
            ({"content-md5": based("md5")}, (MD5,)),
            ({"digest": f"sha-256={based('sha256')},md5={based('md5')}"}, (MD5, SHA256)),
            ({"digest": f"SHA-256={based('sha256')}"}, (SHA256,)),
            ({"digest": f"sha={based('sha1')}"}, (SHA1,)),
            ({"repr-digest": f"sha-256=:{based('sha256')}:, sha-512=:AAAA:"}, (SHA256,)),
            (
                {
                    "x-goog-hash": f"crc32c=AAAAAA==, md5={based('md5')}",
                    "x-goog-stored-content-encoding": "identity",
                },
                (MD5,),
            ),
            ({"x-ms-blob-content-md5": based("md5")}, (MD5,)),
            ({"x-amz-checksum-sha256": based("sha256")}, (SHA256,)),
            ({"x-amz-checksum-sha1": based("sha1"), "x-amz-checksum-type": "full_object"}, (SHA1,)),
            ({"etag": f'"{hexed("md5")}"'}, (Checksum("md5", hexed("md5"), certain=False),)),
            ({"etag": f'"{"0" * 32}"', "content-md5": based("md5")}, (MD5,)),
            ({}, ()),
        ],
    )
    def test_headers_of_each_storage(self, headers, found):
        assert parse_checksums(CIMultiDict(headers), is_part=False) == found

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-amz-checksum-sha256": based("sha256"), "x-amz-checksum-type": "COMPOSITE"},
            {"x-amz-checksum-sha256": f"{based('sha256')}-3"},
            {"x-amz-checksum-crc32": "AAAAAA=="},
            {"etag": f'"{hexed("md5")}-2"'},
            {"etag": f'W/"{hexed("md5")}"'},
            {"etag": f'"{hexed("md5")}"', "x-amz-server-side-encryption": "aws:kms"},
            {"etag": f'"{hexed("md5")}"', "x-amz-server-side-encryption": "aws:kms:dsse"},
            {"etag": f'"{hexed("sha1")}"'},
            {"content-md5": based("sha256")},
            {"content-md5": hexed("md5")},
            {"content-md5": "caf\xe9"},
            {"content-md5": "\udcff\udcfe"},
            {"digest": "caf\xe9=\xe9\xe8,,=,md5"},
            {"repr-digest": "sha-256"},
            {"x-goog-hash": ""},
            {"x-goog-hash": f"md5={based('md5')}", "x-goog-stored-content-encoding": "gzip"},
            {"etag": f'"{hexed("md5")}"', "x-goog-stored-content-encoding": "gzip"},
        ],
    )
    def test_other_values_are_ignored(self, headers):
        assert parse_checksums(headers, is_part=False) == ()

    @pytest.mark.parametrize(
        ("headers", "found"),
        [
            ({"content-md5": based("md5")}, ()),
            ({"digest": f"md5={based('md5')}"}, ()),
            ({"repr-digest": f"sha-256=:{based('sha256')}:"}, (SHA256,)),
            ({"x-goog-hash": f"md5={based('md5')}"}, (MD5,)),
        ],
    )
    def test_checksums_of_a_range_are_ignored(self, headers, found):
        assert parse_checksums(headers, is_part=True) == found

    @given(content=st.binary(), is_part=st.booleans(), algorithm=st.sampled_from(["sha-1", "sha-256"]))
    def test_repr_digest_is_the_digest_of_the_whole_file(self, content, is_part, algorithm):
        digest = hashlib.new(algorithm.replace("-", ""), content)
        header = f"{algorithm}=:{b64encode(digest.digest()).decode()}:"
        expected = Checksum(digest.name, digest.hexdigest())
        assert parse_checksums({"repr-digest": header}, is_part=is_part) == (expected,)


class Stream:
    """A download of three chunks."""

    headers = DownloadHeaders(6)

    def __init__(self, chunks=(b"ab", b"cd", b"ef"), error=None, stall=False):
        self._chunks, self._error, self._stall = chunks, error, stall
        self.closed = threading.Event()

    @asynccontextmanager
    async def open(self):
        try:
            yield self
        finally:
            self.closed.set()

    async def chunks(self):
        for chunk in self._chunks:
            yield chunk
        if self._stall:
            await asyncio.Event().wait()
        if self._error:
            raise self._error


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "magichour-download"]


class TestReadAhead:
    def test_headers_then_bytes(self):
        with read_ahead(Stream().open) as stream:
            assert stream.headers.size == 6
            assert b"".join(stream.chunks()) == b"abcdef"
        assert not reader_threads()

    def test_broken_connection_raises_after_the_bytes_that_arrived(self):
        with read_ahead(Stream(error=DownloadError("broke")).open) as stream:
            chunks = stream.chunks()
            assert next(chunks) == b"abcdef"
            with pytest.raises(DownloadError, match="broke"):
                next(chunks)

    def test_error_on_opening_is_raised_on_entering(self):
        @asynccontextmanager
        async def expired():
            raise LinkExpiredError("gone")
            yield

        with pytest.raises(LinkExpiredError), read_ahead(expired):
            pass
        assert not reader_threads()

    def test_leaving_early_ends_the_thread_and_closes_the_download(self):
        source = Stream(stall=True)
        with read_ahead(source.open):
            pass
        assert source.closed.is_set()
        assert not reader_threads()

    def test_reader_closed_before_it_starts_opens_nothing(self):
        source = Stream()
        reader = downloads._Reader(source.open)
        reader.close()
        reader.start()
        reader.join(5)
        assert not reader.is_alive()
        assert not source.closed.is_set()

    def test_reading_ahead_is_bounded(self):
        taken = []

        async def endless():
            while True:
                await asyncio.sleep(0)
                taken.append(1)
                yield bytes(1 << 20)

        source = Stream()
        source.chunks = endless
        with read_ahead(source.open) as stream:
            next(stream.chunks())
        assert len(taken) <= 8
