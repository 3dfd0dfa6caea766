"""The answer to a GET of a clip: whole, or the range that was asked for.

starlette's FileResponse is not used, for what it makes of ranges changes from one release to the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from anyio.to_thread import run_sync
from starlette.responses import StreamingResponse

from magichour_provider.sandbox.behaviour import Behaviour
from magichour_provider.sandbox.checksums import Checksums, checksum_headers, etag_of

_CHUNK_BYTES = 1 << 20
_ONE_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)


class RangeError(Exception):
    """A range that begins at or after the end of the clip, whose `size` in bytes it names."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"The range lies beyond the {size} bytes of the clip")


async def clip_answer(
    path: Path, asked: Mapping[str, str], behaviour: Behaviour, checksums: Checksums
) -> StreamingResponse:
    """Serve the file as it is now, however long that takes. `asked` are the request's headers.

    One range is served (206), several are not (200). `If-Range` takes the strong ETag and nothing else;
    with any other value the whole clip is sent. Raises RangeError where 416 is due.
    """
    file = path.open("rb")
    try:
        return await run_sync(_answer, file, asked, behaviour, checksums)
    except BaseException:
        file.close()
        raise


def _answer(
    file: BinaryIO, asked: Mapping[str, str], behaviour: Behaviour, checksums: Checksums
) -> StreamingResponse:
    status = os.fstat(file.fileno())
    etag = etag_of(behaviour.video_checksum, checksums, file)
    may_be_part = behaviour.ranges and asked.get("if-range", etag) == etag
    part = span(asked["range"], status.st_size) if may_be_part and "range" in asked else None
    sent = part or range(status.st_size)
    headers = {
        "Content-Length": str(len(sent)),
        "ETag": etag,
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        **({"Accept-Ranges": "bytes"} if behaviour.ranges else {}),
        **({"Content-Range": f"bytes {sent.start}-{sent.stop - 1}/{status.st_size}"} if part else {}),
        **checksum_headers(behaviour.video_checksum, checksums, file, whole=part is None),
    }
    return StreamingResponse(_chunks(file, sent), 206 if part else 200, headers, media_type="video/mp4")


def span(header: str, size: int) -> range | None:
    """The bytes that a Range header asks for, of `size`; None where it is to be ignored (RFC 9110, 14.2).

    Raises RangeError where none of them are there.
    """
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, stop = size - min(int(match[2]), size), size
    else:
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        raise RangeError(size)
    return range(start, stop)


async def _chunks(file: BinaryIO, sent: range) -> AsyncIterator[bytes]:
    with file:
        file.seek(sent.start)
        left = len(sent)
        while left and (chunk := await run_sync(file.read, min(_CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
