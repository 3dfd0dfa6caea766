"""A name shows all of a video or what stood there before, on disks and in stores of each kind."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import resource
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from magichour_provider.exceptions import DestinationError, DownloadError, NotAVideoError, TransferError
from magichour_provider.storage import publish
from magichour_provider.storage.download import AtomicDownload, read_back
from magichour_provider.storage.targets import Target, resolve_target
from magichour_provider.storage.transfer import SavedVideo

from .conftest import STORE_CONN_ID, boxes_of

OLD = b"what stood there before"


def save(target: Target, data: bytes, **options: Any) -> SavedVideo:
    with AtomicDownload(target, **options) as download:
        for start in range(0, len(data), 1000):
            download.write(data[start : start + 1000])
        return download.publish(len(data))


def saved_at(target: Target) -> SavedVideo | None:
    found = read_back(target)
    return found and found.saved_at(target.path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "video.mp4"


@pytest.fixture
def target(path: Path) -> Target:
    return resolve_target(str(path), "p1")


# --- places of each kind


class MultipartFile(AbstractBufferedFile):
    """Uploads as the S3, Google and Azure drivers do: parts first, published by the last one, on close."""

    def _initiate_upload(self) -> None:
        self.fs.uploads[self.path] = b""

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.uploads[self.path] += self.buffer.getvalue()
        if final:
            if self.mode == "xb" and self.path in self.fs.store:
                raise FileExistsError(self.path)
            self.fs.store[self.path] = MemoryFile(self.fs, self.path, self.fs.uploads.pop(self.path))
        return True

    def discard(self) -> None:
        self.fs.uploads.pop(self.path, None)


class MultipartStore(MemoryFileSystem):
    """A store whose files are published when they are closed."""

    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    uploads: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode in ("wb", "xb"):
            return MultipartFile(self, path, mode, block_size=1000, **options)
        return super()._open(path, mode, **options)


@dataclass(frozen=True)
class Place:
    """A target in a folder of its own, and what the folder shows."""

    target: Target
    put: Callable[[bytes], object]
    shown: Callable[[], dict[str, bytes]]


@pytest.fixture(params=["disk", "memory", "multipart"])
def place(request: Any, path: Path, target: Target, memory_store: Any) -> Iterator[Place]:
    if request.param == "disk":
        yield Place(
            target, path.write_bytes, lambda: {str(each): each.read_bytes() for each in path.parent.iterdir()}
        )
        return
    store, url = memory_store, "memory://bucket/video.mp4"
    if request.param == "multipart":
        store, url = MultipartStore(), "gs://bucket/video.mp4"
        attach("gs", STORE_CONN_ID, fs=store).fs = store
    store.store.clear()

    def shown() -> dict[str, bytes]:
        gc.collect()
        assert not getattr(store, "uploads", {})
        return {f"{url.partition(':')[0]}:/{name}": store.cat_file(name) for name in store.store}

    def put(data: bytes) -> None:
        store.store["/bucket/video.mp4"] = MemoryFile(store, "/bucket/video.mp4", data)

    yield Place(resolve_target(url, "p1", STORE_CONN_ID), put, shown)
    store.store.clear()


def test_video_arrives_whole_and_is_described(place: Place, video: bytes) -> None:
    saved = save(place.target, video)
    assert place.shown() == {place.target.path: video}
    sha256 = hashlib.sha256(video).hexdigest()
    seconds, fps = pytest.approx(1.5, abs=0.05), pytest.approx(24)
    assert saved == SavedVideo(place.target.path, len(video), sha256, seconds, 64, 48, fps)
    assert saved_at(place.target) == saved


def test_old_file_stands_until_the_publication(place: Place, video: bytes) -> None:
    place.put(OLD)
    with AtomicDownload(place.target) as download:
        download.write(video)
        with place.target.place.open("rb") if isinstance(place.target.place, Path) else nullcontext() as file:
            assert file is None or file.read() == OLD
        download.publish()
        with pytest.raises(RuntimeError):
            download.write(b"more")
    assert place.shown() == {place.target.path: video}


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


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (leave_without_publishing, None),
        (be_interrupted, KeyboardInterrupt),
        (be_short_of_the_announced_length, DownloadError),
        (be_cut, NotAVideoError),
        (be_a_web_page, NotAVideoError),
        (publish_what_failed_before, RuntimeError),
    ],
)
def test_failed_download_leaves_nothing(
    place: Place, video: bytes, fail: Any, error: type[BaseException] | None, old: bytes | None
) -> None:
    if old is not None:
        place.put(old)
    with nullcontext() if error is None else pytest.raises(error), AtomicDownload(place.target) as download:
        fail(download, video)
    assert place.shown() == ({} if old is None else {place.target.path: old})


@pytest.mark.parametrize("if_exists", ["fail", "skip"])
def test_existing_file_is_refused_at_the_start_and_at_the_end(
    place: Place, video: bytes, if_exists: str
) -> None:
    with AtomicDownload(place.target, if_exists=if_exists) as download:
        download.write(video)
        place.put(OLD)
        with pytest.raises(DestinationError, match="exists already"):
            download.publish()
    with (
        pytest.raises(DestinationError, match="exists already"),
        AtomicDownload(place.target, if_exists=if_exists),
    ):
        pytest.fail("the download began")
    assert place.shown() == {place.target.path: OLD}


def test_skip_takes_the_video_that_another_writer_saved_meanwhile(place: Place, video: bytes) -> None:
    with AtomicDownload(place.target, if_exists="skip") as slower:
        slower.write(video)
        saved = save(place.target, video, if_exists="skip")
        assert slower.publish() == saved
    assert place.shown() == {place.target.path: video}


def test_only_a_whole_video_is_an_existing_one(place: Place, video: bytes, caplog: Any) -> None:
    assert read_back(place.target) is None
    place.put(half(video))
    assert read_back(place.target) is None
    assert "is not a whole video" in caplog.text


# --- disks


def test_mode_is_of_the_umask(path: Path, target: Target, video: bytes) -> None:
    old = os.umask(0o027)
    try:
        save(target, video)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_replaced_file_gives_its_mode_and_owner(path: Path, target: Target, video: bytes) -> None:
    path.write_bytes(OLD)
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
    before = path.stat()
    save(target, video, if_exists="overwrite")
    after = path.stat()
    assert path.read_bytes() == video
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "fail"])
@pytest.mark.parametrize("old", [None, OLD])
def test_link_is_followed(
    path: Path, target: Target, video: bytes, old: bytes | None, if_exists: str
) -> None:
    real = path.parent / "disk" / "real.mp4"
    real.parent.mkdir()
    path.symlink_to(real)
    if old is not None:
        real.write_bytes(old)
    refused = old is not None and if_exists != "overwrite"
    with pytest.raises(DestinationError, match="exists already") if refused else nullcontext():
        save(target, video, if_exists=if_exists)
    assert path.is_symlink()
    assert names_in(real.parent) == ["real.mp4"]
    assert real.read_bytes() == (old if refused else video)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def make_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (make_device, "not a regular file"),
        (make_socket, "not a regular file"),
        (os.mkdir, "it is a folder"),
        (make_loop, "symbolic links"),
    ],
)
@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "fail"])
def test_what_is_no_file_is_refused_and_stays(
    path: Path, target: Target, make: Any, why: str, if_exists: str
) -> None:
    make(path)
    kind = path.lstat().st_mode
    with (
        pytest.raises(DestinationError, match=f"{why}|exists already"),
        AtomicDownload(target, if_exists=if_exists),
    ):
        pytest.fail("the download began")
    with pytest.raises(DestinationError, match=why):
        read_back(target)
    assert path.lstat().st_mode == kind
    assert names_in(path.parent) == ["video.mp4"]


def refusing(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


LINK_ERRORS = ["EPERM", "ENOTSUP", "ENOSYS", "EMLINK", "EXDEV", "EINVAL", "EACCES", "EIO"]


@pytest.mark.parametrize("link_error", [None, *LINK_ERRORS])
def test_of_two_writers_that_must_not_overwrite_only_one_wins(
    path: Path, target: Target, video: bytes, monkeypatch: Any, link_error: str | None
) -> None:
    if link_error:
        monkeypatch.setattr(os, "link", refusing(getattr(errno, link_error)))
    with (
        AtomicDownload(target, if_exists="fail") as first,
        AtomicDownload(target, if_exists="fail") as second,
    ):
        first.write(video)
        second.write(video)
        saved = first.publish()
        with pytest.raises(DestinationError, match="exists already"):
            second.publish()
    assert names_in(path.parent) == ["video.mp4"]
    assert saved_at(target) == saved


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_only_a_sync_that_may_have_lost_bytes_fails_the_download(
    path: Path, target: Target, video: bytes, monkeypatch: Any, call: str, number: int
) -> None:
    monkeypatch.setattr(os, call, refusing(number))
    monkeypatch.setattr(publish, "_SYNC_EVERY_BYTES", 1000)
    with pytest.raises(TransferError) if number == errno.EIO else nullcontext():
        save(target, video)
    assert names_in(path.parent) == ([] if number == errno.EIO else ["video.mp4"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/video.mp4", "a part of the path is a file"),
        ("file/deeper/video.mp4", "a part of the path is a file"),
        ("/proc/no-such-place/video.mp4", "does not exist"),
        ("x" * 300, "too long"),
    ],
)
def test_target_that_cannot_be_written_is_named_with_the_cause(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    path = str(tmp_path / name)
    with pytest.raises(DestinationError) as caught, AtomicDownload(resolve_target(path, "p1")):
        pytest.fail("the download began")
    assert path in caught.value.what
    assert why in caught.value.what
    assert "The video is still at Magic Hour" in str(caught.value)
    assert not caught.value.retryable
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ])
def test_share_that_does_not_take_the_name_is_said_so(tmp_path: Path, monkeypatch: Any, number: int) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(number))
    target = resolve_target(f"{tmp_path}/manual__2026-11-28T10:00:00+00:00/", "p1")
    with pytest.raises(DestinationError, match="does not take this name") as refused, AtomicDownload(target):
        pytest.fail("the download began")
    assert "a run_id contains ':'" in refused.value.remedy


@pytest.mark.parametrize("old", [None, OLD])
def test_write_that_the_system_refuses_leaves_no_half_file(
    path: Path, target: Target, video: bytes, old: bytes | None
) -> None:
    if old is not None:
        path.write_bytes(old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AtomicDownload(target) as download:
        download.write(video[: boxes_of(video)[0][2]] + struct.pack(">I4sQ", 1, b"mdat", 16 << 20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # for what pytest writes, too
        try:
            with pytest.raises(DestinationError, match="file too large"):
                download.write(bytes(4 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.read_bytes() for each in path.parent.iterdir()] == [old] * (old is not None)


# --- object stores


def test_name_in_a_store_that_resembles_a_pattern_is_a_name(memory_store: Any, video: bytes) -> None:
    memory_store.pipe("/bucket/a/video1.mp4", OLD)
    save(resolve_target("memory://bucket/[a]*/cl*p[1].mp4", "p1"), video)
    assert memory_store.cat_file("/bucket/[a]*/cl*p[1].mp4") == video
    assert memory_store.cat_file("/bucket/a/video1.mp4") == OLD
    assert len(memory_store.store) == 2


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(PermissionError("Forbidden"), DestinationError), (ConnectionError("refused"), TransferError)],
)
@pytest.mark.parametrize("step", ["open", "cp_file"])
def test_store_that_refuses_or_is_out_of_reach_leaves_nothing(
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
