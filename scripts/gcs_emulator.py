"""Google Cloud Storage on this machine: the package gcp-storage-emulator, with what it lacks of the real one.

python scripts/gcs_emulator.py    # prints its address; a port that the system picks; objects in memory

Added: the precondition `ifGenerationMatch`, `DELETE` of a resumable upload, and an error for a start of a
resumable upload into a bucket that does not exist. The server handles one request at a time, so a check and
the write after it are one step.
"""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage


class PreconditionFailedError(Exception):
    """The object has another generation."""


class ConditionalStorage(Storage):
    """Checks `ifGenerationMatch` of the running request, or of the request that began its upload."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.wanted: str | None = None
        self._wanted_by_uploads: dict[str, str | None] = {}

    def create_resumable_upload(self, bucket_name: str, file_name: str, file_obj: Any) -> str:
        """Begin an upload."""
        self.get_bucket(bucket_name)
        upload_id: str = super().create_resumable_upload(bucket_name, file_name, file_obj)
        self._wanted_by_uploads[upload_id] = self.wanted
        return upload_id

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, file_obj: Any, file_id: str | None = None
    ) -> None:
        """Publish an object, if the one under its name has the wanted generation; 0 means none."""
        wanted = self._wanted_by_uploads.get(file_id) if file_id else self.wanted
        try:
            found = str(self.get_file_obj(bucket_name, file_name)["generation"])
        except NotFound:
            found = "0"
        if wanted not in (None, found):
            raise PreconditionFailedError
        super().create_file(bucket_name, file_name, content, file_obj, file_id)


class Handler(RequestHandler):
    """Hands the condition to the storage, and answers 412."""

    def do_POST(self) -> None:
        """Upload."""
        query = parse_qs(urlsplit(self.path).query)
        self.storage.wanted = query.get("ifGenerationMatch", [None])[0]
        if query.get("uploadType") == ["media"]:
            self.headers.replace_header("Content-Type", "application/octet-stream")  # it would parse JSON
        try:
            Router(self).handle("POST")
        except PreconditionFailedError:
            self.send_error(HTTPStatus.PRECONDITION_FAILED)

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        """Remove an object, or cancel a resumable upload, which the real store answers with 499."""
        if "upload_id=" in self.path:
            self.send_error(499, "Client Closed Request")
        else:
            super().do_DELETE()


def main() -> None:
    """Serve until the process ends."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = HTTPServer(("127.0.0.1", 0), partial(Handler, ConditionalStorage()))
    print(f"Running on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
