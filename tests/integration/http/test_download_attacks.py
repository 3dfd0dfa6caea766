"""Storages that lie, stall, never end or lead elsewhere; tasks that are interrupted at any point."""

from __future__ import annotations

import asyncio
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
import traceback

import pytest
from processes import wait_until

from magichour_provider import exceptions as errors
from magichour_provider.storage.download import download_video
from magichour_provider.storage.targets import resolve_target
from magichour_provider.version_compat import AirflowTaskTimeout

from .raw_storage import SIGNATURE, RawStorage, client_for

MIB = 1 << 20
TAG = '"v1"'
PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def video(magichour_sandbox_server):
    """A real video of some 6 MiB."""
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
    """A handler that serves the video as a good store does, with and without ranges."""

    def handle(request):
        start = request.start()
        reported = {"Content-Length": len(content) - start, "ETag": TAG, **headers}
        if start:
            reported["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.answer(206 if start else 200, reported, content[start:])

    return handle


def in_turn(*handlers):
    """Each request to the next handler; the last one takes all that follow."""
    left = list(handlers)

    def handle(request):
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return handle


def cut(content, length, **headers):
    """A handler that sends so many bytes of the video and hangs up."""

    def handle(request):
        request.answer(200, {"Content-Length": len(content), "ETag": TAG, **headers}, content[:length])

    return handle


def save(client, get_url, target, *, if_exists="skip"):
    return download_video(client, get_url, target, if_exists=if_exists, sleep=lambda seconds: None)


@pytest.fixture
def bring(tmp_path):
    """Download a video from a storage that a handler makes up: what came of it, and the requests."""

    def bring(handler, *, tls=None, if_exists="skip", **settings):
        with RawStorage(handler, tls) as storage, client_for(**settings) as client:
            target = resolve_target(f"{tmp_path}/video.mp4", "p1")
            try:
                outcome = save(client, storage.link, target, if_exists=if_exists)
            except Exception as error:
                outcome = error
            return outcome, storage.requests

    return bring


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def until(condition):
    assert wait_until(condition, timeout=180, every=0.01)


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


def test_stalled_download_is_resumed(bring, video):
    def stall(request):
        request.answer(200, {"Content-Length": len(video), "ETag": TAG}, video[: 3 * MIB])
        request.sock.recv(1)

    outcome, requests = bring(in_turn(stall, whole(video)), timeout=0.5)
    assert outcome.sha256 == sha256(video)
    assert requests[1].headers["range"] == f"bytes={3 * MIB}-"
    assert requests[1].headers["if-range"] == TAG


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5", b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n"]
)
def test_silent_storage_fails_after_five_attempts(bring, tmp_path, sent):
    def silent(request):
        request.sock.sendall(sent)
        request.sock.recv(1)

    outcome, requests = bring(silent, timeout=0.2)
    check_refused(tmp_path, outcome, errors.DownloadError)
    assert len(requests) == 5


# --- storages that lie


def test_body_of_unknown_length_must_be_a_whole_mp4(bring, video, tmp_path):
    outcome, _ = bring(lambda request: request.answer(200, {"Connection": "close"}, video[:-1]))
    check_refused(tmp_path, outcome, errors.NotAVideoError)
    outcome, _ = bring(lambda request: request.answer(200, {"Connection": "close"}, video))
    assert outcome.sha256 == sha256(video)


def test_broken_chunked_body_is_resumed(bring, video):
    def chunked(request):
        request.answer(200, {"Transfer-Encoding": "chunked", "ETag": TAG})
        request.sock.sendall(f"{4 * MIB:x}\r\n".encode() + video[: 3 * MIB])

    outcome, requests = bring(in_turn(chunked, whole(video)))
    assert outcome.sha256 == sha256(video)
    assert requests[1].headers["range"] == f"bytes={3 * MIB}-"


def redirect(location):
    return lambda request: request.answer(302, {"Location": location, "Content-Length": 0})


