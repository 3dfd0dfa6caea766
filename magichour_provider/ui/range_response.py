"""Answer a browser that plays a clip: whole, or the one range that it asks for (RFC 9110, 13 and 14).

Starlette's FileResponse is not used: it opens the file once more, by its path, after it was checked; what it
makes of ranges changes from one release to the next; and it knows nothing of object stores.
"""

from __future__ import annotations

import re
from email.utils import format_datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from magichour_provider.ui.media_files import ClipFile
from magichour_provider.ui.threadpool import each

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,99})-([0-9]{0,99})", re.IGNORECASE)


class _ClipResponse(StreamingResponse):
    """Streams a part of the file, and closes it when that is over, also where the client has gone away."""

    def __init__(self, clip: ClipFile, sent: range, status_code: int, headers: dict[str, str]) -> None:
        super().__init__(each(clip.read(sent.start, sent.stop)), status_code, headers)
        self._clip = clip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._clip.close()


def answer(clip_file: ClipFile, request: Request) -> Response:
    """The answer to a GET or HEAD of this file, which is closed in the end.

    One range is served (206, or 416 where nothing lies in it); several, or one that cannot be read, are
    ignored (200). `If-None-Match` and `If-Range` are heeded.
    """
    asked, size = request.headers, clip_file.size
    headers = _headers(clip_file, accepts_gzip="gzip" in asked.get("accept-encoding", ""))
    if _is_known(asked.get("if-none-match"), clip_file.etag):
        clip_file.close()
        return Response(status_code=304, headers=headers)
    whole = {**headers, "Content-Length": str(size), "Content-Type": clip_file.media_type}
    if request.method == "HEAD":
        clip_file.close()
        return Response(status_code=200, headers=whole)
    validators = (None, clip_file.etag, headers.get("Last-Modified"))
    part = span(asked.get("range", ""), size) if asked.get("if-range") in validators else None
    if part is None:
        return _ClipResponse(clip_file, range(size), 200, whole)
    if not part:
        clip_file.close()
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    content_range = f"bytes {part.start}-{part.stop - 1}/{size}"
    partial = {**whole, "Content-Length": str(len(part)), "Content-Range": content_range}
    return _ClipResponse(clip_file, part, 206, partial)


def span(header: str, size: int) -> range | None:
    """The bytes that a Range header asks for, of `size`; None where it is to be ignored, empty for a 416."""
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return range(size - min(int(match[2]), size), size)
    if match[2] and int(match[2]) < int(match[1]):
        return None
    return range(int(match[1]), min(int(match[2]) + 1, size) if match[2] else size)


def _headers(clip_file: ClipFile, *, accepts_gzip: bool) -> dict[str, str]:
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": clip_file.etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"inline; {_file_name(clip_file.name)}",
        "X-Content-Type-Options": "nosniff",
    }
    if clip_file.last_modified is not None:
        headers["Last-Modified"] = format_datetime(clip_file.last_modified, usegmt=True)
    if accepts_gzip:
        # Airflow's compression leaves an answer alone that has an encoding; a compressed part would be wrong.
        headers["Content-Encoding"] = "identity"
    return headers


def _file_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    if plain == name:
        return f'filename="{plain}"'
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _is_known(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match names this version; a weak mark does not matter there."""
    known = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in known or known == ["*"]
