"""Both clients without a server, over httpx.MockTransport and a fake aiohttp session."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import zlib
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import httpcore
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol, sync
from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import ImageToVideoRequest, UploadTarget
from magichour_provider.client.protocol import BoundedBody, RetryPolicy
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient, SendTrace, send_with_retries

KEY = "mhk_SECRET_KEY"
SETTINGS = ClientSettings(KEY, "https://api.example/mh/")
REQUEST = ImageToVideoRequest(image_file_path="api-assets/a.png", end_seconds=5)
PROJECT = {"id": "cm1", "status": "queued"}
TARGET = UploadTarget(upload_url="https://storage.example/put?sig=SIGNATURE", file_path="api-assets/a.png")


def response(status=200, body=None, **headers):
    """A response whose body is still to be read, as from a connection."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(json.dumps(body).encode()))


def client_for(handler):
    return MagicHourClient(httpx.Client(transport=httpx.MockTransport(handler)), SETTINGS)


class FakeSession:
    """An aiohttp session that raises, or answers, without a connection."""

    def __init__(self, outcome, status=200):
        self._outcome, self._status, self.requests = outcome, status, []

    @asynccontextmanager
    async def request(self, method, url, **options):
        self.requests.append((method, str(url), options))
        if isinstance(self._outcome, Exception):
            raise self._outcome

        async def chunks():
            yield self._outcome

        content = SimpleNamespace(iter_any=chunks)
        yield SimpleNamespace(status=self._status, headers={}, content=content)


def create_by_httpx(error):
    def fail(request):
        raise error

    client_for(fail).create_image_to_video(REQUEST)


def create_by_aiohttp(error):
    asyncio.run(AsyncMagicHourClient(FakeSession(error), SETTINGS).create_image_to_video(REQUEST))


OS_ERROR = OSError(111, "refused")
KEY_OF_HOST = ConnectionKey("api.example", 443, True, True, None, None, None)
INFO = RequestInfo(URL("http://user:PROXY_PASSWORD@proxy"), "CONNECT", {}, URL("http://x"))

BY_HTTPX = {
    httpx.HTTPError: "a base class",
    httpx.RequestError: "a base class",
    httpx.TransportError: "a base class",
    httpx.TimeoutException: "a base class",
    httpx.NetworkError: "a base class",
    httpx.ProtocolError: "a base class",
    httpx.StreamError: "a base class",
    httpx.InvalidURL: "never sent",
    httpx.UnsupportedProtocol: "never sent",
    httpx.ConnectError: "never sent",
    httpx.ConnectTimeout: "never sent",
    httpx.PoolTimeout: "never sent",
    httpx.ProxyError: "never sent",
    UnicodeError: "never sent",
    httpx.ReadTimeout: "perhaps received",
    httpx.WriteTimeout: "perhaps received",
    httpx.ReadError: "perhaps received",
    httpx.WriteError: "perhaps received",
    httpx.CloseError: "perhaps received",
    httpx.RemoteProtocolError: "perhaps received",
    httpx.LocalProtocolError: "perhaps received",
    httpx.DecodingError: "perhaps received",
    httpx.TooManyRedirects: "perhaps received",
    httpx.StreamConsumed: "perhaps received",
    httpx.StreamClosed: "perhaps received",
    TimeoutError: "perhaps received",
    ssl.SSLError: "perhaps received",
    ValueError: "perhaps received",
    OverflowError: "perhaps received",
    httpx.RequestNotRead: "cannot happen: this client streams no body of its own",
    httpx.ResponseNotRead: "cannot happen: this client reads the raw body",
    httpx.HTTPStatusError: "cannot happen: only raise_for_status raises it",
    httpx.CookieConflict: "cannot happen: only a look-up of a cookie raises it",
}
"""A verdict on each error class of httpx, for a transport of which nothing else is known."""
BY_AIOHTTP = {
    "never sent": [
        aiohttp.ClientConnectorError(KEY_OF_HOST, OS_ERROR),
        aiohttp.ClientConnectorDNSError(KEY_OF_HOST, OS_ERROR),
        aiohttp.ClientProxyConnectionError(KEY_OF_HOST, OS_ERROR),
        aiohttp.ClientConnectorSSLError(KEY_OF_HOST, OS_ERROR),
        aiohttp.ConnectionTimeoutError("slow"),
        aiohttp.ClientHttpProxyError(INFO, (), status=407),
        aiohttp.InvalidURL("http://[::1"),
        UnicodeError("label too long"),
    ],
    "perhaps received": [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, "reset"),
        aiohttp.SocketTimeoutError("slow"),
        aiohttp.ServerTimeoutError("slow"),
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ClientResponseError(INFO, (), status=400, message=KEY),
        asyncio.TimeoutError(),
        ConnectionResetError(104, "reset"),
    ],
}


