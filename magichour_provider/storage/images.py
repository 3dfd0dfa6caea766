"""Where an image comes from: already at Magic Hour, a URL that it fetches, or a file to upload.

`open_source` checks all that can be known before a byte is sent: that the file is there, readable, not empty,
of an accepted extension, and an image by its content. Only its header is read, also from an object store.

Sources: docs integration/inputs-and-outputs (extensions, `file_path`s, sizes by tier, URLs that carry their
own right of access), `POST /v1/files/upload-urls`.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from magichour_provider.client.pricing import IMAGE_EXTENSIONS
from magichour_provider.exceptions import ImageError, MagicHourError, NetworkError
from magichour_provider.storage.locations import ObjectPath, diagnose, display, locate, scheme_of
from magichour_provider.storage.sniff import describe_start

UPLOADED_PREFIXES = ("api-assets/", "saved-items/")
"""How a `file_path` at Magic Hour starts."""

CHUNK_BYTES = 1 << 20
_HEADER_BLOCK_BYTES = 64 * 1024
_BLOCK_BYTES = 8 << 20
"""What a store's driver fetches at a time; that of S3 would take 50 MiB and more."""
_HEADER_BUDGET_BYTES = 1 << 20
_MAX_SIDE_PIXELS = 1_000_000


@dataclass(frozen=True)
class Remote:
    """An image that needs no upload; `file_path` goes to the API unchanged.

    `display` may be logged; `file_path` may be a signed URL and must not be.
    """

    file_path: str = field(repr=False)
    display: str
    image_size: None = None


