"""A download that is killed at any byte: the target absent or whole, and nothing left after the next try."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_until

MIB = 1 << 20
VIDEOS = {"method": "GET", "origin": "storage", "path": "*/output.mp4"}
PATIENCE_SECONDS = 180.0


def until(condition):  # the sandbox works in this process, too
    assert wait_until(condition, timeout=PATIENCE_SECONDS, every=0.001)


class Downloader:
    """Processes that save videos, from outside."""

    def __init__(self, log, **environment):
        self.log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("downloader.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
        while self._read() != "ready":
            pass

    def _read(self):
        line = self._process.stdout.readline()
        assert line, self.log.read_text()
        return line.strip()

    def _order(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        while not re.fullmatch(r"-?\d+", line := self._read()):
            pass
        return int(line)

    def start(self, project_id, path, **options):
        """The process of a new download."""
        return self._order(project_id=project_id, path=str(path), **options)

    def kill(self, pid):
        """End one with SIGKILL; whether that met it alive."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self._order(wait=pid) == signal.SIGKILL

    def wait(self, pid):
        """Let one come to its end."""
        assert self._order(wait=pid) == 0, self.log.read_text()

    def growth_kib(self):
        """By how much the memory of the last one grew."""
        return int(re.findall(r"grew (-?\d+)", self.log.read_text())[-1])

    def close(self):
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)


def connection(server):
    return json.dumps({"conn_type": "magichour", "password": server.api_key, "host": server.url})


@pytest.fixture(scope="module")
def downloader(magichour_sandbox_server, s3_environment, tmp_path_factory):
    downloader = Downloader(
        tmp_path_factory.mktemp("downloader") / "log",
        AIRFLOW_CONN_MAGICHOUR_DEFAULT=connection(magichour_sandbox_server),
        **s3_environment,
    )
    yield downloader
    downloader.close()


