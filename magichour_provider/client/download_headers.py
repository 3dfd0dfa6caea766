"""What the head of a storage's answer says of the clip that follows, and how to ask for the rest of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime

from magichour_provider.client.checksums import Checksum, checksums_of
from magichour_provider.exceptions import DownloadError, LinkExpiredError, ResumeNotPossibleError

_LINK_GONE = frozenset({401, 403, 404, 410})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_STRONG_TAG = re.compile(r'"[!#-~]*"')


@dataclass(frozen=True)
class ResumePoint:
    """How far a download has come: `offset` in bytes, and the `validator` of the file that they are of."""

    offset: int
    validator: str


@dataclass(frozen=True)
class DownloadHeaders:
    """The file behind a link, and which part of it follows.

    `size` of the whole in bytes as announced, or None; `start` is the offset of the first byte that follows;
    `validator` names this very content (a strong ETag, else a date), None where the storage gives nothing of
    that kind, and the download cannot be taken up.
    """

    size: int | None
    start: int = 0
    validator: str | None = None
    content_type: str | None = None
    checksums: tuple[Checksum, ...] = ()

    @property
    def has_tag(self) -> bool:
        """Whether the validator is an ETag, which a part of the file repeats; a date it need not."""
        return self.validator is not None and self.validator.startswith('"')


def request_headers(since: ResumePoint | None) -> dict[str, str]:
    """Headers that ask for a clip, or for the rest of it if it has not changed since (RFC 9110, 13.1.5).

    The bytes are asked for as they are: the announced length is then the true one, and nothing can unfold.
    """
    headers = {"Accept-Encoding": "identity"}
    if since is not None:
        headers |= {"Range": f"bytes={since.offset}-", "If-Range": since.validator}
    return headers


def read_head(status: int, headers: Mapping[str, str], since: ResumePoint | None = None) -> DownloadHeaders:
    """Read the answer to such a request.

    Raises LinkExpiredError, ResumeNotPossibleError where the rest is not to be had, DownloadError otherwise.
    """
    if status in _LINK_GONE:
        raise LinkExpiredError(f"The link to the clip is not good any more ({status}).")
    if status == 416 and since is not None:
        raise ResumeNotPossibleError(
            f"The clip's storage has nothing from byte {since.offset} on ({status})."
        )
    if status not in (200, 206):
        raise DownloadError(f"The clip's storage answered with status {status}.")
    is_part = status == 206
    start, size = _range(headers, since) if is_part else (0, announced_size(headers))
    return DownloadHeaders(
        size, start, _validator(headers), headers.get("content-type"), checksums_of(headers, is_part=is_part)
    )


def announced_size(headers: Mapping[str, str]) -> int | None:
    """Length of a body in bytes, as its headers announce it."""
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch("[0-9]{1,19}", length) else None


def _range(headers: Mapping[str, str], since: ResumePoint | None) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if since is None or match is None or int(match[1]) != since.offset:
        raise ResumeNotPossibleError("The clip's storage answered with another part than was asked for.")
    if not _is_of_same_file(headers, since.validator):  # storages that know no If-Range send it all the same
        raise ResumeNotPossibleError("The clip's storage answered with a part of another file.")
    return since.offset, None if match[3] == "*" else int(match[3])


def _is_of_same_file(headers: Mapping[str, str], validator: str) -> bool:
    """Unless the part says that it is of another one. Some storages do not say of which it is."""
    if _STRONG_TAG.fullmatch(validator):
        return headers.get("etag", validator) == validator
    return headers.get("last-modified", validator) == validator


def _validator(headers: Mapping[str, str]) -> str | None:
    tag = headers.get("etag")
    if tag is not None:
        return tag if _STRONG_TAG.fullmatch(tag) else None
    try:
        modified = parsedate_to_datetime(headers["last-modified"])
        answered = parsedate_to_datetime(headers["date"])
        is_old_enough = answered - modified >= timedelta(seconds=1)
    except (KeyError, ValueError, TypeError, OverflowError):  # TypeError: only one of them has a zone
        return None
    return headers["last-modified"] if is_old_enough else None
