from __future__ import annotations

import errno
import gc
import hashlib
import os
import resource
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from magichour_provider.exceptions import (
    DestinationError,
    DownloadError,
    NotAVideoError,
    TransferError,
)
from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.existing import SavedVideo
from magichour_provider.storage.existing import existing_video as existing
from magichour_provider.storage.locations import Target, resolve_target

from .conftest import STORE_CONN_ID, boxes_of, make_clip

OLD = b"what stood there before"


def land(target: Target, data: bytes, chunk_bytes: int = 1000, **options: Any) -> SavedVideo:
    with AtomicDownload(target, **options) as landing:
        for start in range(0, len(data), chunk_bytes):
            landing.write(data[start : start + chunk_bytes])
        return landing.publish(len(data))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- targets


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{tmp}/out/", "{tmp}/out/p1.mp4"),
        ("{tmp}/there", "{tmp}/there/p1.mp4"),
        ("{tmp}/out", "{tmp}/out"),
        ("{tmp}/a/b/clip.mp4", "{tmp}/a/b/clip.mp4"),
        ("file://{tmp}/a%20b/", "{tmp}/a b/p1.mp4"),
        ("s3://bucket/clips/", "s3://bucket/clips/p1.mp4"),
        ("s3://conn@bucket/clips/x.mp4", "s3://bucket/clips/x.mp4"),
        ("s3://bucket/", "s3://bucket/p1.mp4"),
    ],
)
def test_a_target_is_a_file_or_a_folder(tmp_path: Path, path: str, expected: str) -> None:
    (tmp_path / "there").mkdir()
    target = resolve_target(path.format(tmp=tmp_path), "p1")
    assert target.path == expected.format(tmp=tmp_path)
    assert names_in(tmp_path) == ["there"]


def test_a_relative_target_is_absolute_for_the_tasks_after_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_target("out/", "p1").path == str(tmp_path / "out" / "p1.mp4")


def test_an_existing_folder_of_a_store_is_a_folder(memory_store: Any) -> None:
    memory_store.pipe("/bucket/clips/x", b"x")
    assert resolve_target("memory://bucket/clips", "p1").path == "memory://bucket/clips/p1.mp4"
    assert resolve_target("memory://bucket/other", "p1").path == "memory://bucket/other"


@pytest.mark.parametrize(
    "project_id", ["../../etc/passwd", "a/b", "..", ".hidden", "-rf", "é", "x" * 500, "a\0b"]
)
def test_a_project_id_cannot_leave_the_folder(tmp_path: Path, project_id: str) -> None:
    target = resolve_target(f"{tmp_path}/", project_id)
    assert isinstance(target.place, Path)
    assert target.place.parent == tmp_path
    assert not target.place.name.startswith((".", "-"))
    assert len(target.place.name) < 160


@pytest.mark.parametrize(
    ("path", "project_id"), [("", "p1"), (" ", "p1"), ("/tmp/", ""), ("file://host/x", "p")]
)
def test_a_target_without_a_name_is_refused(path: str, project_id: str) -> None:
    with pytest.raises(DestinationError) as caught:
        resolve_target(path, project_id)
    assert not caught.value.retryable


# --- landing on a disk


def test_a_clip_lands_whole_with_its_story(tmp_path: Path, clip: bytes) -> None:
    target = resolve_target(f"{tmp_path}/new/folder/", "p1")
    landed = land(target, clip)
    path = tmp_path / "new" / "folder" / "p1.mp4"
    assert path.read_bytes() == clip
    assert names_in(path.parent) == ["p1.mp4"]
    assert landed == SavedVideo(
        str(path),
        len(clip),
        hashlib.sha256(clip).hexdigest(),
        pytest.approx(1.5, abs=0.05),
        64,
        48,
        pytest.approx(24),
    )
    assert existing(target) == landed


def test_the_file_has_the_mode_of_the_umask(tmp_path: Path, clip: bytes) -> None:
    old = os.umask(0o027)
    try:
        land(resolve_target(str(tmp_path / "clip.mp4"), "p1"), clip)
    finally:
        os.umask(old)
    assert (tmp_path / "clip.mp4").stat().st_mode & 0o777 == 0o640


