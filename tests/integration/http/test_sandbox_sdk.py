"""The official SDK runs against the sandbox unchanged."""

from __future__ import annotations

import asyncio

import av
import pytest
from magic_hour import AsyncClient, Client
from make_api_request import ApiError


@pytest.fixture
def sdk(magichour_sandbox, monkeypatch):
    monkeypatch.setenv("MAGIC_HOUR_POLL_INTERVAL", "0.05")
    return Client(token=magichour_sandbox.api_key, base_url=magichour_sandbox.url)


@pytest.fixture
def picture(tmp_path, photo):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    return str(path)


def test_generate_uploads_waits_and_downloads(sdk, picture, tmp_path, magichour_sandbox):
    result = sdk.v1.image_to_video.generate(
        assets={"image_file_path": picture},
        end_seconds=5.0,
        resolution="720p",
        model="ltx-2.5",
        style={"prompt": "a slow pan"},
        download_directory=str(tmp_path),
    )
    assert result.status == "complete"
    assert result.downloaded_paths == [str(tmp_path / "output.mp4")]
    with av.open(result.downloaded_paths[0]) as container:
        assert container.duration == 5_000_000
    [job] = magichour_sandbox.control.state()["jobs"]
    assert (job["downloads"], job["credits_charged"]) == (1, 240)


def test_create_get_and_delete(sdk, picture):
    file_path = sdk.v1.files.upload_file(picture)
    created = sdk.v1.image_to_video.create(assets={"image_file_path": file_path}, end_seconds=5.0)
    assert created.credits_charged == 240
    assert sdk.v1.video_projects.get(id=created.id).status in ("queued", "rendering")
    sdk.v1.video_projects.delete(id=created.id)
    assert sdk.v1.video_projects.get(id=created.id).enabled is False


def test_check_result_waits_for_a_job_and_returns_its_error(sdk, picture):
    file_path = sdk.v1.files.upload_file(picture)
    created = sdk.v1.image_to_video.create(
        assets={"image_file_path": file_path}, end_seconds=5.0, style={"prompt": "nsfw"}
    )
    result = sdk.v1.video_projects.check_result(
        id=created.id, wait_for_completion=True, download_outputs=True
    )
    assert (result.status, result.error.code, result.credits_charged) == ("error", "nsfw", 0)


def test_account_and_a_refusal_of_the_key(sdk, magichour_sandbox):
    account = sdk.v1.account.list()
    assert (account.tier, account.credits, account.subscription.status) == ("creator", 12_000, "active")
    client = Client(token="wrong", base_url=magichour_sandbox.url)
    with pytest.raises(ApiError) as caught:
        client.v1.account.list()
    assert caught.value.status_code == 401


def test_the_asynchronous_client_generates(magichour_sandbox, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGIC_HOUR_POLL_INTERVAL", "0.05")

    async def generate():
        client = AsyncClient(token=magichour_sandbox.api_key, base_url=magichour_sandbox.url)
        return await client.v1.image_to_video.generate(
            assets={"image_file_path": picture}, end_seconds=5.0, download_directory=str(tmp_path)
        )

    assert asyncio.run(generate()).downloaded_paths == [str(tmp_path / "output.mp4")]
