from __future__ import annotations

import errno
import gc
import hashlib
import os
import resource
import socket
import stat
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from magichour_provider.storage import publish
from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.existing import SavedVideo
from magichour_provider.storage.existing import existing_video as existing
from magichour_provider.storage.locations import Target, resolve_target

from .conftest import STORE_CONN_ID, boxes_of

OLD = b"what stood there before"


def save(target: Target, data: bytes, chunk_bytes: int = 1000, **options: Any) -> SavedVideo:
    with AtomicDownload(target, **options) as download:
        for start in range(0, len(data), chunk_bytes):
            download.write(data[start : start + chunk_bytes])
        return download.publish(len(data))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- download on a disk


def test_a_video_arrives_whole_with_its_story(tmp_path: Path, video: bytes) -> None:
    target = resolve_target(f"{tmp_path}/new/folder/", "p1")
    saved = save(target, video)
    path = tmp_path / "new" / "folder" / "p1.mp4"
    assert path.read_bytes() == video
    assert names_in(path.parent) == ["p1.mp4"]
    assert saved == SavedVideo(
        str(path),
        len(video),
        hashlib.sha256(video).hexdigest(),
        pytest.approx(1.5, abs=0.05),
        64,
        48,
        pytest.approx(24),
    )
    assert existing(target) == saved


def test_the_file_has_the_mode_of_the_umask(tmp_path: Path, video: bytes) -> None:
    old = os.umask(0o027)
    try:
        save(resolve_target(str(tmp_path / "video.mp4"), "p1"), video)
    finally:
        os.umask(old)
    assert (tmp_path / "video.mp4").stat().st_mode & 0o777 == 0o640


def test_the_old_file_stands_until_the_publication(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(OLD)
    with AtomicDownload(resolve_target(str(path), "p1")) as download:
        download.write(video)
        assert path.read_bytes() == OLD
        part = next(name for name in names_in(tmp_path) if name != "video.mp4")
        assert part.startswith(".video.mp4.")
        assert part.endswith(".part")
        download.publish()
        assert path.read_bytes() == video
        with pytest.raises(RuntimeError):
            download.write(b"more")
    assert names_in(tmp_path) == ["video.mp4"]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def leave_without_publishing(download: AtomicDownload, video: bytes) -> None:
    download.write(video)


def be_interrupted(download: AtomicDownload, video: bytes) -> None:
    download.write(half(video))
    raise KeyboardInterrupt


def be_short_of_the_announced_length(download: AtomicDownload, video: bytes) -> None:
    download.write(video)
    download.publish(len(video) + 1)


def be_cut(download: AtomicDownload, video: bytes) -> None:
    download.write(half(video))
    download.publish()


def be_a_web_page(download: AtomicDownload, video: bytes) -> None:
    download.write(b"<html>link expired</html>")


def publish_what_failed_before(download: AtomicDownload, video: bytes) -> None:
    download.write(video)
    with pytest.raises(DownloadError):
        download.publish(1)
    download.publish()


FAILURES = [
    (leave_without_publishing, None),
    (be_interrupted, KeyboardInterrupt),
    (be_short_of_the_announced_length, DownloadError),
    (be_cut, NotAVideoError),
    (be_a_web_page, NotAVideoError),
    (publish_what_failed_before, RuntimeError),
]


def run_failure(target: Target, video: bytes, fail: Any, error: type[BaseException] | None) -> None:
    def attempt() -> None:
        with AtomicDownload(target) as download:
            fail(download, video)

    if error is None:
        attempt()
        return
    with pytest.raises(error):
        attempt()


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, video: bytes, fail: Any, error: type[BaseException] | None, old: bytes | None
) -> None:
    path = tmp_path / "video.mp4"
    if old is not None:
        path.write_bytes(old)
    run_failure(resolve_target(str(path), "p1"), video, fail, error)
    assert names_in(tmp_path) == ([] if old is None else ["video.mp4"])
    assert old is None or path.read_bytes() == old


