"""The files of the storage origin: uploads on their paths, clips of the jobs, all on local disk."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from magichour_provider.sandbox.checksums import Checksums

UPLOAD_URL_LIFE = timedelta(hours=1)
"""Life of an upload URL. The real one is not documented."""
UPLOAD_RETENTION = timedelta(days=7)
"""Uploads are gone after this (docs: integration/inputs-and-outputs)."""
DOWNLOAD_URL_LIFE = timedelta(hours=24)
"""Life of a download link (docs: changelog, 27 December 2024)."""

_ID_ALPHABET = string.ascii_lowercase + string.digits


def new_id() -> str:
    """An opaque id that looks like Magic Hour's: `c` and 24 letters and digits."""
    return "c" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(24))


def download_path(project_id: str, number: int = 1) -> str:
    """Path of a job's clip on the storage origin; only the directory differs between clips."""
    return f"/{project_id}/output.mp4" if number == 1 else f"/{project_id}/{number}/output.mp4"


@dataclass
class Upload:
    """One path that was handed out for uploading; `size` in bytes, `sha256` in hex of the last PUT.

    `put_at` and `sha256` are None until the first.
    """

    file_path: str
    disk_path: Path
    size: int = 0
    sha256: str | None = None
    put_count: int = 0
    put_at: datetime | None = None

    def is_there(self, now: datetime) -> bool:
        """Whether bytes were put and are kept still."""
        return self.put_at is not None and now < self.put_at + UPLOAD_RETENTION


class ObjectStore:
    """Hands out upload paths and knows what arrived on them."""

    def __init__(self, directory: Path) -> None:
        self.checksums = Checksums()
        self._directory = directory
        self._uploads: dict[str, Upload] = {}
        self._clips: list[Path] = []
        directory.mkdir(parents=True, exist_ok=True)

    def new_upload(self, kind: str, extension: str) -> Upload:
        """A fresh path for one file of `kind` (image, video, audio)."""
        upload_id = new_id()
        file_path = f"api-assets/{upload_id}/{kind}.{extension}"
        upload = Upload(file_path, self._directory / f"{upload_id}.{extension}")
        self._uploads[file_path] = upload
        return upload

    def find(self, file_path: str) -> Upload | None:
        """The upload on `file_path`, arrived or not; None where the path was never handed out."""
        return self._uploads.get(file_path)

    def all(self) -> list[Upload]:
        """Every path that was handed out, oldest first."""
        return list(self._uploads.values())

    def clip_paths(self, project_id: str, count: int) -> list[Path]:
        """Where the clips of a job are kept on disk."""
        names = [project_id, *(f"{project_id}-{number}" for number in range(2, count + 1))]
        paths = [self._directory / f"{name}.mp4" for name in names]
        self._clips.extend(paths)
        return paths

    def clear(self) -> None:
        """Forget and remove every file of this store; others in the directory stay."""
        for path in (*self._clips, *(upload.disk_path for upload in self._uploads.values())):
            path.unlink(missing_ok=True)
        self._uploads.clear()
        self._clips.clear()
        self.checksums.clear()
