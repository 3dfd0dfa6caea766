"""Storages that lie, stall, never end or lead elsewhere; tasks that are interrupted at any point."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import ipaddress
import logging
import os
import random
import ssl
import subprocess
import sys
import threading
import time
import traceback

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from magichour_provider import exceptions as errors
from magichour_provider.client.settings import ClientSettings
from magichour_provider.storage import download as fetching
from magichour_provider.storage.locations import resolve_target
from magichour_provider.storage.download import download_video as land

from .raw_storage import SIGNATURE, RawStorage, client_for

MIB = 1 << 20
TAG = '"v1"'
PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "_LONGEST_PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def clip(magichour_sandbox_server):
    """A real clip of some 6 MiB."""
    import httpx

    control = magichour_sandbox_server.control
    control.reset()
    control.behaviour(render_seconds=0, video_padding_bytes=6 * MIB)
    api = httpx.Client(
        base_url=magichour_sandbox_server.url,
        headers={"Authorization": f"Bearer {magichour_sandbox_server.api_key}"},
        trust_env=False,
        timeout=PATIENCE_SECONDS,
    )
    body = {"assets": {"image_file_path": "saved-items/a/b.png"}, "end_seconds": 3, "model": "ltx-2.3"}
    project_id = api.post("/v1/image-to-video", json={**body, "resolution": "480p"}).json()["id"]
    control.set_job(project_id, "complete")
    url = api.get(f"/v1/video-projects/{project_id}").json()["download"]["url"]
    content = httpx.get(url, trust_env=False).content
    # random bytes in the padding, so that no piece of it passes for another
    return content[: -5 * MIB] + random.Random(5).randbytes(5 * MIB)


def whole(content, **headers):
    """A handler that serves the clip as a good store does, with and without ranges."""

    def handle(request):
        start = request.start()
        told = {"Content-Length": len(content) - start, "ETag": TAG, **headers}
        if start:
            told["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.answer(206 if start else 200, told, content[start:])

    return handle


def in_turn(*handlers):
    """Each request to the next handler; the last one takes all that follow."""
    left = list(handlers)

    def handle(request):
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return handle


def cut(content, length, **headers):
    """A handler that sends so many bytes of the clip and hangs up."""

    def handle(request):
        request.answer(200, {"Content-Length": len(content), "ETag": TAG, **headers}, content[:length])

    return handle


@pytest.fixture
def bring(tmp_path):
    """Land a clip from a storage that a handler makes up: what came of it, and the requests."""

    def bring(handler, *, tls=None, if_exists="skip", **settings):
        with RawStorage(handler, tls) as storage, client_for(**settings) as client:
            target = resolve_target(f"{tmp_path}/clip.mp4", "p1")
            try:
                outcome = land(client, storage.link, target, if_exists=if_exists)
            except Exception as error:
                outcome = error
            return outcome, storage.requests

    return bring


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def until(is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)


def readers():
    own = ("magichour-download", "magichour-sync", "magichour-s3")
    return [thread for thread in threading.enumerate() if thread.name.startswith(own)]


def check_refused(tmp_path, outcome, kind):
    assert isinstance(outcome, kind), outcome
    assert isinstance(outcome, errors.TransferError)
    assert list(tmp_path.iterdir()) == []
    assert SIGNATURE not in "".join(traceback.format_exception(outcome))
    until(lambda: not readers())


# --- bodies without end, and without haste


def test_a_body_that_never_ends_is_given_up_at_the_limit(bring, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_CLIP_BYTES", 16 * MIB)
    box = (1).to_bytes(4, "big") + b"free" + (1 << 60).to_bytes(8, "big")
    gone = threading.Event()

    def endless(request):
        request.answer(200, {"ETag": TAG}, clip + box)
        try:
            while True:
                request.sock.sendall(bytes(MIB))
        except OSError:
            gone.set()

    outcome, requests = bring(endless)
    check_refused(tmp_path, outcome, errors.TransferError)
    assert "more than" in outcome.what
    assert len(requests) == 1
    assert gone.wait(PATIENCE_SECONDS)


def test_an_announced_length_beyond_the_limit_is_refused_at_once(bring, clip, tmp_path):
    outcome, requests = bring(cut(clip, 1000, **{"Content-Length": 1 << 40}))
    check_refused(tmp_path, outcome, errors.TransferError)
    assert len(requests) == 1


def test_a_file_that_grows_with_each_connection_is_not_put_together(bring, clip, tmp_path):
    def grow(request):
        start = request.start()
        size = len(clip) + start
        told = {"ETag": TAG, "Content-Length": 2 * MIB}
        if start:
            told["Content-Range"] = f"bytes {start}-{start + 2 * MIB - 1}/{size}"
        else:
            told["Content-Length"] = size
        request.answer(206 if start else 200, told, clip[: 2 * MIB])

    outcome, requests = bring(grow)
    check_refused(tmp_path, outcome, errors.TransferError)
    assert len(requests) <= 12


def test_a_storage_that_stalls_is_left_and_asked_for_the_rest(bring, clip):
    def stall(request):
        request.answer(200, {"Content-Length": len(clip), "ETag": TAG}, clip[: 3 * MIB])
        request.sock.recv(1)

    outcome, requests = bring(in_turn(stall, whole(clip)), timeout=0.5)
    assert outcome.sha256 == sha256(clip)
    assert requests[1].headers["range"] == f"bytes={3 * MIB}-"
    assert requests[1].headers["if-range"] == TAG


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5", b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n"]
)
def test_a_storage_that_says_nothing_more_is_given_up(bring, tmp_path, sent):
    def silent(request):
        request.sock.sendall(sent)
        request.sock.recv(1)

    outcome, requests = bring(silent, timeout=0.2)
    check_refused(tmp_path, outcome, errors.DownloadError)
    assert len(requests) == 5


def test_bytes_that_come_slowly_are_handed_on_before_there_is_a_mebibyte():
    enough, nearly_all_sent = threading.Event(), threading.Event()

    def drip(request):
        request.answer(200, {"Content-Length": 50_000})
        for number in range(500):
            if number == 400:
                nearly_all_sent.set()
            request.sock.sendall(bytes(100))
            if enough.wait(0.01):
                return

    with RawStorage(drip) as storage, client_for() as client, client.open_download(storage.link()) as clip:
        assert next(clip.chunks())
        assert not nearly_all_sent.is_set()
        enough.set()


# --- storages that lie


def part_of(content, start, **changes):
    size = len(content)
    told = {"Content-Range": f"bytes {start}-{size - 1}/{size}", "ETag": TAG, "Content-Length": size - start}
    told.update(changes)
    return {key: value for key, value in told.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"Content-Range": None},
        {"Content-Range": "bytes 0-99/100"},
        {"Content-Range": "nonsense"},
        {"ETag": '"v2"'},
        {"ETag": f"W/{TAG}"},
    ],
)
def test_a_part_that_is_not_the_rest_of_the_same_file_is_not_put_behind_it(bring, clip, changes):
    other = random.Random(6).randbytes(len(clip))

    def lie(request):
        start = request.start()
        request.answer(206, part_of(clip, start, **changes), other[start:])

    outcome, requests = bring(in_turn(cut(clip, 3 * MIB), lie, whole(clip)))
    assert outcome.sha256 == sha256(clip)
    assert ["range" in request.headers for request in requests] == [False, True, False]


def test_a_part_that_does_not_say_of_which_file_it_is_is_found_out_by_the_checksum(bring, clip):
    other = random.Random(6).randbytes(len(clip))
    digest = {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(clip).digest()).decode()}:"}

    def lie(request):
        start = request.start()
        request.answer(206, part_of(clip, start, ETag=None), other[start:])

    outcome, requests = bring(in_turn(cut(clip, 3 * MIB, **digest), lie, whole(clip, **digest)))
    assert outcome.sha256 == sha256(clip)
    assert ["range" in request.headers for request in requests] == [False, True, False]


def test_without_a_checksum_a_part_that_does_not_say_of_which_file_it_is_is_not_taken(bring, clip):
    other = random.Random(6).randbytes(len(clip))

    def lie(request):
        start = request.start()
        request.answer(206, part_of(clip, start, ETag=None), other[start:])

    outcome, requests = bring(in_turn(cut(clip, 3 * MIB), lie, whole(clip)))
    assert outcome.sha256 == sha256(clip)
    assert ["range" in request.headers for request in requests] == [False, True, False]


def test_a_part_of_a_file_of_another_length_is_not_put_behind_it(bring, clip):
    def lie(request):
        start, size = request.start(), len(clip) - 1
        told = part_of(clip, start, **{"Content-Range": f"bytes {start}-{size - 1}/{size}"})
        request.answer(206, told, clip[start:])

    outcome, requests = bring(in_turn(cut(clip, 3 * MIB), lie, whole(clip)))
    assert outcome.sha256 == sha256(clip)
    assert len(requests) == 3


def test_a_storage_that_only_ever_sends_other_parts_is_given_up(bring, clip, tmp_path):
    outcome, requests = bring(lambda request: request.answer(206, part_of(clip, 0), clip))
    check_refused(tmp_path, outcome, errors.DownloadError)
    assert len(requests) == 5


def test_a_part_in_small_pieces_is_put_together(bring, clip):
    """As some networks for content do: each answer is a piece of what was asked for."""

    def piece(request):
        start = request.start()
        stop = min(start + 2 * MIB, len(clip))
        told = part_of(clip, start, **{"Content-Range": f"bytes {start}-{stop - 1}/{len(clip)}"})
        request.answer(206, {**told, "Content-Length": stop - start}, clip[start:stop])

    outcome, _ = bring(in_turn(cut(clip, 2 * MIB), piece))
    assert outcome.sha256 == sha256(clip)


@pytest.mark.parametrize("more", [1, 5 * MIB])
def test_a_part_that_is_longer_than_the_file_is_not_published(bring, clip, tmp_path, more):
    def lie(request):
        start = request.start()
        told = part_of(clip, start, **{"Content-Length": len(clip) - start + more})
        request.answer(206, told, clip[start:] + bytes(more))

    outcome, _ = bring(in_turn(cut(clip, 3 * MIB), lie))
    check_refused(tmp_path, outcome, errors.TransferError)


def test_a_length_that_is_too_long_ends_in_no_file(bring, clip, tmp_path):
    def lie(request):
        if request.start() >= len(clip):
            request.answer(416, {"Content-Length": 0, "Content-Range": f"bytes */{len(clip)}"})
            return
        request.answer(200, {"Content-Length": len(clip) + 1, "ETag": TAG}, clip)

    outcome, requests = bring(lie)
    check_refused(tmp_path, outcome, errors.TransferError)
    assert len(requests) <= 12


@pytest.mark.parametrize("less", [1, 2 * MIB])
def test_a_length_that_is_too_short_ends_in_no_file(bring, clip, tmp_path, less):
    outcome, _ = bring(lambda request: request.answer(200, {"Content-Length": len(clip) - less}, clip))
    check_refused(tmp_path, outcome, errors.NotAVideoError)


@pytest.mark.parametrize("length", ["-5", "12abc", "1, 2", "9" * 400, ""])
def test_a_length_that_is_none_is_an_answer_that_is_none(bring, clip, tmp_path, length):
    outcome, _ = bring(lambda request: request.answer(200, {"Content-Length": length}, clip))
    check_refused(tmp_path, outcome, errors.DownloadError)


def test_a_body_of_unknown_length_is_judged_by_its_structure(bring, clip, tmp_path):
    outcome, _ = bring(lambda request: request.answer(200, {"Connection": "close"}, clip[:-1]))
    check_refused(tmp_path, outcome, errors.NotAVideoError)
    outcome, _ = bring(lambda request: request.answer(200, {"Connection": "close"}, clip))
    assert outcome.sha256 == sha256(clip)


def test_a_chunked_body_that_breaks_is_taken_up(bring, clip):
    def chunked(request):
        request.answer(200, {"Transfer-Encoding": "chunked", "ETag": TAG})
        request.sock.sendall(f"{4 * MIB:x}\r\n".encode() + clip[: 3 * MIB])

    outcome, requests = bring(in_turn(chunked, whole(clip)))
    assert outcome.sha256 == sha256(clip)
    assert requests[1].headers["range"] == f"bytes={3 * MIB}-"


def test_a_break_after_the_last_byte_costs_nothing(bring, clip):
    def chunked(request):
        request.answer(200, {"Transfer-Encoding": "chunked", "ETag": TAG})
        request.sock.sendall(f"{len(clip):x}\r\n".encode() + clip)

    def beyond(request):
        request.answer(416, {"Content-Length": 0})

    outcome, requests = bring(in_turn(chunked, beyond, whole(clip)))
    assert outcome.sha256 == sha256(clip)
    assert len(requests) == 3


def test_packed_bytes_that_nobody_asked_for_are_no_clip(bring, clip, tmp_path):
    import gzip

    packed = gzip.compress(clip, 1)
    headers = {"Content-Encoding": "gzip", "Content-Length": len(packed)}
    outcome, requests = bring(lambda request: request.answer(200, headers, packed))
    check_refused(tmp_path, outcome, errors.NotAVideoError)
    assert "gzip" in outcome.what
    assert requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(bring, clip, tmp_path, status):
    with RawStorage(whole(clip)) as elsewhere:
        location = {"Location": elsewhere.url, "Content-Length": 0}
        outcome, _ = bring(lambda request: request.answer(status, location))
        check_refused(tmp_path, outcome, errors.DownloadError)
        assert str(status) in outcome.what
        assert elsewhere.requests == []


NONSENSE = {
    "ETag": "\xe9\xff\x80",
    "Last-Modified": "Tue, 03 Nov 2026 10:00:00 -0000",
    "Date": "yesterday",
    "Content-MD5": "caf\xe9",
    "Digest": "md5=\xe9, =, sha-256=:",
    "Repr-Digest": "\xff",
    "x-goog-hash": "crc32c=!!!!,md5=????",
    "x-amz-checksum-sha256": "AAAA",
    "Content-Type": "text/html; charset=\xe9",
    "Content-Range": "bytes 5-1/0",
    "Set-Cookie": "a=b; \xe9",
}


def test_headers_that_are_nonsense_are_passed_over(bring, clip):
    outcome, requests = bring(in_turn(cut(clip, 3 * MIB, **NONSENSE), whole(clip, **NONSENSE)))
    assert outcome.sha256 == sha256(clip)
    assert "range" not in requests[1].headers
    assert "cookie" not in requests[1].headers


def test_a_file_known_by_its_date_alone_is_taken_up_by_it(bring, clip):
    date = {
        "ETag": None,
        "Last-Modified": "Tue, 03 Nov 2026 10:00:00 GMT",
        "Date": "Tue, 03 Nov 2026 11:00:00 GMT",
    }
    told = {key: value for key, value in date.items() if value is not None}

    def first(request):
        request.answer(200, {"Content-Length": len(clip), **told}, clip[: 3 * MIB])

    def rest(request):
        request.answer(206, part_of(clip, request.start(), ETag=None), clip[request.start() :])

    outcome, requests = bring(in_turn(first, rest))
    assert outcome.sha256 == sha256(clip)
    assert requests[1].headers["if-range"] == told["Last-Modified"]


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp.example ESMTP\r\n",
        b"HTTP/1.1 999\r\n\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MIB,
    ],
)
def test_what_is_no_http_is_a_failed_download(bring, tmp_path, answer):
    outcome, _ = bring(lambda request: request.sock.sendall(answer), timeout=2.0)
    check_refused(tmp_path, outcome, errors.DownloadError)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://127.0.0.1:99999/a",
        "http://",
        "http://\udcff/",
        "http://a b/",
        "https://x:y@/",
        "http://127.0.0.1:1/",
    ],
)
def test_a_link_that_cannot_be_used_is_a_failed_download(tmp_path, url):
    from magichour_provider.client.models import DownloadUrl

    link = DownloadUrl.model_validate({"url": f"{url}?{SIGNATURE}"})
    with client_for(timeout=1.0) as client, pytest.raises(errors.DownloadError) as failed:
        land(client, lambda: link, resolve_target(f"{tmp_path}/clip.mp4", "p1"), if_exists="skip")
    check_refused(tmp_path, failed.value, errors.DownloadError)


# --- ways to the storage


def test_a_proxy_of_the_connection_is_used(bring, clip):
    with RawStorage(whole(clip)) as proxy:
        outcome, requests = bring(whole(b""), proxy=f"http://me:PASSWORD@127.0.0.1:{proxy.port}")
        assert outcome.sha256 == sha256(clip)
        assert requests == []
        assert proxy.requests[0].line.startswith("GET http://127.0.0.1:")
        assert SIGNATURE in proxy.requests[0].line
        assert "proxy-authorization" in proxy.requests[0].headers
        assert "authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_refuses_shows_no_password(bring, tmp_path, status):
    with RawStorage(lambda request: request.answer(status, {"Content-Length": 0})) as proxy:
        outcome, _ = bring(whole(b""), proxy=f"http://me:PASSWORD@127.0.0.1:{proxy.port}")
        check_refused(tmp_path, outcome, errors.DownloadError)
        assert "PASSWORD" not in "".join(traceback.format_exception(outcome))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself: the server's side, and the path of the file to trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, str(folder / "ca.pem")


def test_the_certificates_of_the_connection_are_trusted_and_no_others(bring, clip, tmp_path, authority):
    context, bundle = authority
    outcome, _ = bring(whole(clip), tls=context)
    check_refused(tmp_path, outcome, errors.DownloadError)
    outcome, _ = bring(in_turn(cut(clip, 3 * MIB), whole(clip)), tls=context, ca_bundle=bundle)
    assert outcome.sha256 == sha256(clip)
    outcome, _ = bring(whole(clip), tls=context, verify=False, if_exists="overwrite")
    assert outcome.sha256 == sha256(clip)


def test_a_landing_runs_inside_a_running_event_loop(bring, clip):
    async def task():
        return bring(whole(clip))

    outcome, _ = asyncio.run(task())
    assert outcome.sha256 == sha256(clip)


def test_landings_run_side_by_side_in_threads(clip, tmp_path):
    outcomes = []

    def one(number):
        target = resolve_target(f"{tmp_path}/{number}.mp4", "p1")
        outcomes.append(land(client, storage.link, target, if_exists="skip").sha256)

    with (
        RawStorage(in_turn(cut(clip, 3 * MIB), cut(clip, 2 * MIB), whole(clip))) as storage,
        client_for() as client,
    ):
        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert outcomes == [sha256(clip)] * 6
    assert len(list(tmp_path.iterdir())) == 6


FORKING = """
import os, sys
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.client.models import DownloadUrl
from magichour_provider.client.settings import ClientSettings
from magichour_provider.storage.locations import resolve_target
from magichour_provider.storage.download import download_video as land

