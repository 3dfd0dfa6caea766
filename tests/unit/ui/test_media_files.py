"""Opening landed files: nothing but clips and posters, whatever is put in the way."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from magichour_provider.ui.media_files import (
    LOCAL_BLOCK_BYTES,
    MediaRefusedError,
    MediaUnavailableError,
    open_media,
    parse_roots,
)

HEAD = b"\0\0\0\x18ftypisom"
CLIP = HEAD + b"of the Dag"
SECRET = HEAD + b"of somebody else"
JPEG = b"\xff\xd8\xff\xe0 a poster"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "clips" / "a_dag"
    folder.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.mp4").write_bytes(SECRET)
    return folder


@pytest.fixture
def look(root):
    roots = parse_roots(f"{root.parent}/{{dag_id}}")

    def look(path, kind="video"):
        return open_media(str(path), dag_id="a_dag", rendered_path=None, roots=roots, kind=kind)

    return look


@pytest.fixture
def opened(monkeypatch):
    """The inodes of all files that were opened, and a place for what happens just before."""
    inodes, before, really = [], [], os.open

    def watched(path, *args, **kwargs):
        for act in before:
            act(path)
        descriptor = really(path, *args, **kwargs)
        inodes.append(os.fstat(descriptor).st_ino)
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    watched.inodes, watched.before = inodes, before
    return watched


def content(clip):
    return b"".join(clip.read(0, clip.size))


# --- what is there


def test_a_clip_is_opened_with_all_that_an_answer_needs(root, look):
    (root / "x.mp4").write_bytes(CLIP)
    os.utime(root / "x.mp4", (1_700_000_000.5, 1_700_000_000.5))
    clip = look(root / "x.mp4")
    assert (clip.name, clip.size, clip.media_type) == ("x.mp4", len(CLIP), "video/mp4")
    assert content(clip) == CLIP


def test_a_poster_is_opened_as_a_jpeg(root, look):
    (root / "x.jpg").write_bytes(JPEG)
    poster = look(root / "x.jpg", "poster")
    assert (poster.media_type, content(poster)) == ("image/jpeg", JPEG)


def test_the_etag_changes_with_the_file_and_with_nothing_else(root, look):
    path = root / "x.mp4"
    path.write_bytes(CLIP)
    first = look(path)
    again = look(path)
    path.write_bytes(CLIP + b".")
    longer = look(path)
    os.utime(path, ns=(1, 1))
    older = look(path)
    for clip in (first, again, longer, older):
        clip.close()
    assert first.etag == again.etag
    assert len({first.etag, longer.etag, older.etag}) == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"ftyp", b"root:x:0:0", JPEG, b"\0\0\0\x18moov----", b"\x89PNG\r\n\x1a\n0000", b"ftypftyp"],
)
def test_what_does_not_start_like_an_mp4_is_no_clip(root, look, content):
    if content == b"ftypftyp":
        content = b"---ftyp-"
    (root / "x.mp4").write_bytes(content)
    with pytest.raises(MediaRefusedError, match="no mp4") as refused:
        look(root / "x.mp4")
    assert "root:x" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"root:x:0:0", CLIP, b"\x89PNG\r\n\x1a\n0000", b"\xff\xd8"])
def test_what_does_not_start_like_a_jpeg_is_no_poster(root, look, content):
    (root / "x.jpg").write_bytes(content)
    with pytest.raises(MediaRefusedError, match="no JPEG"):
        look(root / "x.jpg", "poster")


def test_what_is_not_there_is_refused_in_words(root, look):
    for path in (root / "x.mp4", root / "sub" / "x.mp4", root / ("x" * 300)):
        with pytest.raises(MediaRefusedError, match="cannot read the file"):
            look(path)


def test_a_root_that_the_api_server_does_not_have_is_said_to_be_missing(tmp_path):
    roots = parse_roots(f"{tmp_path}/nowhere/{{dag_id}}")
    with pytest.raises(MediaRefusedError, match="does not exist"):
        open_media(f"{tmp_path}/nowhere/a/x.mp4", dag_id="a", rendered_path=None, roots=roots)


def test_a_disk_in_trouble_is_no_refusal(root, look, monkeypatch):
    (root / "x.mp4").write_bytes(CLIP)

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(MediaUnavailableError, match="Input/output error"):
        look(root / "x.mp4")


# --- what is no file


def test_folders_pipes_sockets_and_devices_are_refused_and_never_opened(root, look, opened, monkeypatch):
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("folder", "pipe", "socket"):
            with pytest.raises(MediaRefusedError, match="no regular file"):
                look(root / name)
    assert (root / "pipe").stat().st_ino not in opened.inodes


def test_a_device_is_refused():
    with pytest.raises(MediaRefusedError, match="no regular file"):
        open_media("/dev/zero", dag_id="a", rendered_path="/dev/", roots=parse_roots("/dev"))


# --- links


@pytest.mark.parametrize(
    "target", ["../../secret/x.mp4", "y.mp4", "{tmp}/secret/x.mp4", "/dev/zero", "x.mp4"]
)
def test_a_link_in_place_of_a_clip_is_refused_wherever_it_leads(root, look, opened, tmp_path, target):
    (root / "y.mp4").write_bytes(CLIP)
    (root / "x.mp4").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(MediaRefusedError, match="no regular file"):
        look(root / "x.mp4")
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


@pytest.mark.parametrize("target", ["../../secret", "{tmp}/secret", "../../secret/../secret"])
def test_a_folder_that_leads_out_of_the_root_is_refused(root, look, tmp_path, target):
    (root / "sub").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(MediaRefusedError, match="leads out"):
        look(root / "sub" / "x.mp4")


def test_a_folder_that_leads_to_one_with_the_roots_name_at_its_start_is_refused(root, look):
    beside = root.with_name("a_dag-secret")
    beside.mkdir()
    (beside / "x.mp4").write_bytes(SECRET)
    (root / "sub").symlink_to(beside)
    with pytest.raises(MediaRefusedError, match="leads out"):
        look(root / "sub" / "x.mp4")


def test_a_folder_that_leads_to_another_dags_is_refused(root, look):
    other = root.with_name("b_dag")
    other.mkdir()
    (other / "x.mp4").write_bytes(SECRET)
    (root / "sub").symlink_to(other)
    with pytest.raises(MediaRefusedError, match="leads out"):
        look(root / "sub" / "x.mp4")


def test_what_the_setting_names_may_be_a_link_and_so_may_a_folder_within(root, look, tmp_path):
    real = tmp_path / "real"
    (real / "a_dag" / "2026").mkdir(parents=True)
    (real / "a_dag" / "latest").symlink_to("2026")
    (real / "a_dag" / "2026" / "x.mp4").write_bytes(CLIP)
    root.rmdir()
    root.parent.rmdir()
    root.parent.symlink_to(real)
    assert content(look(root / "latest" / "x.mp4")) == CLIP
    shared = parse_roots(f"{root.parent}/a_dag/latest")
    shared_path = f"{root}/latest/x.mp4"
    clip = open_media(shared_path, dag_id="a_dag", rendered_path=shared_path, roots=shared)
    assert content(clip) == CLIP


@pytest.mark.parametrize("target", ["../secret", "b_dag", "{tmp}", "/proc/self/cwd"])
def test_a_dags_own_folder_may_not_be_a_link_to_anywhere_else(root, look, opened, tmp_path, target):
    for place in (root.with_name("b_dag"), tmp_path / "secret"):
        place.mkdir(exist_ok=True)
        (place / "x.mp4").write_bytes(SECRET)
    (tmp_path / "x.mp4").write_bytes(SECRET)
    root.rmdir()
    root.symlink_to(target.format(tmp=tmp_path))
    secret = {file.stat().st_ino for file in tmp_path.rglob("x.mp4")}
    with pytest.raises(MediaRefusedError):
        look(root / "x.mp4")
    assert secret.isdisjoint(opened.inodes)


def test_a_dags_own_folder_that_becomes_a_link_after_it_was_looked_at_is_not_followed(
    root, look, opened, tmp_path
):
    (root / "x.mp4").write_bytes(CLIP)

    def swap(path):
        opened.before.clear()
        root.rename(root.with_name("was"))
        root.symlink_to(tmp_path / "secret")

    opened.before.append(swap)
    with pytest.raises(MediaRefusedError):
        look(root / "x.mp4")
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


def test_percent_signs_are_not_decoded(root, look, tmp_path):
    for path in (f"{root}/%2e%2e/%2e%2e/secret/x.mp4", f"{root}/..%2f..%2fsecret%2fx.mp4"):
        with pytest.raises(MediaRefusedError):
            look(path)
    (root / "%2e%2e").mkdir()
    (root / "%2e%2e" / "x.mp4").write_bytes(CLIP)
    assert content(look(f"{root}/%2e%2e/x.mp4")) == CLIP


# --- what is exchanged meanwhile


def test_a_folder_that_becomes_a_link_after_it_was_looked_at_is_not_followed(root, look, opened, tmp_path):
    (root / "sub").mkdir()
    (root / "sub" / "x.mp4").write_bytes(CLIP)

    def swap(path):
        if path == "sub":
            opened.before.clear()
            (root / "sub").rename(root / "was")
            (root / "sub").symlink_to(tmp_path / "secret")

    opened.before.append(swap)
    with pytest.raises(MediaRefusedError):
        look(root / "sub" / "x.mp4")
    assert opened.before == []
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


def test_a_clip_that_becomes_a_link_after_it_was_looked_at_is_not_followed(root, look, opened, tmp_path):
    (root / "x.mp4").write_bytes(CLIP)

    def swap(path):
        if path == "x.mp4":
            opened.before.clear()
            (root / "x.mp4").unlink()
            (root / "x.mp4").symlink_to(tmp_path / "secret" / "x.mp4")

    opened.before.append(swap)
    with pytest.raises(MediaRefusedError):
        look(root / "x.mp4")
    assert opened.before == []
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


@pytest.mark.parametrize("becomes", ["another file", "a pipe"])
def test_a_clip_that_is_exchanged_after_it_was_looked_at_is_refused_without_waiting(
    root, look, opened, tmp_path, becomes
):
    (root / "x.mp4").write_bytes(CLIP)
    outside = tmp_path / "secret" / "x.mp4"

    def swap(path):
        if path == "x.mp4":
            opened.before.clear()
            (root / "x.mp4").rename(root / "was.mp4")
            os.link(outside, root / "x.mp4") if becomes == "another file" else os.mkfifo(root / "x.mp4")

    opened.before.append(swap)
    errors = []

    def attempt():
        try:
            look(root / "x.mp4")
        except MediaRefusedError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "waits for the other end of a pipe"
    assert open_files(tmp_path) == []
    assert [str(error) for error in errors] == [
        "The file was replaced while it was opened. Load the page again."
    ]


def test_a_clip_that_is_replaced_while_it_is_read_is_read_to_its_own_end(root, look):
    path = root / "x.mp4"
    path.write_bytes(HEAD + b"1" * 3 * LOCAL_BLOCK_BYTES)
    clip = look(path)
    blocks = clip.read(0, clip.size)
    first = next(blocks)
    (root / "new").write_bytes(HEAD + b"2" * 3 * LOCAL_BLOCK_BYTES)
    (root / "new").rename(path)
    assert first + b"".join(blocks) == HEAD + b"1" * 3 * LOCAL_BLOCK_BYTES


def test_a_clip_that_is_cut_while_it_is_read_ends_in_an_error(root, look):
    path = root / "x.mp4"
    path.write_bytes(HEAD + b"1" * 3 * LOCAL_BLOCK_BYTES)
    clip = look(path)
    blocks = clip.read(0, clip.size)
    next(blocks)
    os.truncate(path, 100)
    with pytest.raises(MediaUnavailableError, match="shorter"):
        list(blocks)


# --- handles


def open_files(folder):
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return [link for link in links if link.startswith(str(folder))]


def test_nothing_stays_open_however_it_ends(root, look):
    (root / "x.mp4").write_bytes(HEAD + b"1" * 3 * LOCAL_BLOCK_BYTES)
    (root / "text.mp4").write_bytes(b"text")
    kept = [look(root / "x.mp4") for _ in range(3)]  # so that nothing is closed for want of a reference
    assert open_files(root) == [str(root / "x.mp4")] * 3
    content(kept[0])
    kept[1].close()
    blocks = kept[2].read(0, 2 * LOCAL_BLOCK_BYTES)
    next(blocks)
    blocks.close()
    kept[2].close()
    assert open_files(root) == []


@pytest.mark.parametrize("name", ["text.mp4", "none.mp4", "sub/text.mp4"])
def test_nothing_stays_open_after_a_refusal(root, look, name):
    (root / "sub").mkdir()
    for folder in (root, root / "sub"):
        (folder / "text.mp4").write_bytes(b"text")
    with pytest.raises(MediaRefusedError) as refused:
        look(root / name)
    assert open_files(root) == []
    assert refused.tb is not None  # keeps all that was at hand


def test_blocks_are_small(root, look):
    (root / "x.mp4").write_bytes(HEAD + bytes(5 * LOCAL_BLOCK_BYTES))
    clip = look(root / "x.mp4")
    sizes = [len(block) for block in clip.read(0, clip.size)]
    assert sizes == [*[LOCAL_BLOCK_BYTES] * 5, len(HEAD)]


def test_objects_are_read_by_any_driver(memory_store):
    memory_store.pipe_file("/clips/a_dag/x.mp4", CLIP)
    memory_store.pipe_file("/clips/b_dag/x.mp4", SECRET)
    roots = parse_roots("memory://some_store@clips/{dag_id}")
    clip = open_media("memory://clips/a_dag/x.mp4", dag_id="a_dag", rendered_path=None, roots=roots)
    assert (clip.name, clip.size, clip.media_type) == ("x.mp4", len(CLIP), "video/mp4")
    assert b"".join(clip.read(3, 9)) == CLIP[3:9]
    for url in ("memory://clips/b_dag/x.mp4", "memory://clips/a_dag/none.mp4", "memory://clips/a_dag"):
        with pytest.raises(MediaRefusedError):
            open_media(url, dag_id="a_dag", rendered_path=None, roots=roots)


def test_a_store_without_a_driver_is_said_to_have_none():
    roots = parse_roots("nosuch://conn@clips/{dag_id}")
    with pytest.raises(MediaRefusedError, match="no driver for nosuch:// is installed"):
        open_media("nosuch://clips/a/x.mp4", dag_id="a", rendered_path=None, roots=roots)
