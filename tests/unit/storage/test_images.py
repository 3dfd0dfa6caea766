from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from PIL import Image

from magichour_provider.client.pricing import MAX_UPLOAD_BYTES
from magichour_provider.exceptions import ImageError, InvalidRequestError, NetworkError
from magichour_provider.jobs.request import VideoRequest, fingerprint, open_images
from magichour_provider.jobs.state_backends import FileBackend
from magichour_provider.storage.images import ImageFile, RemoteImage, open_image
from magichour_provider.version_compat import AirflowNotFoundException

from .conftest import STORE_CONN_ID


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(sink, kind, **options)
    return sink.getvalue()


def upload_of(image: str | Path, conn_id: str | None = None) -> ImageFile:
    source = open_image(image, conn_id)
    assert isinstance(source, ImageFile)
    return source


def refusal(image: str, conn_id: str | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(image, conn_id)
    assert "No job was created and no credits were spent." in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("image", "display"),
    [
        ("api-assets/id/1234.png", "api-assets/id/1234.png"),
        ("saved-items/abc/face.jpg", "saved-items/abc/face.jpg"),
        ("https://example.com/cat.png?X-Amz-Signature=SECRET#frag", "https://example.com/cat.png"),
    ],
)
def test_an_image_that_needs_no_upload_passes_unchanged(image: str, display: str) -> None:
    source = open_image(image)
    assert source == RemoteImage(image, display)
    assert "SECRET" not in repr(source)


@pytest.mark.parametrize(
    "url",
    [
        "https://exa mple.com/a.png", "https:///a.png", "https://?a.png", "https://[::1/a.png",
        "https://{{h}}/a.png", "https://example.com/{{ ds }}.png", "https://$H/a.png", "https://None/a.png",
        "https://a..com/a.png", "https://example.com:abc/a.png", "https://example.com:99999/a.png",
        "https://example.com/a\nb.png", f"https://example.com/{'a' * 2048}.png",
        "http://localhost/a.png", "http://127.0.0.1:8080/a.png", "https://[::1]/a.png", "https://10.1.2.3/a.png",
        "https://minio/a.png", "https://files.internal/a.png",
    ],
)  # fmt: skip
def test_a_url_that_magic_hour_cannot_fetch_is_refused(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize(
    ("url", "same", "unsigned"),
    [
        ("https://a.com/x.png", "HTTPS://a.com/x.png#f", "https://a.com/x.png"),
        ("https://a.com/x?v=1&X-Amz-Date=1&X-Amz-Signature=1", "https://a.com/x?X-Amz-Date=2&v=1", "https://a.com/x?v=1"),
        (
            "https://a.com/x?x-oss-date=1&x-oss-process=image&q-sign-time=1&q-signature=1&auth_key=1&access_token=1",
            "https://a.com/x?x-oss-process=image&hdnts=exp=1~hmac=1&OSSAccessKeyId=1&exp=2&expires_at=2&verify=1",
            "https://a.com/x?x-oss-process=image",
        ),
        ("https://a.com/x?X-Goog-Date=1", "https://a.com/x?X-Goog-Signature=2", "https://a.com/x"),
        (
            "https://a.com/x?Expires=1&Signature=1&Key-Pair-Id=1",
            "https://a.com/x?Policy=2&Signature=2&Key-Pair-Id=2",
            "https://a.com/x",
        ),
        (
            "https://a.com/x?sv=1&se=1&sr=b&sp=r&st=1&spr=https&skoid=1&sig=1",
            "https://a.com/x?sv=2&se=2&sr=b&sp=r&sig=2",
            "https://a.com/x",
        ),
        ("https://a.com/x?se=1&sp=2", "https://a.com/x?sp=2&se=1", "https://a.com/x?se=1&sp=2"),
        ("https://a.com/" + "x" * 900, "https://a.com/" + "x" * 900, "https://a.com/" + "x" * 900),
        ("api-assets/a/b.png", "api-assets/a/b.png", "api-assets/a/b.png"),
    ],
)  # fmt: skip
def test_a_web_image_is_known_by_its_address_without_the_signature(
    url: str, same: str, unsigned: str
) -> None:
    requests = [
        VideoRequest(each, 5) for each in (url, same, f"{url}&versionId=2" if "?" in url else f"{url}?v=2")
    ]
    first, again, other = (fingerprint(request, open_images(request)) for request in requests)
    assert first == again != other
    parts = {"image": unsigned, "end_image": None, "prompt": None, "model": None, "resolution": None}
    stored = json.dumps({**parts, "end_seconds": 5, "audio": False}, sort_keys=True)
    assert first == hashlib.sha256(stored.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.png", "png"),
        ("a.JPG", "jpg"),
        ("with space.jfif", "jfif"),
        ("not-utf8-\udce9.png", "png"),
        ("no extension", "png"),
        ("DSC01.HIF", "png"),
        ("a.png.tmp", "png"),
    ],
)
def test_a_file_is_described(tmp_path: Path, name: str, extension: str) -> None:
    path = tmp_path / name
    path.write_bytes(picture())
    url = f"file://localhost{path}".replace(" ", "%20")
    for given in (path, f" {path}\n", url):
        source = upload_of(given)
        assert (source.image_size, source.size) == ((64, 48), path.stat().st_size)
        assert source.extension == extension
        source.display.encode()