@pytest.fixture
def order(magic):
    """A job with a large video: its id, and the video's digest and length."""

    def order(padding):
        magic.control.behaviour(render_seconds=0, video_padding_bytes=padding)
        job = magic.complete(model="ltx-2.3", resolution="480p", end_seconds=3)
        digest, size = hashlib.sha256(), 0
        with magic.files.stream("GET", job["download"]["url"]) as answer:
            for chunk in answer.iter_raw(MIB):
                digest.update(chunk)
                size += len(chunk)
        return job["id"], digest.hexdigest(), size

    return order


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parts_in(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


def size_of(parts):
    with contextlib.suppress(FileNotFoundError):
        return max((part.stat().st_size for part in parts), default=0)
    return 0


@pytest.mark.parametrize("if_exists", ["skip", "overwrite"])
def test_killed_at_any_byte_the_target_is_absent_or_whole(downloader, order, tmp_path, if_exists):
    """At 20 moments in all: after so many bytes by chance, or by and by after the last one."""
    project_id, digest, size = order(64 * MIB)
    target = tmp_path / f"{project_id}.mp4"
    choose = random.Random(f"killed {if_exists}")
    left = met = 0
    for number in range(10):
        pid = downloader.start(project_id, f"{tmp_path}/", if_exists=if_exists)
        moment = choose.randrange(size) if number < 7 else size
        until(lambda moment=moment: size_of(parts_in(tmp_path)) >= moment or target.exists())
        if number >= 7:
            time.sleep(choose.uniform(0, 0.05))
        met += downloader.kill(pid)
        assert not target.exists() or sha256_of(target) == digest
        left += bool(parts_in(tmp_path))
        target.unlink(missing_ok=True)
    assert met >= 7
    assert left  # so there was something to clean
    downloader.wait(downloader.start(project_id, f"{tmp_path}/", if_exists=if_exists))
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert sha256_of(target) == digest


def test_killed_overwrite_leaves_the_old_or_the_new_file(downloader, order, tmp_path):
    project_id, digest, size = order(16 * MIB)
    target = tmp_path / "video.mp4"
    old = b"what stood there before"
    choose = random.Random("replaced")
    for _ in range(6):
        target.write_bytes(old)
        pid = downloader.start(project_id, target, if_exists="overwrite")
        moment = choose.choice([choose.randrange(size), size])
        until(lambda moment=moment: size_of(parts_in(tmp_path)) >= moment or target.stat().st_size > 100)
        downloader.kill(pid)
        assert target.read_bytes() == old or sha256_of(target) == digest
    downloader.wait(downloader.start(project_id, target, if_exists="overwrite"))
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_temporary_file_of_a_running_download_is_not_removed(downloader, order, magic, tmp_path):
    project_id, digest, _ = order(16 * MIB)
    target = tmp_path / f"{project_id}.mp4"
    cut, hold = {**VIDEOS, "truncate": 8 * MIB, "times": 1}, {**VIDEOS, "hold": "before", "times": 1}
    pids = []
    for number in (1, 2):
        magic.control.faults([cut, hold])
        pids.append(downloader.start(project_id, f"{tmp_path}/", if_exists="overwrite"))
        until(lambda number=number: len(magic.control.state()["held"]) == number)
    assert len(parts_in(tmp_path)) == 2
    downloader.kill(pids[0])
    assert len(parts_in(tmp_path)) == 2
    downloader.wait(downloader.start(project_id, f"{tmp_path}/", if_exists="overwrite"))
    (survivor,) = parts_in(tmp_path)
    assert survivor.stat().st_size > 0
    assert sha256_of(target) == digest
    saved = target.stat().st_ino
    magic.control.release()
    downloader.wait(pids[1])
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert sha256_of(target) == digest
    assert target.stat().st_ino != saved


def test_large_video_on_a_disk_with_flat_memory(downloader, order, tmp_path):
    project_id, digest, size = order(256 * MIB)
    downloader.wait(downloader.start(project_id, f"{tmp_path}/"))
    assert size > 256 * MIB
    assert sha256_of(tmp_path / f"{project_id}.mp4") == digest
    assert downloader.growth_kib() <= 32 * 1024


# --- the same in S3


def in_s3(s3, key):
    """The digest of an object, None where it is not there."""
    try:
        body = s3.get_object(Bucket="videos", Key=key)["Body"]
    except s3.exceptions.NoSuchKey:
        return None
    digest = hashlib.sha256()
    for chunk in body.iter_chunks(MIB):
        digest.update(chunk)
    return digest.hexdigest()


def uploads_in(s3):
    return s3.list_multipart_uploads(Bucket="videos").get("Uploads", [])


def sent_to(s3):
    """How many parts have been sent of the uploads that are under way."""
    sent = 0
    for upload in uploads_in(s3):
        with contextlib.suppress(s3.exceptions.ClientError):
            parts = s3.list_parts(Bucket="videos", Key=upload["Key"], UploadId=upload["UploadId"])
            sent = max(sent, len(parts.get("Parts", [])))
    return sent


def test_killed_at_any_part_the_s3_object_is_absent_or_whole(downloader, order, s3):
    project_id, digest, size = order(48 * MIB)
    key = f"a folder/{project_id}.mp4"
    choose = random.Random("killed in S3")
    left = 0
    for parts in (0, 1, *choose.sample(range(2, size // (6 * MIB)), 3), size // (6 * MIB) + 1):
        pid = downloader.start(project_id, "s3://s3@videos/a folder/")
        if parts:
            until(lambda parts=parts: sent_to(s3) >= parts or in_s3(s3, key))
        downloader.kill(pid)
        left += len(uploads_in(s3))
        assert in_s3(s3, key) in (None, digest)
        s3.delete_object(Bucket="videos", Key=key)
    assert left
    downloader.wait(downloader.start(project_id, "s3://s3@videos/a folder/"))
    assert in_s3(s3, key) == digest
    assert uploads_in(s3) == []


def test_large_video_in_s3_with_flat_memory(downloader, order, s3):
    small_id, _, _ = order(0)
    project_id, digest, size = order(256 * MIB)
    downloader.wait(downloader.start(project_id, "s3://s3@videos/", after=small_id))
    assert size > 256 * MIB
    assert in_s3(s3, f"{project_id}.mp4") == digest
    assert downloader.growth_kib() <= 64 * 1024