def cases(verdict):
    by_httpx = [(create_by_httpx, make_error(kind)) for kind, each in BY_HTTPX.items() if each == verdict]
    return by_httpx + [(create_by_aiohttp, error) for error in BY_AIOHTTP[verdict]]


def make_error(kind):
    return kind() if kind in (httpx.StreamConsumed, httpx.StreamClosed) else kind("broken")


def named(value):
    return type(value).__name__ if isinstance(value, Exception) else value.__name__


@pytest.mark.parametrize(("create", "error"), cases("never sent"), ids=named)
def test_create_that_was_never_sent_is_a_network_error(create, error):
    with pytest.raises(errors.NetworkError) as raised:
        create(error)
    assert RetryPolicy().delay_seconds(raised.value, 1, is_create=True) is not None
    assert "PASSWORD" not in str(raised.value)


@pytest.mark.parametrize(("create", "error"), cases("perhaps received"), ids=named)
def test_create_that_may_have_been_received_is_unknown(create, error):
    with pytest.raises(errors.SubmissionUnknownError) as raised:
        create(error)
    assert RetryPolicy().delay_seconds(raised.value, 1, is_create=True) is None
    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None


def test_every_error_of_httpx_has_a_verdict():
    """Fails if a version of httpx brings an error class without a verdict."""
    classes = {kind for kind in vars(httpx).values() if isinstance(kind, type)}
    assert {kind for kind in classes if issubclass(kind, Exception)} <= set(BY_HTTPX)


def test_every_error_of_httpx_is_caught():
    verdicts = {kind for kind, verdict in BY_HTTPX.items() if not verdict.startswith("cannot happen")}
    assert all(issubclass(kind, sync.REQUEST_ERRORS) for kind in verdicts)


class Raising(httpx.BaseTransport):
    """Fails as httpcore may: after these events, with this error."""

    def __init__(self, error, *events):
        self._error, self._events = error, events

    def handle_request(self, request):
        for event in self._events:
            request.extensions["trace"](event, {"request": httpcore.Request("POST", "https://api.example/")})
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError(), MemoryError(), TypeError(), UnicodeError(), OSError()])
def test_what_was_sent_decides_about_any_error_of_a_create(error):
    for event, kind in (
        ("connection.connect_tcp.started", errors.NetworkError),
        ("http11.send_request_headers.started", errors.SubmissionUnknownError),
    ):
        client = MagicHourClient(httpx.Client(transport=Raising(error, event)), SETTINGS)
        with pytest.raises(kind):
            client.create_image_to_video(REQUEST)


def test_create_by_a_closed_client_was_never_sent():
    client = client_for(pytest.fail)
    client.close()
    with pytest.raises(errors.NetworkError, match="closed"):
        client.create_image_to_video(REQUEST)


def test_trace_knows_a_request_from_a_tunnel():
    """The events of a create through a proxy, as httpcore 1.0 reports them."""

    def events(*names, method=b"POST"):
        trace = SendTrace()
        for name in names:
            trace(name, {"request": httpcore.Request(method, "https://api.example/")})
        return trace.has_begun, trace.may_have_left

    assert events() == (False, False)
    assert events("connection.connect_tcp.started") == (True, False)
    assert events("http11.send_request_headers.started", method=b"CONNECT") == (True, False)
    assert events("http11.send_request_headers.started") == (True, True)