def test_chunks_are_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    source = upload_of(str(path))
    chunks = list(source.iter_chunks(10))
    assert b"".join(chunks) == path.read_bytes()
    assert max(map(len, chunks)) == 10


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_file_that_changes_while_it_is_uploaded_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    source = upload_of(str(path))
    path.write_bytes(picture() + b"x" if change == "longer" else picture()[:-1])
    sent: list[bytes] = []
    with pytest.raises(ImageError, match="changed its length"):
        sent.extend(source.iter_chunks(16))
    assert len(b"".join(sent)) <= source.size


# --- refusals, all before anything is sent


def test_a_missing_image_is_named_as_the_user_gave_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal("folder/none.png")
    assert "Image folder/none.png cannot be read" in error.what
    assert "does not exist" in error.what
    assert not error.retryable
    assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"hello, this is a text", "not an image that Magic Hour accepts: it starts with 'hello, this is a'"),
        (b"<html><body width='3' height='4'>", "a web page"),
        (b"<svg width='3' height='4'></svg>", "an SVG drawing"),
        (b"P1\n3 4\n0 0 0", "not an image"),
        (b"BMW is a car, and not an image", "not an image"),
        (b"GIF89a" + bytes(40), "a GIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41avc1" + bytes(40), "an mp4 or a kind of HEIF ('isom')"),
        (b"\x89PNG\r\n\x1a\n", "a damaged PNG image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\0\0\0\0", "(CgBI), which only Apple's software reads"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    ],
)
def test_what_is_not_an_image_is_refused_by_its_content(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert why in refusal(str(path)).what


def test_a_file_larger_than_the_tier_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    with path.open("r+b") as handle:
        handle.truncate(MAX_UPLOAD_BYTES["free"] + 1)
    source = upload_of(str(path))
    source.check_size(MAX_UPLOAD_BYTES["creator"], "creator")
    with pytest.raises(ImageError, match=r"200\.0 MB; tier 'free' uploads at most 200\.0 MB"):
        source.check_size(MAX_UPLOAD_BYTES["free"], "free")
    source.check_size(source.size, "free")


# --- object stores


@pytest.mark.parametrize(
    ("url", "conn_id"),
    [
        ("memory://bucket/in/a#1.png", None),
        ("memory://bucket/in/a#1.png", STORE_CONN_ID),
        (f"memory://{STORE_CONN_ID}@bucket/in/a#1.png", None),
    ],
)
def test_an_object_is_read_through_its_connection(memory_store: Any, url: str, conn_id: str | None) -> None:
    memory_store.pipe("/bucket/in/a#1.png", picture())
    source = upload_of(url, conn_id)
    assert source.image_size == (64, 48)
    assert source.display == "memory://bucket/in/a#1.png"
    assert b"".join(source.iter_chunks()) == picture()


class CountingFile(io.BytesIO):
    def __init__(self, content: bytes, log: list[int]) -> None:
        super().__init__(content)
        self._log = log

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._log.append(len(data))
        return data


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (picture("JPEG", size=(900, 700)) + bytes(20 << 20), (900, 700)),
        (b"\xff\xd8" + b"\xff\xe1\0\2" * (1 << 18), None),
    ],
    ids=["header alone", "metadata without an end"],
)
def test_measuring_an_object_reads_little(
    memory_store: Any, monkeypatch: Any, content: bytes, size: tuple[int, int] | None
) -> None:
    memory_store.pipe("/bucket/a.jpg", content)
    read: list[int] = []
    monkeypatch.setattr(memory_store, "open", lambda *_, **__: CountingFile(content, read))
    assert upload_of("memory://bucket/a.jpg").image_size == size
    assert sum(read) <= 64 * 1024
    assert len(read) < 1000


