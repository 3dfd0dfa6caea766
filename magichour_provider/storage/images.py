"""Images: already at Magic Hour, at a URL that it fetches, or a file to check and upload.

`open_image` checks everything that can be known before a byte is sent: that the file exists, is readable, not
empty, of an accepted extension, and an image by its content. Only the header is read, also in object stores.

Sources: docs integration/inputs-and-outputs (extensions, `file_path`s, sizes by tier, URLs that carry their
own access), `POST /v1/files/upload-urls`.
"""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from magichour_provider.client.pricing import IMAGE_EXTENSIONS
from magichour_provider.exceptions import ImageError, MagicHourError, NetworkError
from magichour_provider.storage.locations import (
    Location,
    file_name_at,
    format_bytes,
    open_for_reading,
    parse_location,
    reading_error,
    redact,
    url_scheme,
)

if TYPE_CHECKING:
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)

UPLOADED_PREFIXES = ("api-assets/", "saved-items/")
"""How a `file_path` at Magic Hour starts."""

CHUNK_BYTES = 1 << 20
SHOWN_BYTES = 16
"""The most of a file's content that a message ever shows."""
_HEADER_BLOCK_BYTES = 64 * 1024
_HEADER_BUDGET_BYTES = 1 << 20
_MAX_SIDE_PIXELS = 1_000_000
_MAX_UPLOAD_ATTEMPTS = 3


@dataclass(frozen=True)
class RemoteImage:
    """An image that needs no upload; `file_path` goes to the API unchanged.

    `display` may be logged; `file_path` may be a signed URL and must not be.
    """

    file_path: str = field(repr=False)
    display: str
    image_size: None = None


@dataclass(frozen=True)
class ImageFile:
    """A readable image file.

    `extension` in lower case without the dot, `size` in bytes, `image_size` (width, height) in pixels as the
    image is shown, i.e. after its EXIF rotation.
    """

    display: str
    extension: str
    size: int
    image_size: tuple[int, int]
    place: Location = field(repr=False)

    def check_size(self, max_bytes: int, tier: str) -> None:
        """Raise ImageError if the file is larger than the account's tier may upload."""
        if self.size > max_bytes:
            raise ImageError(
                f"Image {self.display} has {format_bytes(self.size)}; tier {tier!r} uploads at most "
                f"{format_bytes(max_bytes)}.",
                remedy="Make the image smaller or change the plan. A retry cannot help before that.",
            )

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, open for reading. Raises ImageError, or NetworkError if the store cannot be reached."""
        with _explained(self.place, self.display), open_for_reading(self.place) as handle:
            yield handle

    def iter_chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Exactly `size` bytes, in chunks.

        Raises ImageError if the file's length changes; what `open` raises.
        """
        left = self.size
        with self.open() as handle:
            while left >= 0 and (chunk := handle.read(chunk_bytes)):
                left -= len(chunk)
                if left >= 0:
                    yield chunk
        if left:
            raise ImageError(
                f"Image {self.display} changed its length while it was being uploaded.",
                remedy="Wait until it is written, then clear this task.",
            )


def open_image(image: str, conn_id: str | None = None) -> RemoteImage | ImageFile:
    """Find out where `image` is, and check it as far as that is possible here.

    :param image: a local path, an object store's URL, `http(s)://`, or a `file_path` at Magic Hour.
    :param conn_id: Airflow connection of the object store.

    Raises ImageError, which no retry fixes, or NetworkError if an object store cannot be reached now.
    """
    if image.startswith(UPLOADED_PREFIXES):
        return RemoteImage(image, image)
    shown = redact(image)
    if url_scheme(image) in ("http", "https"):
        if "@" in re.split(r"[/?#]", image.split("://", 1)[1], maxsplit=1)[0]:
            raise ImageError(
                f"The URL of image {shown} contains a user name or password, which Magic Hour does not use.",
                remedy="Use a signed URL or upload the file. A retry cannot help before that.",
            )
        return RemoteImage(image, shown)
    if not image.strip():
        raise ImageError("No image was given: the path is empty.")
    try:
        place = parse_location(image, conn_id)
    except ValueError as error:
        raise ImageError(f"Image {shown} cannot be read: {error}.") from error
    extension = _check_extension(place, shown)
    size = _file_size(place, shown)
    return ImageFile(shown, extension, size, _pixel_size(place, size, shown), place)


def upload_image(client: MagicHourClient, image: RemoteImage | ImageFile) -> str:
    """Upload an image and return its `file_path`; that of a remote image is returned as it is.

    A broken upload is repeated with a new URL, at no cost. Raises NetworkError if that does not help,
    ImageError if the file changes meanwhile.
    """
    from magichour_provider.client.sync import send_with_retries
    from magichour_provider.storage.download import Progress

    if isinstance(image, RemoteImage):
        return image.file_path
    for attempt in range(1, _MAX_UPLOAD_ATTEMPTS + 1):
        (target,) = send_with_retries(
            lambda: client.create_upload_targets([image.extension]), client.retry_policy
        )
        progress = Progress(f"Uploading {image.display}", image.size)
        try:
            client.put_upload(target, progress.count(image.iter_chunks()), image.size)
        except NetworkError as error:
            if attempt == _MAX_UPLOAD_ATTEMPTS:
                raise
            log.warning("%s Retrying the upload of %s.", error.what, image.display)
        else:
            log.info("Uploaded %s (%d bytes).", image.display, image.size)
            return target.file_path
    raise AssertionError("unreachable")