url, folder = sys.argv[1:]
link = DownloadUrl.model_validate({"url": url})
client = MagicHourClient.from_settings(ClientSettings(api_key="k", timeout=5.0))

def bring(name):
    land(client, lambda: link, resolve_target(f"{folder}/{name}.mp4", "p1"), if_exists="skip")

bring("parent")
with client.open_download(link) as half:
    next(half.chunks())
    child = os.fork()
    if child == 0:
        bring("child")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    rest = sum(map(len, half.chunks()))
bring("after")
print(rest)
"""


def test_a_process_forked_while_a_clip_is_read_lands_its_own(clip, tmp_path):
    with RawStorage(whole(clip)) as storage:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, storage.url, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert {path.name: sha256(path.read_bytes()) for path in tmp_path.iterdir()} == dict.fromkeys(
        ["parent.mp4", "child.mp4", "after.mp4"], sha256(clip)
    )


# --- interruptions


class Interruption:
    """Raises `error` in this thread at its n-th line within the provider; counts the lines otherwise."""

    def __init__(self, error, at=None):
        self._error, self._at = error, at
        self.lines = 0
        self.where = None

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, argument):
        if "/magichour_provider/" not in frame.f_code.co_filename or "/sandbox/" in frame.f_code.co_filename:
            return None
        return self._line

    def _line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                self.where = "".join(traceback.format_stack(frame, 12))
                raise self._error
        return self._line


CLEANING = ("in abort", "in _discard", "in close", "in _close", "in __exit__", "in _open_part", "in __init__")


@pytest.mark.parametrize("error", [KeyboardInterrupt, AirflowTaskTimeout])
def test_an_interruption_at_any_line_leaves_the_target_absent_or_whole(clip, tmp_path, error):
    with RawStorage(whole(clip)) as storage, client_for() as client:
        target = resolve_target(f"{tmp_path}/clip.mp4", "p1")

        def attempt():
            land(client, storage.link, target, if_exists="overwrite")

        attempt()
        with Interruption(error) as counting:
            attempt()
        choose = random.Random(7)
        tail = range(counting.lines - 60, counting.lines, 2)
        points = {*choose.sample(range(1, counting.lines), 50), *range(1, 60, 4), *tail}
        for at in sorted(points):
            target.place.unlink(missing_ok=True)
            interruption = Interruption(error, at)
            try:
                with interruption:
                    attempt()
            except (error, errors.TransferError):
                pass
            left = [path.name for path in tmp_path.iterdir()]
            if "clip.mp4" in left:
                assert sha256(target.place.read_bytes()) == sha256(clip), interruption.where
            if [name for name in left if name != "clip.mp4"]:
                assert any(words in interruption.where for words in CLEANING), interruption.where
            until(lambda: not readers())
        attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_signal_that_raises_ends_a_landing_that_waits_for_bytes(clip, tmp_path):
    """As Airflow's execution_timeout does."""
    import signal

    arrived = threading.Event()

    def stall(request):
        request.answer(200, {"Content-Length": len(clip), "ETag": TAG}, clip[: 3 * MIB])
        arrived.set()
        request.sock.recv(1)

    def out_of_time(*_):
        raise AirflowTaskTimeout("execution_timeout")

    def strike():
        arrived.wait(PATIENCE_SECONDS)
        until(lambda: [path for path in tmp_path.iterdir() if path.stat().st_size])
        os.kill(os.getpid(), signal.SIGALRM)

    old = signal.signal(signal.SIGALRM, out_of_time)
    try:
        with RawStorage(stall) as storage, client_for(timeout=10 * PATIENCE_SECONDS) as client:
            threading.Thread(target=strike).start()
            with pytest.raises(AirflowTaskTimeout, match="execution_timeout"):
                land(client, storage.link, resolve_target(f"{tmp_path}/clip.mp4", "p1"), if_exists="skip")
            assert list(tmp_path.iterdir()) == []
            until(lambda: not readers())  # while the storage still holds the connection
    finally:
        signal.signal(signal.SIGALRM, old)


