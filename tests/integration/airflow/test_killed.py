"""What a task that is killed, or whose time is up, has paid for, and what it says."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import nullcontext

import pytest
from attempts import CREATES, airflow_alarm, jobs, raising

from magichour_provider import airflow_internals as compat
from magichour_provider.exceptions import TaskKilledError
from magichour_provider.jobs.state_backends import KEY
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.version_compat import AirflowTaskTimeout

pytestmark = pytest.mark.usefixtures("connection")


@pytest.mark.parametrize(("state", "paid"), [("failed", 0), ("success", 0), ("running", 1), (None, 1)])
def test_task_marked_in_airflow_submits_nothing(tries, magichour_sandbox, monkeypatch, state, paid):
    monkeypatch.setattr(compat, "task_states", lambda *_, **__: {"a_task": state, "a_task_1": "failed"})
    with nullcontext() if paid else pytest.raises(TaskKilledError):
        tries()
    assert len(jobs(magichour_sandbox)) == paid


def test_stale_attempt_does_not_send_its_create_again(tries, magichour_sandbox, monkeypatch):
    magichour_sandbox.control.faults([{**CREATES, "status": 503, "times": 1}])
    write = type(tries.store).set
    written = []

    def refused(store, key, value, *, retention):
        written.append(value["stage"])
        if written == ["intent", "intent"]:
            raise RuntimeError("Task instance not found")
        write(store, key, value, retention=retention)

    monkeypatch.setattr(type(tries.store), "set", refused)
    with pytest.raises(TaskKilledError, match="cannot be recorded"):
        tries()
    assert jobs(magichour_sandbox) == []


def test_passed_deadline_submits_nothing(tries, magichour_sandbox, monkeypatch):
    magichour_sandbox.control.faults([{"path": "/v1/files/upload-urls", "delay": 0.6}])
    with pytest.raises(TaskKilledError, match="deadline passed before the job was submitted"):
        tries(timeout=0.5)
    assert jobs(magichour_sandbox) == []


def test_kill_during_the_upload_submits_nothing(tries, magichour_sandbox, monkeypatch, printed):
    from magichour_provider.jobs import submit

    upload = submit.upload_images

    def killed_in(*arguments):
        tries.operator.on_kill()
        return upload(*arguments)

    monkeypatch.setattr(submit, "upload_images", killed_in)
    with pytest.raises(TaskKilledError, match="no credits were spent"):
        tries()
    assert jobs(magichour_sandbox) == []
    assert "killed before it submitted a job. This attempt has paid nothing" in printed()


def test_kill_after_the_create_names_the_job(tries, magichour_sandbox, monkeypatch, printed):
    from magichour_provider.jobs.state import JobStateStore

    submitted = JobStateStore.write_job

    def killed_in(records, *job):
        tries.operator.on_kill()
        submitted(records, *job)

    monkeypatch.setattr(JobStateStore, "write_job", killed_in)
    with pytest.raises(TaskKilledError):
        tries()
    (job,) = jobs(magichour_sandbox)
    assert (
        f"Task killed. Job {job['id']} is still running at Magic Hour and its 72 credits remain charged"
        in printed()
    )
    assert tries.store[KEY]["project_id"] == job["id"]


def test_kill_at_completion_leaves_the_video_to_the_next_attempt(tries, magichour_sandbox, monkeypatch):
    finish = ImageToVideoOperator._finish

    def killed_in(operator, *ended):
        operator.on_kill()
        return finish(operator, *ended)

    with monkeypatch.context() as patch:
        patch.setattr(ImageToVideoOperator, "_finish", killed_in)
        with pytest.raises(TaskKilledError, match="re-attaches to it at no cost"):
            tries()
    assert tries(cleared=True)["project_id"] == jobs(magichour_sandbox)[0]["id"]
    assert len(jobs(magichour_sandbox)) == 1


def test_kill_during_the_wait_ends_the_task(tries, magichour_sandbox, monkeypatch):
    from magichour_provider.polling import poller

    magichour_sandbox.control.behaviour(render_seconds=3600)
    monkeypatch.setattr(poller.time, "sleep", lambda _: tries.operator.on_kill())
    with pytest.raises(TaskKilledError, match="re-attaches to it at no cost"):
        tries()


def test_silent_airflow_submits_nothing(tries, magichour_sandbox, monkeypatch):
    monkeypatch.setattr(compat, "task_states", raising(ConnectionError("the supervisor is gone")))
    with pytest.raises(TaskKilledError):
        tries()
    assert jobs(magichour_sandbox) == []


def test_execution_timeout_in_the_create_keeps_the_job(tries, magichour_sandbox, monkeypatch):
    from magichour_provider.client.sync import MagicHourClient

    create = MagicHourClient.create_image_to_video

    def alarmed(client, *arguments):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        return create(client, *arguments)

    magichour_sandbox.control.faults([{**CREATES, "delay": 1.0, "times": 1}])
    with monkeypatch.context() as patch, airflow_alarm(0):
        patch.setattr(MagicHourClient, "create_image_to_video", alarmed)
        with pytest.raises(AirflowTaskTimeout):
            tries()
    (job,) = jobs(magichour_sandbox)
    assert tries.store[KEY]["project_id"] == job["id"]
    assert tries()["project_id"] == job["id"]
    assert len(jobs(magichour_sandbox)) == 1


def test_killed_download_leaves_no_temporary_file(tries, context, magichour_sandbox, tmp_path):
    """Airflow calls `on_kill` from the signal's handler, wherever the task is."""
    download = DownloadVideoOperator(task_id="download", project_id=tries(), path=f"{tmp_path}/video.mp4")
    magichour_sandbox.control.faults([{"method": "GET", "path": "*/output.mp4", "hold": "before"}])
    task = threading.get_ident()

    def kill():
        while not magichour_sandbox.control.state()["held"]:
            time.sleep(0.05)
        signal.pthread_kill(task, signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, lambda *_: download.on_kill())
    killer = threading.Thread(target=kill)
    try:
        killer.start()
        with pytest.raises(TaskKilledError, match="video is still at Magic Hour"):
            download.execute(context)
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, old)
    assert list(tmp_path.iterdir()) == []


def test_kill_after_the_download_changes_nothing(tries, context, tmp_path):
    download = DownloadVideoOperator(task_id="download", project_id=tries(), path=f"{tmp_path}/")
    download.execute(context)
    download.on_kill()
