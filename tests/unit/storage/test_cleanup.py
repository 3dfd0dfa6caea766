"""What killed landings leave poster_path their target: removed by the next one, and nothing else is."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

import pytest

from magichour_provider.storage.publish import _lock, temporary_name, remove_temporary_files
from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.publish import LocalWriter
from magichour_provider.storage.locations import resolve_target


def target_at(path):
    return resolve_target(str(path), "p1")


def leave_part(path):
    """What a killed landing of `path` leaves."""
    part = path.with_name(temporary_name(path.name))
    part.write_bytes(b"half a clip")
    return part


def test_what_a_dead_writer_has_left_is_removed_and_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    parts = [leave_part(tmp_path / "clip.mp4") for _ in range(3)]
    remove_temporary_files(target_at(tmp_path / "clip.mp4"))
    assert list(tmp_path.iterdir()) == []
    assert all(part.name in caplog.text for part in parts)


def test_what_a_live_writer_writes_stays_and_lands(tmp_path, clip):
    target = target_at(tmp_path / "clip.mp4")
    with AtomicDownload(target) as landing:
        landing.write(clip)
        remove_temporary_files(target)
        landing.publish(len(clip))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_a_live_writer_writes_stays_however_long_it_has_waited(tmp_path, clip):
    target = target_at(tmp_path / "clip.mp4")
    with AtomicDownload(target) as landing:
        landing.write(clip)
        (part,) = tmp_path.iterdir()
        os.utime(part, (time.time() - 48 * 3600,) * 2)
        remove_temporary_files(target)
        assert part.exists()


def test_a_writer_that_ended_in_any_way_leaves_nothing_to_remove(tmp_path, clip):
    for end in (lambda landing: landing.publish(), lambda landing: None):
        with AtomicDownload(target_at(tmp_path / "clip.mp4")) as landing:
            landing.write(clip)
            end(landing)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        ("clip.mp4", ["clip.mp", "clip.mp4.mp4", "lip.mp4", "clip-2.mp4", "CLIP.mp4"]),
        ("a" * 200, ["a" * 199, "a" * 40, "a" * 199 + "b"]),
        ("*", ["a", "**", "?"]),
        ("[a].mp4", ["a.mp4", "[b].mp4"]),
        ("c?ip.mp4", ["clip.mp4"]),
        ("\u732b.mp4", ["\u732b\u732b.mp4"]),
        ("a b#c%20.mp4", ["a b#c.mp4"]),
    ],
)
def test_only_this_targets_leftovers_are_removed(tmp_path, mine, others):
    kept = {leave_part(tmp_path / other).name for other in others}
    leave_part(tmp_path / mine)
    kept.add(f".{mine[:40]}.notes.part")
    (tmp_path / f".{mine[:40]}.notes.part").write_bytes(b"a person's")
    remove_temporary_files(target_at(tmp_path / mine))
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_with_glob_characters_is_one_folder(tmp_path):
    folders = [tmp_path / "[ab]", tmp_path / "a", tmp_path / "*"]
    parts = []
    for folder in folders:
        folder.mkdir()
        parts.append(leave_part(folder / "clip.mp4"))
    remove_temporary_files(target_at(folders[0] / "clip.mp4"))
    assert [part.exists() for part in parts] == [False, True, True]


def test_a_folder_that_is_not_there_is_no_trouble(tmp_path):
    remove_temporary_files(target_at(tmp_path / "no" / "such" / "clip.mp4"))


def test_what_cannot_be_removed_does_not_stop_the_landing(tmp_path, monkeypatch):
    part = leave_part(tmp_path / "clip.mp4")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no right")

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_temporary_files(target_at(tmp_path / "clip.mp4"))
    monkeypatch.undo()
    assert part.exists()


def no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks here")


@pytest.mark.parametrize(("age", "goes"), [(0, False), (23 * 3600, False), (25 * 3600, True)])
def test_where_there_are_no_locks_age_decides(tmp_path, monkeypatch, age, goes):
    part = leave_part(tmp_path / "clip.mp4")
    os.utime(part, (time.time() - age,) * 2)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    remove_temporary_files(target_at(tmp_path / "clip.mp4"))
    assert part.exists() != goes


def test_a_clip_lands_where_there_are_no_locks(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    target = target_at(tmp_path / "clip.mp4")
    with AtomicDownload(target) as landing:
        landing.write(clip)
        remove_temporary_files(target)
        landing.publish()
    assert (tmp_path / "clip.mp4").read_bytes() == clip


@pytest.mark.parametrize("step", ["before the lock", "between lock and removal"])
def test_a_writer_whose_new_file_a_cleaner_takes_begins_another(tmp_path, clip, monkeypatch, step):
    """The cleaner is held at each of its steps, while the writer goes on."""
    target = target_at(tmp_path / "clip.mp4")
    cleaned = []

    def hold_after_a_cleaner(file):
        if cleaned:
            return _lock(file)
        part = next(tmp_path.glob(".clip.mp4.*.part"))
        with part.open("rb") as cleaner:
            fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            cleaned.append(part)
            if step == "before the lock":
                part.unlink()
                return _lock(file)
            return _lock(file)

    monkeypatch.setattr("magichour_provider.storage.publish_local._lock", hold_after_a_cleaner)
    writer = LocalWriter(target, tmp_path / "clip.mp4", exclusive=False)
    cleaned[0].unlink(missing_ok=True)
    writer.write(clip)
    writer.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == clip


def test_in_a_store_without_uploads_of_its_own_the_temporary_object_is_removed(memory_store):
    target = resolve_target("memory://bucket/[a]*/clip.mp4", "p1")
    name = temporary_name("clip.mp4")
    memory_store.pipe(f"/bucket/[a]*/{name}", b"half")
    memory_store.pipe(f"/bucket/ab/{name}", b"another folder's")
    memory_store.pipe(f"/bucket/[a]*/{temporary_name('clip-2.mp4')}", b"another target's")
    remove_temporary_files(target)
    left = sorted(memory_store.store)
    assert len(left) == 2
    assert f"/bucket/ab/{name}" in left


def test_a_store_that_cannot_be_looked_into_is_no_trouble(memory_store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no right to list")

    monkeypatch.setattr(type(memory_store), "glob", refuse)
    remove_temporary_files(resolve_target("memory://bucket/clip.mp4", "p1"))


def test_a_part_is_hidden_and_never_twice_the_same():
    names = {temporary_name("clip.mp4") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".clip.mp4.") for name in names)
