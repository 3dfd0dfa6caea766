from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.client.models import ImageToVideoRequest, JobStatus
from magichour_provider.client.protocol import Response, RetryPolicy

CREATE = protocol.create_image_to_video(
    ImageToVideoRequest(image_file_path="api-assets/a.png", end_seconds=5)
)
GET = protocol.get_video("cm1")

PROJECT = {
    "id": "cm1",
    "status": "complete",
    "downloads": [{"url": "https://s/x?sig=SECRET", "expires_at": None}],
}


def answer(status=200, body=b"{}", **headers):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_values_that_are_not_given_are_not_sent():
    request = ImageToVideoRequest(image_file_path="api-assets/a.png", end_seconds=5, prompt="")
    assert request.body() == {"assets": {"image_file_path": "api-assets/a.png"}, "end_seconds": 5}


def test_complete_request_matches_the_reference_page():
    request = ImageToVideoRequest(
        image_file_path="a",
        end_image_file_path="b",
        end_seconds=5,
        prompt="p",
        model="kling-3.0",
        resolution="720p",
        audio=False,
        name="n",
    )
    assert request.body() == {
        "assets": {"image_file_path": "a", "end_image_file_path": "b"},
        "end_seconds": 5,
        "style": {"prompt": "p"},
        "model": "kling-3.0",
        "resolution": "720p",
        "audio": False,
        "name": "n",
    }


@pytest.mark.parametrize("project_id", ["", "None", "..", "a/b", "a b", "{{ x }}", "a?b"])
def test_invalid_project_id_is_refused_before_sending(project_id):
    with pytest.raises(errors.InvalidRequestError, match="not the id"):
        protocol.get_video(project_id)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.APIError),
        (401, errors.AuthenticationError),
        (402, errors.PaymentRequiredError),
        (403, errors.APIError),
        (404, errors.NotFoundError),
        (409, errors.APIError),
        (422, errors.APIError),
        (429, errors.UnavailableError),
        (500, errors.UnavailableError),
        (503, errors.UnavailableError),
    ],
)
@pytest.mark.parametrize("body", [{"message": "why"}, {"code": "some_code", "message": "why"}])
def test_error_status_and_both_shapes_of_its_body(status, kind, body):
    with pytest.raises(kind, match="why") as raised:
        protocol.parse_response(GET, answer(status, body))
    assert type(raised.value) is kind
    assert raised.value.code == body.get("code")


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"[1]", b"null", b'{"message": 5}', b"\xff"])
def test_error_body_without_json_object(body):
    with pytest.raises(errors.UnavailableError, match="502"):
        protocol.parse_response(GET, answer(502, body))


@pytest.mark.parametrize("status", [500, 502, 504])
def test_create_5xx_raises_submission_unknown(status):
    with pytest.raises(errors.SubmissionUnknownError, match="may have been spent"):
        protocol.parse_response(CREATE, answer(status, b"bad gateway"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"id": ""}', b'{"id": 5}', b'{"id": "a/../b?x"}'])
def test_create_without_id_raises_submission_unknown(body):
    with pytest.raises(errors.SubmissionUnknownError):
        protocol.parse_response(CREATE, answer(200, body))


def test_unreadable_response_names_fields_without_values():
    body = {**PROJECT, "status": None, "downloads": [{"url": "https://s/x?sig=SECRET", "expires_at": "x"}]}
    with pytest.raises(errors.InvalidResponseError) as raised:
        protocol.parse_response(GET, answer(200, body))
    assert "status" in str(raised.value)
    assert "SECRET" not in str(raised.value) + repr(raised.value.__context__)


@pytest.mark.parametrize(
    ("call", "kind"), [(GET, errors.InvalidResponseError), (CREATE, errors.SubmissionUnknownError)]
)
def test_redirect_names_the_host(call, kind):
    with pytest.raises(kind, match="host"):
        protocol.parse_response(call, answer(301, b"", location="https://elsewhere/"))


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000])
def test_deeply_nested_body_is_unreadable(body):
    with pytest.raises(errors.SubmissionUnknownError):
        protocol.parse_response(CREATE, answer(500, body))
    with pytest.raises(errors.InvalidResponseError):
        protocol.parse_response(GET, answer(200, body))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/v1/account", "data:x", ""])
def test_download_url_that_is_not_http_is_dropped(url):
    project = protocol.parse_response(GET, answer(200, {**PROJECT, "downloads": [{"url": url}]}))
    assert project.downloads == ()
    assert project.status is JobStatus.COMPLETE


