"""Speed of downloads beside a bare loop and boto3: prints a table and writes docs/download-performance.md.

python benchmarks/downloads.py            # a quarter of an hour
python benchmarks/downloads.py --quick    # a check that it runs; writes nothing

Each transfer runs in its own process and alternates with the one that it is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from report import table, version_of  # noqa: E402
from s3_server import S3Server, s3_server  # noqa: E402
from sandbox_process import sandbox  # noqa: E402

from magichour_provider.client.models import ImageToVideoRequest  # noqa: E402
from magichour_provider.client.settings import ClientSettings  # noqa: E402
from magichour_provider.client.sync import MagicHourClient  # noqa: E402

PAGE = ROOT / "docs" / "download-performance.md"
SUBJECTS = Path(__file__).with_name("download_subjects.py")
IMAGE = ROOT / "dags_examples" / "images" / "grace_hopper.jpg"
BUCKET = "benchmark"
MIB = 1 << 20

INTRODUCTION = """\
# Performance of downloads

`make bench-downloads` writes this page; run it to see the figures of your own machine. One video of {size}
MiB comes over loopback from the sandbox's storage. Each transfer runs in its own process and alternates with
the one that it is compared with; the figures are medians. Imports and the connection to the store are not
measured. The provider computes the checksum, reads the mp4's structure and syncs to the disk. S3 is moto's
server, which is the slowest part of every transfer that it takes part in.
"""


@dataclass(frozen=True)
class Scene:
    """The servers, and the URL of a video."""

    api: str
    url: str
    s3: S3Server
    folder: Path
    size: int


@dataclass(frozen=True)
class Comparison:
    """A transfer of ours and the one that it is compared with.

    `bar`: the least ratio of throughputs; `memory`: the most growth, in MiB.
    """

    what: str
    ours: tuple[str, dict[str, Any]]
    other: tuple[str, dict[str, Any]]
    rounds: int
    bar: float = 0.8
    memory: int = 32
    figures: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {"ours": [], "other": []})

    def median(self, who: str, figure: str) -> float:
        """Over all rounds."""
        return statistics.median(round[figure] for round in self.figures[who])


def comparisons(scene: Scene, rounds: int) -> list[Comparison]:
    """All of them, the disk first."""
    disk = str(scene.folder / "downloaded.mp4")
    bare = {"url": scene.url, "path": str(scene.folder / "bare.mp4")}
    s3 = {"bucket": BUCKET, "s3": _options(scene.s3), "file": disk}
    ours = {"api": scene.api, "url": scene.url}
    fetched = str(scene.folder / "fetched.mp4")
    kept = {**s3, "key": "kept.mp4"}
    return [
        Comparison(
            "download to a disk, beside aiohttp's chunks written and hashed",
            ("download", {**ours, "path": disk}),
            ("bare", {**bare, "checksum": True}),
            rounds,
        ),
        Comparison(
            "the same, beside aiohttp's chunks written and not hashed",
            ("download", {**ours, "path": disk}),
            ("bare", {**bare, "checksum": False}),
            rounds,
        ),
        Comparison(
            "download to S3, beside boto3's upload of the file from the disk",
            ("download", {**ours, "path": f"s3://{BUCKET}/downloaded.mp4", "conn_id": "s3"}),
            ("boto3_upload", kept),
            min(rounds, 3),
            memory=64,
        ),
        Comparison(
            "upload from S3 to Magic Hour, beside boto3's download of it to the disk",
            ("source", {**ours, **kept, "conn_id": "s3", "size": scene.size}),
            ("boto3_download", {**kept, "path": fetched}),
            1,
            memory=64,
        ),
    ]


def measure(comparison: Comparison, scene: Scene) -> None:
    """Alternate, so that other load on the machine affects both."""
    for _ in range(comparison.rounds):
        for who, (name, job) in (("other", comparison.other), ("ours", comparison.ours)):
            comparison.figures[who].append(_run(name, job, scene))


def _run(name: str, job: dict[str, Any], scene: Scene) -> dict[str, float]:
    env = os.environ | {"AIRFLOW_CONN_S3": json.dumps(scene.s3.connection)}
    command = [sys.executable, str(SUBJECTS), name, json.dumps(job)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:16} {figures['seconds']:7.2f} s  cpu {figures['cpu']:.2f} s", flush=True)
    return figures


def page(measured: list[Comparison], size: int) -> str:
    """The page, in Markdown."""
    rows = []
    for comparison in measured:
        rate = {who: size / MIB / comparison.median(who, "seconds") for who in ("ours", "other")}
        ratio, grown = rate["ours"] / rate["other"], comparison.median("ours", "grown") / MIB
        held = ratio >= comparison.bar and grown <= comparison.memory
        rows.append(
            [
                comparison.what,
                f"{rate['ours']:.0f} MiB/s",
                f"{rate['other']:.0f} MiB/s",
                f"{ratio:.2f} x (>= {comparison.bar})",
                f"{grown:.0f} MiB (<= {comparison.memory})",
                f"{comparison.median('ours', 'cpu'):.1f} / {comparison.median('other', 'cpu'):.1f} s",
                "met" if held else "**missed**",
            ]
        )
    head = [
        "transfer",
        "this provider",
        "other",
        "ratio (bar)",
        "memory growth (bar)",
        "CPU: this / other",
        "",
    ]
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("aiohttp", "boto3", "s3fs", "moto"))
    return (
        f"{INTRODUCTION.format(size=size // MIB)}\n{os.cpu_count()} CPUs; {versions}.\n\n{table(head, rows)}"
    )


def _options(s3: S3Server) -> dict[str, str]:
    connection = s3.connection
    return {
        "endpoint_url": s3.url,
        "region_name": connection["extra"]["region_name"],
        "aws_access_key_id": connection["login"],
        "aws_secret_access_key": connection["password"],
    }


def _render(api: str) -> str:
    """The URL of a rendered video, read once, so that the storage knows its checksum."""
    import httpx

    with MagicHourClient.from_settings(ClientSettings(api_key="any-key", base_url=api)) as client:
        (target,) = client.create_upload_targets(["jpg"])
        client.put_upload(target, [IMAGE.read_bytes()], IMAGE.stat().st_size)
        job = client.create_image_to_video(
            ImageToVideoRequest(
                image_file_path=target.file_path, end_seconds=3, model="ltx-2.3", resolution="480p"
            )
        )
        while not (links := client.get_video(job.id).downloads):
            time.sleep(0.2)
    url = links[0].url.get_secret_value()
    with httpx.stream("GET", url, timeout=600) as answer:
        for _ in answer.iter_raw():
            pass
    return url


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a check that it runs; writes nothing")
    options = parser.parse_args()
    padding, rounds = (8 * MIB, 1) if options.quick else (1 << 30, 5)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        switches = (f"video_padding_bytes={padding}", "video_checksum=none")
        arguments = ["--quick", "--render-seconds", "0"]
        arguments += [part for switch in switches for part in ("--behaviour", switch)]
        api = stack.enter_context(sandbox(folder / "sandbox.log", *arguments))
        s3 = stack.enter_context(s3_server(folder / "s3.log"))
        s3.client().create_bucket(Bucket=BUCKET)
        scene = Scene(api, _render(api), s3, folder, 0)
        _run("download", {"api": api, "url": scene.url, "path": str(folder / "downloaded.mp4")}, scene)
        size = (folder / "downloaded.mp4").stat().st_size
        measured = comparisons(Scene(api, scene.url, s3, folder, size), rounds)
        for comparison in measured:
            measure(comparison, scene)
    text = page(measured, size)
    print(f"\n{text}")
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
