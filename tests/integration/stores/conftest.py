"""Each object store as a server on this machine, behind an Airflow connection.

S3 is moto's and rclone's, which ignores the conditions of a write; the others are Azurite and an emulator.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import pytest
import store_servers
from s3_server import s3_server

BUCKET = "videos"


class Store:
    """A store with an empty bucket. Objects are read and written by fsspec, as a user's next task does."""

    def __init__(self, scheme, connection, *, has_conditions=True):
        self.scheme, self.connection, self.has_conditions = scheme, connection, has_conditions

    @property
    def environment(self):
        return {"AIRFLOW_CONN_STORE": json.dumps(self.connection)}

    @property
    def fs(self):
        from airflow.sdk.io import attach

        fs = attach(self.scheme, "store").fs
        fs.invalidate_cache()
        return fs

    def url(self, key):
        return f"{self.scheme}://store@{BUCKET}/{key}"

    def put(self, key, content):
        self.fs.pipe_file(f"{BUCKET}/{key}", content)

    def get(self, key):
        """The content; None if there is no such object."""
        try:
            return self.fs.cat_file(f"{BUCKET}/{key}")
        except FileNotFoundError:
            return None

    def keys(self):
        return sorted(name.removeprefix(f"{BUCKET}/") for name in self.fs.find(BUCKET))

    def version(self, key):
        info = self.fs.info(f"{BUCKET}/{key}")
        return info.get("generation") or info.get("etag") or info["ETag"]

    def unfinished(self):
        """Keys with parts that no commit has published; the emulator of Google's store lists none."""
        if self.scheme == "s3":
            from magichour_provider.storage.locations import ObjectPath

            client, _ = ObjectPath("s3", f"s3://{BUCKET}/", "store").s3_client()
            try:
                listed = client.list_multipart_uploads(Bucket=BUCKET)
            except client.exceptions.NoSuchUpload:  # rclone's answer for none
                return []
            return [upload["Key"] for upload in listed.get("Uploads", [])]
        if self.scheme == "abfs":
            from azure.storage.blob import ContainerClient

            text = self.connection["extra"]["connection_string"]
            with ContainerClient.from_connection_string(text, BUCKET) as client:
                listed = list(client.list_blobs(include=["uncommittedblobs"]))
            return sorted({blob.name for blob in listed} - set(self.keys()))
        return []


@pytest.fixture(scope="session", params=["s3", "rclone", "gs", "abfs"])
def _server(request, tmp_path_factory):
    log = tmp_path_factory.mktemp("store") / f"{request.param}.log"
    with ExitStack() as stack:
        if request.param == "s3":
            yield Store("s3", stack.enter_context(s3_server(log)).connection)
            return
        if reason := store_servers.missing(request.param):
            pytest.skip(reason)
        if request.param == "rclone":
            connection = stack.enter_context(store_servers.rclone_server(log))
            yield Store("s3", connection, has_conditions=False)
            return
        # gcsfs would ask the real service whether a bucket is a special one, and wait a minute.
        os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
        run = {"gs": store_servers.gcs_server, "abfs": store_servers.azure_server}[request.param]
        yield Store(request.param, stack.enter_context(run(log)))


@pytest.fixture
def store(_server, monkeypatch):
    """A store with an empty bucket, and the connection `store` to it."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    from airflow.sdk.io import store as airflow_stores

    airflow_stores._STORE_CACHE.clear()
    fs = _server.fs
    if fs.exists(BUCKET):
        for name in fs.find(BUCKET):
            fs.rm_file(name)
    else:
        fs.mkdir(BUCKET)
    return _server


@pytest.fixture
def order(hook, magichour_sandbox):
    """A complete job with a video of at least so many bytes: its id, and the video."""
    import httpx

    def order(padding=0, **switches):
        control = magichour_sandbox.control
        control.behaviour(render_seconds=0, video_padding_bytes=padding, **switches)
        job = hook.create_image_to_video("saved-items/a/b.png", 3, model="ltx-2.3", resolution="480p")
        control.set_job(job.id, "complete")
        url = hook.get_video(job.id).downloads[0].url.get_secret_value()
        return str(job.id), httpx.get(url, trust_env=False, timeout=180).content

    return order
