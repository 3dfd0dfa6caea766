"""The head of a storage's answer: what follows, of which file, and what cannot be believed."""

from __future__ import annotations

import random
import string

import pytest
from multidict import CIMultiDict

from magichour_provider.client.download_headers import (
    DownloadHeaders,
    ResumePoint,
    announced_size,
    read_head,
    request_headers,
)
from magichour_provider.exceptions import DownloadError, LinkExpiredError, ResumeNotPossibleError

TAG = '"v1"'
SINCE = ResumePoint(100, TAG)
DATE = "Tue, 03 Nov 2026 10:00:00 GMT"
LATER = "Tue, 03 Nov 2026 10:00:01 GMT"
PART = {"Content-Range": "bytes 100-999/1000", "ETag": TAG, "Content-Length": "900"}


def head(status=200, since=None, **headers):
    return read_head(
        status, CIMultiDict({key.replace("_", "-"): value for key, value in headers.items()}), since
    )


def part(since=SINCE, **changes):
    return read_head(206, CIMultiDict({**PART, **changes}), since)


def test_a_whole_clip_is_asked_for_as_it_is():
    assert request_headers(None) == {"Accept-Encoding": "identity"}


def test_the_rest_is_asked_for_only_of_the_same_file():
    assert request_headers(SINCE) == {
        "Accept-Encoding": "identity",
        "Range": "bytes=100-",
        "If-Range": TAG,
    }


def test_a_whole_clip_follows():
    found = head(Content_Length="1000", ETag=TAG, Content_Type="video/mp4")
    assert found == DownloadHeaders(1000, 0, TAG, "video/mp4")


def test_the_rest_of_a_clip_follows():
    found = part()
    assert (found.size, found.start, found.validator) == (1000, 100, TAG)


def test_a_part_of_a_file_of_unknown_length():
    assert part(**{"Content-Range": "bytes 100-999/*"}).size is None


def test_a_storage_that_sends_the_whole_instead_is_taken_at_its_word():
    assert head(200, SINCE, Content_Length="1000", ETag='"v2"').start == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"Content-Range": "bytes 99-999/1000"},
        {"Content-Range": "bytes 101-999/1000"},
        {"Content-Range": "bytes 0-999/1000"},
        {"Content-Range": "bytes */1000"},
        {"Content-Range": "lines 100-999/1000"},
        {"Content-Range": "bytes 100-999"},
        {"Content-Range": ""},
        {"Content-Range": f"bytes 100-{'9' * 5000}/1000"},
        {"Content-Range": "bytes \u0661\u0660\u0660-999/1000"},
        {"Content-Range": "bytes -100-999/1000"},
        {"ETag": '"v2"'},
        {"ETag": f"W/{TAG}"},
        {"ETag": ""},
    ],
)
def test_a_part_that_was_not_asked_for_is_refused(changes):
    with pytest.raises(ResumeNotPossibleError):
        part(**changes)


def test_a_part_need_not_say_again_of_which_file_it_is():
    assert read_head(206, {"content-range": PART["Content-Range"]}, SINCE).start == SINCE.offset


def test_a_part_that_does_not_say_where_it_begins_is_refused():
    with pytest.raises(ResumeNotPossibleError):
        read_head(206, {"etag": TAG}, SINCE)


def test_a_part_that_nobody_asked_for_is_refused():
    with pytest.raises(ResumeNotPossibleError):
        part(since=None, **{"Content-Range": "bytes 0-999/1000"})


def test_a_part_by_its_date_need_not_repeat_it_and_must_not_have_another():
    since = ResumePoint(100, DATE)
    assert read_head(206, {"content-range": PART["Content-Range"]}, since).start == 100
    assert read_head(206, {"content-range": PART["Content-Range"], "last-modified": DATE}, since).start == 100
    with pytest.raises(ResumeNotPossibleError):
        read_head(206, {"content-range": PART["Content-Range"], "last-modified": LATER}, since)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("since", [None, SINCE])
def test_a_link_that_is_gone_is_told_from_a_storage_in_trouble(status, since):
    with pytest.raises(LinkExpiredError):
        head(status, since)


def test_nothing_from_there_on_is_no_trouble_of_the_whole():
    with pytest.raises(ResumeNotPossibleError, match="byte 100"):
        head(416, SINCE)
    with pytest.raises(DownloadError, match="416") as caught:
        head(416)
    assert not isinstance(caught.value, ResumeNotPossibleError)


@pytest.mark.parametrize("status", [100, 201, 204, 301, 302, 307, 308, 400, 429, 500, 502, 503, 504])
def test_any_other_status_is_a_failed_download(status):
    with pytest.raises(DownloadError, match=str(status)) as caught:
        head(status, Location="https://elsewhere.example/clip.mp4")
    assert type(caught.value) is DownloadError
    assert "elsewhere" not in str(caught.value)


@pytest.mark.parametrize(
    ("tag", "validator"),
    [
        (TAG, TAG),
        ('""', '""'),
        (f"W/{TAG}", None),
        ("v1", None),
        ('"v1', None),
        ('"v\xe9"', None),
        ('"v\udcff"', None),
        ('"v" "w"', None),
        ("", None),
    ],
)
def test_only_a_strong_tag_that_can_be_sent_back_names_a_content(tag, validator):
    assert head(ETag=tag).validator == validator


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
def test_a_date_names_a_content_only_where_it_is_surely_older_than_the_answer(modified, answered, is_good):
    found = head(Last_Modified=modified, Date=answered)
    assert found.validator == (modified if is_good else None)


def test_a_weak_tag_is_not_replaced_by_a_date():
    assert head(ETag=f"W/{TAG}", Last_Modified=DATE, Date=LATER).validator is None


@pytest.mark.parametrize("length", ["", "-1", "1.5", "ten", "\u0661\u0662", "9" * 5000, "5, 5", " 5"])
def test_a_length_that_is_none_is_none(length):
    assert announced_size({"content-length": length}) is None


def test_no_header_whatsoever_raises_anything_but_an_error_of_the_tree():
    choose = random.Random(5)
    letters = string.printable + '\xe9\u0661\udcff"W/=:,-*'
    names = ["Content-Range", "Content-Length", "ETag", "Last-Modified", "Date", "Digest", "Repr-Digest"]
    names += ["Content-MD5", "x-goog-hash", "x-amz-checksum-sha256", "Content-Type"]
    seeds = [*PART.values(), DATE, LATER, "sha-256=:AAAA:", "bytes ", ""]
    for _ in range(3000):
        headers = {}
        for name in choose.sample(names, 5):
            text = list(choose.choice(seeds))
            for _ in range(choose.randrange(4)):
                text.insert(choose.randrange(len(text) + 1), choose.choice(letters))
            headers[name] = "".join(text)
        for status, since in ((200, None), (206, SINCE), (206, ResumePoint(100, DATE))):
            try:
                read_head(status, CIMultiDict(headers), since)
            except DownloadError:
                continue
