"""What every object store must do: images from it, videos and state files to it, at kills and races too."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import wait_until

from magichour_provider.exceptions import DestinationError, InvalidRequestError, TransferError
from magichour_provider.jobs.state_backends import FileBackend, StateConflictError
from magichour_provider.storage import publish
from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.locations import ObjectPath
from magichour_provider.storage.targets import resolve_target
from magichour_provider.storage.transfer import ResumableDownload

MIB = 1 << 20
LARGE = 20 * MIB
"""More than three parts of S3 (6 MiB), two blocks of the other stores (8 MiB)."""
VIDEOS = {"method": "GET", "origin": "storage", "path": "*/output.mp4"}
OLD = b"what stood there before"
PATIENCE_SECONDS = 180
IMAGE = Path("dags_examples/images/grace_hopper.jpg")


def until(condition):
    assert wait_until(condition, timeout=PATIENCE_SECONDS, every=0.01)


def test_image_is_uploaded_from_the_store(store, hook, magichour_sandbox):
    content = IMAGE.read_bytes() + os.urandom(LARGE)
    store.put("stills/a b+\u732b.jpg", content)
    file_path = hook.upload(store.url("stills/a b+\u732b.jpg"))
    (upload,) = magichour_sandbox.control.state()["uploads"]
    assert (upload["file_path"], upload["sha256"]) == (file_path, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("padding", [0, LARGE])
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
def test_video_arrives_whole(store, hook, order, padding, if_exists):
    project_id, video = order(padding)
    saved = hook.download(project_id, store.url("a b/"), if_exists=if_exists)
    assert saved["path"] == f"{store.scheme}://videos/a b/{project_id}.mp4"
    assert (saved["size"], saved["sha256"]) == (len(video), hashlib.sha256(video).hexdigest())
    assert store.keys() == [f"a b/{project_id}.mp4"]
    assert store.get(f"a b/{project_id}.mp4") == video
    assert store.unfinished() == []


def test_interrupted_transfer_is_resumed(store, hook, order, magichour_sandbox, monkeypatch):
    project_id, video = order(LARGE)
    cuts = [{**VIDEOS, "truncate": size, "times": 1} for size in (7 * MIB, 9 * MIB, 5)]
    magichour_sandbox.control.faults(cuts)
    opened, open_writer = [], AtomicDownload._open
    monkeypatch.setattr(AtomicDownload, "_open", lambda self: [opened.append(1), open_writer(self)])
    hook.download(project_id, store.url("video.mp4"))
    assert len(opened) == 1
    assert magichour_sandbox.control.state()["faults"] == []
    assert store.get("video.mp4") == video


def test_second_run_downloads_nothing(store, hook, order, monkeypatch):
    project_id, _ = order(LARGE)
    first = hook.download(project_id, store.url("a/"))
    version = store.version(f"a/{project_id}.mp4")
    monkeypatch.setattr(ResumableDownload, "run", lambda download: pytest.fail("it downloads"))
    assert hook.download(project_id, store.url("a/")) == first
    assert store.version(f"a/{project_id}.mp4") == version


@pytest.mark.parametrize("old", [None, OLD])
def test_reader_sees_the_old_file_or_the_whole_new_one(store, hook, order, magichour_sandbox, old):
    project_id, video = order(LARGE)
    if old is not None:
        store.put("video.mp4", old)
    magichour_sandbox.control.faults([{**VIDEOS, "truncate": 15 * MIB, "times": 1}])
    seen, stop = [], threading.Event()

    def poll():
        while not stop.is_set():
            seen.append(store.get("video.mp4"))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        until(lambda: seen)
        hook.download(project_id, store.url("video.mp4"), if_exists="overwrite")
        polls = len(seen)
        until(lambda: len(seen) > polls + 1)
    finally:
        stop.set()
        reader.join()
    assert (seen[0], seen[-1]) == (old, video)
    assert all(content in (old, video) for content in seen)


@pytest.mark.parametrize("size", [5, LARGE])
def test_of_two_writers_that_must_not_overwrite_one_wins(store, monkeypatch, size):
    target = resolve_target(store.url("file.bin"), "p1")
    writers = [publish.open_writer(target, exclusive=True) for _ in range(2)]
    for writer in writers:
        monkeypatch.setattr(writer, "_refuse_existing", lambda: None)  # so that the store decides
        writer.write(bytes([writers.index(writer)]) * size)
    writers[0].commit()
    if not store.has_conditions:  # the last one wins, whole
        writers[1].commit()
        assert store.get("file.bin") == bytes([1]) * size
        return
    with pytest.raises(DestinationError, match="exists already"):
        writers[1].commit()
    writers[1].abort()
    assert store.get("file.bin") == bytes(size)


def test_failed_download_leaves_the_old_file(store, hook, order, magichour_sandbox):
    store.put("video.mp4", OLD)
    project_id, _ = order(LARGE, ranges=False)
    magichour_sandbox.control.faults([{**VIDEOS, "truncate": 15 * MIB}])
    with pytest.raises(TransferError):
        hook.download(project_id, store.url("video.mp4"), if_exists="overwrite")
    assert (store.keys(), store.get("video.mp4")) == (["video.mp4"], OLD)
    if store.scheme != "abfs":  # Azure removes the blocks of an upload after a week, or at the next one
        assert store.unfinished() == []


# --- kills


class Downloader:
    """A process that saves a video and can be killed."""

    def __init__(self, environment, **arguments):
        program = Path(__file__).parents[1] / "http" / "downloader.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._ask(arguments)

    def _ask(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline().strip()).lstrip("-").isdigit():
            assert line or self._process.poll() is None
        return int(line)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        assert self._ask({"wait": self.pid}) == signal.SIGKILL
        self._process.communicate()


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("sent", [MIB, 15 * MIB])
def test_killed_in_the_middle_of_a_write(store, hook, order, magichour_sandbox, sent, old):
    control = magichour_sandbox.control
    project_id, video = order(LARGE)
    if old is not None:
        store.put("video.mp4", old)
    control.faults([{**VIDEOS, "truncate": sent, "times": 1}, {**VIDEOS, "hold": "before", "times": 1}])
    path = store.url("video.mp4")
    downloader = Downloader(store.environment, project_id=project_id, path=path, if_exists="overwrite")
    until(lambda: control.state()["held"])
    assert store.get("video.mp4") == old
    downloader.kill()
    control.release()
    assert store.get("video.mp4") == old
    assert store.unfinished() == (["video.mp4"] if has_parts(store, sent, old) else [])
    hook.download(project_id, path, if_exists="overwrite")
    assert (store.keys(), store.get("video.mp4")) == (["video.mp4"], video)
    assert store.unfinished() == []


def has_parts(store, sent, old):
    """Whether a kill leaves parts that a listing shows: Azure's shows none beside a blob."""
    return sent > 8 * MIB and store.scheme != "gs" and not (store.scheme == "abfs" and old)


