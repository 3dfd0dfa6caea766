"""Every kind of fault, on the wire."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse

import httpx
import pytest
from processes import wait_until

CREATE = "/v1/image-to-video"
ANY_PROJECT = "/v1/video-projects/*"


def counted(magic, path, status):
    return sum(
        entry["count"]
        for entry in magic.control.state()["requests"]
        if (entry["path"], entry["status"]) == (path, status)
    )


def test_a_status_is_given_so_many_times_with_its_headers_and_body(magic):
    magic.control.faults(
        [
            {
                "method": "GET",
                "path": "/v1/account",
                "times": 2,
                "status": 429,
                "headers": {"Retry-After": "3"},
                "body": {"a": 1},
            }
        ]
    )
    for _ in range(2):
        answer = magic.api.get("/v1/account")
        assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "3", {"a": 1})
    assert magic.api.get("/v1/account").status_code == 200
    assert magic.control.state()["faults"] == []


def test_a_429_has_no_retry_after_of_its_own(magic):
    magic.control.faults([{"path": "*", "status": 429}])
    assert "retry-after" not in magic.api.get("/v1/account").headers


def test_a_gateway_answers_without_json(magic):
    magic.control.faults([{"path": "*", "status": 502}])
    answer = magic.api.get("/v1/account")
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")


def test_a_text_is_given_as_it_is(magic):
    magic.control.faults(
        [{"path": "*", "status": 200, "body": "{half", "headers": {"Content-Type": "application/json"}}]
    )
    answer = magic.api.get("/v1/account")
    assert (answer.text, answer.headers["content-type"]) == ("{half", "application/json")


def test_a_rule_without_times_holds_until_it_is_cleared(magic):
    magic.control.faults([{"path": ANY_PROJECT, "status": 500}])
    assert [magic.api.get("/v1/video-projects/x").status_code for _ in range(3)] == [500] * 3
    assert magic.control.state()["faults"] == [{"path": ANY_PROJECT, "status": 500}]
    magic.control.faults([])
    assert magic.api.get("/v1/video-projects/x").status_code == 404


def test_a_rule_meets_only_its_method_path_and_origin(magic):
    magic.control.faults(
        [
            {"method": "DELETE", "path": "*", "status": 500},
            {"path": "/v1/account", "status": 501},
            {"path": "*", "origin": "storage", "status": 503},
        ]
    )
    assert magic.api.get("/v1/video-projects/x").status_code == 404
    assert magic.api.delete("/v1/video-projects/x").status_code == 500
    assert magic.api.get("/v1/account").status_code == 501
    assert magic.files.put(magic.upload_target()["upload_url"], content=b"x").status_code == 503


def test_the_first_rule_goes_first(magic):
    rules = [{"path": "*", "status": status, "times": 1} for status in (500, 503)]
    magic.control.faults(rules)
    assert [magic.api.get("/v1/account").status_code for _ in range(3)] == [500, 503, 200]


def test_a_create_dropped_before_handling_made_no_job(magic):
    image = magic.upload()
    magic.control.faults([{"method": "POST", "path": CREATE, "times": 1, "drop": "before"}])
    with pytest.raises(httpx.TransportError):
        magic.try_create(image)
    assert magic.control.state()["jobs"] == []
    assert counted(magic, CREATE, 0) == 1
    assert magic.credits() == 12_000


def test_a_create_dropped_after_handling_is_recorded_and_charged(magic):
    image = magic.upload()
    magic.control.faults([{"method": "POST", "path": CREATE, "times": 1, "drop": "after"}])
    with pytest.raises(httpx.TransportError):
        magic.try_create(image)
    [job] = magic.control.state()["jobs"]
    assert job["credits_charged"] == 240
    assert counted(magic, CREATE, 0) == 1
    assert counted(magic, CREATE, 200) == 0
    assert magic.credits() == 12_000 - 240


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dropped_connection_is_closed_without_a_byte(magic, when):
    magic.control.faults([{"path": "*", "drop": when}])
    host, port = magic.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(b"GET /v1/account HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\r\n")
        try:
            received = wire.recv(1000)
        except ConnectionResetError:
            received = b""
    assert received == b""


@pytest.mark.parametrize("length", [0, 1, 5000, 300_000])
def test_a_cut_download_promises_all_and_gives_some(magic, length):
    magic.control.behaviour(video_padding_bytes=1 << 20)
    url = magic.complete()["download"]["url"]
    size = int(magic.files.get(url).headers["content-length"])
    assert size > length
    magic.control.faults([{"origin": "storage", "path": "*/output.mp4", "times": 1, "truncate": length}])
    received = b""
    with magic.files.stream("GET", url) as answer:
        assert int(answer.headers["content-length"]) == size
        with pytest.raises(httpx.TransportError):  # noqa: PT012 - the bytes before the cut count
            for chunk in answer.iter_raw():
                received += chunk
    assert len(received) == length
    assert len(magic.files.get(url).content) == size


def resume(magic, url, etag):
    """Land a clip over a link that breaks; the body of each answer."""
    pieces = [b""]
    size = None
    while size is None or sum(map(len, pieces)) < size:
        asked = {"Range": f"bytes={sum(map(len, pieces))}-", "If-Range": etag}
        with magic.files.stream("GET", url, headers=asked) as answer:
            assert answer.status_code == 206
            size = int(answer.headers["content-range"].rpartition("/")[2])
            assert int(answer.headers["content-length"]) == size - sum(map(len, pieces))
            pieces.append(b"")
            try:
                for chunk in answer.iter_raw():
                    pieces[-1] += chunk
            except httpx.TransportError:
                pass
    return pieces[1:]


def test_a_link_that_breaks_ever_again_gives_the_clip_piece_by_piece(magic):
    magic.control.behaviour(video_padding_bytes=5 << 20)
    url = magic.complete()["download"]["url"]
    whole = magic.files.get(url)
    magic.control.faults([{"path": "*/output.mp4", "truncate": 1 << 20}])
    pieces = resume(magic, url, whole.headers["etag"])
    assert [len(piece) for piece in pieces[:-1]] == [1 << 20] * 5
    assert b"".join(pieces) == whole.content


def test_an_answer_no_longer_than_the_cut_is_whole_and_keeps_its_connection(magic):
    url = magic.complete()["download"]["url"]
    magic.control.faults([{"origin": "storage", "path": "*", "truncate": 100}])
    host, port = magic.server.storage_url.removeprefix("http://").split(":")
    target = url.removeprefix(magic.server.storage_url)
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        for _ in range(2):
            wire.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\n\r\n".encode())
            answer = HTTPResponse(wire)
            answer.begin()
            assert (answer.status, len(answer.read())) == (206, 100)


def test_a_slow_reader_gets_all_that_comes_before_the_cut(magic):
    magic.control.behaviour(video_padding_bytes=16 << 20)
    url = magic.complete()["download"]["url"]
    magic.control.faults([{"path": "*/output.mp4", "truncate": 8 << 20}])
    address = magic.server.storage_url.removeprefix("http://").split(":")
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(30)
        wire.connect((address[0], int(address[1])))
        target = url.removeprefix(magic.server.storage_url)
        wire.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = HTTPResponse(wire)
        answer.begin()
        received = 0
        while piece := answer.read1(2048):
            received += len(piece)
    assert received == 8 << 20


@pytest.mark.parametrize("at", [0, 1000, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_one_bit_is_wrong_and_no_header_tells(magic, at):
    magic.control.behaviour(video_padding_bytes=4 << 20)
    url = magic.complete()["download"]["url"]
    right = magic.files.get(url)
    magic.control.faults([{"path": "*/output.mp4", "times": 1, "flip": at}])
    wrong = magic.files.get(url)
    assert different(right.content, wrong.content) == [at]
    assert bin(right.content[at] ^ wrong.content[at]).count("1") == 1
    assert without_date(wrong.headers) == without_date(right.headers)
    assert magic.files.get(url).content == right.content


def different(one, other):
    assert len(one) == len(other)
    return [index for index in range(len(one)) if one[index] != other[index]]


def without_date(headers):
    return {name: value for name, value in headers.items() if name != "date"}


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [("bytes=0-1999", [1000]), ("bytes=1000-", [0]), ("bytes=900-1000", [100]), ("bytes=1001-", [])],
)
def test_the_wrong_bit_is_where_it_is_in_the_clip_whatever_the_range(magic, asked, wrong):
    url = magic.complete()["download"]["url"]
    right = magic.files.get(url, headers={"Range": asked})
    magic.control.faults([{"path": "*/output.mp4", "flip": 1000}])
    answer = magic.files.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert different(right.content, answer.content) == wrong


def test_a_page_may_stand_in_the_place_of_a_clip(magic):
    url = magic.complete()["download"]["url"]
    page = {"status": 200, "body": "<html>Sign in</html>", "headers": {"Content-Type": "text/html"}}
    magic.control.faults([{"path": "*/output.mp4", "times": 1, **page}])
    answer = magic.files.get(url, headers={"Range": "bytes=100-"})
    assert (answer.status_code, answer.text) == (200, "<html>Sign in</html>")
    assert answer.headers["content-type"] == "text/html"
    assert "etag" not in answer.headers
    assert magic.files.get(url).headers["content-type"] == "video/mp4"


def test_a_cut_json_answer_breaks_off(magic):
    magic.control.faults([{"path": "/v1/account", "times": 1, "truncate": 10}])
    with pytest.raises(httpx.TransportError):
        magic.api.get("/v1/account")
    assert magic.api.get("/v1/account").status_code == 200


def test_a_delayed_request_is_handled_after_that(magic):
    image = magic.upload()
    magic.control.faults([{"method": "POST", "path": CREATE, "times": 1, "delay": 60}])
    with pytest.raises(httpx.ReadTimeout):
        magic.api.post(CREATE, json={"assets": {"image_file_path": image}, "end_seconds": 5}, timeout=0.2)
    assert magic.control.state()["jobs"] == []
    magic.control.faults([{"path": "/v1/account", "times": 1, "delay": 0.01}])
    assert magic.api.get("/v1/account").status_code == 200


def test_a_fault_leaves_the_sandbox_responsive(magic):
    magic.control.faults([{"path": "/v1/account", "times": 1, "delay": 60}])
    with pytest.raises(httpx.ReadTimeout):
        magic.api.get("/v1/account", timeout=0.1)
    assert magic.api.get("/v1/video-projects/x").status_code == 404


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"path": "*"}, "exactly one of"),
        ({"path": "*", "status": 500, "delay": 1}, "exactly one of"),
        ({"path": "*", "truncate": 5, "flip": 1}, "exactly one of"),
        ({"path": "*", "flip": -1}, "flip"),
        ({"status": 500}, "path"),
        ({"path": "*", "drop": "during"}, "drop"),
        ({"path": "*", "status": 99}, "status"),
        ({"path": "*", "status": 500, "times": 0}, "times"),
        ({"path": "*", "delay": 1, "body": "x"}, "status only"),
        ({"path": "*", "status": 500, "colour": "red"}, "colour"),
        ({"path": "*", "status": 500, "origin": "moon"}, "origin"),
    ],
)
def test_a_bad_rule_is_refused_in_words_and_changes_nothing(magic, rule, words):
    magic.control.faults([{"path": "/kept", "status": 500}])
    with pytest.raises(ValueError, match=words):
        magic.control.faults([rule])
    assert magic.control.state()["faults"] == [{"path": "/kept", "status": 500}]
    assert magic.files.post(f"{magic.server.url}/__sandbox__/faults", json=[rule]).status_code == 422


@pytest.mark.parametrize("body", [b"{}", b"nonsense"])
def test_rules_come_as_a_list(magic, body):
    assert magic.files.post(f"{magic.server.url}/__sandbox__/faults", content=body).status_code == 422


def held(magic):
    return [(entry["path"], entry["hold"]) for entry in magic.control.state()["held"]]


def leave_while_held(magic, when):
    """Order a clip, and hang up while the request is held `when`."""
    body = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 5}
    magic.control.faults([{"path": CREATE, "hold": when, "times": 1}])
    with pytest.raises(httpx.ReadTimeout):
        magic.api.post(CREATE, json=body, timeout=1)
    assert wait_until(lambda: not held(magic), timeout=10)


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_client_that_leaves_while_its_request_is_held(magic, when, jobs):
    leave_while_held(magic, when)
    assert len(magic.control.state()["jobs"]) == jobs


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_held_request_is_answered_once_it_is_released(magic, when):
    body = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 5}
    magic.control.faults([{"path": CREATE, "hold": when}])
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(magic.api.post, CREATE, json=body)
        assert wait_until(lambda: held(magic) == [(CREATE, when)], timeout=10)
        assert len(magic.control.state()["jobs"]) == (0 if when == "before" else 1)
        assert not answer.done()
        assert [entry["path"] for entry in magic.control.release()] == [CREATE]
        assert answer.result().json()["id"] == magic.control.state()["jobs"][0]["id"]
    assert held(magic) == []
