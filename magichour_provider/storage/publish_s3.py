"""Write an object to S3 by its multipart upload: some parts on their way at a time, shown when all are there.

By the client of Airflow's `S3Hook`. s3fs would send one part after the other and wait for each, and its
client takes twice the CPU and the memory (measured against a local server).
"""

from __future__ import annotations

import mimetypes
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from magichour_provider.storage.locations import ObjectPath
from magichour_provider.storage.target import Target

PART_BYTES = 6 << 20
"""More than S3's minimum of 5 MiB; 10,000 parts, its maximum, are more than any clip."""
_PARTS_AT_ONCE = 3
_MISSING = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")
_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""How stores that are like S3 refuse a condition that they do not know."""


class S3Writer:
    """Nothing of it is seen before `commit`; an exclusive one loses against who commits first."""

    def __init__(self, target: Target, place: ObjectPath, *, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._client, self._object = place.s3_client()
        self._kind = {"ContentType": mimetypes.guess_type(target.path)[0] or "application/octet-stream"}
        self._refuse_existing()
        self._held: list[memoryview] = []
        self._held_bytes = 0
        self._upload_id: str | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._pool = ThreadPoolExecutor(_PARTS_AT_ONCE, "magichour-s3")

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        while view:  # parts are all of one length but the last, as some stores ask for
            taken = view[: PART_BYTES - self._held_bytes]
            self._held.append(taken)
            self._held_bytes += len(taken)
            view = view[len(taken) :]
            if self._held_bytes == PART_BYTES:
                self._send_part()

    def commit(self) -> None:
        """Send the rest, and let the store show the object."""
        self._refuse_existing()
        if self._upload_id is None:
            self._conditionally("put_object", **self._kind, Body=self._take_held())
        else:
            if self._held:
                self._send_part()
            parts = [future.result() for future in self._parts]
            self._conditionally(
                "complete_multipart_upload", UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )
        self._pool.shutdown()

    def abort(self) -> None:
        """Give the upload up; what it has sent is freed."""
        self._pool.shutdown(cancel_futures=True)
        self._held.clear()
        if self._upload_id is not None:
            with suppress(Exception):  # the next landing of this name ends it
                self._call("abort_multipart_upload", UploadId=self._upload_id)

    def _take_held(self) -> bytes:
        body = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return body

    def _send_part(self) -> None:
        if self._upload_id is None:
            self._upload_id = str(self._call("create_multipart_upload", **self._kind)["UploadId"])
        under_way = [part for part in self._parts if not part.done()]
        if len(under_way) >= _PARTS_AT_ONCE:
            wait(under_way, return_when=FIRST_COMPLETED)
        for part in self._parts:
            if part.done():
                part.result()
        number = len(self._parts) + 1
        self._parts.append(self._pool.submit(self._upload_part, number, self._take_held()))

    def _upload_part(self, number: int, body: bytes) -> dict[str, Any]:
        answer = self._call("upload_part", UploadId=self._upload_id, PartNumber=number, Body=body)
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        checksums.pop("ChecksumType", None)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    def _conditionally(self, method: str, **arguments: Any) -> None:
        """Only where nothing has the name, if exclusive (`If-None-Match`), as far as the store knows how."""
        if not self._exclusive:
            self._call(method, **arguments)
            return
        try:
            self._call(method, IfNoneMatch="*", **arguments)
        except Exception as error:
            code = _error_code(error)
            if code in _TAKEN:
                raise self._target.exists_already() from None
            if code not in _NO_CONDITIONS:
                raise
            self._call(method, **arguments)

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client, method)(**self._object, **arguments)
        return answer

    def _refuse_existing(self) -> None:
        if not self._exclusive:
            return
        try:
            self._call("head_object")
        except Exception as error:
            if _error_code(error) not in _MISSING:
                raise
        else:
            raise self._target.exists_already()


def _error_code(error: BaseException) -> str | None:
    """The code of what S3 has answered."""
    code: str | None = getattr(error, "response", {}).get("Error", {}).get("Code")
    return code
