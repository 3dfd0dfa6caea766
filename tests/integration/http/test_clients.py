"""Both clients against the sandbox, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import socket

import pytest
from pydantic import SecretStr

from magichour_provider import exceptions as errors
from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import ImageToVideoRequest, JobStatus, UploadTarget
from magichour_provider.client.protocol import RetryPolicy
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient

from .raw_storage import RawStorage

IMAGE = "dags_examples/images/grace_hopper.jpg"
CREATES = {"method": "POST", "path": "/v1/image-to-video"}


class Blocking:
    """The asynchronous client, driven from a test that is not."""

    def __init__(self, settings):
        self.settings = settings

    def __getattr__(self, name):
        async def call(*args):
            async with await AsyncMagicHourClient.from_settings(self.settings) as client:
                return await getattr(client, name)(*args)

        return lambda *args: asyncio.run(call(*args))


@pytest.fixture(params=["sync", "async"])
def connect(request, magichour_sandbox):
    """Make a client of either kind."""
    made = []

    def make(**options):
        options = {"api_key": magichour_sandbox.api_key, "base_url": magichour_sandbox.url, **options}
        settings = ClientSettings(**options)
        if request.param == "async":
            return Blocking(settings)
        made.append(MagicHourClient.from_settings(settings))
        return made[-1]

    yield make
    for client in made:
        client.close()


REQUEST = ImageToVideoRequest(
    image_file_path="https://example.com/still.png", end_seconds=5, model="ltx-2.3", resolution="480p"
)


def jobs(sandbox):
    return sandbox.control.state()["jobs"]


def charged(sandbox):
    return sum(charge["credits"] for job in jobs(sandbox) for charge in job["charges"])


def count(sandbox, method, path):
    requests = sandbox.control.state()["requests"]
    return sum(row["count"] for row in requests if (row["method"], row["path"]) == (method, path))


def test_create_poll_and_delete(connect, magichour_sandbox):
    client = connect()
    job = client.create_image_to_video(REQUEST)
    assert job.credits_charged == 120
    assert client.get_video(job.id).id == job.id
    magichour_sandbox.control.advance_clock(60)
    client.delete_video(job.id)
    assert client.get_video(job.id).enabled is False


def test_wrong_key_is_not_shown(connect):
    with pytest.raises(errors.AuthenticationError) as refused:
        connect(api_key="wrong-but-secret").get_account()
    assert "wrong-but-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "fault",
    [
        {"drop": "before"},
        {"drop": "after"},
        {"status": 500},
        {"status": 502, "body": "<html>"},
        {"truncate": 5},
    ],
)
def test_create_that_may_have_arrived_is_sent_once(connect, magichour_sandbox, fault):
    magichour_sandbox.control.faults([{**CREATES, **fault}])
    with pytest.raises(errors.SubmissionUnknownError, match="charged a second time"):
        connect().create_image_to_video(REQUEST)
    assert count(magichour_sandbox, "POST", "/v1/image-to-video") == 1
    assert len(jobs(magichour_sandbox)) <= 1


def test_async_client_uploads_and_downloads(magichour_sandbox):
    async def round_trip():
        settings = ClientSettings(magichour_sandbox.api_key, magichour_sandbox.url)
        async with await AsyncMagicHourClient.from_settings(settings) as client:
            (target,) = await client.create_upload_targets(["jpg"])
            image = open(IMAGE, "rb").read()  # noqa: ASYNC230, PTH123, SIM115

            async def chunks():
                yield image

            await client.put_upload(target, chunks(), len(image))
            request = REQUEST.model_copy(update={"image_file_path": target.file_path})
            job = await client.create_image_to_video(request)
            while (project := await client.get_video(job.id)).status != JobStatus.COMPLETE:
                await asyncio.sleep(0.1)
            async with client.open_download(project.downloads[0]) as stream:
                return stream.headers.size, b"".join([chunk async for chunk in stream.chunks()])

    size, video = asyncio.run(round_trip())
    assert len(video) == size
    assert video[4:8] == b"ftyp"


# --- a create of which no byte has left is not "perhaps received"


def answering(*answers):
    """A server that answers each connection with the next of `answers`; None hangs up, "" hangs."""
    left = list(answers)

    def handle(request):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            request.reset()
        elif answer == "":
            request.sock.recv(1)
        else:
            request.sock.sendall(answer)
            request.sock.shutdown(socket.SHUT_WR)
            while request.sock.recv(65536):  # to close with unread bytes would reset the connection
                pass

    return RawStorage(handle)


BROKEN_TUNNELS = {
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever",
    "302": b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n",
    "half a header": b"HTTP/1.1 200",
    "not HTTP": b"220 smtp.example ESMTP\r\n\r\n",
    "no TLS behind it": b"HTTP/1.1 200 OK\r\n\r\n<html>",
    "hangs up": None,
    "hangs": "",
}


@pytest.mark.parametrize("way", BROKEN_TUNNELS)
def test_create_through_a_broken_tunnel_was_never_sent(connect, way):
    with answering(BROKEN_TUNNELS[way]) as proxy:
        url = f"http://me:PASSWORD@127.0.0.1:{proxy.port}"
        with pytest.raises(errors.NetworkError) as failed:
            connect(base_url="https://api.example", timeout=0.5, proxy=url).create_image_to_video(REQUEST)
    assert RetryPolicy().delay_seconds(failed.value, 1, is_create=True) is not None
    assert f"through the proxy http://127.0.0.1:{proxy.port}" in failed.value.what
    assert "PASSWORD" not in str(failed.value)
    assert {request.line.split()[0] for request in proxy.requests} == {"CONNECT"}


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:9",
        "https://127.0.0.1:9",
        "http://no-such-host.invalid",
        f"http://{'a' * 64}.example",
    ],
)
def test_create_without_a_connection_was_never_sent(connect, host):
    with pytest.raises(errors.NetworkError):
        connect(base_url=host, timeout=5).create_image_to_video(REQUEST)


@pytest.mark.parametrize("answer", [b"", None, "", b"HTTP/1.1 200", b"220 smtp.example ESMTP\r\n\r\n"])
@pytest.mark.parametrize("by_proxy", [True, False])
def test_create_that_left_is_perhaps_received(connect, answer, by_proxy):
    with answering(answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        way = {"base_url": "http://api.example", "proxy": url} if by_proxy else {"base_url": url}
        with pytest.raises(errors.SubmissionUnknownError):
            connect(timeout=0.5, **way).create_image_to_video(REQUEST)


def test_compressed_answer_of_a_create_keeps_the_id(connect):
    body = gzip.compress(b'\xef\xbb\xbf{"id": "cm1", "credits_charged": 5}')
    with answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + body) as server:
        job = connect(base_url=f"http://127.0.0.1:{server.port}").create_image_to_video(REQUEST)
    assert (job.id, job.credits_charged) == ("cm1", 5)


def test_dead_proxy_is_named(connect):
    with pytest.raises(errors.NetworkError, match=r"through the proxy http://127\.0\.0\.1:9 ") as failed:
        connect(proxy="http://me:PASSWORD@127.0.0.1:9", max_attempts=1).get_account()
    assert failed.value.remedy.startswith("Check the proxy")
    assert "PASSWORD" not in str(failed.value)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999/a", "http://", "http://127.0.0.1:9/"])
def test_unusable_upload_url_is_a_network_error(connect, url):
    target = UploadTarget.model_construct(upload_url=SecretStr(f"{url}?SECRET"), file_path="a")
    with pytest.raises(errors.NetworkError, match="Uploading the image failed") as failed:
        connect(timeout=1).put_upload(target, b"x", 1)
    assert "SECRET" not in str(failed.value)
