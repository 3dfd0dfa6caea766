"""What a storage says of a file's content in the headers of its answer.

Magic Hour does not document its storage, so the headers of the usual ones are read: `Content-MD5` (RFC
1864), `Repr-Digest` and `Digest` (RFC 9530, RFC 3230), `x-amz-checksum-*` (S3), `x-goog-hash` (Google Cloud
Storage), `x-ms-blob-content-md5` (Azure), and an `ETag` that looks like an MD5, which plain S3 objects have.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BYTES = {"md5": 16, "sha1": 20, "sha256": 32}
_NAMES = {
    "md5": "md5",
    "sha": "sha1",
    "sha-1": "sha1",
    "sha1": "sha1",
    "sha-256": "sha256",
    "sha256": "sha256",
}
_MD5_TAG = re.compile(r'"([0-9a-f]{32})"')


@dataclass(frozen=True)
class Checksum:
    """A digest of the whole file: `algorithm` as hashlib calls it, `digest` in hex.

    `certain`: the storage says that it is one. An ETag may look like an MD5 and be none.
    """

    algorithm: str
    digest: str
    certain: bool = True


def checksums_of(headers: Mapping[str, str], *, is_part: bool) -> tuple[Checksum, ...]:
    """The checksums of the whole file; `is_part`: the answer's body is a range of it."""
    found = {*_declared(headers, is_part)}
    tag = None if found or "kms" in headers.get("x-amz-server-side-encryption", "") else headers.get("etag")
    match = _MD5_TAG.fullmatch(tag or "")
    if match:
        found.add(Checksum("md5", match[1], certain=False))
    return tuple(sorted(found, key=lambda checksum: checksum.algorithm))


def _declared(headers: Mapping[str, str], is_part: bool) -> Iterator[Checksum]:
    if not is_part:  # of a range, some give the checksum of that range
        yield from _read("md5", headers.get("content-md5"))
        yield from _listed(headers.get("digest"))
    yield from _listed(headers.get("repr-digest"))
    yield from _listed(headers.get("x-goog-hash"))
    yield from _read("md5", headers.get("x-ms-blob-content-md5"))
    if headers.get("x-amz-checksum-type", "FULL_OBJECT").upper() == "FULL_OBJECT":
        for algorithm in ("sha1", "sha256"):
            yield from _read(algorithm, headers.get(f"x-amz-checksum-{algorithm}"))


def _listed(header: str | None) -> Iterator[Checksum]:
    """`sha-256=:base64:, md5=base64`."""
    for entry in (header or "").split(","):
        name, _, value = entry.strip().partition("=")
        yield from _read(_NAMES.get(name.lower(), ""), value)


def _read(algorithm: str, value: str | None) -> Iterator[Checksum]:
    try:
        digest = base64.b64decode((value or "").strip().strip(":"), validate=True)
    except ValueError:  # no base64, or not even ASCII
        return
    if len(digest) == _BYTES.get(algorithm):
        yield Checksum(algorithm, digest.hex())