@pytest.mark.parametrize("text", ["\ud83d", "\U0001f600", "\0", "ü" * 3])
def test_every_text_can_be_sent_by_both_clients(text):
    bodies = []
    request = REQUEST.model_copy(update={"prompt": text})

    def answer(sent):
        bodies.append((sent.content, sent.headers["content-type"]))
        return response(200, {"id": "cm1"})

    client_for(answer).create_image_to_video(request)
    session = FakeSession(b'{"id": "cm1"}')
    asyncio.run(AsyncMagicHourClient(session, SETTINGS).create_image_to_video(request))
    ((_, _, options),) = session.requests
    assert bodies == [(options["data"], options["headers"]["Content-Type"])]
    assert json.loads(options["data"])["style"]["prompt"] == text


def test_request_has_key_and_identity_encoding():
    seen = []

    def answer(request):
        seen.append(request)
        return response(200, PROJECT)

    assert client_for(answer).get_video("cm1").id == "cm1"
    (request,) = seen
    assert str(request.url) == "https://api.example/mh/v1/video-projects/cm1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"


def test_async_request_is_the_same():
    session = FakeSession(json.dumps(PROJECT).encode())
    assert asyncio.run(AsyncMagicHourClient(session, SETTINGS).get_video("cm1")).id == "cm1"
    ((method, url, options),) = session.requests
    assert (method, url) == ("GET", "https://api.example/mh/v1/video-projects/cm1")
    assert options["headers"] == protocol.get_video("cm1").headers(KEY)
    assert options["allow_redirects"] is False


@pytest.mark.parametrize("status", [429, 500, 503])
def test_each_request_is_sent_once(status):
    seen = []

    def answer(request):
        seen.append(request)
        return response(status, {"message": "busy"})

    with pytest.raises(errors.APIError):
        client_for(answer).get_video("cm1")
    assert len(seen) == 1
    session = FakeSession(b"{}", status)
    with pytest.raises(errors.APIError):
        asyncio.run(AsyncMagicHourClient(session, SETTINGS).get_video("cm1"))
    assert len(session.requests) == 1


def test_redirect_of_the_api_is_not_followed():
    def answer(request):
        assert request.url.host == "api.example"
        return response(302, location="https://elsewhere.example/")

    with pytest.raises(errors.InvalidResponseError, match="redirected"):
        client_for(answer).get_video("cm1")
    with pytest.raises(errors.InvalidResponseError, match="redirected"):
        asyncio.run(AsyncMagicHourClient(FakeSession(b"", 302), SETTINGS).get_video("cm1"))


def test_key_repeated_by_an_answer_is_in_no_error():
    def answer(request):
        return response(401, {"message": f"The key {KEY} is not valid"})

    with pytest.raises(errors.AuthenticationError, match=r"The key \*\*\* is not valid"):
        client_for(answer).get_account()


def test_upload_is_sent_without_authorization_and_never_logged(caplog):
    caplog.set_level(logging.DEBUG)
    seen = []

    def answer(request):
        seen.append((request.read(), request.headers))
        return httpx.Response(200)

    client_for(answer).put_upload(TARGET, [b"ab", b"c"], 3)
    ((body, headers),) = seen
    assert body == b"abc"
    assert headers["content-length"] == "3"
    assert "authorization" not in headers
    assert "SIGNATURE" not in caplog.text + repr(TARGET)


@pytest.mark.parametrize(("status", "kind"), [(413, errors.ImageError), (403, errors.NetworkError)])
def test_refused_upload(status, kind):
    with pytest.raises(kind) as raised:
        client_for(lambda request: httpx.Response(status)).put_upload(TARGET, [b"x"], 1)
    assert "SIGNATURE" not in str(raised.value)


