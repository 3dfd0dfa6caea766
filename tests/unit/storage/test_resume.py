"""`ResumableDownload`: any pattern of cuts gives the same bytes, and no endless loop."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magichour_provider.client.downloads import (
    Checksum,
    DownloadHeaders,
    LinkExpiredError,
    ResumeNotPossibleError,
)
from magichour_provider.exceptions import DownloadError, TransferError
from magichour_provider.storage import download, transfer
from magichour_provider.storage.download import download_video
from magichour_provider.storage.mp4 import Mp4Scanner
from magichour_provider.storage.targets import resolve_target
from magichour_provider.storage.transfer import Progress, ResumableDownload

TAG = '"one"'
MIB = 1 << 20


class Sink:
    """Keeps the bytes."""

    def __init__(self):
        self.data, self.mp4 = b"", Mp4Scanner()

    @property
    def size(self):
        return len(self.data)

    def restart(self, algorithms=()):
        self.data = b""

    def write(self, chunk):
        self.data += chunk


class Storage:
    """A client whose connections break after as many bytes as `cuts` says; the later ones are whole.

    `ranges`: it honours `Range`. `content` may be replaced between two connections.
    """

    def __init__(self, content, cuts=(), *, ranges=True, tag=TAG, chunk=7, checksums=()):
        self.content, self.cuts, self.ranges, self.tag, self.chunk = content, list(cuts), ranges, tag, chunk
        self.checksums, self.before, self.starts = checksums, [], []

    @contextmanager
    def open_download(self, url, resume_from=None):
        if self.before:
            self.before.pop(0)()
        start = 0
        if resume_from is not None and self.ranges and resume_from.validator == self.tag:
            start = resume_from.offset
        self.starts.append(start)
        self.headers = DownloadHeaders(
            len(self.content), start=start, validator=self.tag, checksums=tuple(self.checksums)
        )
        yield self

    def chunks(self):
        end = len(self.content)
        start = self.starts[-1]
        cut = self.cuts.pop(0) if self.cuts else None
        for at in range(start, end, self.chunk):
            if cut is not None and at - start >= cut:
                raise DownloadError("The connection broke.")
            yield self.content[at : min(at + self.chunk, end)]


def resumable(storage, get_url=lambda: "url"):
    sink, pauses = Sink(), []
    fetch = ResumableDownload(storage, get_url, sink, "x", sleep=pauses.append)
    return fetch, sink, pauses


@pytest.mark.parametrize("ranges", [True, False])
@given(content=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(0, 300), max_size=3))
def test_any_cut_pattern_yields_the_same_bytes(ranges, content, cuts):
    storage = Storage(content, cuts, ranges=ranges)
    fetch, sink, _ = resumable(storage)
    assert fetch.run().size == len(content)
    assert sink.data == content
    assert storage.starts == sorted(storage.starts)


@given(
    first=st.binary(min_size=1, max_size=200),
    second=st.binary(min_size=1, max_size=200),
    cut=st.integers(0, 200),
)
def test_changed_file_is_never_mixed(first, second, cut):
    storage = Storage(first, [cut])

    def change():
        storage.content, storage.tag = second, '"two"'

    storage.before = [lambda: None, change]
    fetch, sink, _ = resumable(storage)
    fetch.run()
    assert sink.data in (first, second)


def test_stalled_download_fails_after_five_failures():
    fetch, _, pauses = resumable(Storage(b"x" * 100, [0] * 50))
    with pytest.raises(DownloadError, match="broke"):
        fetch.run()
    assert len(pauses) == 4
    assert max(pauses) <= 8


def test_progress_resets_the_count_of_failures():
    content = bytes(8 * MIB)
    fetch, sink, _ = resumable(Storage(content, [MIB] * 7, chunk=MIB))
    fetch.run()
    assert sink.data == content


def test_lost_bytes_fail_after_four_restarts():
    fetch, _, _ = resumable(Storage(bytes(8 * MIB), [2 * MIB] * 9, ranges=False, chunk=MIB))
    with pytest.raises(TransferError, match="could not be resumed"):
        fetch.run()


@pytest.mark.parametrize(
    ("error", "urls_used", "starts"),
    [(LinkExpiredError("expired"), 2, [0, 56]), (ResumeNotPossibleError("Another part."), 1, [0, 0])],
)
def test_expired_url_is_requested_again_and_impossible_resume_restarts(error, urls_used, starts):
    def fail():
        raise error

    storage, urls = Storage(b"x" * 100, [50]), []
    storage.before = [lambda: None, fail]
    fetch, sink, _ = resumable(storage, get_url=lambda: urls.append("url") or "url")
    fetch.run()
    assert sink.data == storage.content
    assert (len(urls), storage.starts) == (urls_used, starts)


def test_part_of_a_file_of_another_size_is_refused():
    storage = Storage(b"x" * 100, [50])
    storage.before = [lambda: None, lambda: setattr(storage, "content", b"y" * 120)]
    fetch, sink, _ = resumable(storage)
    fetch.run()
    assert sink.data == b"y" * 120


def test_endless_body_is_refused(monkeypatch):
    monkeypatch.setattr(transfer, "MAX_VIDEO_BYTES", 50)
    fetch, _, _ = resumable(Storage(b"x" * 100))
    with pytest.raises(TransferError, match="more than 50 bytes"):
        fetch.run()


def test_empty_body_is_refused():
    fetch, _, _ = resumable(Storage(b""))
    with pytest.raises(DownloadError, match="nothing"):
        fetch.run()


# --- checksums


def md5(content, *, certain):
    return Checksum("md5", hashlib.md5(content, usedforsecurity=False).hexdigest(), certain)


def save(storage, folder, **options):
    target = resolve_target(f"{folder}/", "p1")
    return download_video(
        storage, lambda: "url", target, if_exists="overwrite", sleep=lambda seconds: None, **options
    )


@pytest.mark.parametrize("certain", [True, False])
def test_wrong_checksum_fails_only_if_it_is_certain(video, tmp_path, certain):
    storage = Storage(video, checksums=[md5(b"other", certain=certain)], chunk=4096)
    if certain:
        with pytest.raises(DownloadError, match=r"MD5 differs .* in each of 3 downloads"):
            save(storage, tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        save(storage, tmp_path)
        assert len(storage.starts) == 2


# --- interruptions at injected points


class Interrupted(BaseException):
    """As a signal's."""


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("old", [None, b"old"])
@given(point=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_interruption_leaves_the_target_old_or_whole(tmp_path_factory, video, error, old, point):
    """The error is raised before or after any write, commit or read of a chunk."""
    folder = tmp_path_factory.mktemp("target")
    target, left = resolve_target(f"{folder}/", "p1"), [point]
    if old:
        target.place.write_bytes(old)

    def step():
        left[0] -= 1
        if left[0] < 0:
            left[0] = 1000
            raise error("injected")

    def stepping(call):
        def stepped(*arguments):
            step()
            call(*arguments)
            step()

        return stepped

    storage = Storage(video, chunk=len(video) // 8)
    original = storage.chunks

    def chunks():
        for chunk in original():
            step()
            yield chunk

    storage.chunks = chunks
    with pytest.MonkeyPatch.context() as patch:
        open_writer = download.open_writer

        def opened(*args, **options):
            step()
            writer = open_writer(*args, **options)
            for name in ("write", "commit"):
                call = getattr(writer, name)
                setattr(writer, name, stepping(call))
            return writer

        patch.setattr(download, "open_writer", opened)
        with suppress(error, TransferError):
            download_video(storage, lambda: "url", target, if_exists="overwrite", sleep=lambda seconds: None)
    found = target.place.read_bytes() if target.place.exists() else None
    assert found in (old, video)
    assert len(list(folder.iterdir())) == (found is not None)


# --- progress


def test_progress_logs_a_line_every_five_seconds(caplog):
    clock = iter([0, 1, 6, 7, 12]).__next__
    progress = Progress("Downloading a.mp4", 10_000_000, clock=clock)
    with caplog.at_level(logging.INFO):
        for done in (1_000_000, 2_000_000, 3_000_000, 8_000_000):
            progress.update(done)
    assert [record.message for record in caplog.records] == [
        "Downloading a.mp4: 2.0 MB of 10.0 MB (20 %), 333.3 kB/s, 0:00:24 left.",
        "Downloading a.mp4: 8.0 MB of 10.0 MB (80 %), 1.0 MB/s, 0:00:02 left.",
    ]


def test_progress_of_unknown_length_or_after_a_restart_has_no_time_left(caplog):
    clock = iter([0, 6, 12]).__next__
    progress = Progress("x", clock=clock)
    with caplog.at_level(logging.INFO):
        progress.update(2000)
        progress.total = 5000
        progress.update(1000)
    assert [record.message for record in caplog.records] == [
        "x: 2.0 kB, 333 bytes/s.",
        "x: 1.0 kB of 5.0 kB (20 %), 0 bytes/s.",
    ]
