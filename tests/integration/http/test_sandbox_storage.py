"""The storage origin: signed URLs, uploads, downloads."""

from __future__ import annotations

import hashlib
import socket
from urllib.parse import urlsplit

import pytest

DAY = 86_400


def test_the_two_origins_differ(magic):
    assert magic.upload_target()["upload_url"].startswith(magic.server.storage_url + "/api-assets/")
    assert magic.complete()["download"]["url"].startswith(magic.server.storage_url + "/")
    assert magic.server.storage_url != magic.server.url


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "image/jpeg"}, {"Content-Type": "text/plain"}])
def test_any_content_type_or_none_is_taken(magic, photo, headers):
    target = magic.upload_target()
    answer = magic.files.put(target["upload_url"], content=photo, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    [upload] = magic.control.state()["uploads"]
    assert upload == {
        "file_path": target["file_path"],
        "bytes": len(photo),
        "sha256": hashlib.sha256(photo).hexdigest(),
        "put_count": 1,
    }


def test_a_put_without_a_length_is_411(magic):
    answer = magic.files.put(magic.upload_target()["upload_url"], content=iter([b"a", b"b"]))
    assert answer.status_code == 411
    assert magic.control.state()["uploads"][0]["put_count"] == 0


def test_a_put_that_breaks_off_leaves_nothing(magic, wait_until):
    target = magic.upload_target()
    url = urlsplit(target["upload_url"])
    with socket.create_connection((url.hostname, url.port)) as wire:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        wire.sendall(head.encode() + b"only this")
    seen = wait_until(lambda: magic.control.state(), lambda ledger: puts(ledger, 400))
    [upload] = seen["uploads"]
    assert upload == {"file_path": target["file_path"], "bytes": 0, "sha256": None, "put_count": 0}
    assert magic.try_create(target["file_path"]).status_code == 422


def puts(ledger, status):
    return [entry for entry in ledger["requests"] if (entry["method"], entry["status"]) == ("PUT", status)]


def test_a_file_may_be_put_again(magic, photo):
    target = magic.upload_target()
    for content in (b"first", photo):
        assert magic.files.put(target["upload_url"], content=content).status_code == 200
    [upload] = magic.control.state()["uploads"]
    assert (upload["put_count"], upload["bytes"]) == (2, len(photo))
    assert upload["sha256"] == hashlib.sha256(photo).hexdigest()


def test_a_file_above_the_tiers_limit_is_refused_at_put(magic):
    target = magic.upload_target()
    magic.control.behaviour(max_upload_bytes=4)
    assert magic.files.put(target["upload_url"], content=b"12345").status_code == 413
    assert magic.files.put(target["upload_url"], content=b"1234").status_code == 200


def test_the_limit_is_that_of_the_tier(magic):
    magic.control.account(tier="free")
    url = urlsplit(magic.upload_target()["upload_url"])
    with socket.create_connection((url.hostname, url.port)) as wire:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 200000001\r\n\r\n"
        wire.sendall(head.encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_file_above_the_limit_fails_the_job_where_the_switch_says_so(magic):
    magic.control.behaviour(max_upload_bytes=4, oversize="job", render_seconds=0)
    job = magic.wait(magic.create(magic.upload(b"12345")))
    assert job["error"]["code"] == "file_too_large"


@pytest.mark.parametrize("status", [403, 404])
def test_a_tampered_or_unsigned_url_is_refused_with_the_status_of_the_switch(magic, photo, status):
    magic.control.behaviour(expired_status=status)
    put, got = magic.upload_target()["upload_url"], magic.complete()["download"]["url"]
    for tamper in (unsigned, resigned, prolonged, oddly_signed):
        assert magic.files.put(tamper(put), content=photo).status_code == status
        assert magic.files.get(tamper(got)).status_code == status
    assert magic.files.put(put, content=photo).status_code == 200
    assert magic.files.get(got).status_code == 200


def unsigned(url):
    return url.partition("?")[0]


def resigned(url):
    return url[:-1] + ("0" if url[-1] != "0" else "1")


def prolonged(url):
    return url.replace("expires=", "expires=9")


def oddly_signed(url):
    return url.replace("signature=", "signature=%C3%A9")


@pytest.mark.parametrize("status", [403, 404])
def test_an_upload_url_expires(magic, photo, status):
    magic.control.behaviour(expired_status=status)
    url = magic.upload_target()["upload_url"]
    magic.control.advance_clock(DAY)
    assert magic.files.put(url, content=photo).status_code == status


def test_the_link_is_the_same_until_it_expires_and_then_a_new_one(magic):
    job = magic.complete()
    magic.control.advance_clock(DAY - 60)
    assert magic.get(job["id"])["download"] == job["download"]
    assert magic.files.get(job["download"]["url"]).status_code == 200
    magic.control.advance_clock(120)
    assert magic.files.get(job["download"]["url"]).status_code == 403
    renewed = magic.get(job["id"])["download"]
    assert renewed["url"] != job["download"]["url"]
    assert renewed["expires_at"] > job["download"]["expires_at"]
    assert magic.files.get(renewed["url"]).status_code == 200


def test_all_clips_have_the_same_file_name(magic):
    first, second = (urlsplit(magic.complete()["download"]["url"]).path for _ in range(2))
    assert first != second
    assert first.rpartition("/")[2] == second.rpartition("/")[2] == "output.mp4"


def test_a_key_on_a_signed_url_is_refused_and_counts_as_no_download(magic, photo):
    headers = {"Authorization": f"Bearer {magic.server.api_key}"}
    job = magic.complete()
    assert magic.files.get(job["download"]["url"], headers=headers).status_code == 400
    assert (
        magic.files.put(magic.upload_target()["upload_url"], content=photo, headers=headers).status_code
        == 400
    )
    assert magic.entry(job["id"])["downloads"] == 0
    magic.control.behaviour(storage_authorization="ignore")
    assert magic.files.get(job["download"]["url"], headers=headers).status_code == 200


def test_a_download_tells_its_length_type_and_tag(magic):
    answer = magic.files.get(magic.complete()["download"]["url"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    assert int(answer.headers["content-length"]) == len(answer.content) > 1000
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"]
