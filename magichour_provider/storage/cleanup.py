"""What a killed landing leaves beside its target, and how the next one removes it.

On a disk that is a temporary file. Its writer holds a lock on it, which dies with the process: a file whose
lock is free belongs to nobody. In S3 it is an upload that was never completed, which nobody sees and
somebody pays for; in stores without uploads of their own, a temporary object. Neither can be locked, so
there the next landing of the same name ends what another one has begun. Google and Azure drop by themselves
what was not committed.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import logging
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from magichour_provider.storage.locations import PUBLISH_ON_CLOSE, S3_SCHEMES, ObjectPath, brief
from magichour_provider.storage.target import Target

log = logging.getLogger(__name__)

_ABANDONED_SECONDS = 24 * 3600.0
"""Age at which a temporary file is taken for a leftover where the file system has no locks."""


def part_name(file_name: str) -> str:
    """A temporary name beside `file_name`, hidden and of its own."""
    return f"{_part_prefix(file_name)}{secrets.token_hex(6)}.part"


def hold(file: IO[bytes]) -> bool:
    """Mark a temporary file as one that is being written, for as long as it is open.

    False where a cleaner was quicker, and is about to remove it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def remove_leftovers(target: Target) -> None:
    """Remove what earlier landings of this target, now dead, have left. Failing at that is no failure."""
    try:
        if isinstance(target.place, Path):
            _remove_files(target.place)
        elif target.place.scheme in S3_SCHEMES:
            _abort_uploads(target.place)
        elif target.place.scheme not in PUBLISH_ON_CLOSE:
            _remove_objects(target.place)
    except Exception as error:  # such as no right to list; the landing itself will say what matters
        log.debug("Leftovers beside %s could not be looked for: %s", target.display, brief(error))


def _part_prefix(file_name: str) -> str:
    return f".{file_name[:40]}.{hashlib.sha256(file_name.encode(errors='surrogatepass')).hexdigest()[:8]}."


def _remove_files(path: Path) -> None:
    for part in path.parent.glob(f"{glob.escape(_part_prefix(path.name))}*.part"):
        with suppress(OSError), part.open("rb") as file:
            if _is_abandoned(file, part):
                part.unlink()
                log.info("Removed %s, which an earlier try had left.", part.name)


def _is_abandoned(file: IO[bytes], part: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - part.stat().st_mtime > _ABANDONED_SECONDS
    return True


def _abort_uploads(place: ObjectPath) -> None:
    client, name = place.s3_client()
    answer = client.list_multipart_uploads(Bucket=name["Bucket"], Prefix=name["Key"])
    for upload in answer.get("Uploads", ()):
        if upload["Key"] == name["Key"]:
            client.abort_multipart_upload(**name, UploadId=upload["UploadId"])
            log.info("Ended an upload of %s that an earlier try had left.", name["Key"])


def _remove_objects(place: ObjectPath) -> None:
    filesystem, path = place.connect()
    folder, _, file_name = path.rpartition("/")
    for part in filesystem.ls(folder, detail=False):
        name = part.rpartition("/")[2]
        if name.startswith(_part_prefix(file_name)) and name.endswith(".part"):
            filesystem.rm_file(part)  # rm would take the name for a pattern
            log.info("Removed %s, which an earlier try had left.", name)
