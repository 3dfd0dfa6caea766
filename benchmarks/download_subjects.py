"""One transfer in its own process: prints its figures as JSON.

python benchmarks/download_subjects.py NAME '{"url": ..., "path": ..., ...}'
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def bare(job: dict[str, Any]) -> Callable[[], None]:
    """The limit: aiohttp's chunks into a file, with SHA-256 or without."""
    import aiohttp

    async def fetch() -> None:
        digest = hashlib.sha256()
        async with aiohttp.ClientSession() as session, session.get(job["url"]) as answer:
            with open(job["path"], "wb") as file:  # noqa: ASYNC230, PTH123
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    if job["checksum"]:
                        digest.update(chunk)
                    file.write(chunk)

    return lambda: asyncio.run(fetch())


def download(job: dict[str, Any]) -> Callable[[], None]:
    """What `DownloadVideoOperator` does, from the link on."""
    from magichour_provider.client.models import DownloadUrl
    from magichour_provider.client.settings import ClientSettings
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.storage.download import download_video
    from magichour_provider.storage.targets import resolve_target

    target = resolve_target(job["path"], "job", job.get("conn_id"))
    if not isinstance(target.place, Path):
        target.place.s3_client()  # Airflow and boto3 take some 30 MiB by themselves
    client = MagicHourClient.from_settings(ClientSettings(api_key="any-key", base_url=job["api"]))
    link = DownloadUrl(url=job["url"])
    return lambda: ignore(download_video(client, lambda: link, target, if_exists="overwrite"))


def boto3_upload(job: dict[str, Any]) -> Callable[[], None]:
    """Boto3's own transfer of the same file, from the disk."""
    client = _boto3(job)
    return lambda: client.upload_file(job["file"], job["bucket"], job["key"])


def boto3_download(job: dict[str, Any]) -> Callable[[], None]:
    """Boto3's own transfer of the same object, to the disk."""
    client = _boto3(job)
    return lambda: client.download_file(job["bucket"], job["key"], job["path"])


def source(job: dict[str, Any]) -> Callable[[], None]:
    """An image on its way from S3 to Magic Hour, as `ImageToVideoOperator` uploads it."""
    from magichour_provider.client.settings import ClientSettings
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.storage.images import ImageFile, upload_image
    from magichour_provider.storage.locations import parse_location

    place = parse_location(f"s3://{job['bucket']}/{job['key']}", job["conn_id"])
    client = MagicHourClient.from_settings(
        ClientSettings(api_key="any-key", base_url=job["api"], timeout=600)
    )
    image = ImageFile(job["key"], "png", job["size"], (64, 64), place)
    next(image.iter_chunks())
    return lambda: ignore(upload_image(client, image))


def ignore(_: object) -> None:
    """Discard a result."""


def _boto3(job: dict[str, Any]) -> Any:
    import boto3

    client = boto3.client("s3", **job["s3"])
    client.head_bucket(Bucket=job["bucket"])
    return client


def resident(key: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


SUBJECTS = {
    "bare": bare,
    "download": download,
    "boto3_upload": boto3_upload,
    "boto3_download": boto3_download,
    "source": source,
}


def main() -> None:
    """Prepare, then measure the transfer alone."""
    name, job = sys.argv[1], json.loads(sys.argv[2])
    transfer = SUBJECTS[name](job)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    begin, cpu = time.perf_counter(), time.process_time()
    transfer()
    figures = {
        "seconds": time.perf_counter() - begin,
        "cpu": time.process_time() - cpu,
        "grown": resident("VmHWM") - before,
    }
    os.write(1, json.dumps(figures).encode() + b"\n")


if __name__ == "__main__":
    main()