@dataclass(frozen=True)
class Upload:
    """An image file that is there, readable, and an image.

    `extension` is in lower case without the dot, `size` in bytes, `image_size` (width, height) in pixels as
    the image is shown, that is after its EXIF rotation.
    """

    display: str
    extension: str
    size: int
    image_size: tuple[int, int]
    place: Path | ObjectPath = field(repr=False)

    def check_size(self, max_bytes: int, tier: str) -> None:
        """Raise ImageError if the file is larger than the account's tier may upload."""
        if self.size > max_bytes:
            raise ImageError(
                f"Image {self.display} has {_megabytes(self.size)}; tier {tier!r} uploads at most "
                f"{_megabytes(max_bytes)}.",
                remedy="Make the image smaller or change the plan; trying again cannot help before that.",
            )

    def open(self) -> AbstractContextManager[BinaryIO]:
        """The file, open for reading. Raises ImageError, or NetworkError where the store is out of reach."""
        return _open(self.place, self.display)

    def iter_chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Exactly `size` bytes in chunks of at most `chunk_bytes`.

        Raises ImageError if the file has changed its length since it was checked, and what `open` raises.
        """
        left = self.size
        with self.open() as handle:
            while chunk := _read(handle, chunk_bytes, self.place, self.display):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        if left:
            raise ImageError(
                f"Image {self.display} changed its length while it was being uploaded.",
                remedy="Wait until it is written, then clear this task.",
            )


def open_source(image: str, conn_id: str | None = None) -> Remote | Upload:
    """Tell where `image` comes from, and check it as far as that is possible here.

    :param image: a local path, an object store's URL, `http(s)://`, or a `file_path` at Magic Hour.
    :param conn_id: Airflow connection of the object store.

    Raises ImageError, which no retry mends, or NetworkError where an object store is out of reach for now.
    """
    if image.startswith(UPLOADED_PREFIXES):
        return Remote(image, image)
    if scheme_of(image) in ("http", "https"):
        return _web_image(image)
    return _file_to_upload(image, conn_id)


def _web_image(url: str) -> Remote:
    authority = re.split(r"[/?#]", url.split("://", 1)[1], maxsplit=1)[0]
    if "@" in authority:
        raise ImageError(
            f"The URL of image {display(url)} holds a user name or password, which Magic Hour does not use.",
            remedy="Use a signed URL or upload the file; trying again cannot help before that.",
        )
    return Remote(url, display(url))


def _file_to_upload(image: str, conn_id: str | None) -> Upload:
    shown = display(image)
    if not image.strip():
        raise ImageError("No image was given: the path is empty.")
    try:
        place = locate(image, conn_id)
    except ValueError as error:
        raise ImageError(f"Image {shown} cannot be read: {error}.") from error
    extension = _extension(place, shown)
    size = _size(place, shown)
    if size == 0:
        raise ImageError(f"Image {shown} is empty.")
    return Upload(shown, extension, size, _image_size(place, size, shown), place)


def _extension(place: Path | ObjectPath, shown: str) -> str:
    name = place.name if isinstance(place, Path) else place.url.partition("?")[0].rpartition("/")[2]
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if extension not in IMAGE_EXTENSIONS:
        if isinstance(place, Path) and place.is_dir():
            raise ImageError(f"Image {shown} is a folder.")
        raise ImageError(
            f"Image {shown} has {f'the extension {extension!r}' if extension else 'no extension'}; "
            f"Magic Hour takes {', '.join(sorted(IMAGE_EXTENSIONS))}.",
            remedy="Convert the image, or correct its name; trying again cannot help before that.",
        )
    return extension


def _size(place: Path | ObjectPath, shown: str) -> int:
    try:
        return _local_size(place, shown) if isinstance(place, Path) else _store_size(place, shown)
    except MagicHourError:
        raise
    except Exception as error:
        raise _failure(error, place, shown) from error


def _local_size(path: Path, shown: str) -> int:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"Image {shown} is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"Image {shown} is not a regular file.")
    return status.st_size


def _store_size(place: ObjectPath, shown: str) -> int:
    filesystem, path = place.connect()
    info = filesystem.info(path)
    if info["type"] == "directory":
        raise ImageError(f"Image {shown} is a folder.")
    if not isinstance(info["size"], int):
        raise ImageError(
            f"The store does not say how large image {shown} is, and an upload needs its length.",
            remedy="Copy the image to a disk or another store first; trying again cannot help before that.",
        )
    return info["size"]


def _image_size(place: Path | ObjectPath, size: int, shown: str) -> tuple[int, int]:
    import imagesize  # type: ignore[import-untyped]

    with _open(place, shown, _HEADER_BLOCK_BYTES) as handle:
        header = _Header(handle, size)
        width, height = imagesize.get(header)
        if header.error is not None:
            raise _failure(header.error, place, shown) from header.error
        handle.seek(0)
        head = _read(handle, 64, place, shown)
    # imagesize reads the sizes of GIF, SVG and PNM too, which Magic Hour does not take
    accepted_kind = not head.startswith((b"GIF8", b"<", b"P"))
    if accepted_kind and 0 < width <= _MAX_SIDE_PIXELS and 0 < height <= _MAX_SIDE_PIXELS:
        return int(width), int(height)
    raise ImageError(f"Image {shown} is not an image that Magic Hour takes: it {describe_start(head)}.")


class _Header:
    """What imagesize reads through: it swallows errors and may read on and on; this remembers and limits."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self.error: Exception | None = None
        self._handle = handle
        self._size = size
        self._budget = _HEADER_BUDGET_BYTES

    def read(self, size: int = -1) -> bytes:
        self._budget -= max(size, 256)  # many small reads are as endless as one large read
        if size < 0 or self._budget < 0:
            raise ValueError("no size within the header")
        return self._watched(self._handle.read, size)  # type: ignore[no-any-return]

    def seek(self, offset: int, whence: int = 0) -> int:
        if not 0 <= offset <= self._size:
            raise ValueError("no such offset")
        return self._watched(self._handle.seek, offset, whence)  # type: ignore[no-any-return]

    def _watched(self, call: Any, *args: int) -> Any:
        try:
            return call(*args)
        except Exception as error:
            self.error = error
            raise


def _open(
    place: Path | ObjectPath, shown: str, block_bytes: int = _BLOCK_BYTES
) -> AbstractContextManager[BinaryIO]:
    try:
        if isinstance(place, Path):
            return place.open("rb")
        filesystem, path = place.connect()
        return cast("AbstractContextManager[BinaryIO]", filesystem.open(path, "rb", block_size=block_bytes))
    except Exception as error:
        raise _failure(error, place, shown) from error


def _megabytes(size: int) -> str:
    return f"{size / 10**6:,.1f} MB"


def _read(handle: BinaryIO, size: int, place: Path | ObjectPath, shown: str) -> bytes:
    try:
        return handle.read(size)
    except Exception as error:
        raise _failure(error, place, shown) from error


def _failure(error: Exception, place: Path | ObjectPath, shown: str) -> MagicHourError:
    trouble = diagnose(error, place)
    what = f"Image {shown} cannot be read: {trouble.cause}."
    if trouble.permanent:
        return ImageError(what, remedy=trouble.remedy)
    return NetworkError(what, consequence=ImageError.default_consequence)