class BrokenOnce(io.BytesIO):
    """Fails at its second read, as a store does whose connection is cut."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads == 2:
            raise ConnectionError("cut")
        return super().read(size)


def test_an_outage_within_the_header_is_not_taken_for_a_bad_image(
    memory_store: Any, monkeypatch: Any
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 200
    content = picture("JPEG", exif=exif)
    memory_store.pipe("/bucket/a.jpg", content)
    monkeypatch.setattr(memory_store, "open", lambda *_, **__: BrokenOnce(content))
    with pytest.raises(NetworkError, match="cut"):
        open_image("memory://bucket/a.jpg")


def test_missing_objects_and_folders_are_refused(memory_store: Any) -> None:
    memory_store.pipe("/bucket/folder.png/x", b"x")
    assert "Image memory://bucket/none.png cannot be read" in refusal("memory://bucket/none.png").what
    assert "SECRET" not in str(refusal("memory://bucket/none.png?signature=SECRET"))
    assert "is a folder" in refusal("memory://bucket/folder.png").what


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("gs://bucket/a.png", "airflow-provider-magichour[google]"),
        ("abfs://container/a.png", "airflow-provider-magichour[microsoft-azure]"),
        ("nostore://bucket/a.png", "the Airflow provider that adds nostore://"),
    ],
)
def test_a_missing_driver_names_what_to_install(url: str, remedy: str) -> None:
    error = refusal(url, "conn")
    assert "no driver for" in error.what
    assert remedy in error.remedy


def test_an_undefined_connection_is_named_and_the_machine_s_credentials_are_not_used() -> None:
    for open_place in (open_image, lambda image: FileBackend(image).read()):
        with pytest.raises(InvalidRequestError, match=r"connection 'stroe'.* is not defined"):
            open_place("s3://stroe@bucket/a.png")


class HttpError(Exception):
    """As gcsfs names it."""

    def __init__(self, code: int) -> None:
        super().__init__("see https://user:PASSWORD@storage/x?sig=SECRET for more")
        self.code = code


@pytest.mark.parametrize(
    ("trouble", "retryable"),
    [
        (NoCredentialsError(), False),
        (AirflowNotFoundException("The conn_id `x` isn't defined"), False),
        (PermissionError("Forbidden"), False),
        (HttpError(403), False),
        (HttpError(400), False),
        (HttpError(429), True),
        (HttpError(503), True),
        (ConnectionError("refused"), True),
        (TimeoutError(), True),
        (OSError(5, "Input/output error"), True),
    ],
)
@pytest.mark.parametrize("step", ["info", "open", "read"])
def test_a_store_that_is_out_of_reach_may_be_tried_again_and_a_refusal_not(
    memory_store: Any, monkeypatch: Any, trouble: Exception, retryable: bool, step: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise trouble

    memory_store.pipe("/bucket/a.png", picture())
    monkeypatch.setattr(memory_store.store["/bucket/a.png"] if step == "read" else memory_store, step, fail)
    with pytest.raises((ImageError, NetworkError)) as caught:
        open_image("memory://bucket/a.png", STORE_CONN_ID)
    assert caught.value.retryable is retryable
    assert caught.value.__cause__ is trouble
    assert "memory://bucket/a.png" in caught.value.what
    assert "SECRET" not in str(caught.value)
    assert "PASSWORD" not in str(caught.value)
    assert "no credits were spent" in str(caught.value)