def test_fail_refuses_an_existing_target_at_the_start(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(OLD)
    with (
        pytest.raises(DestinationError, match="exists already"),
        AtomicDownload(resolve_target(str(path), "p1"), if_exists="fail"),
    ):
        pytest.fail("the download began")
    assert path.read_bytes() == OLD
    assert names_in(tmp_path) == ["video.mp4"]


def refusing(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


LINK_ERRORS = ["EPERM", "ENOTSUP", "ENOSYS", "EMLINK", "EXDEV", "EINVAL", "EACCES", "EIO", "EOPNOTSUPP"]


@pytest.mark.parametrize("link_error", [None, *LINK_ERRORS])
def test_of_two_writers_that_must_not_overwrite_only_one_wins(
    tmp_path: Path, video: bytes, monkeypatch: Any, link_error: str | None
) -> None:
    if link_error:
        monkeypatch.setattr(os, "link", refusing(getattr(errno, link_error)))
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    with (
        AtomicDownload(target, if_exists="fail") as first,
        AtomicDownload(target, if_exists="fail") as second,
    ):
        first.write(video)
        second.write(video)
        saved = first.publish()
        with pytest.raises(DestinationError, match="exists already"):
            second.publish()
    assert names_in(tmp_path) == ["video.mp4"]
    assert existing(target) == saved


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
@pytest.mark.parametrize(
    ("number", "published"),
    [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.ENOSYS, True), (errno.EIO, False)],
)
def test_only_a_sync_that_may_have_lost_bytes_fails_the_download(
    tmp_path: Path, video: bytes, monkeypatch: Any, call: str, number: int, published: bool
) -> None:
    monkeypatch.setattr(os, call, refusing(number))
    monkeypatch.setattr(publish, "_SYNC_EVERY_BYTES", 1000)
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    with nullcontext() if published else pytest.raises(TransferError):
        save(target, video)
    assert names_in(tmp_path) == (["video.mp4"] if published else [])


def test_what_is_replaced_gives_its_mode_and_owner(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(OLD)
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
    before = path.stat()
    save(resolve_target(str(path), "p1"), video, if_exists="overwrite")
    after = path.stat()
    assert path.read_bytes() == video
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "fail"])
@pytest.mark.parametrize("old", [None, OLD])
def test_a_link_is_followed(tmp_path: Path, video: bytes, old: bytes | None, if_exists: str) -> None:
    real, link = tmp_path / "disk" / "real.mp4", tmp_path / "video.mp4"
    real.parent.mkdir()
    link.symlink_to(real)
    if old is not None:
        real.write_bytes(old)
    refused = old is not None and if_exists != "overwrite"
    with pytest.raises(DestinationError, match="exists already") if refused else nullcontext():
        save(resolve_target(str(link), "p1"), video, if_exists=if_exists)
    assert link.is_symlink()
    assert names_in(real.parent) == ["real.mp4"]
    assert real.read_bytes() == (old if refused else video)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def make_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, make_device, make_socket])
@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "fail"])
def test_a_device_or_a_pipe_is_refused_and_stays(
    tmp_path: Path, video: bytes, make: Any, if_exists: str
) -> None:
    path = tmp_path / "v.mp4"
    make(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    target = resolve_target(str(path), "p1")
    with pytest.raises(DestinationError, match=r"not a regular file|exists already"):
        save(target, video, if_exists=if_exists)
    with pytest.raises(DestinationError, match="not a regular file"):
        existing(target)
    assert stat.S_IFMT(path.stat().st_mode) == kind
    assert names_in(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ])
def test_a_share_that_does_not_take_the_name_is_said_so(
    tmp_path: Path, video: bytes, monkeypatch: Any, number: int
) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(number))
    with pytest.raises(DestinationError, match="does not take this name") as refused:
        save(resolve_target(f"{tmp_path}/manual__2026-11-28T10:00:00+00:00/", "p1"), video)
    assert "a run_id contains ':'" in refused.value.remedy


def test_a_link_to_itself_is_refused(tmp_path: Path, video: bytes) -> None:
    (tmp_path / "video.mp4").symlink_to(tmp_path / "video.mp4")
    with pytest.raises(DestinationError, match="symbolic links"):
        save(resolve_target(str(tmp_path / "video.mp4"), "p1"), video)


