"""Name a place in a file system or an object store, reach it, and explain what went wrong there.

Object stores are reached through Airflow's `attach`, the same machinery as under `ObjectStoragePath`: the
scheme chooses the driver, the connection its credentials. Nothing of Airflow or fsspec is loaded before that.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL_SCHEMES = frozenset({"file", "local"})
_EXTRAS = {
    "s3": "amazon",
    "s3a": "amazon",
    "gs": "google",
    "gcs": "google",
    "abfs": "microsoft-azure",
    "abfss": "microsoft-azure",
    "adl": "microsoft-azure",
}
S3_SCHEMES = frozenset({"s3", "s3a"})
PUBLISH_ON_CLOSE = S3_SCHEMES | {"gs", "gcs", "abfs", "abfss", "az"}
"""Where a file that is being written is not seen before it is closed."""

_S3_REFUSED = frozenset(
    {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_S3_HOPELESS = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "InvalidBucketName",
        "KeyTooLongError",
        "NoSuchBucket",
        "PermanentRedirect",
    }
)
"""What S3 answers again and again; much else of its 4xx passes, such as an upload that another try ended."""

_HOPELESS = "trying again cannot help before that."


@dataclass(frozen=True)
class ObjectPath:
    """A file in an object store. `url` carries no user-info: that part of the URL is the connection's id."""

    scheme: str
    url: str
    conn_id: str | None = None

    def connect(self) -> tuple[Any, str]:
        """The fsspec file system of this place, and the path in it. Raises whatever its driver raises."""
        from airflow.sdk.io import attach

        filesystem: Any = attach(self.scheme, self.conn_id).fs
        path = str(filesystem._strip_protocol(self.url))
        filesystem.invalidate_cache(path)
        return filesystem, path

    def s3_client(self) -> tuple[Any, dict[str, str]]:
        """Airflow's own client of an S3 place, and the arguments that name the object in its methods."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        bucket, _, key = self.url.split("://", 1)[1].partition("/")
        return S3Hook(aws_conn_id=self.conn_id).get_conn(), {"Bucket": bucket, "Key": key}


def scheme_of(path: str) -> str | None:
    """The URL scheme of `path` in lower case; None where it is no URL."""
    match = _URL.match(path)
    return match[1].lower() if match else None


def locate(path: str, conn_id: str | None = None) -> Path | ObjectPath:
    """Read a local path, a `file://` URL, or an object store's URL (`s3://bucket/key`, `s3://conn_id@bucket/key`).

    Raises ValueError for a `file://` URL of another host.
    """
    scheme = scheme_of(path)
    if scheme is None:
        return Path(path).expanduser()
    authority, slash, key = path.split("://", 1)[1].partition("/")
    if scheme in _LOCAL_SCHEMES:
        if authority not in ("", "localhost"):
            raise ValueError("a file:// URL has three slashes before its absolute path")
        return Path(unquote(slash + key))
    user_info, _, host = authority.rpartition("@")
    return ObjectPath(scheme, f"{scheme}://{host}{slash}{key}", conn_id or user_info or None)


def within(folder: Path | ObjectPath, name: str) -> Path | ObjectPath:
    """The file of this name in a folder."""
    if isinstance(folder, Path):
        return folder / name
    return ObjectPath(folder.scheme, f"{folder.url.rstrip('/')}/{name}", folder.conn_id)


def conn_id_of(path: str, conn_id: str | None = None) -> str | None:
    """The connection by which `path` is reached: the one given, or the one that it names itself."""
    place = locate(path, conn_id)
    return place.conn_id if isinstance(place, ObjectPath) else None


def display(path: str) -> str:
    """`path` as a log or an error may show it: a URL loses its user-info, query and fragment."""
    scheme = scheme_of(path)
    if scheme is None:
        return path if "?" not in path else path.partition("?")[0] + "?..."
    query = r"[?#]" if scheme in ("http", "https") else r"\?"  # an object's key may hold a '#'
    authority, slash, rest = re.split(query, path.split("://", 1)[1], maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{rest}"


@dataclass(frozen=True)
class Diagnosis:
    """What an error of a file system or a store means; `permanent`: no retry mends it."""

    cause: str
    permanent: bool
    remedy: str | None = field(default=None)


def diagnose(error: Exception, place: Path | ObjectPath) -> Diagnosis:
    """Read an error that `place` raised. What is not known to be permanent may be mended by a retry."""
    scheme = place.scheme if isinstance(place, ObjectPath) else None
    if scheme is not None and (isinstance(error, ImportError) or "No filesystem registered" in str(error)):
        return Diagnosis(f"no driver for {scheme}:// is installed", True, _how_to_install(scheme))
    if isinstance(error, OSError):
        known = _of_kind(error) or _of_errno(error.errno)
        if known is not None:
            return known
    name = type(error).__name__
    if _code(error) in _S3_HOPELESS or name == "ParamValidationError":
        return Diagnosis(brief(error), True, f"Check the path and the connection; {_HOPELESS}")
    conn_id = place.conn_id if isinstance(place, ObjectPath) else None
    if "NotFound" in name or "NOT_FOUND" in str(error):
        return Diagnosis(
            f"connection {conn_id!r}, or something else that it needs, is not defined ({brief(error)})",
            True,
            f"Check the connection; {_HOPELESS}",
        )
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        found = "no connection was given" if conn_id is None else f"connection {conn_id!r} has none"
        return Diagnosis(
            f"no credentials for the store were found ({found})",
            True,
            f"Give the id of the store's connection (path_conn_id, image_conn_id, ...); {_HOPELESS}",
        )
    if "Credential" in name or "Auth" in name or _code(error) in _S3_REFUSED or _status(error) in (401, 403):
        return Diagnosis(
            f"the store refused the credentials of connection {conn_id!r} ({brief(error)})",
            True,
            f"Correct the connection; {_HOPELESS}",
        )
    refused = 400 <= _status(error) < 500 and _status(error) not in (408, 429)
    return Diagnosis(
        brief(error), permanent=refused or isinstance(error, (ValueError, TypeError, ImportError))
    )


def brief(error: BaseException) -> str:
    """Class and first line of an error, without the queries and user-infos of URLs in it."""
    lines = str(error).splitlines()
    text = re.sub(r"\?\S+", "?...", lines[0]) if lines else ""
    text = re.sub(r"//[^/\s@]+@", "//", text)[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_kind(error: OSError) -> Diagnosis | None:
    if isinstance(error, FileNotFoundError):
        return Diagnosis(
            "it, or a folder or bucket on its path, does not exist", True, f"Check the path; {_HOPELESS}"
        )
    if isinstance(error, PermissionError):
        return Diagnosis(
            "permission denied",
            True,
            f"Give the worker's user, or the connection, the right to it; {_HOPELESS}",
        )
    if isinstance(error, IsADirectoryError):
        return Diagnosis("it is a folder", True, f"Name a file; {_HOPELESS}")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return Diagnosis("a part of the path is a file, not a folder", True, f"Check the path; {_HOPELESS}")
    return None


def _of_errno(number: int | None) -> Diagnosis | None:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return Diagnosis(
            "no space left", True, "Free some space or choose another place, then clear this task."
        )
    if number in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EINVAL):
        return Diagnosis(os.strerror(number).lower(), True)
    return None


def _code(error: Exception) -> str | None:
    """The code that Amazon's client keeps on what S3 has answered."""
    code: str | None = getattr(error, "response", {}).get("Error", {}).get("Code")
    return code


def _status(error: Exception) -> int:
    """The HTTP status that the drivers of Google and Azure keep on their errors; 0 where there is none."""
    for attribute in ("status_code", "status", "code"):
        value = getattr(error, attribute, None)
        if isinstance(value, int):
            return value
    return 0


def _how_to_install(scheme: str) -> str:
    if scheme in _EXTRAS:
        return f"Install airflow-provider-magichour[{_EXTRAS[scheme]}]; {_HOPELESS}"
    return f"Install the Airflow provider that brings {scheme}:// to ObjectStoragePath; {_HOPELESS}"