@pytest.mark.parametrize(
    "field",
    [
        {"created_at": ""},
        {"created_at": "n/a"},
        {"credits_charged": 12.5},
        {"width": "wide"},
        {"end_seconds": "long"},
        {"end_seconds": float("nan")},
        {"fps": {}},
        {"name": 3},
        {"error": "boom"},
        {"enabled": "perhaps"},
    ],
    ids=str,
)
def test_invalid_optional_field_is_dropped(field):
    body = json.dumps({**PROJECT, "status": "complete", **field}).encode()
    project = protocol.parse_response(GET, answer(200, body))
    assert project.status is JobStatus.COMPLETE
    assert project.enabled
    assert getattr(project, next(iter(field))) in (None, True)


def test_time_without_zone_is_utc():
    body = json.dumps({**PROJECT, "created_at": "2026-01-01T00:00:00"}).encode()
    created = protocol.parse_response(GET, answer(200, body)).created_at
    assert created is not None
    assert created.isoformat() == "2026-01-01T00:00:00+00:00"


def test_response_about_another_project_is_refused():
    with pytest.raises(errors.InvalidResponseError):
        protocol.parse_response(GET, answer(200, {**PROJECT, "id": "cm9"}))


@pytest.mark.parametrize("status", [400, 403, 404])
def test_poll_404_without_json_comes_from_a_gateway(status):
    with pytest.raises(errors.InvalidResponseError) as caught:
        protocol.parse_response(GET, answer(status, b"<html>"))
    assert caught.value.retryable


def test_repr_shows_no_signed_url():
    signed = "https://host/still.png?sig=SECRET"
    request = ImageToVideoRequest(image_file_path=signed, end_image_file_path=signed, end_seconds=5)
    call = protocol.create_image_to_video(request)
    project = protocol.parse_response(GET, answer(200, PROJECT))
    shown = [request, call, answer(200, PROJECT), project, project.model_dump_json()]
    assert "SECRET" not in "".join(f"{each!r}{each}" for each in shown)


@pytest.mark.parametrize(
    "body", [PROJECT, {**PROJECT, "downloads": None, "download": PROJECT["downloads"][0]}]
)
def test_download_url_in_both_shapes(body):
    project = protocol.parse_response(GET, answer(200, body))
    assert project.downloads[0].url.get_secret_value() == "https://s/x?sig=SECRET"


def test_unknown_fields_and_statuses_are_accepted():
    project = protocol.parse_response(
        GET, answer(200, {**PROJECT, "status": "paused", "type": "NEW", "extra": {"a": 1}})
    )
    assert project.status == "paused"
    assert not isinstance(project.status, JobStatus)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30),
        ("soon", None),
        ("-5", None),
        (None, None),
    ],
)
def test_retry_after_seconds_or_date(value, seconds):
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
    assert protocol.parse_retry_after(value, now=now) == seconds


def error_of(request, status, **headers):
    with pytest.raises(errors.MagicHourError) as raised:
        protocol.parse_response(request, answer(status, {"message": "why"}, **headers))
    return raised.value


def no_answer(request, *, may_have_arrived):
    return protocol.network_error(request, "host", OSError("broken"), may_have_arrived=may_have_arrived)


@given(seconds=st.integers(-(10**6), 10**6))
def test_retry_after_date_is_the_time_left(seconds):
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert protocol.parse_retry_after(date, now=now) == max(0, seconds)


@given(value=st.text(max_size=40) | st.floats(allow_nan=True).map(str) | st.integers().map(str))
def test_retry_after_is_none_or_not_negative(value):
    seconds = protocol.parse_retry_after(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("status", [429, 503])
def test_create_429_and_503_are_retried(status):
    assert RetryPolicy().delay_seconds(error_of(CREATE, status), 1, is_create=True) is not None


@pytest.mark.parametrize("status", [None, 407])
def test_create_that_did_not_leave_or_stopped_at_a_proxy_is_retried(status):
    error = no_answer(CREATE, may_have_arrived=False) if status is None else error_of(CREATE, status)
    assert RetryPolicy().delay_seconds(error, 1, is_create=True) is not None
    assert isinstance(error, errors.NetworkError)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 422, 425, 499, 500, 502, 504])
def test_create_that_may_have_arrived_is_never_retried(status):
    assert RetryPolicy().delay_seconds(error_of(CREATE, status), 1, is_create=True) is None
    error = no_answer(CREATE, may_have_arrived=True)
    assert RetryPolicy().delay_seconds(error, 1, is_create=True) is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_poll_is_retried_after_errors_that_may_pass(status):
    assert RetryPolicy().delay_seconds(error_of(GET, status), 1) is not None
    assert RetryPolicy().delay_seconds(no_answer(GET, may_have_arrived=True), 1) is not None


def test_backoff_doubles_up_to_the_cap():
    policy = RetryPolicy(max_attempts=20, base_seconds=0.5, cap_seconds=8)
    assert 0.375 <= policy.delay_seconds(error_of(GET, 500), 1) <= 0.625
    assert 1.5 <= policy.delay_seconds(error_of(GET, 500), 3) <= 2.5
    assert policy.delay_seconds(error_of(GET, 500), 15) <= 8