def test_the_old_file_stands_until_the_publication(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(OLD)
    with AtomicDownload(resolve_target(str(path), "p1")) as landing:
        landing.write(clip)
        assert path.read_bytes() == OLD
        part = next(name for name in names_in(tmp_path) if name != "clip.mp4")
        assert part.startswith(".clip.mp4.")
        assert part.endswith(".part")
        landing.publish()
        assert path.read_bytes() == clip
        with pytest.raises(RuntimeError):
            landing.write(b"more")
    assert names_in(tmp_path) == ["clip.mp4"]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def leave_without_publishing(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(clip)


def be_interrupted(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(half(clip))
    raise KeyboardInterrupt


def be_short_of_the_announced_length(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(clip)
    landing.publish(len(clip) + 1)


def be_cut(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(half(clip))
    landing.publish()


def be_a_web_page(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(b"<html>link expired</html>")


def publish_what_failed_before(landing: AtomicDownload, clip: bytes) -> None:
    landing.write(clip)
    with pytest.raises(DownloadError):
        landing.publish(1)
    landing.publish()


FAILURES = [
    (leave_without_publishing, None),
    (be_interrupted, KeyboardInterrupt),
    (be_short_of_the_announced_length, DownloadError),
    (be_cut, NotAVideoError),
    (be_a_web_page, NotAVideoError),
    (publish_what_failed_before, RuntimeError),
]


def run_failure(target: Target, clip: bytes, fail: Any, error: type[BaseException] | None) -> None:
    def attempt() -> None:
        with AtomicDownload(target) as landing:
            fail(landing, clip)

    if error is None:
        attempt()
        return
    with pytest.raises(error):
        attempt()


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_a_failed_landing_leaves_nothing(
    tmp_path: Path, clip: bytes, fail: Any, error: type[BaseException] | None, old: bytes | None
) -> None:
    path = tmp_path / "clip.mp4"
    if old is not None:
        path.write_bytes(old)
    run_failure(resolve_target(str(path), "p1"), clip, fail, error)
    assert names_in(tmp_path) == ([] if old is None else ["clip.mp4"])
    assert old is None or path.read_bytes() == old


def test_fail_refuses_an_existing_target_at_the_start(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(OLD)
    with (
        pytest.raises(DestinationError, match="exists already"),
        AtomicDownload(resolve_target(str(path), "p1"), if_exists="fail"),
    ):
        pytest.fail("the landing began")
    assert path.read_bytes() == OLD
    assert names_in(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_two_writers_that_must_not_overwrite_only_one_wins(
    tmp_path: Path, clip: bytes, monkeypatch: Any, hard_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    with (
        AtomicDownload(target, if_exists="fail") as first,
        AtomicDownload(target, if_exists="fail") as second,
    ):
        first.write(clip)
        second.write(clip)
        landed = first.publish()
        with pytest.raises(DestinationError, match="exists already"):
            second.publish()
    assert names_in(tmp_path) == ["clip.mp4"]
    assert existing(target) == landed


def test_skip_replaces_nothing(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(half(clip))
    with pytest.raises(DestinationError, match="exists already"):
        land(resolve_target(str(path), "p1"), clip, if_exists="skip")
    assert path.read_bytes() == half(clip)
    assert names_in(tmp_path) == ["clip.mp4"]


def test_skip_takes_the_clip_that_another_writer_landed_meanwhile(tmp_path: Path, clip: bytes) -> None:
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    with AtomicDownload(target, if_exists="skip") as slower:
        slower.write(clip)
        landed = land(target, clip, if_exists="skip")
        assert slower.publish() == landed
    assert names_in(tmp_path) == ["clip.mp4"]


def test_skip_refuses_another_clip_that_landed_meanwhile(tmp_path: Path, clip: bytes) -> None:
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    other = make_clip(frames=48)
    with AtomicDownload(target, if_exists="skip") as slower:
        slower.write(clip)
        land(target, other, if_exists="skip")
        with pytest.raises(DestinationError, match="exists already"):
            slower.publish()
    assert names_in(tmp_path) == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == other


def test_existing_takes_only_a_whole_clip_for_one(tmp_path: Path, clip: bytes, caplog: Any) -> None:
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    assert existing(target) is None
    (tmp_path / "clip.mp4").write_bytes(half(clip))
    assert existing(target) is None
    assert "is not taken for a clip" in caplog.text
    (tmp_path / "clip.mp4").write_bytes(clip)
    found = existing(target)
    assert found is not None
    assert found.size == len(clip)


# --- targets that refuse


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("{tmp}/file/clip.mp4", "a part of the path is a file"),
        ("{tmp}/file/deeper/clip.mp4", "a part of the path is a file"),
        ("/proc/no-such-place/clip.mp4", "does not exist"),
        ("{tmp}/" + "x" * 300, "too long"),
        ("{tmp}/nul\0.mp4", "null"),
    ],
)
def test_a_target_that_cannot_be_written_is_named_with_the_cause(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    path = path.format(tmp=tmp_path)
    with pytest.raises(DestinationError) as caught, AtomicDownload(resolve_target(path, "p1")):
        pytest.fail("the landing began")
    assert path in caught.value.what
    assert why in caught.value.what
    assert "The video is still at Magic Hour" in str(caught.value)
    assert not caught.value.retryable
    assert names_in(tmp_path) == ["file"]


def test_a_folder_that_appears_in_place_of_the_target_is_refused(tmp_path: Path) -> None:
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(DestinationError, match="it is a folder"), AtomicDownload(target):
        pytest.fail("the landing began")
    with pytest.raises(DestinationError, match="it is a folder"):
        existing(target)


def test_a_pipe_under_the_targets_name_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(DestinationError, match="not a regular file"):
        existing(resolve_target(str(tmp_path / "clip.mp4"), "p1"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(DestinationError, match="permission denied"),
            AtomicDownload(resolve_target(str(tmp_path / "clip.mp4"), "p1")),
        ):
            pytest.fail("the landing began")
    finally:
        tmp_path.chmod(0o700)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """As short as can be: the limit holds for what pytest itself writes, too."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def big_clip_chunks(clip: bytes, media_bytes: int) -> Iterator[bytes]:
    """A real clip whose mdat is filled up to `media_bytes`, in chunks of 256 KiB."""
    parts = {kind: clip[start : start + size] for kind, start, size in boxes_of(clip)}
    yield parts["ftyp"] + struct.pack(">I4sQ", 1, b"mdat", 16 + media_bytes)
    block = os.urandom(256 * 1024)
    for _ in range(media_bytes // len(block)):
        yield block
    yield parts["moov"]


def land_big_clip(target: Target, clip: bytes, media_bytes: int) -> SavedVideo:
    with AtomicDownload(target) as landing:
        for chunk in big_clip_chunks(clip, media_bytes):
            landing.write(chunk)
        return landing.publish()


def test_a_write_that_the_system_refuses_leaves_no_half_file(tmp_path: Path, clip: bytes) -> None:
    with pytest.raises(DestinationError, match="file too large"), file_size_limit(1 << 20):
        land_big_clip(resolve_target(str(tmp_path / "clip.mp4"), "p1"), clip, 4 << 20)
    assert names_in(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "tiny"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_said_so_and_left_as_it_was(tiny_disk: Path, clip: bytes) -> None:
    (tiny_disk / "clip.mp4").write_bytes(OLD)
    with pytest.raises(DestinationError, match="no space left") as caught:
        land_big_clip(resolve_target(f"{tiny_disk}/clip.mp4", "p1"), clip, 4 << 20)
    assert "Free some space" in caught.value.remedy
    assert names_in(tiny_disk) == ["clip.mp4"]
    assert (tiny_disk / "clip.mp4").read_bytes() == OLD


def test_a_full_device_is_no_space_left(tmp_path: Path) -> None:
    target = resolve_target(str(tmp_path / "clip.mp4"), "p1")
    with (
        pytest.raises(OSError, match="No space") as caught,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    error = target.failure(caught.value)
    assert isinstance(error, DestinationError)
    assert "no space left" in error.what


def test_an_outage_of_the_disk_may_be_tried_again(tmp_path: Path) -> None:
    error = resolve_target(str(tmp_path / "clip.mp4"), "p1").failure(
        OSError(errno.ESTALE, "Stale file handle")
    )
    assert type(error) is TransferError
    assert error.retryable


def test_a_large_clip_lands_with_flat_memory(tmp_path: Path, clip: bytes) -> None:
    target = resolve_target(str(tmp_path / "big.mp4"), "p1")
    size = 64 << 20
    tracemalloc.start()
    try:
        landed = land_big_clip(target, clip, size)
        found = existing(target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert landed.size > size
    assert found == landed
    assert peak < 8 << 20


# --- object stores


@pytest.mark.parametrize("conn_id", [None, STORE_CONN_ID])
def test_a_clip_lands_in_a_store(memory_store: Any, clip: bytes, conn_id: str | None) -> None:
    target = resolve_target("memory://bucket/clips/", "p1", conn_id)
    landed = land(target, clip)
    assert landed.path == "memory://bucket/clips/p1.mp4"
    assert memory_store.cat("/bucket/clips/p1.mp4") == clip
    assert memory_store.find("/bucket") == ["/bucket/clips/p1.mp4"]
    assert existing(target) == landed


def test_a_name_in_a_store_that_looks_like_a_pattern_is_a_name(memory_store: Any, clip: bytes) -> None:
    memory_store.pipe("/bucket/a/clip1.mp4", OLD)
    land(resolve_target("memory://bucket/[a]*/cl*p[1].mp4", "p1"), clip)
    assert memory_store.cat_file("/bucket/[a]*/cl*p[1].mp4") == clip
    assert memory_store.cat_file("/bucket/a/clip1.mp4") == OLD
    assert len(memory_store.store) == 2


def test_fail_refuses_what_stands_in_a_store_at_the_start_and_at_the_end(
    memory_store: Any, clip: bytes
) -> None:
    target = resolve_target("memory://bucket/clip.mp4", "p1")
    with AtomicDownload(target, if_exists="fail") as landing:
        landing.write(clip)
        memory_store.pipe("/bucket/clip.mp4", OLD)
        with pytest.raises(DestinationError, match="exists already"):
            landing.publish()
    with pytest.raises(DestinationError, match="exists already"), AtomicDownload(target, if_exists="fail"):
        pytest.fail("the landing began")
    assert memory_store.cat("/bucket/clip.mp4") == OLD
    assert memory_store.find("/") == ["/bucket/clip.mp4"]


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_a_failed_landing_in_a_store_leaves_nothing(
    memory_store: Any, clip: bytes, fail: Any, error: type[BaseException] | None, old: bytes | None
) -> None:
    if old is not None:
        memory_store.pipe("/bucket/clip.mp4", old)
    run_failure(resolve_target("memory://bucket/clip.mp4", "p1"), clip, fail, error)
    assert memory_store.find("/") == ([] if old is None else ["/bucket/clip.mp4"])
    assert old is None or memory_store.cat("/bucket/clip.mp4") == old


class MultipartFile(AbstractBufferedFile):
    """Uploads as the S3, Google and Azure drivers do: parts first, published by the last one, on close."""

    def _initiate_upload(self) -> None:
        self.fs.uploads[self.path] = b""

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.uploads[self.path] += self.buffer.getvalue()
        if final:
            self.fs.store[self.path] = MemoryFile(self.fs, self.path, self.fs.uploads.pop(self.path))
        return True

    def discard(self) -> None:
        self.fs.uploads.pop(self.path, None)


class MultipartStore(MemoryFileSystem):
    """A store whose files are published when they are closed."""

    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, bytes] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode == "wb":
            return MultipartFile(self, path, mode, block_size=1000, **options)
        return super()._open(path, mode, **options)


@pytest.fixture
def multipart_store() -> Iterator[MultipartStore]:
    from airflow.sdk.io import attach

    store = MultipartStore()
    attach("gs", "multipart", fs=store).fs = store
    store.store.clear()
    yield store
    store.store.clear()


def test_an_upload_is_published_by_its_end_alone(multipart_store: MultipartStore, clip: bytes) -> None:
    target = resolve_target("gs://bucket/clip.mp4", "p1", "multipart")
    with AtomicDownload(target) as landing:
        landing.write(clip)
        assert list(multipart_store.uploads) == ["/bucket/clip.mp4"]
        assert not multipart_store.exists("/bucket/clip.mp4")
        landing.publish()
    assert multipart_store.cat("/bucket/clip.mp4") == clip
    assert list(multipart_store.store) == ["/bucket/clip.mp4"]
    assert not multipart_store.uploads


@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_an_upload_that_is_given_up_is_published_by_nobody(
    multipart_store: MultipartStore, clip: bytes, fail: Any, error: type[BaseException] | None
) -> None:
    run_failure(resolve_target("gs://bucket/clip.mp4", "p1", "multipart"), clip, fail, error)
    gc.collect()
    assert not multipart_store.store
    assert not multipart_store.uploads


def test_a_store_without_a_driver_is_refused_with_what_to_install() -> None:
    with (
        pytest.raises(DestinationError, match="no driver") as caught,
        AtomicDownload(resolve_target("abfs://container/clip.mp4", "p1")),
    ):
        pytest.fail("the landing began")
    assert "airflow-provider-magichour[microsoft-azure]" in caught.value.remedy


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(PermissionError("Forbidden"), DestinationError), (ConnectionError("refused"), TransferError)],
)
@pytest.mark.parametrize("step", ["open", "cp_file"])
def test_a_store_that_refuses_or_is_out_of_reach_leaves_nothing(
    memory_store: Any, monkeypatch: Any, clip: bytes, trouble: Exception, kind: type[Exception], step: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise trouble

    monkeypatch.setattr(memory_store, step, fail)
    with pytest.raises(TransferError) as caught:
        land(resolve_target("memory://bucket/clip.mp4?sig=SECRET", "p1"), clip)
    assert type(caught.value) is kind
    assert "memory://bucket/clip.mp4" in caught.value.what
    assert "SECRET" not in str(caught.value)
    assert memory_store.find("/") == []
