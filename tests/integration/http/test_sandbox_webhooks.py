"""The webhooks that the sandbox sends, received by a server of the test."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from magichour_provider.client.webhooks import construct_event
from magichour_provider.exceptions import WebhookError
from magichour_provider.sandbox import Behaviour, SandboxServer, Settings

SECRET = "whsec_of_the_test"
VIDEO = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 3, "model": "ltx-2.3"}
HELD_SECONDS = 3600.0


class Receiver:
    """Verifies each delivery, and keeps it as type, project id and status, or the code of the refusal."""

    def __init__(self):
        self.received, self.answers = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    event = construct_event(body, dict(self.headers), SECRET)
                    receiver.received.append((event.type, event.project.id, event.project.status))
                except WebhookError as error:
                    receiver.received.append(error.code)
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, count):
        deadline = time.monotonic() + 120
        while len(self.received) < count:
            assert time.monotonic() < deadline, self.received
            time.sleep(0.02)
        return self.received


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()


@pytest.fixture
def sandbox(receiver):
    behaviour = Behaviour(render_seconds=HELD_SECONDS, webhook_url=receiver.url, webhook_secret=SECRET)
    with SandboxServer(Settings(quick=True, behaviour=behaviour)) as sandbox:
        yield sandbox


def submit(sandbox, **video):
    headers = {"Authorization": f"Bearer {sandbox.api_key}"}
    answer = httpx.post(
        f"{sandbox.url}/v1/image-to-video", json={**VIDEO, **video}, headers=headers, trust_env=False
    )
    return answer.raise_for_status().json()["id"]


def test_start_and_end_of_a_job_are_delivered_signed(sandbox, receiver):
    job = submit(sandbox)
    sandbox.control.set_job(job, "rendering")
    assert receiver.wait_for(1) == [("video.started", job, "rendering")]
    sandbox.control.set_job(job, "complete")
    assert receiver.wait_for(2)[1] == ("video.completed", job, "complete")
    sent = sandbox.control.state()["webhooks"]
    assert [(each["type"], each["status"]) for each in sent] == [
        ("video.started", 204),
        ("video.completed", 204),
    ]
    assert SECRET not in str(sandbox.control.state())


def test_failed_job_is_delivered_with_its_error(sandbox, receiver):
    job = submit(sandbox)
    sandbox.control.set_job(job, "error", code="nsfw", message="no")
    assert ("video.errored", job, "error") in receiver.wait_for(2)


def test_canceled_job_sends_nothing(sandbox, receiver):
    canceled = submit(sandbox)
    sandbox.control.set_job(canceled, "canceled")
    job = submit(sandbox)
    sandbox.control.set_job(job, "complete")
    receiver.wait_for(2)
    assert canceled not in str(receiver.received)


def test_refused_delivery_is_repeated_until_it_is_taken(sandbox, receiver):
    receiver.answers[:] = [500, 503]
    job = submit(sandbox)
    sandbox.control.set_job(job, "rendering")
    assert receiver.wait_for(3) == [("video.started", job, "rendering")] * 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"webhook": "twice"}, ["video.started", "video.completed", "video.completed"]),
        ({"webhook": "wrong_signature"}, ["video.started", "signature"]),
        ({"webhook": "old_timestamp"}, ["video.started", "timestamp"]),
        ({"delay": 0.3}, ["video.started", "video.completed"]),
    ],
)
def test_fault_rule_changes_a_delivery(sandbox, receiver, fault, expected):
    job = submit(sandbox)
    sandbox.control.set_job(job, "rendering")
    receiver.wait_for(1)
    sandbox.control.faults([{"path": "video.completed", "origin": "webhook", **fault}])
    sandbox.control.set_job(job, "complete")
    received = receiver.wait_for(len(expected))
    assert [each if isinstance(each, str) else each[0] for each in received][: len(expected)] == expected


def test_delivery_that_never_comes_and_one_out_of_order(sandbox, receiver):
    sandbox.control.faults(
        [
            {"path": "video.completed", "origin": "webhook", "webhook": "never", "times": 1},
            {"path": "video.started", "origin": "webhook", "delay": 1, "times": 1},
        ]
    )
    lost, job = submit(sandbox), None
    sandbox.control.set_job(lost, "complete")
    receiver.wait_for(1)
    assert receiver.received == [("video.started", lost, "rendering")]
    sandbox.control.faults([{"path": "video.started", "origin": "webhook", "delay": 0.5}])
    job = submit(sandbox)
    sandbox.control.set_job(job, "complete")
    assert [each[0] for each in receiver.wait_for(3)[1:]] == ["video.completed", "video.started"]
