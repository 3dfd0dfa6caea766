"""Every kind of fault, on the wire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from processes import wait_until

CREATE = "/v1/image-to-video"
CREATE_BODY = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 5}
VIDEOS = "*/output.mp4"


# Which requests a rule applies to


def test_rule_applies_to_its_method_path_and_origin_so_many_times(magic):
    account = {"method": "GET", "path": "/v1/account", "times": 2, "status": 429}
    magic.control.faults(
        [
            {"method": "DELETE", "path": "*", "status": 500},
            {**account, "headers": {"Retry-After": "3"}, "body": {"a": 1}},
            {"path": "*", "origin": "storage", "status": 503},
        ]
    )
    assert magic.api.get("/v1/video-projects/x").status_code == 404
    assert magic.api.delete("/v1/video-projects/x").status_code == 500
    assert magic.files.put(magic.upload_target()["upload_url"], content=b"x").status_code == 503
    for _ in range(2):
        answer = magic.api.get("/v1/account")
        assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "3", {"a": 1})
    assert magic.api.get("/v1/account").status_code == 200


def test_rules_apply_in_order_and_those_without_times_until_they_are_cleared(magic):
    rule = {"path": "/v1/video-projects/*", "status": 500}
    magic.control.faults([{**rule, "status": 503, "times": 1}, rule])
    assert [magic.api.get("/v1/video-projects/x").status_code for _ in range(3)] == [503, 500, 500]
    assert magic.control.state()["faults"] == [rule]
    magic.control.faults([])
    assert magic.api.get("/v1/video-projects/x").status_code == 404


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"path": "*"}, "exactly one of"),
        ({"path": "*", "truncate": 5, "flip": 1}, "exactly one of"),
        ({"path": "*", "drop": "during"}, "drop"),
        ({"path": "*", "status": 500, "times": 0}, "times"),
        ({"path": "*", "delay": 1, "body": "x"}, "status only"),
        ({"path": "*", "status": 500, "colour": "red"}, "colour"),
    ],
)
def test_wrong_rule_is_refused_and_changes_nothing(magic, rule, words):
    magic.control.faults([{"path": "/kept", "status": 500}])
    with pytest.raises(ValueError, match=words):
        magic.control.faults([rule])
    assert magic.control.state()["faults"] == [{"path": "/kept", "status": 500}]


# status


@pytest.mark.parametrize(
    ("rule", "content_type", "text"),
    [
        ({"status": 429}, "application/json", "too_many_requests"),
        ({"status": 502}, "text/html; charset=utf-8", "502"),
        ({"status": 200, "body": "{half"}, "text/plain; charset=utf-8", "{half"),
    ],
)
def test_status_has_json_or_a_gateways_html_or_the_text_of_the_rule(magic, rule, content_type, text):
    magic.control.faults([{"path": "*", **rule}])
    answer = magic.api.get("/v1/account")
    assert (answer.status_code, answer.headers["content-type"]) == (rule["status"], content_type)
    assert text in answer.text
    assert "retry-after" not in answer.headers


# drop


@pytest.mark.parametrize(("when", "charges"), [("before", []), ("after", [240])])
def test_dropped_create_is_charged_only_if_it_was_handled(magic, when, charges):
    magic.control.faults([{"method": "POST", "path": CREATE, "times": 1, "drop": when}])
    with pytest.raises(httpx.TransportError):
        magic.api.post(CREATE, json=CREATE_BODY)
    assert [job["credits_charged"] for job in magic.control.state()["jobs"]] == charges
    assert [each["count"] for each in magic.control.state()["requests"] if each["status"] == 0] == [1]
    assert magic.credits() == 12_000 - sum(charges)


# truncate


@pytest.mark.parametrize("length", [0, 5000, 8 << 20])
def test_truncated_download_promises_all_and_sends_some_also_to_a_slow_reader(magic, length):
    magic.control.behaviour(video_padding_bytes=16 << 20)
    url = magic.complete()["download"]["url"]
    size = int(magic.files.get(url).headers["content-length"])
    magic.control.faults([{"origin": "storage", "path": VIDEOS, "times": 1, "truncate": length}])
    received = b""
    with magic.files.stream("GET", url) as answer:
        assert int(answer.headers["content-length"]) == size
        with pytest.raises(httpx.TransportError):  # noqa: PT012 - the bytes before the cut count
            for chunk in answer.iter_raw():
                received += chunk
                time.sleep(0.001)
    assert len(received) == length
    assert len(magic.files.get(url).content) == size


# flip


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [("bytes=0-1999", [1000]), ("bytes=1000-", [0]), ("bytes=900-1000", [100]), ("bytes=1001-", [])],
)
def test_flip_changes_one_bit_at_its_offset_in_the_file_and_no_header(magic, asked, wrong):
    url = magic.complete()["download"]["url"]
    right = magic.files.get(url, headers={"Range": asked})
    magic.control.faults([{"path": VIDEOS, "times": 1, "flip": 1000}])
    answer = magic.files.get(url, headers={"Range": asked})
    flipped = [
        at for at, pair in enumerate(zip(right.content, answer.content, strict=True)) if len(set(pair)) > 1
    ]
    assert flipped == wrong
    assert all(right.content[at] ^ answer.content[at] == 1 for at in flipped)
    for each in (right, answer):
        each.headers.pop("date")
    assert (answer.status_code, answer.headers) == (206, right.headers)
    assert magic.files.get(url, headers={"Range": asked}).content == right.content


# redirect, encode and as_range


@pytest.mark.parametrize("status", [301, 308])
def test_redirect_leads_once_to_a_link_that_works(magic, status):
    url = magic.complete()["download"]["url"]
    right = magic.files.get(url)
    magic.control.faults([{"path": VIDEOS, "redirect": status}])
    answer = magic.files.get(url)
    assert answer.status_code == status
    assert answer.headers["location"].startswith(url.partition("?")[0] + "?")
    for _ in range(2):
        assert magic.files.get(url, follow_redirects=True).content == right.content


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_encoded_video_has_no_length_range_or_checksum(magic, coding):
    magic.control.behaviour(video_checksum="content-md5", video_padding_bytes=3 << 20)
    url = magic.complete()["download"]["url"]
    right = magic.files.get(url)
    magic.control.faults([{"path": VIDEOS, "encode": coding}])
    answer = magic.files.get(url, headers={"Accept-Encoding": "identity"})
    assert (answer.status_code, answer.content) == (200, right.content)
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["etag"] == f"W/{right.headers['etag']}"
    assert not {"content-length", "accept-ranges", "content-md5"} & set(answer.headers)
    part = magic.files.get(url, headers={"Range": "bytes=5-9", "If-Range": right.headers["etag"]})
    assert (part.status_code, part.content) == (206, right.content[5:10])
    assert "content-encoding" not in part.headers


# delay and hold


def test_delayed_request_is_handled_later_and_others_at_once(magic):
    magic.control.faults([{"method": "POST", "path": CREATE, "times": 1, "delay": 60}])
    with pytest.raises(httpx.ReadTimeout):
        magic.api.post(CREATE, json=CREATE_BODY, timeout=0.2)
    assert magic.control.state()["jobs"] == []
    magic.control.faults([{"path": "/v1/account", "times": 1, "delay": 0.01}])
    assert magic.api.get("/v1/account").status_code == 200


def held(magic):
    return [(entry["path"], entry["hold"]) for entry in magic.control.state()["held"]]


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_held_create_ends_if_its_client_leaves_and_is_answered_if_it_is_released(magic, when, jobs):
    magic.control.faults([{"path": CREATE, "hold": when}])
    with pytest.raises(httpx.ReadTimeout):
        magic.api.post(CREATE, json=CREATE_BODY, timeout=1)
    assert wait_until(lambda: not held(magic), timeout=10)
    assert len(magic.control.state()["jobs"]) == jobs
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(magic.api.post, CREATE, json=CREATE_BODY)
        assert wait_until(lambda: held(magic) == [(CREATE, when)], timeout=10)
        assert len(magic.control.state()["jobs"]) == 2 * jobs
        assert not answer.done()
        assert [entry["path"] for entry in magic.control.release()] == [CREATE]
        assert answer.result().json()["id"] == magic.control.state()["jobs"][-1]["id"]
    assert held(magic) == []
