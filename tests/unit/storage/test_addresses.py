"""An address means what it says, at every argument that takes one, or one of our errors says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magichour_provider.exceptions import (
    DestinationError,
    ImageError,
    InvalidRequestError,
    MagicHourError,
    PictureError,
)
from magichour_provider.jobs.state import FileBackend
from magichour_provider.storage.contact_sheets import ListedVideo, make_contact_sheet
from magichour_provider.storage.frames import read_frames
from magichour_provider.storage.images import open_image
from magichour_provider.storage.locations import ObjectPath, parse_location, redact
from magichour_provider.storage.posters import make_poster, picture_target
from magichour_provider.storage.targets import resolve_target
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

TAKERS = {
    "image": (open_image, ImageError),
    "path of a video": (lambda address: resolve_target(address, "p1"), DestinationError),
    "path of a sheet": (lambda address: picture_target(address, folder_name="sheet.jpg"), DestinationError),
    "path of a poster": (picture_target, DestinationError),
    "video": (lambda address: read_frames(address, [0], within=(9, 9)), PictureError),
    "video of a poster": (lambda address: make_poster(address, path="/tmp/x.jpg"), PictureError),
    "video of a sheet": (
        lambda address: make_contact_sheet([ListedVideo(address)], "/tmp/x.jpg"),
        PictureError,
    ),
    "state_path": (lambda address: FileBackend(address).read(), InvalidRequestError),
}
AZURE = "account.dfs.core.windows.net"
BLOB = "iVBORw0KGgo" * 2000
REFUSED = {
    "s3:/bucket/a/": "probably s3://bucket/a/ is meant",
    "s3:bucket/a.png": "probably s3://bucket/a.png is meant",
    "s3//bucket/a.png": "probably s3://bucket/a.png is meant",
    "s3:///bucket/a.png": "as in s3://bucket/a.png",
    "GS:/bucket/a.png": "probably gs://bucket/a.png is meant",
    "other:/bucket/a.png": "probably other://bucket/a.png is meant",
    "s3:/key@bucket/a.png?sig=SECRET": "probably s3://bucket/a.png is meant",
    "file:/data/a.png": "probably file:///data/a.png is meant",
    "file:data/a.png": "it lacks the ':///' of a URL",
    "file://data/a.png": "three slashes before its absolute path",
    "https:/host/a.png": "probably https://host/a.png is meant",
    "s3://": "must name a bucket",
    "s3://key:SECRET@bucket/a.png": "must be the id of an Airflow connection",
    "s3 ://bucket/a.png": "probably s3://bucket/a.png is meant",
    "arn:aws:s3:::bucket/a.png": "probably s3://bucket/a.png is meant",
    "gs://bucket/a.png?generation=7": "a version can be selected in S3 only",
    "gs://bucket/a.png?generation=": "a version can be selected in S3 only",
    "s3://bucket/a.png?versionId=": "'?versionId=' and one version",
    "s3://bucket/a.png?versionId=None": "'?versionId=' and one version",
    "s3://bucket/a.png?versionId=a/b": "'?versionId=' and one version",
    "s3://bucket/a.png?versionId=V&x=1": "'?versionId=' and one version",
    "s3://bucket/a.png?x=1&versionId=V": "'?versionId=' and one version",
    "s3://bucket/a.png?versionId=V#f": "'?versionId=' and one version",
    "/data/{{ ds }}/a.png": "a template or a variable that nothing has replaced",
    "$DATA/a.png": "a template or a variable that nothing has replaced",
    "${HOME}/a.png": "a template or a variable that nothing has replaced",
    "/data/$DATA/a.png": "a template or a variable that nothing has replaced",
    "%(folder)s/a.png": "a template or a variable that nothing has replaced",
    "None/a.png": "as if a template had found no value",
    "s3://None/a.png": "as if a template had found no value",
    "undefined/a.png": "as if a template had found no value",
    "<no value>/a.png": "as if a template had found no value",
    "['/data/a.png']": "the text of a Python object",
    "{'path': '/data/a.png'}": "the text of a Python object",
    "PosixPath('/data/a.png')": "the text of a Python object",
    "[PosixPath('/data/a.png')]": "the text of a Python object",
    "~nosuchuser/a.png": "give an absolute path",
    "C:\\data\\a.png": "a path of Windows",
    "\\\\server\\share\\a.png": "a path of Windows",
    "/data/\0.png": "null character",
    f"data:image/png;base64,{BLOB}": "a data: URL contains the file itself",
    "DATA:image/png;base64,AAAA": "a data: URL contains the file itself",
    BLOB: "more than any path",
    "": "the path is empty",
    " None\n": "the path is empty",
    b"/data/a.png": "it is of type bytes, not a path",
    7: "it is of type int, not a path",
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("address", REFUSED, ids=lambda address: repr(address)[:40])
def test_false_address_is_refused(taker, address):
    take, kind = TAKERS[taker]
    with pytest.raises(kind) as refused:
        take(address)
    assert REFUSED[address] in refused.value.what
    assert not refused.value.retryable
    assert len(str(refused.value)) < 700
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("taker", TAKERS)
def test_home_of_a_user_without_one_is_refused(taker, monkeypatch):
    def no_home(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)
    take, kind = TAKERS[taker]
    with pytest.raises(kind, match="give an absolute path"):
        take("~/a.png")


STARTS = ["", "~", "/", "./", "/proc/", "file:", "file://", "s3:", "nostore://", "data:", "C:"]
ODD = st.one_of(
    st.builds(
        "".join, st.lists(st.one_of(st.sampled_from([*STARTS, "..", "?", "a" * 300]), st.text(max_size=9)))
    ),
    st.text(st.characters(codec=None), max_size=50),
    st.binary(max_size=9),
    st.none() | st.integers() | st.builds(Path, st.text(max_size=9)),
)


@pytest.mark.parametrize("taker", TAKERS)
@settings(deadline=None)
@given(address=ODD)
def test_odd_address_ends_in_one_of_our_errors(taker, address):
    """Stores that would be asked over the network are left out."""
    try:
        TAKERS[taker][0](address)
    except MagicHourError as error:
        message = str(error)
    else:
        message = ""
    assert len(message) < 1500
    message.encode()


def test_an_error_below_a_place_is_ours_also_without_a_working_directory(tmp_path, monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(DestinationError):
        resolve_target("video.mp4", "p1")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (" /data/a.png\n", Path("/data/a.png")),
        ("\ufeff/data/a.png\u200b \u2060", Path("/data/a.png")),
        ("a:b.png", Path("a:b.png")),
        ("(a) [b].png", Path("(a) [b].png")),
        ("$RECYCLE.BIN/a.png", Path("$RECYCLE.BIN/a.png")),
        ("2026-11-28T10:00/a.png", Path("2026-11-28T10:00/a.png")),
        ("file:///a%20b?c#d", Path("/a b?c#d")),
        ("s3://b/what?.png", ObjectPath("s3", "s3://b/what?.png")),
        ("s3://b/a%20b#1.png\t", ObjectPath("s3", "s3://b/a%20b#1.png")),
        ("s3://b/a.png?versionID=x", ObjectPath("s3", "s3://b/a.png?versionId=x")),
        ("s3://b/a.png?x=1", ObjectPath("s3", "s3://b/a.png?x=1")),
        ("s3n://c@b/x", ObjectPath("s3", "s3://b/x", "c")),
        ("s3://None@b/x", ObjectPath("s3", "s3://b/x")),
        ("abfs://$web/x", ObjectPath("abfs", "abfs://$web/x")),
        ("abfs://c@in/x", ObjectPath("abfs", "abfs://in/x", "c")),
        (f"abfs://in@{AZURE}/x", ObjectPath("abfs", f"abfs://in@{AZURE}/x")),
        (f"abfss://c@in@{AZURE}/x", ObjectPath("abfss", f"abfss://in@{AZURE}/x", "c")),
        (f"az://{AZURE}/in/x", ObjectPath("az", f"az://{AZURE}/in/x")),
        ("s3://my.bucket.test", ObjectPath("s3", "s3://my.bucket.test/")),
        (Path("/data/a"), Path("/data/a")),
    ],
)
def test_address_means_what_it_says(address, place):
    assert parse_location(address) == place


@pytest.mark.parametrize("nothing", [None, "", " ", "None", " None "])
def test_connection_that_renders_to_nothing_is_the_one_in_the_url(nothing):
    assert parse_location("s3://minio@bucket/x", nothing).conn_id == "minio"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{tmp}/out/\n", "{tmp}/out/p1.mp4"),
        ("{tmp}/out", "{tmp}/out"),
        ("{tmp}/there", "{tmp}/there/p1.mp4"),
        ("{tmp}/a/b/video.mp4", "{tmp}/a/b/video.mp4"),
        ("file://{tmp}/a%20b/", "{tmp}/a b/p1.mp4"),
        (Path("{tmp}/out"), "{tmp}/out/p1.mp4"),
        (Path("{tmp}/file"), "{tmp}/file"),
        (Path("{tmp}/a.mp4"), "{tmp}/a.mp4"),
        ("s3://my.bucket.test", "s3://my.bucket.test/p1.mp4"),
        ("s3://bucket/videos/", "s3://bucket/videos/p1.mp4"),
        ("s3://conn@bucket/videos/x.mp4", "s3://bucket/videos/x.mp4"),
        ("memory://bucket", "memory://bucket/p1.mp4"),
    ],
)
@pytest.mark.usefixtures("memory_store")
def test_target_is_a_file_or_in_a_folder(tmp_path, path, expected):
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    given = type(path)(str(path).format(tmp=tmp_path))
    assert resolve_target(given, "p1").path == expected.format(tmp=tmp_path)


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 cannot create one with current upath")
@pytest.mark.usefixtures("memory_store")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://bucket/out/", "memory://bucket/out/p1.mp4"),
        ("memory://bucket/a.mp4", "memory://bucket/a.mp4"),
        ("file://{tmp}/out/", "{tmp}/out/p1.mp4"),
        ("file://{tmp}/a b?.mp4", "{tmp}/a b?.mp4"),
    ],
)
def test_object_storage_path_means_what_its_text_says(tmp_path, url, expected):
    from airflow.sdk import ObjectStoragePath

    given = ObjectStoragePath(url.format(tmp=tmp_path))
    if str(given).startswith("memory:///"):
        pytest.skip("the text of this version of upath has no bucket")
    assert resolve_target(given, "p1").path == expected.format(tmp=tmp_path)


def test_version_is_read_and_never_written():
    assert parse_location("s3://b/x.png?versionId=abc").has_version
    with pytest.raises(DestinationError, match="can only be read"):
        resolve_target("s3://b/x.mp4?versionId=abc", "p1")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("s3://b/what?.png", "s3://b/what?.png"),
        (f"abfs://conn@in@{AZURE}/x", f"abfs://in@{AZURE}/x"),
        (f"abfs://key:SECRET@{AZURE}/x", f"abfs://{AZURE}/x"),
        ("s3://b/x.png?versionId=abc", "s3://b/x.png?versionId=abc"),
        ("/data/x.png?sig=SECRET", "/data/x.png?..."),
        ("caf\udce9.png", "caf\\udce9.png"),
        ("x" * 5000, f"{'x' * 100}…{'x' * 40}"),
        (f"data:image/png;base64,{BLOB}", "data:image/png;base64,…"),
        (b"x", "(bytes)"),
    ],
)
def test_address_is_shown_short_and_without_secrets(path, shown):
    assert redact(path) == shown
