"""Plain HTTP to the sandbox, so that tests read like a user's requests; and a local S3."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from s3_server import S3Server, s3_server

from magichour_provider.sandbox import SandboxControl, SandboxServer

PATIENCE_SECONDS = 30.0


def jpeg(width: int = 320, height: int = 180) -> bytes:
    """A small real JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


class MagicHour:
    """Plain HTTP to a sandbox: `api` carries the key, `files` does not."""

    def __init__(self, server: SandboxServer) -> None:
        self.server = server
        self.control: SandboxControl = server.control
        self.api = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.api_key}"},
            trust_env=False,
            timeout=PATIENCE_SECONDS,
        )
        self.files = httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        self.api.close()
        self.files.close()

    def upload_target(self, extension: str = "jpg") -> dict[str, Any]:
        answer = self.api.post(
            "/v1/files/upload-urls", json={"items": [{"type": "image", "extension": extension}]}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["items"][0]

    def upload(self, content: bytes | None = None, extension: str = "jpg") -> str:
        target = self.upload_target(extension)
        answer = self.files.put(target["upload_url"], content=jpeg() if content is None else content)
        assert answer.status_code == 200, answer.text
        return target["file_path"]

    def try_create(self, image: str | None = None, **fields: Any) -> httpx.Response:
        body = {"assets": {"image_file_path": image or self.upload()}, "end_seconds": 5, **fields}
        return self.api.post("/v1/image-to-video", json=body)

    def create(self, image: str | None = None, **fields: Any) -> str:
        answer = self.try_create(image, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def get(self, project_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/v1/video-projects/{project_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def complete(self, **fields: Any) -> dict[str, Any]:
        """A job that is complete."""
        project_id = self.create(**fields)
        self.control.set_job(project_id, "complete")
        return self.get(project_id)

    def credits(self) -> int:
        return self.api.get("/v1/account").json()["credits"]

    def entry(self, project_id: str) -> dict[str, Any]:
        return next(job for job in self.control.state()["jobs"] if job["id"] == project_id)


@pytest.fixture(scope="session")
def _client(magichour_sandbox_server: SandboxServer) -> Iterator[MagicHour]:
    client = MagicHour(magichour_sandbox_server)
    yield client
    client.close()


@pytest.fixture
def magic(magichour_sandbox: SandboxServer, _client: MagicHour) -> MagicHour:
    return _client


@pytest.fixture
def photo() -> bytes:
    return jpeg()


@pytest.fixture
def order(hook: Any, magic: MagicHour) -> Callable[..., str]:
    """Submit by the test's own hook: the id of a complete job, under the given switches."""

    def order(padding: int = 0, *, name: str | None = None, **switches: Any) -> str:
        magic.control.behaviour(render_seconds=0, video_padding_bytes=padding, **switches)
        job = hook.create_image_to_video(
            "saved-items/a/b.png", 3, model="ltx-2.3", resolution="480p", name=name
        )
        magic.control.set_job(job.id, "complete")
        return str(job.id)

    return order


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture(scope="session")
def s3_environment(_s3_server: S3Server) -> dict[str, str]:
    """The connection `s3` to the local S3, for the environment of a process."""
    return {"AIRFLOW_CONN_S3": json.dumps(_s3_server.connection)}


@pytest.fixture
def s3(_s3_server: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A boto3 client of the local S3 with one bucket; the connection `s3` is in the environment."""
    httpx.post(f"{_s3_server.url}/moto-api/reset", trust_env=False)
    client = _s3_server.client()
    client.create_bucket(Bucket="videos")
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return client