def _check_extension(place: Location, shown: str) -> str:
    name = file_name_at(place).partition("?")[0]
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if extension in IMAGE_EXTENSIONS:
        return extension
    if isinstance(place, Path) and place.is_dir():
        raise ImageError(f"Image {shown} is a folder.")
    found = f"the extension {extension!r}" if extension else "no extension"
    raise ImageError(
        f"Image {shown} has {found}; Magic Hour accepts {', '.join(sorted(IMAGE_EXTENSIONS))}.",
        remedy="Convert the image, or correct its name. A retry cannot help before that.",
    )


def _file_size(place: Location, shown: str) -> int:
    with _explained(place, shown):
        if isinstance(place, Path):
            status = place.stat()
            size: Any = status.st_size
            is_folder, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
        else:
            filesystem, path = place.connect()
            info = filesystem.info(path)
            size, is_folder, is_file = info["size"], info["type"] == "directory", True
    if is_folder:
        raise ImageError(f"Image {shown} is a folder.")
    if not is_file:
        raise ImageError(f"Image {shown} is not a regular file.")
    if not isinstance(size, int):
        raise ImageError(
            f"The store does not say how large image {shown} is, and an upload needs its length.",
            remedy="Copy the image to a disk or another store first. A retry cannot help before that.",
        )
    if size == 0:
        raise ImageError(f"Image {shown} is empty.")
    return size


def _pixel_size(place: Location, size: int, shown: str) -> tuple[int, int]:
    import imagesize  # type: ignore[import-untyped]

    with _explained(place, shown), open_for_reading(place, _HEADER_BLOCK_BYTES) as file:
        header = _HeaderReader(file, size)
        width, height = imagesize.get(header)
        if header.error is not None:
            raise header.error
        file.seek(0)
        head = file.read(64)
    # imagesize also reads the sizes of GIF, SVG and PNM, which Magic Hour does not accept
    is_accepted = not head.startswith((b"GIF8", b"<", b"P"))
    if is_accepted and 0 < width <= _MAX_SIDE_PIXELS and 0 < height <= _MAX_SIDE_PIXELS:
        return int(width), int(height)
    raise ImageError(f"Image {shown} is not an image that Magic Hour accepts: it {describe_start(head)}.")


class _HeaderReader:
    """imagesize reads through this: it ignores errors and may read without end; this remembers and limits."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self.error: Exception | None = None
        self._handle, self._size = handle, size
        self._budget_bytes = _HEADER_BUDGET_BYTES

    def read(self, size: int = -1) -> bytes:
        self._budget_bytes -= max(size, 256)  # many small reads are as endless as one large read
        if size < 0 or self._budget_bytes < 0:
            raise ValueError("no size within the header")
        return self._remember(self._handle.read, size)  # type: ignore[no-any-return]

    def seek(self, offset: int, whence: int = 0) -> int:
        if not 0 <= offset <= self._size:
            raise ValueError("no such offset")
        return self._remember(self._handle.seek, offset, whence)  # type: ignore[no-any-return]

    def _remember(self, call: Any, *args: int) -> Any:
        try:
            return call(*args)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _explained(place: Location, shown: str) -> Iterator[None]:
    """Raise ImageError or NetworkError for what the file system or the store raises."""
    try:
        yield
    except MagicHourError:
        raise
    except Exception as error:
        raise reading_error(ImageError, f"Image {shown}", error, place) from error


# Starts in lower case, as they are compared.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"<html", "a web page"),
    (b"<!doc", "a web page"),
    (b"<?xml", "an XML document"),
    (b"<svg", "an SVG drawing"),
    (b"<", "markup"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"%pdf", "a PDF"),
    (b"gif8", "a GIF"),
    (b"\x89png", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"riff", "a RIFF file"),
    (b"\x1ae\xdf\xa3", "a WebM or Matroska video"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
)


def describe_start(head: bytes) -> str:
    """`starts with '<html>': a web page`, from the first bytes of a file, for error messages."""
    text = head[:SHOWN_BYTES].decode("latin-1")
    is_text = text.isascii() and all(letter.isprintable() or letter.isspace() for letter in text)
    quoted = repr(text) if is_text else f"bytes {head[:SHOWN_BYTES].hex()}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((name for magic, name in _STARTS if start.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        kind = "an mp4 or a kind of HEIF"
    return f"starts with {quoted}{f': {kind}' if kind else ''}"