# --- state files


@pytest.fixture
def conditional(store):
    """A store that heeds the conditions of a write."""
    if not store.has_conditions:
        pytest.skip("it refuses state files")
    return store


def test_state_file_is_refused_by_a_store_that_ignores_conditions(store):
    if store.has_conditions:
        pytest.skip("it heeds conditions")
    url = store.url("states/cat.json")
    for _ in range(2):
        file = FileBackend(url)
        with pytest.raises(InvalidRequestError, match="ignores the conditions"):
            file.write({"n": 1}, file.read()[1])
    assert not FileBackend(url).read()[0]


def test_of_twenty_writers_of_a_state_file_one_wins(conditional, monkeypatch):
    store = conditional
    url = store.url("states/cat.json")
    if store.scheme == "s3":  # threads cannot make boto3's clients at the same moment; tasks are processes
        made = FileBackend(url).place.s3_client()
        monkeypatch.setattr(ObjectPath, "s3_client", lambda place: made)
    for round_number in range(2):  # the first round creates the file, the second replaces it
        files = [FileBackend(url) for _ in range(20)]
        versions = [file.read()[1] for file in files]
        start, won, lost = threading.Barrier(20), [], []

        def write(number, files=files, versions=versions, start=start, won=won, lost=lost, n=round_number):
            start.wait()
            try:  # no content twice: on S3, it would be the same version
                won.append((number, files[number].write({"round": n, "number": number}, versions[number])))
            except StateConflictError:
                lost.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 19)
        ((number, version),) = won
        assert FileBackend(url).read() == ({"round": round_number, "number": number}, version)


def test_state_is_written_only_over_the_version_that_was_read(conditional):
    store = conditional
    file = FileBackend(store.url("cat.json"))
    assert file.read() == (None, None)
    first = file.write({"n": 1}, None)
    second = file.write({"n": 2}, first)
    for stale in (None, first):
        with pytest.raises(StateConflictError):
            file.write({"n": 3}, stale)
    assert file.read() == ({"n": 2}, second)
    file.write(None, second)
    assert file.read()[0] == {"magichour_jobs": []}
    store.fs.rm_file("videos/cat.json")
    with pytest.raises(StateConflictError):
        file.write({"n": 4}, second)
    assert store.keys() == []


@pytest.mark.usefixtures("memory_store")
def test_store_without_conditional_writes_is_refused():
    with pytest.raises(InvalidRequestError, match="memory:// has no conditional writes") as refused:
        FileBackend("memory://bucket/cat.json")
    assert not refused.value.retryable


# --- refusals


def test_bucket_that_does_not_exist_is_named_and_not_tried_again(store, hook, order):
    project_id, _ = order()
    path = store.url("a/").replace("@videos", "@no-such-bucket")
    with pytest.raises(DestinationError, match="no-such-bucket") as failed:
        hook.download(project_id, path, if_exists="overwrite")
    assert not failed.value.retryable


@pytest.mark.parametrize("padding", [0, LARGE])
def test_wrong_key_is_named_and_not_tried_again(store, hook, order, monkeypatch, padding):
    if store.scheme != "abfs":
        pytest.skip("only Azurite checks keys; moto's refusals are tested elsewhere")
    project_id, _ = order(padding)
    connection = json.loads(json.dumps(store.connection).replace("AccountKey=Eby8", "AccountKey=Eby9"))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
    for if_exists in ("overwrite", "skip"):
        with pytest.raises(DestinationError) as failed:
            hook.download(project_id, "abfs://other@videos/video.mp4", if_exists=if_exists)
        assert not failed.value.retryable
    with pytest.raises(InvalidRequestError, match="refused the credentials"):
        FileBackend("abfs://other@videos/cat.json").read()