def test_skip_replaces_nothing(tmp_path: Path, video: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(half(video))
    with pytest.raises(DestinationError, match="exists already"):
        save(resolve_target(str(path), "p1"), video, if_exists="skip")
    assert path.read_bytes() == half(video)
    assert names_in(tmp_path) == ["video.mp4"]


def test_skip_takes_the_video_that_another_writer_saved_meanwhile(tmp_path: Path, video: bytes) -> None:
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    with AtomicDownload(target, if_exists="skip") as slower:
        slower.write(video)
        saved = save(target, video, if_exists="skip")
        assert slower.publish() == saved
    assert names_in(tmp_path) == ["video.mp4"]


def test_existing_takes_only_a_whole_video_for_one(tmp_path: Path, video: bytes, caplog: Any) -> None:
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    assert existing(target) is None
    (tmp_path / "video.mp4").write_bytes(half(video))
    assert existing(target) is None
    assert "is not a whole video" in caplog.text
    (tmp_path / "video.mp4").write_bytes(video)
    found = existing(target)
    assert found is not None
    assert found.size == len(video)


# --- targets that refuse


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("{tmp}/file/video.mp4", "a part of the path is a file"),
        ("{tmp}/file/deeper/video.mp4", "a part of the path is a file"),
        ("/proc/no-such-place/video.mp4", "does not exist"),
        ("{tmp}/" + "x" * 300, "too long"),
        ("{tmp}/nul\0.mp4", "null"),
    ],
)
def test_a_target_that_cannot_be_written_is_named_with_the_cause(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    path = path.format(tmp=tmp_path)
    with pytest.raises(DestinationError) as caught, AtomicDownload(resolve_target(path, "p1")):
        pytest.fail("the download began")
    assert path in caught.value.what
    assert why in caught.value.what
    assert "The video is still at Magic Hour" in str(caught.value)
    assert not caught.value.retryable
    assert names_in(tmp_path) == ["file"]


def test_a_folder_that_appears_in_place_of_the_target_is_refused(tmp_path: Path) -> None:
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    (tmp_path / "video.mp4").mkdir()
    with pytest.raises(DestinationError, match="it is a folder"), AtomicDownload(target):
        pytest.fail("the download began")
    with pytest.raises(DestinationError, match="it is a folder"):
        existing(target)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(DestinationError, match="permission denied"),
            AtomicDownload(resolve_target(str(tmp_path / "video.mp4"), "p1")),
        ):
            pytest.fail("the download began")
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


