"""The hook, its connection and its downloads, against the sandbox."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.hooks.magichour import MagicHourHook

IMAGE = "dags_examples/images/grace_hopper.jpg"


@pytest.fixture
def connect(monkeypatch, magichour_sandbox):
    """Put a connection into the environment."""

    def connect(**fields):
        fields = {"password": magichour_sandbox.api_key, "host": magichour_sandbox.url, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps({"conn_type": "magichour", **fields}))
        return MagicHourHook()

    return connect


@pytest.fixture
def hook(connect):
    hook = connect()
    yield hook
    hook.close()


@pytest.fixture
def rendered(hook, magichour_sandbox):
    """The id of a finished job."""
    magichour_sandbox.control.behaviour(render_seconds=0)
    job = hook.create_image_to_video("saved-items/a/b.png", 3, model="ltx-2.3", resolution="480p")
    while not hook.get_video(job.id).downloads:
        pass
    return job.id


def test_good_connection_reports_tier_and_credits(connect, magichour_sandbox):
    magichour_sandbox.control.account(tier="pro", credits=123)
    assert connect().test_connection() == (True, "The API key is good: tier pro, 123 credits.")


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("has_accounts", [True, False])
def test_good_key_and_host_upload_next(connect, magichour_sandbox, path, has_accounts):
    magichour_sandbox.control.behaviour(account_endpoint=has_accounts)
    hook = connect(host=magichour_sandbox.url + path)
    assert hook.test_connection()[0]
    assert hook.upload(IMAGE)


@pytest.mark.parametrize("path", ["?x=1", "/?x=1", "#part", "/v2", "/v1/account", "/v1/image-to-video"])
@pytest.mark.parametrize("has_accounts", [True, False])
def test_host_with_another_path_or_a_query_is_refused(connect, magichour_sandbox, path, has_accounts):
    magichour_sandbox.control.behaviour(account_endpoint=has_accounts)
    good, why = connect(host=magichour_sandbox.url + path).test_connection()
    assert (good, "host" in why) == (False, True)


def test_proxy_of_the_environment_is_not_used_for_the_sandbox(monkeypatch, request):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    sandbox = request.getfixturevalue("magichour_sandbox")
    fields = {"conn_type": "magichour", "password": sandbox.api_key, "host": sandbox.url}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(fields))
    assert MagicHourHook().test_connection()[0]


def test_api_without_accounts_refuses_a_wrong_key(connect, magichour_sandbox):
    magichour_sandbox.control.behaviour(account_endpoint=False)
    good, why = connect(password="wrong").test_connection()
    assert not good
    assert "task" not in why
    assert "API key" in why


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": "wrong"}, "401"),
        ({"password": ""}, "no password"),
        ({"host": "http://127.0.0.1:9", "extra": {"max_attempts": 1}}, "gave no answer"),
        ({"extra": {"tiemout": 1}}, "tiemout"),
        ({"host": "ftp://example"}, "ftp://example"),
        ({"extra": {"proxy": "socks5://proxy"}}, "socks5"),
        ({"extra": {"ca_bundle": "/no/such.pem"}}, "ca_bundle='/no/such.pem'"),
    ],
)
def test_bad_connection_reports_what_is_wrong(connect, fields, says):
    good, why = connect(**fields).test_connection()
    assert not good
    assert says in why


def test_each_step_by_the_hook(hook, tmp_path):
    file_path = hook.upload(IMAGE)
    job = hook.create_image_to_video(file_path, 3, model="ltx-2.3", resolution="480p", prompt="p")
    while hook.get_video(job.id).status != "complete":
        pass
    video = hook.download({"project_id": job.id}, f"{tmp_path}/")
    hook.delete_video(video)
    assert video["path"] == str(tmp_path / f"{job.id}.mp4")
    assert hook.estimate_credits("ltx-2.3", 3) == hook.estimate_credits("ltx-2.3", "3") == 144
    assert hook.get_account().credits == 12000 - 72


def test_wrong_value_is_refused_with_what_to_do(hook, magichour_sandbox):
    for call, says in {
        lambda: hook.get_video(None): "project_id must be the id",
        lambda: hook.delete_video([]): "project_id must be the id",
        lambda: hook.download({}, "/tmp/"): "project_id must be the id",
        lambda: hook.create_image_to_video("api-assets/x.png", "abc"): "end_seconds: Input should be",
        lambda: hook.create_image_to_video("api-assets/x.png", 3, foo=1): "foo: Extra inputs",
        lambda: hook.estimate_credits("ltx-2.3", "abc"): "end_seconds must be",
        lambda: hook.estimate_credits("ltx-2.3", None): "end_seconds is missing",
        lambda: hook.delete_after_verify({}): "what `download` has returned",
    }.items():
        with pytest.raises(errors.InvalidRequestError, match=says):
            call()
    assert magichour_sandbox.control.state()["jobs"] == []


def test_async_client_reads_the_connection_without_blocking(hook, magichour_sandbox):
    async def tier():
        async with await hook.get_async_conn() as client:
            return (await client.get_account()).tier

    assert asyncio.run(tier()) == "creator"


def test_saved_video_is_whole_and_described(hook, rendered, tmp_path):
    video = hook.download(rendered, str(tmp_path / "a" / "video.mp4"))
    content = Path(video["path"]).read_bytes()
    assert video["size"] == len(content)
    assert (video["project_id"], video["content_type"], video["fps"]) == (rendered, "video/mp4", 24)
    assert video["duration"] == pytest.approx(3, abs=0.05)
    assert (video["width"], video["height"]) == (
        hook.get_video(rendered).width,
        hook.get_video(rendered).height,
    )
    assert json.loads(json.dumps(video)) == video


def test_object_storage_both_ways(hook, rendered, magichour_sandbox, memory_store):
    video = hook.download(rendered, "memory://videos/")
    assert memory_store.size(f"/videos/{rendered}.mp4") == video["size"]
    memory_store.pipe("/stills/a.jpg", Path(IMAGE).read_bytes())
    hook.upload("memory://stills/a.jpg")
    (upload,) = magichour_sandbox.control.state()["uploads"]
    assert upload["bytes"] == Path(IMAGE).stat().st_size


def test_target_below_a_file_is_refused(hook, rendered, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.DestinationError, match="file"):
        hook.download(rendered, str(tmp_path / "file" / "video.mp4"))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk_is_reported_and_leaves_nothing(hook, magichour_sandbox, tmp_path):
    import subprocess

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)], check=True)
    try:
        magichour_sandbox.control.behaviour(render_seconds=0)
        job = hook.create_image_to_video("saved-items/a/b.png", 30, model="ltx-2.3", resolution="480p")
        while not hook.get_video(job.id).downloads:
            pass
        with pytest.raises(errors.DestinationError, match="space"):
            hook.download(job.id, f"{tmp_path}/")
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_download_of_a_running_failed_or_unknown_job_raises(hook, magichour_sandbox, tmp_path):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    job = hook.create_image_to_video("saved-items/a/b.png", 3, model="ltx-2.3", resolution="480p")
    with pytest.raises(errors.JobNotCompleteError):
        hook.download(job.id, f"{tmp_path}/")
    magichour_sandbox.control.set_job(job.id, "error", code="nsfw", message="No.")
    with pytest.raises(errors.ModerationError, match="refunded"):
        hook.download(job.id, f"{tmp_path}/")
    with pytest.raises(errors.NotFoundError, match="no job"):
        hook.download("unknown", f"{tmp_path}/")


def test_no_log_line_shows_key_or_signature(connect, magichour_sandbox, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    hook = connect()
    magichour_sandbox.control.behaviour(render_seconds=0)
    job = hook.create_image_to_video(hook.upload(IMAGE), 3, model="ltx-2.3", resolution="480p")
    while not (project := hook.get_video(job.id)).downloads:
        pass
    hook.download(job.id, f"{tmp_path}/")
    signature = project.downloads[0].url.get_secret_value().partition("?")[2]
    assert signature
    assert job.id in caplog.text
    assert signature not in caplog.text
    assert magichour_sandbox.api_key not in caplog.text
