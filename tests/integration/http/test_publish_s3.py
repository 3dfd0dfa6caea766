"""Videos to S3 and images from it, by a real client and a local server."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import httpx
import pytest

from magichour_provider import exceptions as errors
from magichour_provider.storage.download import AtomicDownload
from magichour_provider.storage.images import open_image
from magichour_provider.storage.locations import open_for_reading
from magichour_provider.storage.publish import PART_BYTES, S3Writer, remove_temporary_files
from magichour_provider.storage.targets import resolve_target

MIB = 1 << 20
VIDEOS = {"method": "GET", "origin": "storage", "path": "*/output.mp4"}
UPLOADS = {"method": "PUT", "origin": "storage", "path": "*"}
IMAGE = "dags_examples/images/grace_hopper.jpg"
MULTIPART = 2 * PART_BYTES
SIZES = pytest.mark.parametrize("padding", [0, MULTIPART], ids=["one put", "multipart"])


@pytest.fixture
def hook(hook, s3):
    return hook


@pytest.fixture
def content_of(magic):
    def content_of(project_id):
        return magic.files.get(magic.get(project_id)["download"]["url"]).content

    return content_of


@pytest.fixture
def objects(s3):
    """What is in the bucket: the contents by their keys."""

    def objects():
        listed = s3.list_objects_v2(Bucket="videos").get("Contents", [])
        return {
            entry["Key"]: s3.get_object(Bucket="videos", Key=entry["Key"])["Body"].read() for entry in listed
        }

    return objects


@pytest.fixture
def uploads(s3):
    """The keys of the uploads that no user has ended."""
    return lambda: [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="videos").get("Uploads", [])]


def etag_of(s3, key):
    return s3.head_object(Bucket="videos", Key=key)["ETag"]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


# --- download


@SIZES
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
def test_a_video_arrives_in_s3(hook, order, content_of, objects, uploads, s3, padding, if_exists):
    project_id = order(padding)
    saved = hook.download(project_id, "s3://videos/a/", path_conn_id="s3", if_exists=if_exists)
    content = content_of(project_id)
    assert saved["path"] == f"s3://videos/a/{project_id}.mp4"
    assert objects() == {f"a/{project_id}.mp4": content}
    assert (saved["size"], saved["sha256"]) == (len(content), sha256(content))
    assert etag_of(s3, f"a/{project_id}.mp4").endswith(
        '-3"' if padding else f'{hashlib.md5(content).hexdigest()}"'
    )
    assert uploads() == []


@pytest.mark.parametrize(
    "size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 2 * PART_BYTES + 5]
)
@pytest.mark.parametrize("chunk", [MIB - 7, 100 * MIB])
def test_the_object_is_what_was_written_however_it_came(s3, objects, size, chunk):
    content = random.Random(size).randbytes(size)
    target = resolve_target("s3://s3@videos/x.bin", "p1")
    writer = S3Writer(target, target.place, exclusive=False)
    for start in range(0, size, chunk):
        writer.write(content[start : start + chunk])
    writer.commit()
    assert objects() == {"x.bin": content}


KEYS = [
    "a b/c d.mp4",
    "\xe9t\xe9/\u732b \U0001f600.mp4",
    "a#b.mp4",
    "a+b&c=d.mp4",
    "100%25.mp4",
    "a//b.mp4",
    "[a]*.mp4",
    "it's (1).mp4",
]


def test_a_key_is_taken_as_it_is_written(hook, order, content_of, objects):
    project_id = order()
    for key in KEYS:
        assert hook.download(project_id, f"s3://s3@videos/{key}")["path"] == f"s3://videos/{key}"
    assert objects() == dict.fromkeys(KEYS, content_of(project_id))


@pytest.mark.parametrize("old", [None, b"what stood there before"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"truncate": 7 * MIB}, errors.TransferError),
        ({"flip": 8 * MIB}, errors.DownloadError),
        ({"status": 200, "body": "<html>"}, errors.NotAVideoError),
        ({"status": 500}, errors.DownloadError),
    ],
)
def test_a_download_that_fails_leaves_no_object_and_no_upload(
    hook, magic, order, objects, uploads, s3, old, fault, kind
):
    if old is not None:
        s3.put_object(Bucket="videos", Key="video.mp4", Body=old)
    project_id = order(MULTIPART, ranges=False, video_checksum="digest")
    magic.control.faults([{**VIDEOS, **fault}])
    with pytest.raises(kind) as failed:
        hook.download(project_id, "s3://s3@videos/video.mp4", if_exists="overwrite")
    assert failed.value.retryable
    assert objects() == ({} if old is None else {"video.mp4": old})
    assert uploads() == []


# --- two writers of one name


@SIZES
@pytest.mark.parametrize("how", ["asks before", "lets the store decide"])
def test_of_two_writers_that_must_not_overwrite_only_one_wins(
    s3, objects, uploads, order, content_of, monkeypatch, padding, how
):
    first_content, second_content = (content_of(order(padding)) for _ in range(2))
    target = resolve_target("s3://s3@videos/video.mp4", "p1")
    with (
        AtomicDownload(target, if_exists="fail") as first,
        AtomicDownload(target, if_exists="fail") as second,
    ):
        if how == "lets the store decide":
            monkeypatch.setattr(S3Writer, "_refuse_existing", lambda writer: None)
        first.write(first_content)
        second.write(second_content)
        first.publish(len(first_content))
        with pytest.raises(errors.DestinationError, match="exists already"):
            second.publish(len(second_content))
    assert objects() == {"video.mp4": first_content}
    assert uploads() == []


@SIZES
@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument", "InvalidRequest"])
def test_a_store_that_knows_no_condition_is_written_to_without_one(
    s3, objects, uploads, order, content_of, monkeypatch, padding, code
):
    from botocore.exceptions import ClientError

    content = content_of(order(padding))
    call, refused = S3Writer._call, []

    def refuse_conditions(writer, method, **arguments):
        if "IfNoneMatch" in arguments:
            refused.append(method)
            raise ClientError({"Error": {"Code": code}}, method)
        return call(writer, method, **arguments)

    monkeypatch.setattr(S3Writer, "_call", refuse_conditions)
    target = resolve_target("s3://s3@videos/video.mp4", "p1")
    with AtomicDownload(target, if_exists="fail") as download:
        download.write(content)
        download.publish(len(content))
    assert objects() == {"video.mp4": content}
    assert refused == ["complete_multipart_upload" if padding else "put_object"]
    assert uploads() == []


def test_the_next_download_ends_what_another_has_left_and_nothing_else(s3, hook, order, uploads):
    for key in ("video.mp4", "video.mp4", "video.mp4.bak", "video.mp", "a/video.mp4", "video-2.mp4"):
        s3.create_multipart_upload(Bucket="videos", Key=key)
    hook.download(order(), "s3://s3@videos/video.mp4")
    assert sorted(uploads()) == ["a/video.mp4", "video-2.mp4", "video.mp", "video.mp4.bak"]


def test_a_download_whose_upload_another_one_ended_may_be_tried_again(
    s3, objects, uploads, order, content_of
):
    content = content_of(order(MULTIPART))
    target = resolve_target("s3://s3@videos/video.mp4", "p1")
    with AtomicDownload(target) as download:
        download.write(content)
        remove_temporary_files(target)
        with pytest.raises(errors.TransferError) as failed:
            download.publish(len(content))
    assert failed.value.retryable
    assert objects() == {}
    assert uploads() == []


# --- what stands there already


def test_skip_takes_the_same_video_and_refuses_another(hook, order, content_of, objects, s3):
    project_id, other_id = order(MIB), order(MIB)
    first = hook.download(project_id, "s3://s3@videos/video.mp4")
    written = s3.head_object(Bucket="videos", Key="video.mp4")
    assert hook.download(project_id, "s3://s3@videos/video.mp4") == first
    again = s3.head_object(Bucket="videos", Key="video.mp4")
    assert (again["LastModified"], again["ETag"]) == (written["LastModified"], written["ETag"])
    with pytest.raises(errors.DestinationError, match="is another video"):
        hook.download(other_id, "s3://s3@videos/video.mp4")
    with pytest.raises(errors.DestinationError, match="exists already"):
        hook.download(project_id, "s3://s3@videos/video.mp4", if_exists="fail")
    assert objects() == {"video.mp4": content_of(project_id)}
    hook.download(other_id, "s3://s3@videos/video.mp4", if_exists="overwrite")
    assert objects() == {"video.mp4": content_of(other_id)}


# --- a store that refuses


@pytest.mark.parametrize(
    ("if_exists", "padding"), [("skip", 0), ("fail", MULTIPART), ("overwrite", 0), ("overwrite", MULTIPART)]
)
def test_a_bucket_that_is_not_there_is_said(hook, order, padding, if_exists):
    with pytest.raises(errors.DestinationError) as failed:
        hook.download(order(padding), "s3://s3@no-such-bucket/video.mp4", if_exists=if_exists)
    assert "s3://no-such-bucket/video.mp4" in failed.value.what
    assert "bucket" in failed.value.what.removeprefix("s3://no-such-bucket")
    assert not failed.value.retryable
    assert "Check the path" in failed.value.remedy


@pytest.fixture
def strict_s3(_s3_server, s3):
    """The local S3, from now on reading at keys."""
    httpx.post(f"{_s3_server.url}/moto-api/reset-auth", content=b"0", trust_env=False).raise_for_status()
    yield s3
    httpx.post(f"{_s3_server.url}/moto-api/reset-auth", content=b"inf", trust_env=False).raise_for_status()


@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "fail"])
def test_wrong_credentials_are_said_and_not_tried_again(hook, order, strict_s3, if_exists):
    project_id = order()
    with pytest.raises(errors.DestinationError) as failed:
        hook.download(project_id, "s3://s3@videos/video.mp4", if_exists=if_exists)
    assert not failed.value.retryable
    assert json.loads(os.environ["AIRFLOW_CONN_S3"])["password"] not in str(failed.value)


@pytest.mark.parametrize("if_exists", ["skip", "overwrite"])
def test_a_store_out_of_reach_may_be_tried_again(hook, order, monkeypatch, if_exists):
    config = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
    extra = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1", "config_kwargs": config}
    fields = {"conn_type": "aws", "login": "an-access-key", "password": "a-secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(fields))
    with pytest.raises(errors.TransferError) as failed:
        hook.download(order(), "s3://away@videos/video.mp4", if_exists=if_exists)
    assert failed.value.retryable


# --- images from S3


def put_image(s3, key, padding):
    """A photograph made large by bytes behind its end."""
    content = Path(IMAGE).read_bytes() + os.urandom(padding)
    s3.put_object(Bucket="videos", Key=key, Body=content)
    return content


@pytest.mark.parametrize("key", ["stills/a.jpg", "stills/a b#\u732b+c.jpg", "what?.jpg", "a?b=c.jpg"])
def test_an_image_is_uploaded_from_s3_with_its_length_known(hook, magic, s3, key):
    content = put_image(s3, key, 3 * MIB)
    source = open_image(f"s3://s3@videos/{key}")
    assert source.size == len(content)
    file_path = hook.upload(f"s3://videos/{key}", "s3")
    (upload,) = magic.control.state()["uploads"]
    assert (upload["file_path"], upload["bytes"], upload["sha256"]) == (
        file_path,
        len(content),
        sha256(content),
    )


def test_the_version_in_the_url_is_read_from_s3(s3):
    s3.put_bucket_versioning(Bucket="videos", VersioningConfiguration={"Status": "Enabled"})
    contents, versions = [], []
    for kibibytes in (1, 2):
        contents.append(put_image(s3, "a.jpg", kibibytes << 10))
        versions.append(s3.head_object(Bucket="videos", Key="a.jpg")["VersionId"])
    for content, version in zip(contents, versions, strict=True):
        source = open_image(f"s3://s3@videos/a.jpg?versionId={version}")
        assert (source.size, b"".join(source.iter_chunks())) == (len(content), content)
    with pytest.raises(errors.ImageError, match="cannot be read"):
        open_image(f"s3://s3@videos/a.jpg?versionId={'0' * 32}")


def test_an_image_is_read_from_s3_in_blocks_of_a_few_mebibytes(s3):
    content = put_image(s3, "a.jpg", 20 * MIB)
    source = open_image("s3://s3@videos/a.jpg")
    with open_for_reading(source.place) as handle:
        assert handle.blocksize == 8 * MIB
    assert b"".join(source.iter_chunks()) == content


@pytest.mark.parametrize("fault", [{"drop": "before"}, {"drop": "after"}, {"status": 503}])
def test_an_upload_that_breaks_is_begun_again_with_a_url_of_its_own(hook, magic, s3, fault):
    content = put_image(s3, "a.jpg", 3 * MIB)
    magic.control.faults([{**UPLOADS, **fault, "times": 2}])
    file_path = hook.upload("s3://s3@videos/a.jpg")
    uploads = magic.control.state()["uploads"]
    assert len({upload["file_path"] for upload in uploads}) == 3
    last = next(upload for upload in uploads if upload["file_path"] == file_path)
    assert last["sha256"] == sha256(content)