def big_video_chunks(video: bytes, media_bytes: int) -> Iterator[bytes]:
    """A real video whose mdat is filled up to `media_bytes`, in chunks of 256 KiB."""
    parts = {kind: video[start : start + size] for kind, start, size in boxes_of(video)}
    yield parts["ftyp"] + struct.pack(">I4sQ", 1, b"mdat", 16 + media_bytes)
    block = os.urandom(256 * 1024)
    for _ in range(media_bytes // len(block)):
        yield block
    yield parts["moov"]


def land_big_video(target: Target, video: bytes, media_bytes: int) -> SavedVideo:
    with AtomicDownload(target) as download:
        for chunk in big_video_chunks(video, media_bytes):
            download.write(chunk)
        return download.publish()


def test_a_write_that_the_system_refuses_leaves_no_half_file(tmp_path: Path, video: bytes) -> None:
    with pytest.raises(DestinationError, match="file too large"), file_size_limit(1 << 20):
        land_big_video(resolve_target(str(tmp_path / "video.mp4"), "p1"), video, 4 << 20)
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


def test_a_full_disk_is_said_so_and_left_as_it_was(tiny_disk: Path, video: bytes) -> None:
    (tiny_disk / "video.mp4").write_bytes(OLD)
    with pytest.raises(DestinationError, match="no space left") as caught:
        land_big_video(resolve_target(f"{tiny_disk}/video.mp4", "p1"), video, 4 << 20)
    assert "Free some space" in caught.value.remedy
    assert names_in(tiny_disk) == ["video.mp4"]
    assert (tiny_disk / "video.mp4").read_bytes() == OLD


def test_a_full_device_is_no_space_left(tmp_path: Path) -> None:
    target = resolve_target(str(tmp_path / "video.mp4"), "p1")
    with (
        pytest.raises(OSError, match="No space") as caught,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    error = target.write_error(caught.value)
    assert isinstance(error, DestinationError)
    assert "no space left" in error.what


def test_a_large_video_arrives_with_flat_memory(tmp_path: Path, video: bytes) -> None:
    target = resolve_target(str(tmp_path / "big.mp4"), "p1")
    size = 64 << 20
    tracemalloc.start()
    try:
        saved = land_big_video(target, video, size)
        found = existing(target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saved.size > size
    assert found == saved
    assert peak < 8 << 20


# --- object stores


@pytest.mark.parametrize("conn_id", [None, STORE_CONN_ID])
def test_a_video_arrives_in_a_store(memory_store: Any, video: bytes, conn_id: str | None) -> None:
    target = resolve_target("memory://bucket/videos/", "p1", conn_id)
    saved = save(target, video)
    assert saved.path == "memory://bucket/videos/p1.mp4"
    assert memory_store.cat("/bucket/videos/p1.mp4") == video
    assert memory_store.find("/bucket") == ["/bucket/videos/p1.mp4"]
    assert existing(target) == saved


def test_a_name_in_a_store_that_resembles_a_pattern_is_a_name(memory_store: Any, video: bytes) -> None:
    memory_store.pipe("/bucket/a/video1.mp4", OLD)
    save(resolve_target("memory://bucket/[a]*/cl*p[1].mp4", "p1"), video)
    assert memory_store.cat_file("/bucket/[a]*/cl*p[1].mp4") == video
    assert memory_store.cat_file("/bucket/a/video1.mp4") == OLD
    assert len(memory_store.store) == 2


def test_fail_refuses_what_stands_in_a_store_at_the_start_and_at_the_end(
    memory_store: Any, video: bytes
) -> None:
    target = resolve_target("memory://bucket/video.mp4", "p1")
    with AtomicDownload(target, if_exists="fail") as download:
        download.write(video)
        memory_store.pipe("/bucket/video.mp4", OLD)
        with pytest.raises(DestinationError, match="exists already"):
            download.publish()
    with pytest.raises(DestinationError, match="exists already"), AtomicDownload(target, if_exists="fail"):
        pytest.fail("the download began")
    assert memory_store.cat("/bucket/video.mp4") == OLD
    assert memory_store.find("/") == ["/bucket/video.mp4"]


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_a_failed_download_in_a_store_leaves_nothing(
    memory_store: Any, video: bytes, fail: Any, error: type[BaseException] | None, old: bytes | None
) -> None:
    if old is not None:
        memory_store.pipe("/bucket/video.mp4", old)
    run_failure(resolve_target("memory://bucket/video.mp4", "p1"), video, fail, error)
    assert memory_store.find("/") == ([] if old is None else ["/bucket/video.mp4"])
    assert old is None or memory_store.cat("/bucket/video.mp4") == old


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


def test_an_upload_is_published_by_its_end_alone(multipart_store: MultipartStore, video: bytes) -> None:
    target = resolve_target("gs://bucket/video.mp4", "p1", "multipart")
    with AtomicDownload(target) as download:
        download.write(video)
        assert list(multipart_store.uploads) == ["/bucket/video.mp4"]
        assert not multipart_store.exists("/bucket/video.mp4")
        download.publish()
    assert multipart_store.cat("/bucket/video.mp4") == video
    assert list(multipart_store.store) == ["/bucket/video.mp4"]
    assert not multipart_store.uploads


@pytest.mark.parametrize(("fail", "error"), FAILURES)
def test_an_upload_that_is_given_up_is_not_published(
    multipart_store: MultipartStore, video: bytes, fail: Any, error: type[BaseException] | None
) -> None:
    run_failure(resolve_target("gs://bucket/video.mp4", "p1", "multipart"), video, fail, error)
    gc.collect()
    assert not multipart_store.store
    assert not multipart_store.uploads


def test_a_store_without_a_driver_is_refused_with_what_to_install() -> None:
    with (
        pytest.raises(DestinationError, match="no driver") as caught,
        AtomicDownload(resolve_target("abfs://container/video.mp4", "p1")),
    ):
        pytest.fail("the download began")
    assert "airflow-provider-magichour[microsoft-azure]" in caught.value.remedy


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(PermissionError("Forbidden"), DestinationError), (ConnectionError("refused"), TransferError)],
)
@pytest.mark.parametrize("step", ["open", "cp_file"])
def test_a_store_that_refuses_or_is_out_of_reach_leaves_nothing(
    memory_store: Any, monkeypatch: Any, video: bytes, trouble: Exception, kind: type[Exception], step: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise trouble

    monkeypatch.setattr(memory_store, step, fail)
    with pytest.raises(TransferError) as caught:
        save(resolve_target("memory://bucket/video.mp4?sig=SECRET", "p1"), video)
    assert type(caught.value) is kind
    assert "memory://bucket/video.mp4" in caught.value.what
    assert "SECRET" not in str(caught.value)
    assert memory_store.find("/") == []
