"""Images: already at Magic Hour, at a URL that it fetches, or a file to check and upload.

`open_image` checks everything that can be known before a byte is sent: that the file exists, is readable, not
empty, of an accepted extension, and an image by its content. Only the header is read, also in object stores.

Sources: docs integration/inputs-and-outputs (extensions, `file_path`s, sizes by tier, URLs that carry their
own access), `POST /v1/files/upload-urls`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from magichour_provider.client.pricing import IMAGE_EXTENSIONS
from magichour_provider.exceptions import ImageError, NetworkError
from magichour_provider.storage.image_headers import (
    HEAD_BYTES,
    describe_start,
    find_image_format,
    read_pixel_size,
)
from magichour_provider.storage.locations import (
    Location,
    LocationError,
    ObjectPath,
    address_of,
    check_address,
    file_name_at,
    format_bytes,
    open_for_reading,
    parse_location,
    reading,
    redact,
    url_scheme,
)

if TYPE_CHECKING:
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

UPLOADED_PREFIXES = ("api-assets/", "saved-items/")
"""How a `file_path` at Magic Hour starts."""

_MAX_UPLOAD_ATTEMPTS = 3
_VERSION_KEYS = ("generation", "ETag", "etag")
"""What tells versions of an object apart in the listings of Google Cloud Storage, S3 and Azure."""
_MAX_URL_CHARS = 2048
_SIGNATURE = re.compile(
    r"(x-(amz|goog|oss|obs|tos|cos)-(?!process)[\w-]+|q-(sign|ak|key|header|url)[\w-]*|sig|exp|expir(y|es(_at)?)"
    r"|[\w-]*(signature|token|hmac|accesskeyid|accessid)\w*|policy|key-pair-id|auth(_key|orization)?|jwt|verify"
    r"|hdnts|hdnea)(=|$)",
    re.IGNORECASE,
)
_AZURE = re.compile(r"(s[eipvrts]|spr|sip|srt|sk(oid|tid|t|e|s|v))(=|$)")


@dataclass(frozen=True)
class RemoteImage:
    """An image that needs no upload; `file_path` goes to the API unchanged.

    `display` may be logged; `file_path` may be a signed URL and must not be.
    """

    file_path: str = field(repr=False)
    display: str
    image_size: None = None

    @property
    def unsigned_address(self) -> str:
        """The address without the parameters of a signature, which change with every attempt.

        Other parameters can name another image, such as `?versionId=`. The names are those of the usual
        stores and networks and, beside a `sig`, the short ones of Azure.
        """
        parts = urlsplit(self.file_path)
        query = sorted(filter(None, parts.query.split("&")))
        is_azure = any(each.startswith("sig=") for each in query)
        kept = [
            each for each in query if not _SIGNATURE.match(each) and not (is_azure and _AZURE.match(each))
        ]
        return parts._replace(query="&".join(kept), fragment="").geturl()


@dataclass(frozen=True)
class ImageFile:
    """A readable image file.

    `extension` in lower case without the dot; if the name has none that Magic Hour accepts, that of the
    format. `size` in bytes. `image_size` (width, height) in pixels as they are stored, before any rotation;
    None if the header does not tell them simply.
    """

    display: str
    extension: str
    size: int
    image_size: tuple[int, int] | None
    place: Location = field(repr=False)

    def check_size(self, max_bytes: int, tier: str) -> None:
        """Raise ImageError if the file is larger than the account's tier may upload."""
        if self.size > max_bytes:
            raise ImageError(
                f"Image {self.display} has {format_bytes(self.size)}; tier {tier!r} uploads at most "
                f"{format_bytes(max_bytes)}.",
                remedy="Make the image smaller or change the plan. A retry cannot help before that.",
            )

    def iter_chunks(self, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """Exactly `size` bytes, in chunks.

        Raises ImageError, also if the file's length changes; NetworkError if the store cannot be reached.
        """
        left = self.size
        with reading(ImageError, f"Image {self.display}", self.place), open_for_reading(self.place) as handle:
            while left >= 0 and (chunk := handle.read(chunk_bytes)):
                left -= len(chunk)
                if left >= 0:
                    yield chunk
        if left:
            raise ImageError(
                f"Image {self.display} changed its length while it was being uploaded.",
                remedy="Wait until it is written, then clear this task.",
            )


def open_image(image: PathArgument, conn_id: str | None = None) -> RemoteImage | ImageFile:
    """Find out where `image` is, and check it as far as that is possible here.

    :param image: a local path, an object store's URL, `http(s)://`, or a `file_path` at Magic Hour.
    :param conn_id: Airflow connection of the object store.

    Raises ImageError, which no retry fixes, or NetworkError if an object store cannot be reached now.
    """
    shown = redact(image)
    with reading(ImageError, f"Image {shown}"):
        address = address_of(image)
        if address.startswith(UPLOADED_PREFIXES):
            return RemoteImage(address, address)
        if url_scheme(address) in ("http", "https"):
            check_address(address)
            parts = urlsplit(address)
            if "@" in parts.netloc:
                raise ImageError(
                    f"The URL of image {shown} contains a user name or password.",
                    remedy="Use a signed URL or upload the file. A retry cannot help before that.",
                )
            if len(address) > _MAX_URL_CHARS:
                raise LocationError(f"its URL has more than {_MAX_URL_CHARS:,} characters")
            if re.search(r"[\x00-\x1f\x7f]", address):
                raise LocationError("its URL contains a line feed or another control character")
            if not _is_public_host(parts.hostname or "") or parts.port == 0:  # port raises ValueError
                raise LocationError(
                    "its URL has no host on the internet, from which Magic Hour could fetch it"
                )
            return RemoteImage(address, shown)
        place = parse_location(address, conn_id)
    with reading(ImageError, f"Image {shown}", place):
        size = _file_size(place, shown)
        with open_for_reading(place, 64 * 1024) as file:
            if size == 0:
                raise ImageError(f"Image {shown} is empty.")
            head = file.read(HEAD_BYTES)
            image_format = find_image_format(head)
            if image_format is None:
                raise ImageError(
                    f"Image {shown} is not an image that Magic Hour accepts: it {describe_start(head)}.",
                    remedy=f"Convert it ({', '.join(sorted(IMAGE_EXTENSIONS))}), then clear the task.",
                )
            pixels = read_pixel_size(file, image_format)
    extension = file_name_at(place).rpartition(".")[2].lower()
    if extension not in IMAGE_EXTENSIONS:  # such as .hif and .jpe, which cameras and editors write
        extension = image_format
    return ImageFile(shown, extension, size, pixels, place)


def upload_image(client: MagicHourClient, image: RemoteImage | ImageFile) -> str:
    """Upload an image and return its `file_path`; that of a remote image is returned as it is.

    A broken upload is repeated with a new URL, at no cost. Raises NetworkError if that does not help,
    ImageError if the file changes meanwhile.
    """
    from magichour_provider.client.sync import send_with_retries
    from magichour_provider.storage.transfer import Progress

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


def stamp_images(images: Iterable[tuple[str, str | None]]) -> dict[tuple[str, str | None], str | None]:
    """What tells that each image (address and connection) is unchanged, without reading it.

    On a disk size, times and number of the file; in a store its version or ETag, by one listing of each
    folder. None if nothing tells, or if the image cannot be found.
    """
    images = list(images)
    stamps: dict[tuple[str, str | None], str | None] = dict.fromkeys(images)
    in_stores: dict[tuple[str, str | None], list[tuple[tuple[str, str | None], ObjectPath]]] = {}
    for image in images:
        address, conn_id = image
        try:
            if address.startswith(UPLOADED_PREFIXES) or url_scheme(address) in ("http", "https"):
                stamps[image] = RemoteImage(address, "").unsigned_address
                continue
            place = parse_location(address, conn_id)
            if isinstance(place, Path):
                found = place.stat()
                stamps[image] = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
            elif place.has_version:
                stamps[image] = place.url
            else:
                folder = place.url.rpartition("/")[0], place.conn_id
                in_stores.setdefault(folder, []).append((image, place))
        except (OSError, ValueError):
            continue
    for wanted in in_stores.values():
        try:
            filesystem, first = wanted[0][1].connect()
            listed = filesystem.ls(first.rpartition("/")[0], detail=True)
        except Exception as error:
            log.debug("The images could not be listed.", exc_info=error)
            continue
        versions = {
            entry["name"]: next((str(entry[key]) for key in _VERSION_KEYS if entry.get(key)), None)
            for entry in listed
        }
        for image, place in wanted:
            stamps[image] = versions.get(str(filesystem._strip_protocol(place.url)))
    return stamps


def _is_public_host(host: str) -> bool:
    """Whether it is a host on the internet: a complete name or an address, and not of a private network."""
    try:
        return ip_address(host).is_global
    except ValueError:
        is_name = re.fullmatch(r"([\w-]{1,63}\.)+[\w-]{1,63}\.?", host) is not None
        return is_name and not re.search(r"\.(localhost|local|internal)\.?$|^[\d.]+$", host)


def _file_size(place: Location, shown: str) -> int:
    if isinstance(place, Path):
        size: Any = place.stat().st_size
    else:
        filesystem, path = place.connect()
        info = filesystem.info(path)
        if info["type"] == "directory":
            raise ImageError(f"Image {shown} is a folder.")
        size = info["size"]
    if not isinstance(size, int):
        raise ImageError(
            f"The store does not say how large image {shown} is, and an upload needs its length.",
            remedy="Copy the image to a disk or another store first. A retry cannot help before that.",
        )
    return size
