"""Downloads of videos: response headers, checksums, resuming, and reading ahead in a thread.

Magic Hour does not document its storage, so the headers of the usual storages are read.
"""

from __future__ import annotations

import asyncio
import base64
import re
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from queue import Empty, Queue
from typing import Any, cast
from urllib.parse import quote, urljoin, urlsplit

from magichour_provider.exceptions import DownloadError

_CONTENT_RANGE = re.compile(r"(?i:bytes)[ =]([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_BLOCK_BYTES = 1 << 20
_GZIP_START = 0x1F
_LEGAL_IN_URL = "%:/?#[]@!$&'()*+,;=~"
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""The content codings that are decoded."""
_OTHER_CODINGS = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_DIGEST_BYTES = {"md5": 16, "sha1": 20, "sha256": 32}


class LinkExpiredError(DownloadError):
    """The signed URL is not valid any more; `get_video` returns a new one."""


class ResumeNotPossibleError(DownloadError):
    """The rest of a broken download is not available; the whole file may be."""


@dataclass(frozen=True)
class Checksum:
    """A digest of the whole file: `algorithm` as hashlib calls it, `digest` in hex.

    `certain`: the storage says that it is one. An ETag may look like an MD5 and be none.
    """

    algorithm: str
    digest: str
    certain: bool = True


def parse_checksums(headers: Mapping[str, str], *, is_part: bool) -> tuple[Checksum, ...]:
    """The checksums of the whole file in a response's headers, sorted by algorithm.

    Read are `Content-MD5` (RFC 1864), `Repr-Digest` and `Digest` (RFC 9530, RFC 3230), `x-amz-checksum-*`
    (S3), `x-goog-hash` (Google Cloud Storage), `x-ms-blob-content-md5` (Azure), and an `ETag` that looks
    like an MD5, which plain S3 objects have.

    :param is_part: the response's body is a range of the file.
    """
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return ()  # Google Cloud Storage decompresses on the way; the checksums are of what it stores
    named = [("md5", headers.get("x-ms-blob-content-md5", ""))]
    lists = ["repr-digest", "x-goog-hash"]  # `sha-256=:base64:, md5=base64`
    if not is_part:  # some storages send the checksum of the range with a range
        named.append(("md5", headers.get("content-md5", "")))
        lists.append("digest")
    if headers.get("x-amz-checksum-type", "FULL_OBJECT").upper() == "FULL_OBJECT":
        named += [(each, headers.get(f"x-amz-checksum-{each}", "")) for each in ("sha1", "sha256")]
    for entry in ",".join(headers.get(each, "") for each in lists).split(","):
        name, _, value = entry.strip().partition("=")
        algorithm = name.lower().replace("-", "")
        named.append(("sha1" if algorithm == "sha" else algorithm, value))
    found = set()
    for algorithm, value in named:
        with suppress(ValueError):  # no base64, or not even ASCII
            digest = base64.b64decode(value.strip().strip(":"), validate=True)
            if len(digest) == _DIGEST_BYTES.get(algorithm):
                found.add(Checksum(algorithm, digest.hex()))
    etag = re.fullmatch(r'"([0-9a-f]{32})"', headers.get("etag", ""))
    if etag and not found and "kms" not in headers.get("x-amz-server-side-encryption", ""):
        found.add(Checksum("md5", etag[1], certain=False))
    return tuple(sorted(found, key=lambda checksum: checksum.algorithm))


# Headers, and how to ask for the rest of a file (RFC 9110, 13.1.5 and 14.2).


@dataclass(frozen=True)
class ResumePoint:
    """How far a download has come: `offset` in bytes, and the `validator` of the file that they are of."""

    offset: int
    validator: str

    def request_headers(self) -> dict[str, str]:
        """Headers that ask for the rest of the file if it has not changed since."""
        return {"Range": f"bytes={self.offset}-", "If-Range": self.validator}


@dataclass(frozen=True)
class DownloadHeaders:
    """The file behind a signed URL, and the part of it that follows.

    :param size: of the whole file in bytes as announced, or None.
    :param start: offset of the first byte that follows.
    :param validator: names this very content (a strong ETag, else a date). None if the storage sends nothing
        of the kind; then the download cannot be resumed.
    :param coding: `gzip` or `deflate` if the bytes that follow are compressed. Size, validator and checksums
        are those of the compressed file, so there are none.
    """

    size: int | None
    start: int = 0
    validator: str | None = None
    content_type: str | None = None
    checksums: tuple[Checksum, ...] = ()
    coding: str | None = None

    @property
    def has_etag(self) -> bool:
        """Whether the validator is an ETag, which a part of the file repeats; a date it need not."""
        return self.validator is not None and self.validator.startswith('"')

    @classmethod
    def from_response(
        cls, status: int, headers: Mapping[str, str], resume_from: ResumePoint | None = None
    ) -> DownloadHeaders:
        """Read the response to a GET of a signed URL.

        Raises LinkExpiredError, ResumeNotPossibleError, or DownloadError for any other failure.
        """
        if status in (400, 401, 403, 404, 410):  # 400: S3, if the URL's temporary credentials have expired
            raise LinkExpiredError(f"The video's download URL is not valid any more ({status}).")
        if status == 416 and resume_from is not None:
            raise ResumeNotPossibleError(
                f"The video's storage has nothing from byte {resume_from.offset} on ({status})."
            )
        if status not in (200, 203, 206):  # 203: a proxy has changed something
            raise DownloadError(f"The video's storage answered with status {status}.")
        is_part, length = status == 206, headers.get("content-length", "")
        start, size = 0, int(length) if re.fullmatch("[0-9]{1,19}", length) else None
        if is_part and (resume_from is not None or "content-range" in headers or size is None):
            start, size = _parse_range(headers, resume_from)
        coding, content_type = _parse_coding(headers), headers.get("content-type")
        if coding is not None and start:
            raise ResumeNotPossibleError("The video's storage answered with a compressed part.")
        if coding is not None:
            return cls(None, content_type=content_type, coding=coding)
        checksums = parse_checksums(headers, is_part=is_part)
        return cls(size, start, _parse_validator(headers), content_type, checksums)


def _parse_coding(headers: Mapping[str, str]) -> str | None:
    """How the body is compressed. A name that is no coding, such as `utf-8`, changes no byte."""
    names = re.split(r"[\s,]+", headers.get("content-encoding", "").lower())
    codings = [name for name in names if name in CODINGS | _OTHER_CODINGS]
    if len(codings) > 1 or not _OTHER_CODINGS.isdisjoint(codings):
        raise DownloadError(
            f"The video's storage compresses it by {', '.join(codings)}, which this provider cannot read.",
            is_final=True,
        )
    return codings[0] if codings else None


def _parse_range(headers: Mapping[str, str], resume_from: ResumePoint | None) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if resume_from is None:  # a whole file, sent as a range that was not asked for
        if match is None or int(match[1]) != 0:
            raise DownloadError("The video's storage answered with a part that was not asked for.")
        return 0, None if match[3] == "*" else int(match[3])
    if match is None or int(match[1]) != resume_from.offset:
        raise ResumeNotPossibleError("The video's storage answered with another part than was asked for.")
    name = "etag" if _STRONG_ETAG.fullmatch(resume_from.validator) else "last-modified"
    if headers.get(name, resume_from.validator) != resume_from.validator:  # of a storage without If-Range
        raise ResumeNotPossibleError("The video's storage answered with a part of another file.")
    return resume_from.offset, None if match[3] == "*" else int(match[3])


def _parse_validator(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("etag")
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    try:
        modified = parsedate_to_datetime(headers["last-modified"])
        answered = parsedate_to_datetime(headers["date"])
        is_old_enough = answered - modified >= timedelta(seconds=1)
    except (KeyError, ValueError, TypeError, OverflowError):  # TypeError: only one of them has a zone
        return None
    return headers["last-modified"] if is_old_enough else None


def redirect_target(status: int, headers: Mapping[str, str], url: str) -> str | None:
    """Where a redirect leads, from `url`; None for another status. Raises DownloadError for an unusable one.

    Characters that no URL has are escaped. A redirect from https to http is not followed: on its way the
    video could be replaced.
    """
    if status not in (301, 302, 303, 307, 308):
        return None
    try:
        target = urljoin(url, headers["location"].strip())
        parts = urlsplit(target)
        old, new, _ = urlsplit(url).scheme, parts.scheme, parts.port  # a port too large is a ValueError
    except (KeyError, ValueError):
        raise DownloadError(f"The video's storage redirects to no URL ({status}).", is_final=True) from None
    if new not in ("http", "https") or (old == "https" and new == "http"):
        raise DownloadError(f"The video's storage redirects from {old} to {new}.", is_final=True)
    after_host = len(f"{new}://{parts.netloc}")
    return target[:after_host] + quote(target[after_host:], _LEGAL_IN_URL, errors="surrogateescape")


def build_decompressor(coding: str, start: bytes) -> Any:
    """A decompressor of zlib for a body of this coding that starts with these bytes."""
    # Some servers send `deflate` without the header of zlib (RFC 9110, 8.4.1.2).
    is_raw = coding == "deflate" and start[0] & 0xF != 8
    return zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS + 32)


async def decompress(coding: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Decode a `gzip` or `deflate` body, at most 1 MiB at a time. DownloadError if it is damaged or cut.

    An mp4 that is only called compressed passes as it is. Bytes after the last member are ignored.
    """
    decompressor: Any = None
    is_first, is_plain = True, False
    async for chunk in chunks:
        is_plain = is_plain or (is_first and chunk[4:8] == b"ftyp")
        if is_plain:
            yield chunk
            continue
        data = chunk
        while data:
            if decompressor is None:  # at the start, and after each member of a gzip file
                if not is_first and data[0] != _GZIP_START:
                    return
                decompressor, is_first = build_decompressor(coding, data), False
            try:
                while block := decompressor.decompress(data, _BLOCK_BYTES):
                    data = decompressor.unconsumed_tail
                    yield block
            except zlib.error as error:
                raise DownloadError(f"The video's storage sent a damaged {coding} body.") from error
            data = decompressor.unused_data
            if decompressor.eof:
                decompressor = None
    if decompressor is not None:
        raise DownloadError(f"The video's storage sent an incomplete {coding} body.")


@dataclass(frozen=True)
class AsyncDownloadStream:
    """An open download: its headers, and the bytes still to be read."""

    headers: DownloadHeaders
    _received: AsyncIterator[bytes] = field(repr=False)

    def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes, decompressed; DownloadError if the connection breaks."""
        coding = self.headers.coding
        return self._received if coding is None else decompress(coding, self._received)


# Reading ahead. The synchronous client reads by aiohttp in a thread, twice as fast as by httpx. The calling
# thread meanwhile hashes and writes, and keeps its signals, by which Airflow ends a task that takes too long.

_BLOCKS_AHEAD = 3
_CLOSE_SECONDS = 5.0
_MAX_HELD_SECONDS = 1.0
"""How long bytes of a slow connection are held back at most."""


@dataclass(frozen=True)
class DownloadStream:
    """An open download: its `headers`, and the bytes still to be read."""

    headers: DownloadHeaders
    _blocks: Iterator[bytes] = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The bytes; DownloadError if the connection breaks, after everything that came before."""
        return self._blocks


@contextmanager
def read_ahead(
    open_stream: Callable[[], AbstractAsyncContextManager[AsyncDownloadStream]],
) -> Iterator[DownloadStream]:
    """Read a download in a thread, up to 4 MiB ahead. Raises what `open_stream` raises.

    :param open_stream: opens the download, in the thread's own event loop.
    """
    reader = _Reader(open_stream)
    try:
        reader.start()
        headers = cast("DownloadHeaders", reader.next())
        yield DownloadStream(headers, cast("Iterator[bytes]", iter(reader.next, None)))
    finally:
        reader.close()


class _Reader(threading.Thread):
    """Puts into a queue: the headers, blocks of bytes, then None or the error that ended it.

    The blocks are large, as the two threads share an interpreter.
    """

    def __init__(self, open_stream: Callable[[], AbstractAsyncContextManager[AsyncDownloadStream]]) -> None:
        super().__init__(name="magichour-download", daemon=True)
        self._open_stream = open_stream
        self._items: Queue[DownloadHeaders | bytes | BaseException | None] = Queue(_BLOCKS_AHEAD)
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        end: BaseException | None = None
        try:
            asyncio.run(self._read())
        except BaseException as error:  # the thread that waits for the bytes raises it
            end = error
        self._put(end)

    def next(self) -> DownloadHeaders | bytes | None:
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            with suppress(RuntimeError):  # its loop has just ended
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        if self.is_alive():
            self.join(_CLOSE_SECONDS)

    async def _read(self) -> None:
        self._task = asyncio.current_task()
        if self._closed:
            return
        async with self._open_stream() as stream:
            self._put(stream.headers)
            block: list[bytes] = []
            due = time.monotonic() + _MAX_HELD_SECONDS
            try:
                async for chunk in stream.chunks():
                    block.append(chunk)
                    if sum(map(len, block)) >= _BLOCK_BYTES or time.monotonic() >= due:
                        self._put(b"".join(block))
                        block, due = [], time.monotonic() + _MAX_HELD_SECONDS
            finally:
                self._put(b"".join(block))

    def _put(self, item: DownloadHeaders | bytes | BaseException | None) -> None:
        """Hand an item over. While the queue is full the event loop stands still, and so does the sender."""
        if not self._closed:
            self._items.put(item)