def test_redirect_to_another_host_is_followed_without_the_key_and_resumed(bring, video):
    with RawStorage(in_turn(cut(video, 3 * MIB), whole(video))) as elsewhere:
        outcome, requests = bring(redirect(elsewhere.url))
        assert outcome.sha256 == sha256(video)
        assert len(requests) == 2
        assert elsewhere.requests[1].headers["range"] == f"bytes={3 * MIB}-"
        assert not any("mhk_KEY" in str(request) for request in [*requests, *elsewhere.requests])
        assert not any("authorization" in request.headers for request in elsewhere.requests)


@pytest.mark.parametrize(
    ("location", "count", "why"),
    [
        ("/again?x", 6, "more than 5 times"),
        ("", 6, "more than 5 times"),
        ("http://[::1", 1, "no URL"),
        ("ftp://elsewhere.example/", 1, "from http to ftp"),
    ],
)
def test_redirect_that_leads_nowhere_is_refused(bring, tmp_path, location, count, why):
    outcome, requests = bring(redirect(f"{location}"))
    check_refused(tmp_path, outcome, errors.DownloadError)
    assert why in outcome.what
    assert len(requests) == count
    assert not outcome.retryable


def test_redirect_from_https_to_http_is_not_followed(bring, video, tmp_path, authority):
    context, bundle = authority
    with RawStorage(whole(video)) as elsewhere:
        outcome, requests = bring(redirect(elsewhere.url), tls=context, ca_bundle=bundle)
        check_refused(tmp_path, outcome, errors.DownloadError)
        assert (outcome.retryable, len(requests), elsewhere.requests) == (False, 1, [])


def test_redirect_with_a_space_and_long_headers_is_followed(bring, video):
    def send(request):
        assert request.line == "GET /a%20b HTTP/1.1"
        whole(video, **{"X-Policy": "x" * 40_000})(request)

    outcome, _ = bring(in_turn(redirect("/a b"), send))
    assert outcome.sha256 == sha256(video)


def test_faults_behind_a_video_are_kept_if_length_and_checksum_agree(bring, video):
    stored = video + video
    digest = hashlib.md5(stored, usedforsecurity=False).hexdigest()
    for _ in range(2):  # the second one finds it
        outcome, requests = bring(whole(stored, ETag=f'"{digest}"'))
        assert outcome.sha256 == sha256(stored)
        assert len(requests) == 1
    outcome, _ = bring(whole(stored, ETag=f'"{"0" * 32}"'), if_exists="overwrite")
    assert isinstance(outcome, errors.NotAVideoError)


def test_video_without_an_end_must_arrive_twice_alike_if_no_length_is_announced(bring, video, tmp_path):
    def send(content):
        return lambda request: request.answer(200, {"Connection": "close"}, content)

    outcome, requests = bring(send(video + b"\n"))
    assert outcome.sha256 == sha256(video + b"\n")
    assert len(requests) == 2
    turns = [send(video + b"\n" * number) for number in (1, 2, 3)]
    outcome, requests = bring(in_turn(*turns), if_exists="overwrite")
    assert isinstance(outcome, errors.DownloadError)
    assert len(requests) == 3


def test_stored_bytes_that_are_no_video_are_refused_for_good(bring, video, tmp_path):
    """Length and checksum agree, so each attempt would receive the same bytes."""
    digest = hashlib.md5(video[:1000], usedforsecurity=False).hexdigest()
    outcome, _ = bring(whole(video[:1000], ETag=f'"{digest}"'))
    check_refused(tmp_path, outcome, errors.NotAVideoError)
    assert not outcome.retryable
    assert "web app" in outcome.remedy
    outcome, _ = bring(whole(video[:-1]))
    check_refused(tmp_path, outcome, errors.NotAVideoError)
    assert outcome.retryable


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
def test_response_that_is_no_http_is_a_download_error(bring, tmp_path, answer):
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
def test_unusable_url_is_a_download_error(tmp_path, url):
    from magichour_provider.client.models import DownloadUrl

    link = DownloadUrl.model_validate({"url": f"{url}?{SIGNATURE}"})
    with client_for(timeout=1.0) as client, pytest.raises(errors.DownloadError) as failed:
        save(client, lambda: link, resolve_target(f"{tmp_path}/video.mp4", "p1"))
    check_refused(tmp_path, failed.value, errors.DownloadError)