def test_failed_landings_leave_no_descriptor_and_no_thread(bring, clip, tmp_path):
    handlers = [
        cut(clip, 100),
        lambda request: request.answer(200, {"Content-Length": 5}, b"<html"),
        lambda request: request.answer(500, {"Content-Length": 0}),
        lambda request: request.answer(302, {"Content-Length": 0, "Location": "http://x/"}),
        lambda request: request.reset(),
        lambda request: request.sock.sendall(b"nonsense\r\n\r\n"),
    ]

    def fail_in_every_way():
        for handler in handlers:
            outcome, _ = bring(handler)
            check_refused(tmp_path, outcome, errors.TransferError)

    fail_in_every_way()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        fail_in_every_way()
    until(lambda: threading.active_count() <= threads)
    until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)  # noqa: PTH208


# --- secrets


def test_no_log_no_error_and_no_warning_shows_a_signed_link(
    bring, clip, tmp_path, caplog, recwarn, monkeypatch
):
    import gc

    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    caplog.set_level(logging.DEBUG)
    handlers = [
        whole(clip),
        in_turn(cut(clip, 2 * MIB), lambda request: request.answer(403, {"Content-Length": 0}), whole(clip)),
        cut(clip, 100),
        lambda request: request.reset(),
        lambda request: request.sock.sendall(f"GET {request.line} nonsense\r\n\r\n".encode()),
        lambda request: request.answer(302, {"Content-Length": 0, "Location": f"http://x/?{SIGNATURE}"}),
        lambda request: request.answer(200, {"Content-Length": "x"}, SIGNATURE.encode()),
        lambda request: request.answer(200, {"Content-Length": len(SIGNATURE)}, SIGNATURE.encode()),
        lambda request: request.answer(
            200, {"Content-Length": 4, "Content-Range": SIGNATURE, "ETag": SIGNATURE}
        ),
    ]
    shown = []
    for handler in handlers:
        outcome, _ = bring(handler, if_exists="overwrite", timeout=1.0)
        shown.append(repr(outcome))
        if isinstance(outcome, Exception):
            shown.extend(traceback.format_exception(outcome))
    gc.collect()
    shown += [caplog.text, *(str(warning.message) for warning in recwarn)]
    everything = "".join(shown)
    assert "Landed" in everything
    assert "SIGNED" not in everything.replace("where an mp4 has", "")
    assert "mhk_KEY" not in everything