class TestRetries:
    def test_idempotent_call_is_repeated_until_it_succeeds(self):
        outcomes = [errors.NetworkError("1"), errors.NetworkError("2"), "done"]
        slept = []

        def call():
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        assert send_with_retries(call, RetryPolicy(base_seconds=1), slept.append) == "done"
        assert [0.75 <= slept[0] <= 1.25, 1.5 <= slept[1] <= 2.5] == [True, True]

    @given(attempts=st.integers(1, 10))
    def test_max_attempts(self, attempts):
        calls = []

        def call():
            calls.append(1)
            raise errors.NetworkError("broken")

        with pytest.raises(errors.NetworkError):
            send_with_retries(call, RetryPolicy(max_attempts=attempts), lambda seconds: None)
        assert len(calls) == attempts

    def test_other_errors_are_raised_at_once(self):
        for error in (errors.InvalidResponseError("x"), errors.SubmissionUnknownError("x"), ValueError("x")):
            with pytest.raises(type(error)):
                send_with_retries(lambda error=error: raise_(error), RetryPolicy(), pytest.fail)

    @given(
        attempt=st.integers(1, 30),
        retry_after=st.none() | st.floats(0, 1e6),
        is_create=st.booleans(),
    )
    def test_delay_is_never_above_the_cap(self, attempt, retry_after, is_create):
        error = errors.UnavailableError(
            status=429, code=None, message="busy", request="GET /", retry_after=retry_after
        )
        policy = RetryPolicy(max_attempts=20, cap_seconds=30)
        delay = policy.delay_seconds(error, attempt, is_create=is_create)
        if attempt >= 20 or (retry_after is not None and retry_after > 30):
            assert delay is None
        else:
            assert delay == retry_after if retry_after is not None else 0 <= delay <= 30


def raise_(error):
    raise error


class TestBoundedBody:
    def test_body_is_cut_at_4_mib(self):
        body = BoundedBody(60, KEY)
        chunk = bytes(1 << 20)
        assert [body.feed(chunk) for _ in range(5)] == [True, True, True, False, False]
        assert len(body.response(200, {}).body) == 4 << 20

    def test_body_that_takes_too_long_raises_timeout(self):
        now = [0.0]
        body = BoundedBody(60, KEY, clock=lambda: now[0])
        assert body.feed(b"a")
        now[0] = 60.5
        with pytest.raises(TimeoutError):
            body.feed(b"b")

    @pytest.mark.parametrize(
        ("coding", "wbits"), [("gzip", 31), (" GZIP", 31), ("x-gzip", 31), ("deflate", 15), ("deflate", -15)]
    )
    def test_compressed_body_is_decoded_to_at_most_4_mib(self, coding, wbits):
        def decoded(content):
            body, compressor = BoundedBody(60, KEY), zlib.compressobj(wbits=wbits)
            body.feed(compressor.compress(content) + compressor.flush())
            return body.response(200, {"content-encoding": coding}).body

        assert decoded(b'{"id": "cm1"}') == b'{"id": "cm1"}'
        assert decoded(KEY.encode()) == b"***"
        assert len(decoded(bytes(100 << 20))) == 4 << 20

    @pytest.mark.parametrize("coding", ["", "identity", "gzip", "deflate", "br"])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_plain_body_is_read_whatever_it_is_called(self, coding, mark):
        body = BoundedBody(60, KEY)
        body.feed(mark + b"{}")
        assert body.response(200, {"content-encoding": coding}).body == b"{}"

    @pytest.mark.parametrize(("secret", "shown"), [(KEY, b"a *** b"), ("short", b"a short b")])
    def test_secret_is_replaced(self, secret, shown):
        body = BoundedBody(60, secret)
        body.feed(f"a {secret} b".encode())
        assert body.response(200, {}).body == shown


def test_both_clients_have_the_same_methods():
    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    only_sync = public(MagicHourClient) - public(AsyncMagicHourClient)
    only_async = public(AsyncMagicHourClient) - public(MagicHourClient)
    assert (only_sync, only_async) == ({"close", "retry_policy"}, {"aclose"})
