"""Signatures, times and bodies of webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.client.webhooks import construct_event, parse_secrets, sign
from magichour_provider.exceptions import MagicHourError, WebhookError

SECRET, NOW = "whsec_0123456789", 1_790_000_000
PROJECT = {"id": "cmB4rTx0z", "status": "complete", "name": "cat", "credits_charged": 150}
BODY = json.dumps({"type": "video.completed", "payload": PROJECT}).encode()


def headers(body=BODY, secret=SECRET, at=NOW):
    signature = hmac.new(secret.encode(), str(at).encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"magic-hour-event-signature": signature, "magic-hour-event-timestamp": str(at)}


def construct(body=BODY, given=None, secrets=SECRET, now=NOW):
    return construct_event(body, headers(body) if given is None else given, secrets, clock=lambda: now)


def refusal(**arguments):
    with pytest.raises(WebhookError) as refused:
        construct(**arguments)
    assert str(refused.value) == str(WebhookError("signature")), "the message does not tell why"
    return refused.value.code


def test_genuine_event_is_read():
    event = construct()
    assert (event.type, event.signed_at, event.is_end) == ("video.completed", NOW, True)
    assert (event.project.id, event.project.status, event.project.credits_charged) == (
        "cmB4rTx0z",
        "complete",
        150,
    )


@pytest.mark.parametrize("case", [str.upper, str.title])
def test_case_of_headers_and_digits_does_not_count(case):
    given = {name.title(): value for name, value in headers().items()}
    given["Magic-Hour-Event-Signature"] = case(given["Magic-Hour-Event-Signature"])
    assert construct(given=given).project.id == "cmB4rTx0z"


@pytest.mark.parametrize("secrets", [("new", SECRET), (SECRET, "old"), [SECRET]])
def test_each_secret_of_a_rotation_is_taken(secrets):
    assert construct(secrets=secrets).is_end


@pytest.mark.parametrize("secrets", [(), ("",), "", "whsec_another", ("a", "b")])
def test_without_the_secret_nothing_is_taken(secrets):
    assert refusal(secrets=secrets) == "signature"
    assert refusal(secrets=secrets, given=headers(secret="")) == "signature"


@given(st.integers(0, len(BODY) - 1), st.integers(0, 7))
def test_a_changed_bit_is_refused(position, bit):
    changed = bytearray(BODY)
    changed[position] ^= 1 << bit
    with pytest.raises(WebhookError):
        construct_event(bytes(changed), headers(), SECRET, clock=lambda: NOW)


@given(st.text(), st.text())
def test_any_signature_and_time_of_an_attacker_is_refused(signature, timestamp):
    forged = {"magic-hour-event-signature": signature, "magic-hour-event-timestamp": timestamp}
    with pytest.raises(WebhookError):
        construct_event(BODY, forged, SECRET, clock=lambda: NOW)


@pytest.mark.parametrize(("offset", "is_taken"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_tolerance_is_five_minutes_both_ways(offset, is_taken):
    if is_taken:
        assert construct(now=NOW + offset).is_end
    else:
        assert refusal(now=NOW + offset) == "timestamp"


@pytest.mark.parametrize("timestamp", ["", "now", "1e9", "-5", "9" * 30, "1790000000.5", "١٧٩"])
def test_time_that_is_no_number_is_refused(timestamp):
    signed = {
        "magic-hour-event-signature": sign(BODY, SECRET, timestamp),
        "magic-hour-event-timestamp": timestamp,
    }
    assert refusal(given=signed) == "timestamp"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b"\xff", b"[" * 5000),
        b'{"type": 5, "payload": {}}',
        b'{"type": "video.completed"}',
        b'{"type": "video.completed", "payload": {"id": "../etc", "status": "complete"}}',
        b'{"type": "video.completed", "payload": {"status": "complete"}}',
    ],
)
def test_signed_body_that_is_no_event_is_refused(body):
    assert refusal(body=body) == "body"


def test_event_of_another_kind_has_no_project():
    body = json.dumps({"type": "image.completed", "payload": {"id": 7}}).encode()
    event = construct(body=body)
    assert (event.type, event.project, event.is_end) == ("image.completed", None, False)


def test_refusal_is_one_of_our_errors_and_tells_nothing():
    error = WebhookError("timestamp")
    assert isinstance(error, MagicHourError)
    assert "time" not in str(error)


@pytest.mark.parametrize("text", ["a b", " a,b ", "a, b", "a\nb"])
def test_two_secrets_in_one_field(text):
    assert parse_secrets(text) == ("a", "b")
    assert parse_secrets("") == parse_secrets(None) == parse_secrets(" , ") == ()
