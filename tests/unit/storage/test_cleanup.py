"""What killed downloads leave beside their target: removed by the next one, and nothing else is."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

import pytest

from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.publish import LocalWriter, _lock, remove_temporary_files, temporary_name
from magichour_provider.storage.targets import resolve_target


def target_at(path):
    return resolve_target(str(path), "p1")


def no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks here")


def leave_part(path):
    """What a killed download of `path` leaves."""
    part = path.with_name(temporary_name(path.name))
    part.write_bytes(b"half a video")
    return part


def test_what_a_dead_writer_has_left_is_removed_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    parts = [leave_part(tmp_path / "video.mp4") for _ in range(3)]
    remove_temporary_files(target_at(tmp_path / "video.mp4"))
    assert list(tmp_path.iterdir()) == []
    assert all(part.name in caplog.text for part in parts)


@pytest.mark.parametrize("locks", [True, False])
def test_what_a_live_writer_writes_stays_and_arrives(tmp_path, video, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    target = target_at(tmp_path / "video.mp4")
    with AtomicDownload(target) as download:
        download.write(video)
        remove_temporary_files(target)
        download.publish(len(video))
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_bytes() == video


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        ("video.mp4", ["video.mp", "video.mp4.mp4", "lip.mp4", "video-2.mp4", "VIDEO.mp4"]),
        ("a" * 200, ["a" * 199, "a" * 40, "a" * 199 + "b"]),
        ("*", ["a", "**", "?"]),
        ("[a].mp4", ["a.mp4", "[b].mp4"]),
        ("c?ip.mp4", ["video.mp4"]),
        ("\u732b.mp4", ["\u732b\u732b.mp4"]),
        ("a b#c%20.mp4", ["a b#c.mp4"]),
    ],
)
def test_only_this_targets_temporary_files_are_removed(tmp_path, mine, others):
    kept = {leave_part(tmp_path / other).name for other in others}
    leave_part(tmp_path / mine)
    kept.add(f".{mine[:40]}.notes.part")
    (tmp_path / f".{mine[:40]}.notes.part").write_bytes(b"a user's")
    remove_temporary_files(target_at(tmp_path / mine))
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_with_glob_characters_is_one_folder(tmp_path):
    folders = [tmp_path / "[ab]", tmp_path / "a", tmp_path / "*"]
    parts = []
    for folder in folders:
        folder.mkdir()
        parts.append(leave_part(folder / "video.mp4"))
    remove_temporary_files(target_at(folders[0] / "video.mp4"))
    assert [part.exists() for part in parts] == [False, True, True]


def test_what_cannot_be_removed_does_not_stop_the_download(tmp_path, monkeypatch):
    part = leave_part(tmp_path / "video.mp4")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no right")

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_temporary_files(target_at(tmp_path / "video.mp4"))
    monkeypatch.undo()
    assert part.exists()


@pytest.mark.parametrize(("age", "goes"), [(0, False), (23 * 3600, False), (25 * 3600, True)])
def test_where_there_are_no_locks_age_decides(tmp_path, monkeypatch, age, goes):
    part = leave_part(tmp_path / "video.mp4")
    os.utime(part, (time.time() - age,) * 2)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    remove_temporary_files(target_at(tmp_path / "video.mp4"))
    assert part.exists() != goes


@pytest.mark.parametrize("step", ["before the lock", "between lock and removal"])
def test_a_writer_whose_new_file_a_cleaner_takes_begins_another(tmp_path, video, monkeypatch, step):
    """The cleaner is held at each of its steps, while the writer continues."""
    target = target_at(tmp_path / "video.mp4")
    cleaned = []

    def hold_after_a_cleaner(file):
        if cleaned:
            return _lock(file)
        part = next(tmp_path.glob(".video.mp4.*.part"))
        with part.open("rb") as cleaner:
            fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            cleaned.append(part)
            if step == "before the lock":
                part.unlink()
                return _lock(file)
            return _lock(file)

    monkeypatch.setattr("magichour_provider.storage.publish._lock", hold_after_a_cleaner)
    writer = LocalWriter(target, tmp_path / "video.mp4", exclusive=False)
    cleaned[0].unlink(missing_ok=True)
    writer.write(video)
    writer.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_bytes() == video


@pytest.mark.parametrize("answer", ["always locked", "not shown yet"])
def test_a_share_that_locks_nothing_or_shows_a_file_late_is_written_to(tmp_path, video, monkeypatch, answer):
    if answer == "always locked":
        monkeypatch.setattr("magichour_provider.storage.publish._lock", lambda file: False)
    else:
        monkeypatch.setattr(Path, "exists", lambda path: False)
    made = []
    monkeypatch.setattr(
        "magichour_provider.storage.publish.temporary_name",
        lambda name: made.append(1) or (f"{len(made)}.part" if len(made) < 9 else pytest.fail("no end")),
    )
    with AtomicDownload(target_at(tmp_path / "video.mp4")) as download:
        download.write(video)
        assert len(list(tmp_path.iterdir())) == 1
        download.publish(len(video))
    assert os.listdir(tmp_path) == ["video.mp4"]  # noqa: PTH208


def test_in_a_store_without_uploads_of_its_own_the_temporary_object_is_removed(memory_store):
    target = resolve_target("memory://bucket/[a]*/video.mp4", "p1")
    name = temporary_name("video.mp4")
    memory_store.pipe(f"/bucket/[a]*/{name}", b"half")
    memory_store.pipe(f"/bucket/ab/{name}", b"another folder's")
    memory_store.pipe(f"/bucket/[a]*/{temporary_name('video-2.mp4')}", b"another target's")
    remove_temporary_files(target)
    left = sorted(memory_store.store)
    assert len(left) == 2
    assert f"/bucket/ab/{name}" in left


def test_a_store_that_cannot_be_read_into_is_no_trouble(memory_store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no right to list")

    monkeypatch.setattr(type(memory_store), "ls", refuse)
    remove_temporary_files(resolve_target("memory://bucket/video.mp4", "p1"))
