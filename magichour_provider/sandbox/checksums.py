"""What the storage tells of a clip's bytes: its ETag, and checksums in one store's headers or another's."""

from __future__ import annotations

import hashlib
import os
import threading
from base64 import b64encode
from typing import BinaryIO, Literal

ClipChecksum = Literal["etag-md5", "none", "content-md5", "goog", "sha-256", "digest"]
"""Whose headers a clip is served with; what each gives is in `checksum_headers`."""

_BLOCK_BYTES = 1 << 20


class Checksums:
    """Checksums of open files, each computed when it is first asked for and kept until `clear`."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], bytes] = {}
        self._lock = threading.Lock()

    def of(self, file: BinaryIO, algorithm: Literal["md5", "sha256"]) -> bytes:
        """The digest of the whole file. Blocks for a few seconds per GiB the first time."""
        status = os.fstat(file.fileno())
        key = (algorithm, status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._known:
                self._known[key] = _digest(file, algorithm)
            return self._known[key]

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


def etag_of(kind: ClipChecksum, checksums: Checksums, file: BinaryIO) -> str:
    """A strong ETag of the content: its MD5 in hex, as a plain S3 object has.

    But for `etag-md5` it is no checksum of the body: the form that S3 gives an object uploaded in parts.
    """
    md5 = checksums.of(file, "md5")
    if kind == "etag-md5":
        return f'"{md5.hex()}"'
    return f'"{hashlib.md5(md5, usedforsecurity=False).hexdigest()}-1"'


def checksum_headers(
    kind: ClipChecksum, checksums: Checksums, file: BinaryIO, *, whole: bool
) -> dict[str, str]:
    """The headers besides the ETag, for a 200 (`whole`) or a 206. Blocks as `Checksums.of` does.

    `content-md5` (RFC 1864) and `sha-256` (S3) come with a 200 only, as stores that send them do;
    `goog` (Google Cloud Storage, without its crc32c) and `digest` (RFC 9530) tell of the whole clip on both.
    """
    if kind == "content-md5" and whole:
        return {"Content-MD5": _base64(checksums.of(file, "md5"))}
    if kind == "sha-256" and whole:
        digest = _base64(checksums.of(file, "sha256"))
        return {"x-amz-checksum-sha256": digest, "x-amz-checksum-type": "FULL_OBJECT"}
    if kind == "goog":
        return {"x-goog-hash": f"md5={_base64(checksums.of(file, 'md5'))}"}
    if kind == "digest":
        return {"Repr-Digest": f"sha-256=:{_base64(checksums.of(file, 'sha256'))}:"}
    return {}


def _digest(file: BinaryIO, algorithm: str) -> bytes:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.digest()


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()