# --- ways to the storage


def test_proxy_of_the_connection_is_used(bring, video):
    with RawStorage(whole(video)) as proxy:
        outcome, requests = bring(whole(b""), proxy=f"http://me:PASSWORD@127.0.0.1:{proxy.port}")
        assert outcome.sha256 == sha256(video)
        assert requests == []
        assert proxy.requests[0].line.startswith("GET http://127.0.0.1:")
        assert SIGNATURE in proxy.requests[0].line
        assert "proxy-authorization" in proxy.requests[0].headers
        assert "authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("status", [407, 502])
def test_error_of_a_proxy_shows_no_password(bring, tmp_path, status):
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


def test_only_certificates_of_the_connection_are_trusted(bring, video, tmp_path, authority):
    context, bundle = authority
    outcome, _ = bring(whole(video), tls=context)
    check_refused(tmp_path, outcome, errors.DownloadError)
    outcome, _ = bring(in_turn(cut(video, 3 * MIB), whole(video)), tls=context, ca_bundle=bundle)
    assert outcome.sha256 == sha256(video)
    outcome, _ = bring(whole(video), tls=context, verify=False, if_exists="overwrite")
    assert outcome.sha256 == sha256(video)


def test_download_inside_a_running_event_loop(bring, video):
    async def task():
        return bring(whole(video))

    outcome, _ = asyncio.run(task())
    assert outcome.sha256 == sha256(video)


FORKING = """
import os, sys
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.client.models import DownloadUrl
from magichour_provider.client.settings import ClientSettings
from magichour_provider.storage.targets import resolve_target
from magichour_provider.storage.download import download_video as save

url, folder = sys.argv[1:]
link = DownloadUrl.model_validate({"url": url})
client = MagicHourClient.from_settings(ClientSettings(api_key="k", timeout=5.0))

def bring(name):
    save(client, lambda: link, resolve_target(f"{folder}/{name}.mp4", "p1"), if_exists="skip")

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


def test_process_forked_during_a_download_saves_its_own(video, tmp_path):
    with RawStorage(whole(video)) as storage:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, storage.url, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert {path.name: sha256(path.read_bytes()) for path in tmp_path.iterdir()} == dict.fromkeys(
        ["parent.mp4", "child.mp4", "after.mp4"], sha256(video)
    )


# --- interruptions


def test_signal_ends_a_download_that_waits_for_bytes(video, tmp_path):
    """As Airflow's execution_timeout does."""
    import signal

    arrived = threading.Event()

    def stall(request):
        request.answer(200, {"Content-Length": len(video), "ETag": TAG}, video[: 3 * MIB])
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
                save(client, storage.link, resolve_target(f"{tmp_path}/video.mp4", "p1"))
            assert list(tmp_path.iterdir()) == []
            until(lambda: not readers())  # while the storage still holds the connection
    finally:
        signal.signal(signal.SIGALRM, old)


def test_failed_downloads_leave_no_descriptor_and_no_thread(bring, video, tmp_path):
    handlers = [
        cut(video, 100),
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


def test_no_log_error_or_warning_shows_a_signed_url(bring, video, tmp_path, caplog, recwarn, monkeypatch):
    import gc

    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    caplog.set_level(logging.DEBUG)
    handlers = [
        whole(video),
        in_turn(
            cut(video, 2 * MIB), lambda request: request.answer(403, {"Content-Length": 0}), whole(video)
        ),
        cut(video, 100),
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
    assert "Saved" in everything
    assert "SIGNED" not in everything.replace("where an mp4 has", "")
    assert "mhk_KEY" not in everything
