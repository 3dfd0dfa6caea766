"""The checksums that a storage gives, in whichever headers."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest
from multidict import CIMultiDict

from magichour_provider.client.checksums import Checksum, checksums_of

CONTENT = b"a clip"


def hexed(algorithm: str) -> str:
    return hashlib.new(algorithm, CONTENT).hexdigest()


def based(algorithm: str) -> str:
    return b64encode(hashlib.new(algorithm, CONTENT).digest()).decode()


MD5 = Checksum("md5", hexed("md5"))
SHA1 = Checksum("sha1", hexed("sha1"))
SHA256 = Checksum("sha256", hexed("sha256"))


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"content-md5": based("md5")}, (MD5,)),
        ({"digest": f"sha-256={based('sha256')},md5={based('md5')}"}, (MD5, SHA256)),
        ({"digest": f"SHA-256={based('sha256')}"}, (SHA256,)),
        ({"digest": f"sha={based('sha1')}"}, (SHA1,)),
        ({"repr-digest": f"sha-256=:{based('sha256')}:, sha-512=:AAAA:"}, (SHA256,)),
        ({"x-goog-hash": f"crc32c=AAAAAA==, md5={based('md5')}"}, (MD5,)),
        ({"x-ms-blob-content-md5": based("md5")}, (MD5,)),
        ({"x-amz-checksum-sha256": based("sha256")}, (SHA256,)),
        ({"x-amz-checksum-sha1": based("sha1"), "x-amz-checksum-type": "full_object"}, (SHA1,)),
        ({"etag": f'"{hexed("md5")}"'}, (Checksum("md5", hexed("md5"), certain=False),)),
        ({}, ()),
    ],
)
def test_each_stores_way_of_giving_a_checksum_is_read(headers, found):
    assert checksums_of(CIMultiDict(headers), is_part=False) == found


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-sha256": based("sha256"), "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-sha256": f"{based('sha256')}-3"},
        {"x-amz-checksum-crc32": "AAAAAA=="},
        {"etag": f'"{hexed("md5")}-2"'},
        {"etag": f'W/"{hexed("md5")}"'},
        {"etag": f'"{hexed("md5")}"', "x-amz-server-side-encryption": "aws:kms"},
        {"etag": f'"{hexed("md5")}"', "x-amz-server-side-encryption": "aws:kms:dsse"},
        {"etag": f'"{hexed("sha1")}"'},
        {"content-md5": based("sha256")},
        {"content-md5": hexed("md5")},
        {"content-md5": "not base64 at all"},
        {"content-md5": "caf\xe9"},
        {"content-md5": "\udcff\udcfe"},
        {"digest": "caf\xe9=\xe9\xe8,,=,md5"},
        {"repr-digest": "sha-256"},
        {"x-goog-hash": ""},
    ],
)
def test_what_is_no_checksum_of_the_whole_file_is_passed_over(headers):
    assert checksums_of(headers, is_part=False) == ()


def test_a_tag_is_not_guessed_at_where_a_checksum_is_given():
    headers = {"etag": f'"{"0" * 32}"', "repr-digest": f"sha-256=:{based('sha256')}:"}
    assert checksums_of(headers, is_part=False) == (SHA256,)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"content-md5": based("md5")}, ()),
        ({"digest": f"md5={based('md5')}"}, ()),
        ({"repr-digest": f"sha-256=:{based('sha256')}:"}, (SHA256,)),
        ({"x-goog-hash": f"md5={based('md5')}"}, (MD5,)),
    ],
)
def test_with_a_part_only_those_of_the_whole_count(headers, found):
    assert checksums_of(headers, is_part=True) == found
