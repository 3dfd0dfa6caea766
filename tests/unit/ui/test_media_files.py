"""Which files the pages open: only videos and posters below the roots, for any path or link."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from magichour_provider.exceptions import ConfigurationError
from magichour_provider.storage.locations import ObjectPath
from magichour_provider.ui.media_files import (
    LOCAL_BLOCK_BYTES,
    MediaRefusedError,
    MediaUnavailableError,
    authorize,
    open_media,
    parse_roots,
)

SHARED = "/data/videos"
PER_DAG = "/data/videos/{dag_id}"
BUCKET = "s3://store@videos/finished/{dag_id}/"
HEAD = b"\0\0\0\x18ftypisom"
VIDEO = HEAD + b"of the Dag"
SECRET = HEAD + b"of another Dag"
JPEG = b"\xff\xd8\xff\xe0 a poster"


def allow(path, roots, *, dag_id="a_dag", rendered_path=None):
    return authorize(path, dag_id=dag_id, rendered_path=rendered_path, roots=parse_roots(roots))


def allowed(path, roots, **task):
    """The allowed location; None if it is refused."""
    try:
        return allow(path, roots, **task).location
    except MediaRefusedError:
        return None


# The setting


def test_setting_has_folders_and_object_storage():
    assert parse_roots("") == parse_roots(" , ,") == ()
    roots = parse_roots(f"{SHARED}/, file:///srv/my%20videos , {BUCKET},gs://google@videos")
    assert [(root.location, root.is_per_dag) for root in roots] == [
        (Path(SHARED), False),
        (Path("/srv/my videos"), False),
        (ObjectPath("s3", "s3://videos/finished/{dag_id}", "store"), True),
        (ObjectPath("gs", "gs://videos", "google"), False),
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (["videos", "./videos", "~/videos", "{dag_id}", "{dag_id}://videos/a"], "absolute"),
        (["/", "file:///"], "must name a folder"),
        (["s3://", "s3://store@", "s3://store@/videos/"], "must name a (folder, or a )?bucket"),
        (["file://host/videos"], "three slashes"),
        (["http://host/videos/", "HTTPS://host/videos/"], "web address"),
        (["s3:/videos/a", "file:/data/videos"], "probably .* is meant"),
        (["s3://videos/a?versionId=1"], "no version"),
        (["/data/{run_id}", "/data/{}", "/data/{dag_id", "/data/{{dag_id}}"], "only placeholder"),
        (["s3://{dag_id}@videos/a", "s3://key:secret@videos/a"], "id of an Airflow connection"),
        (["s3://{dag_id}/a", "s3://store@{dag_id}-videos/a"], "must be below"),
        (["/{dag_id}/", "/{dag_id}", "file:///{dag_id}"], "must be below"),
        (["/data/../etc", "s3://videos/a/../b", "s3://videos/./b"], "empty parts"),
        (["s3://videos//b", "s3://videos/b//"], "empty parts"),
        (["/data/\0videos"], "null character"),
    ],
)
def test_invalid_root_is_an_error_with_the_reason(entries, reason):
    for entry in entries:
        with pytest.raises(ConfigurationError, match=reason) as raised:
            parse_roots(f"/fine, {entry}")
        assert "[magichour] ui_video_roots" in str(raised.value)
        assert "secret" not in str(raised.value)
        assert "onnection; trying" not in str(raised.value)


# The path must be written below a root


@pytest.mark.parametrize("name", ["x.mp4", "2026/b c/\u732b%2e+#.mp4", "[a]*.mp4", "..x", "what?.mp4"])
def test_path_below_a_root_is_allowed_with_the_roots_connection(name):
    path, url = f"/data/videos/a_dag/{name}", f"s3://videos/finished/a_dag/{name}"
    assert allowed(path, PER_DAG) == Path(path)
    assert allowed(url, BUCKET) == ObjectPath("s3", url, "store")


OTHER_PATHS = """
/ /etc/passwd data/videos/a_dag/x.mp4 ~/x.mp4 ~root/x.mp4 a_dag/x.mp4
{root} {root}/ {root}/x.mp4/ {root}/.. {root}/../b_dag/x.mp4 {root}/./x.mp4
{root}/x/../../../../etc/passwd {root}//x.mp4 {root}//etc/passwd file://{root}/x.mp4
{root}-secret/x.mp4 {root}x.mp4 {root}%2Fx.mp4 {root}\\x.mp4
/data/videos/A_DAG/x.mp4 /Data/videos/a_dag/x.mp4 /data/videos/b_dag/x.mp4
/data/videos/{{dag_id}}/x.mp4 /data/videos/*/x.mp4 /data/./videos/a_dag/x.mp4
//data/videos/a_dag/x.mp4 /data/videos/../videos/a_dag/x.mp4 /data/videos%2Fa_dag/x.mp4
file:/data/videos/a_dag/x.mp4 local:///data/videos/a_dag/x.mp4 s3://data/videos/a_dag/x.mp4
s3://videos/other/a_dag/x.mp4 s3://videos2/finished/a_dag/x.mp4 s3:/videos/finished/a_dag/x
S3://videos/finished/a_dag/x.mp4 s3a://videos/finished/a_dag/x.mp4 s3:///videos/finished/a_dag/x
gs://videos/finished/a_dag/x.mp4 https://videos/finished/a_dag/x.mp4
s3://store@videos/finished/a_dag/x.mp4 s3://key:secret@videos/finished/a_dag/x.mp4
s3://videos/finished/a_dag/x.mp4?versionId=1 simplecache::s3://videos/finished/a_dag/x.mp4
"""
ODD = ["", " {root}/x.mp4", "{root}/x.mp4\n", "{root}/x\0.mp4", "{root}/\ud800.mp4", "{root}/x.mp4\x7f"]


@pytest.mark.parametrize("path", [*ODD, *OTHER_PATHS.split()])
def test_any_other_path_is_refused(path):
    for root, setting in (("/data/videos/a_dag", PER_DAG), ("s3://videos/finished/a_dag", BUCKET)):
        text = path.format(root=root)
        assert allowed(text, setting, rendered_path=text) is None


@given(
    st.lists(st.sampled_from(["..", ".", "", "/", "a_dag", "b_dag", "x.mp4", "videos", "~", "%2e%2e", "\0"]))
)
@example(["a_dag", "..", "a_dag", "x.mp4"])
def test_allowed_path_is_below_the_dags_folder(parts):
    path = "/data/videos/" + "/".join(parts)
    location = allowed(path, PER_DAG, rendered_path=path)
    assert location is None or Path(os.path.normpath(path)).is_relative_to("/data/videos/a_dag")


@pytest.mark.parametrize(
    "dag_id", ["", "a_dag\n", "..", ".", "a/b", "a/../b", "/etc", "*", "[ab]_dag", "a?dag", "{dag_id}", "%2e"]
)
def test_dag_id_that_is_no_name_of_a_folder_is_refused(dag_id):
    for path in (f"/data/videos/{dag_id}/x.mp4", "/data/x.mp4", "/data/videos/x.mp4", "/data/videos/b/x.mp4"):
        assert allowed(path, PER_DAG, dag_id=dag_id) is None


@pytest.mark.parametrize("dag_id", ["a", "a.b-c_d", "\u732b", "..a", "A"])
def test_other_dag_ids_are_allowed(dag_id):
    path = f"/data/videos/{dag_id}/x.mp4"
    assert allowed(path, PER_DAG, dag_id=dag_id) == Path(path)
    path, root = f"/data/of-{dag_id}/{dag_id}/x.mp4", "/data/of-{dag_id}/{dag_id}"
    assert allowed(path, root, dag_id=dag_id) == Path(path)
    assert allowed(path, root, dag_id="b") is None


# The Dag's id or the rendered field must confirm it


def test_root_with_the_dag_id_needs_no_rendered_field():
    path = "/data/videos/a_dag/x.mp4"
    for rendered_path in (None, "/elsewhere/"):
        for setting in (PER_DAG, f"{SHARED},{PER_DAG}", f"{PER_DAG},{SHARED}"):
            assert allowed(path, setting, rendered_path=rendered_path) == Path(path)
    assert allowed(path, f"{SHARED},{PER_DAG}", dag_id="b_dag") is None


@pytest.mark.parametrize(
    ("rendered_path", "reason"),
    [(None, "max_num_rendered_ti_fields_per_task"), ("/data/other/", "rendered field `path`")],
)
def test_refusal_names_the_setting_what_is_missing_and_no_path(rendered_path, reason):
    named = rf"{reason}.*{{dag_id}} in \[magichour\] ui_video_roots"
    for roots, message in ((SHARED, named), ("", "ui_video_roots")):
        with pytest.raises(MediaRefusedError, match=message) as refused:
            allow("/data/videos/x.mp4", roots, rendered_path=rendered_path)
        assert "x.mp4" not in str(refused.value)


@pytest.mark.parametrize(
    "rendered_path", ["/data/videos/x.mp4", "/data/videos", "/data/videos/", "/data//videos/./"]
)
def test_rendered_field_confirms_its_folder_or_file(rendered_path):
    for text in (rendered_path, f"file://{rendered_path}"):
        assert allowed("/data/videos/x.mp4", SHARED, rendered_path=text) is not None


CONFIRMS_NOTHING = """
None *** / /data/ /data/videos/y.mp4 /data/videos/x /data/videos/sub/ /data/videos/sub/../ /data/video
/data/videos-2/ /other/x.mp4 videos/ ./ ~unknown-user/ file://host/data/videos/ s3://data/videos/
"""


@pytest.mark.parametrize("rendered_path", ["", *CONFIRMS_NOTHING.split()])
def test_other_rendered_fields_confirm_nothing(rendered_path):
    assert allowed("/data/videos/x.mp4", SHARED, rendered_path=rendered_path) is None


OTHER_NAMES = "x-y.mp4 x-2.mov xx.mp4 x.mp4.mp4 x-2-y.jpg x.png -2.mp4 Xx.mp4"


@pytest.mark.parametrize(
    ("path", "rendered_path"),
    [
        ("/etc/x.mp4", "/etc/"),
        ("/data/videos-secret/x.mp4", "/data/videos-secret/"),
        ("/data/videos/other/x.mp4", "/data/videos/"),
        ("/data/videos/sub-2", "/data/videos/sub/"),
        ("/data/videos/xzy.mp4", "/data/videos/x.y.mp4"),
        ("/data/videos/a.mp4", "/data/videos/.*.mp4"),
        *[(f"/data/videos/{name}", "/data/videos/x.mp4") for name in OTHER_NAMES.split()],
    ],
)
def test_rendered_field_confirms_no_other_folder_or_name(path, rendered_path):
    assert allowed(path, SHARED, rendered_path=rendered_path) is None


@pytest.mark.parametrize("rendered_path", ["s3://any@videos/a/", "s3://videos/a", "S3://any@videos/a/x.mp4"])
def test_rendered_url_confirms_with_any_connection(rendered_path):
    url = "s3://videos/a/x.mp4"
    assert allowed(url, "s3://store@videos", rendered_path=rendered_path) == ObjectPath("s3", url, "store")
    for other in ("s3a://videos/a/", "s3://videos2/a/", "gs://videos/a/", "/videos/a/"):
        assert allowed(url, "s3://store@videos", rendered_path=other) is None


@pytest.mark.parametrize(
    ("path", "stem", "ending"),
    [
        ("/data/videos/", "job1", ".mp4"),
        ("/data/videos/x.mp4", "x", ".mp4"),
        ("/data/videos/x", "x", ""),
        ("/data/videos/.mp4", ".mp4", ""),
    ],
)
def test_each_video_of_a_job_and_its_poster_is_confirmed(path, stem, ending):
    for name in (f"{stem}{ending}", f"{stem}-2{ending}", f"{stem}-11{ending}", f"{stem}-2.jpg"):
        file = f"/data/videos/{name}"
        assert allowed(file, SHARED, rendered_path=path) == Path(file)


# Files


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "videos" / "a_dag"
    folder.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.mp4").write_bytes(SECRET)
    return folder


@pytest.fixture
def open_file(root):
    return lambda path, kind="video": open_media(allow(str(path), f"{root.parent}/{{dag_id}}"), kind)


@pytest.fixture
def opened(monkeypatch):
    """`opened.inodes` of all files, and `opened.before`: what happens before the next part is opened."""
    original = os.open

    def watched(path, *args, **kwargs):
        act = opened.before.pop(path, None)
        if act:
            act()
        descriptor = original(path, *args, **kwargs)
        opened.inodes.append(os.fstat(descriptor).st_ino)
        return descriptor

    opened = watched
    opened.inodes, opened.before = [], {}
    monkeypatch.setattr(os, "open", watched)
    return opened


def content(file):
    return b"".join(file.read(0, file.size))


def open_below(folder):
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return [link for link in links if link.startswith(str(folder))]


def test_video_and_poster_are_opened_and_the_etag_changes_with_the_file(root, open_file):
    path, jpeg = root / "x.mp4", root / "x.jpg"
    path.write_bytes(VIDEO)
    jpeg.write_bytes(JPEG)
    files = [open_file(path), open_file(path), open_file(jpeg, "poster")]
    assert [file.media_type for file in files] == ["video/mp4", "video/mp4", "image/jpeg"]
    assert [content(file) for file in files] == [VIDEO, VIDEO, JPEG]
    path.write_bytes(VIDEO + b".")
    files.append(open_file(path))
    os.utime(path, ns=(1, 1))
    files.append(open_file(path))
    for file in files:
        file.handle.close()
    assert files[0].etag == files[1].etag
    assert len({file.etag for file in files}) == 4


@pytest.mark.parametrize("kind", ["video", "poster"])
@pytest.mark.parametrize(
    "head", [b"", b"ftyp", b"root:x:0:0", b"---ftyp-", b"\x89PNG\r\n\x1a\n0000", b"\xff\xd8"]
)
def test_other_kinds_of_files_are_refused(root, open_file, kind, head):
    (root / "x").write_bytes(head)
    with pytest.raises(MediaRefusedError, match=r"no (mp4|JPEG)") as refused:
        open_file(root / "x", kind)
    assert "root:x" not in str(refused.value)
    (root / "x").write_bytes(JPEG if kind == "video" else VIDEO)
    with pytest.raises(MediaRefusedError, match=r"no (mp4|JPEG)"):
        open_file(root / "x", kind)
    assert open_below(root) == []


def test_missing_file_is_refused_and_a_disk_error_is_temporary(root, open_file, monkeypatch):
    for path in (root / "x.mp4", root / "sub" / "x.mp4", root / ("x" * 300)):
        with pytest.raises(MediaRefusedError, match="cannot read the file"):
            open_file(path)

    def fail(*args):
        raise OSError(5, "Input/output error")

    (root / "x.mp4").write_bytes(VIDEO)
    monkeypatch.setattr(os, "fstat", fail)
    with pytest.raises(MediaUnavailableError, match="Input/output error"):
        open_file(root / "x.mp4")


def test_folders_pipes_sockets_and_devices_are_not_opened(root, open_file, opened, monkeypatch):
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("folder", "pipe", "socket"):
            with pytest.raises(MediaRefusedError, match="no regular file"):
                open_file(root / name)
    assert (root / "pipe").stat().st_ino not in opened.inodes
    with pytest.raises(MediaRefusedError, match="no regular file"):
        open_media(allow("/dev/zero", "/dev", rendered_path="/dev/"))


# Links


@pytest.mark.parametrize(
    "target", ["../../secret/x.mp4", "y.mp4", "{tmp}/secret/x.mp4", "/dev/zero", "x.mp4"]
)
def test_link_instead_of_a_file_is_refused(root, open_file, opened, tmp_path, target):
    (root / "y.mp4").write_bytes(VIDEO)
    (root / "x.mp4").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(MediaRefusedError, match="no regular file"):
        open_file(root / "x.mp4")
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


@pytest.mark.parametrize("target", ["../../secret", "{tmp}/secret", "../a_dag-secret", "../b_dag"])
def test_folder_that_leads_out_of_the_root_is_refused(root, open_file, tmp_path, target):
    for name in ("a_dag-secret", "b_dag"):
        root.with_name(name).mkdir()
        (root.with_name(name) / "x.mp4").write_bytes(SECRET)
    (root / "sub").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(MediaRefusedError, match="leads out"):
        open_file(root / "sub" / "x.mp4")


def test_root_may_be_a_link_and_links_inside_are_followed(root, open_file, tmp_path):
    real = tmp_path / "real"
    (real / "a_dag" / "2026").mkdir(parents=True)
    (real / "a_dag" / "latest").symlink_to("2026")
    (real / "a_dag" / "2026" / "x.mp4").write_bytes(VIDEO)
    root.rmdir()
    root.parent.rmdir()
    root.parent.symlink_to(real)
    path = f"{root}/latest/x.mp4"
    assert content(open_file(path)) == VIDEO
    shared = allow(path, f"{root.parent}/a_dag/latest", rendered_path=path)
    assert content(open_media(shared)) == VIDEO


@pytest.mark.parametrize("target", ["../secret", "b_dag", "{tmp}", "/proc/self/cwd"])
def test_folder_of_a_dag_may_not_be_a_link(root, open_file, opened, tmp_path, target):
    root.with_name("b_dag").mkdir()
    for folder in (root.with_name("b_dag"), tmp_path):
        (folder / "x.mp4").write_bytes(SECRET)
    root.rmdir()
    root.symlink_to(target.format(tmp=tmp_path))
    secret = {file.stat().st_ino for file in tmp_path.rglob("x.mp4")}
    with pytest.raises(MediaRefusedError):
        open_file(root / "x.mp4")
    assert secret.isdisjoint(opened.inodes)


def test_percent_signs_are_not_decoded(root, open_file):
    for path in (f"{root}/%2e%2e/%2e%2e/secret/x.mp4", f"{root}/..%2f..%2fsecret%2fx.mp4"):
        with pytest.raises(MediaRefusedError):
            open_file(path)
    (root / "%2e%2e").mkdir()
    (root / "%2e%2e" / "x.mp4").write_bytes(VIDEO)
    assert content(open_file(f"{root}/%2e%2e/x.mp4")) == VIDEO


# Changes during the check


@pytest.mark.parametrize("part", ["a_dag", "sub", "x.mp4"])
def test_part_that_becomes_a_link_after_the_check_is_not_followed(root, open_file, opened, tmp_path, part):
    (root / "sub").mkdir()
    (root / "sub" / "x.mp4").write_bytes(VIDEO)
    path = {"a_dag": root, "sub": root / "sub", "x.mp4": root / "sub" / "x.mp4"}[part]

    def swap():
        path.rename(path.with_name("was"))
        path.symlink_to(tmp_path / "secret" / ("x.mp4" if part == "x.mp4" else ""))

    opened.before[part] = swap
    with pytest.raises(MediaRefusedError):
        open_file(root / "sub" / "x.mp4")
    assert opened.before == {}
    assert (tmp_path / "secret" / "x.mp4").stat().st_ino not in opened.inodes


@pytest.mark.parametrize("becomes", ["another file", "a pipe"])
def test_file_that_is_replaced_after_the_check_is_refused_without_waiting(
    root, open_file, opened, tmp_path, becomes
):
    path, errors = root / "x.mp4", []
    path.write_bytes(VIDEO)

    def swap():
        path.rename(root / "was.mp4")
        os.link(tmp_path / "secret" / "x.mp4", path) if becomes == "another file" else os.mkfifo(path)

    def attempt():
        try:
            open_file(path)
        except MediaRefusedError as error:
            errors.append(str(error))

    opened.before["x.mp4"] = swap
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "waits for the other end of a pipe"
    assert open_below(tmp_path) == []
    assert errors == ["The file was replaced while it was opened. Load the page again."]


def test_file_that_changes_while_it_is_read(root, open_file):
    path, body = root / "x.mp4", HEAD + b"1" * 3 * LOCAL_BLOCK_BYTES
    path.write_bytes(body)
    replaced, cut = open_file(path), open_file(path)
    blocks, cut_blocks = replaced.read(0, replaced.size), cut.read(0, cut.size)
    first = next(blocks)
    next(cut_blocks)
    (root / "new").write_bytes(HEAD + b"2" * 3 * LOCAL_BLOCK_BYTES)
    old = path.rename(root / "old")
    (root / "new").rename(path)
    assert first + b"".join(blocks) == body
    os.truncate(old, 100)
    with pytest.raises(MediaUnavailableError, match="shorter"):
        list(cut_blocks)


def test_every_file_is_closed(root, open_file):
    (root / "x.mp4").write_bytes(HEAD + bytes(5 * LOCAL_BLOCK_BYTES))
    kept = [open_file(root / "x.mp4") for _ in range(3)]  # referenced, so not closed by the garbage collector
    assert open_below(root) == [str(root / "x.mp4")] * 3
    sizes = [len(block) for block in kept[0].read(0, kept[0].size)]
    assert sizes == [*[LOCAL_BLOCK_BYTES] * 5, len(HEAD)]
    kept[1].handle.close()
    blocks = kept[2].read(0, 2 * LOCAL_BLOCK_BYTES)
    next(blocks)
    blocks.close()
    kept[2].handle.close()
    assert open_below(root) == []


# Object storage


def test_objects_are_read_with_any_driver(memory_store):
    memory_store.pipe_file("/videos/a_dag/x.mp4", VIDEO)
    memory_store.pipe_file("/videos/b_dag/x.mp4", SECRET)

    def open_url(url, root="memory://some_store@videos/{dag_id}"):
        return open_media(allow(url, root))

    file = open_url("memory://videos/a_dag/x.mp4")
    assert (file.size, file.media_type) == (len(VIDEO), "video/mp4")
    assert b"".join(file.read(3, 9)) == VIDEO[3:9]
    for url in ("memory://videos/b_dag/x.mp4", "memory://videos/a_dag/none.mp4", "memory://videos/a_dag"):
        with pytest.raises(MediaRefusedError):
            open_url(url)
    with pytest.raises(MediaRefusedError, match="no driver for nosuch:// is installed"):
        open_url("nosuch://videos/a_dag/x.mp4", "nosuch://conn@videos/{dag_id}")
