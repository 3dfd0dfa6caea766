"""Places in file systems and object stores: read them from a path, reach them, explain their errors.

Object stores are reached by Airflow's `attach`, as `ObjectStoragePath` does: the scheme selects the driver,
the connection gives the credentials. `ObjectStoragePath` itself cannot be created on Airflow 3.0 with
current universal-pathlib, and reports lineage for every chunk. Nothing of Airflow or fsspec is imported
before a store is reached.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from magichour_provider.exceptions import (
    DestinationError,
    ImageError,
    MagicHourError,
    NetworkError,
    PictureError,
    TransferError,
)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL_SCHEMES = frozenset({"file", "local"})
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "amazon"),
    **dict.fromkeys(("gs", "gcs"), "google"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "microsoft-azure"),
}
S3_SCHEMES = frozenset({"s3", "s3a"})
PUBLISH_ON_CLOSE_SCHEMES = S3_SCHEMES | {"gs", "gcs", "abfs", "abfss", "az"}
"""Stores that show a file only after it was closed."""
READ_BLOCK_BYTES = 8 << 20
"""What a store's driver fetches at a time; the default of s3fs is 50 MiB."""

# --- paths and URLs


@dataclass(frozen=True)
class ObjectPath:
    """A file in an object store. `url` has no user-info: that part of a URL is the connection id."""

    scheme: str
    url: str
    conn_id: str | None = None

    def connect(self) -> tuple[Any, str]:
        """The store's fsspec file system, and the path in it. Raises what the driver raises."""
        from airflow.sdk.io import attach

        try:
            filesystem: Any = attach(self.scheme, self.conn_id).fs
        except ValueError as error:
            if str(error).startswith("No filesystem registered"):  # airflow.sdk.io.get_fs raises it
                raise ImportError(str(error)) from error
            raise
        path = str(filesystem._strip_protocol(self.url))
        filesystem.invalidate_cache(path)
        return filesystem, path

    def s3_client(self) -> tuple[Any, dict[str, str]]:
        """The boto3 client of Airflow's S3Hook, and the arguments that name the object in its methods."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        bucket, _, key = self.url.split("://", 1)[1].partition("/")
        return S3Hook(aws_conn_id=self.conn_id).get_conn(), {"Bucket": bucket, "Key": key}


Location = Path | ObjectPath


def url_scheme(path: str) -> str | None:
    """The URL scheme of `path` in lower case; None if it is not a URL."""
    match = _URL.match(path)
    return match[1].lower() if match else None


def parse_location(path: str, conn_id: str | None = None) -> Location:
    """Parse a local path, a `file://` URL, or a store's URL (`s3://bucket/key`, `s3://conn_id@bucket/key`).

    Raises ValueError for a `file://` URL with a host.
    """
    scheme = url_scheme(path)
    if scheme is None:
        return Path(path).expanduser()
    authority, slash, key = path.split("://", 1)[1].partition("/")
    if scheme in _LOCAL_SCHEMES:
        if authority not in ("", "localhost"):
            raise ValueError("a file:// URL has three slashes before its absolute path")
        return Path(unquote(slash + key))
    user_info, _, host = authority.rpartition("@")
    return ObjectPath(scheme, f"{scheme}://{host}{slash}{key}", conn_id or user_info or None)


def file_name_at(place: Location) -> str:
    """The last part of the path."""
    return place.name if isinstance(place, Path) else place.url.rpartition("/")[2]


def join(folder: Location, name: str) -> Location:
    """The file `name` in a folder."""
    if isinstance(folder, Path):
        return folder / name
    return ObjectPath(folder.scheme, f"{folder.url.rstrip('/')}/{name}", folder.conn_id)


def is_folder(place: Location) -> bool:
    """Whether a folder exists there; a path in a store with an extension is a file. Raises driver errors."""
    if isinstance(place, Path):
        return place.is_dir()
    if "." in file_name_at(place):
        return False
    filesystem, path = place.connect()
    return bool(filesystem.isdir(path))


def connection_id(path: str, conn_id: str | None = None) -> str | None:
    """The connection that reaches `path`: the given one, or the one in the URL."""
    place = parse_location(path, conn_id)
    return place.conn_id if isinstance(place, ObjectPath) else None


def redact(path: str) -> str:
    """`path` for logs and errors: a URL without user-info, query and fragment."""
    scheme = url_scheme(path)
    if scheme is None:
        return path if "?" not in path else path.partition("?")[0] + "?..."
    query = r"[?#]" if scheme in ("http", "https") else r"\?"  # the key of an object may contain a '#'
    authority, slash, rest = re.split(query, path.split("://", 1)[1], maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{rest}"


def open_for_reading(place: Location, block_bytes: int = READ_BLOCK_BYTES) -> BinaryIO:
    """Open a file for reading. Raises what the file system or the driver raises."""
    if isinstance(place, Path):
        return place.open("rb")
    filesystem, path = place.connect()
    return cast("BinaryIO", filesystem.open(path, "rb", block_size=block_bytes))


def format_bytes(size: float) -> str:
    """`12 bytes`, `3.4 kB`, `5.6 MB`, `1.23 GB`: decimal units, as disks and networks count."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def format_seconds(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# --- errors

_CANNOT_HELP = "A retry cannot help before that."
_S3_REFUSED = frozenset(
    {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_S3_PERMANENT = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "InvalidBucketName",
        "KeyTooLongError",
        "NoSuchBucket",
        "PermanentRedirect",
    }
)
"""S3 error codes that do not go away. Other 4xx codes do, such as an upload that another attempt aborted."""

# Types by their full name, so that classifying an error imports no driver.
_INVALID_ARGUMENTS = {"botocore.exceptions.ParamValidationError"}
_NO_CONNECTION = {
    "airflow.exceptions.AirflowNotFoundException",
    "airflow.sdk.exceptions.AirflowNotFoundException",
    "botocore.exceptions.ProfileNotFound",
}
_NO_CREDENTIALS = {"botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError"}
_REFUSED = {
    "botocore.exceptions.CredentialRetrievalError",
    "botocore.exceptions.TokenRetrievalError",
    "botocore.exceptions.UnauthorizedSSOTokenError",
    "google.auth.exceptions.GoogleAuthError",
    "azure.core.exceptions.ClientAuthenticationError",
}
_ERRNOS = {
    errno.ENOENT: ("it, or a folder or bucket on its path, does not exist", "Check the path."),
    errno.EACCES: ("permission denied", "Give the worker's user, or the connection, access to it."),
    errno.EPERM: ("permission denied", "Give the worker's user, or the connection, access to it."),
    errno.EISDIR: ("it is a folder", "Name a file."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Check the path."),
    errno.EEXIST: ("a part of the path is a file, not a folder", "Check the path."),
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), ("no space left", "Free some space or choose another place.")
    ),
}
_ERRNOS_OF_TYPES = {  # drivers raise these without an errno
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    FileExistsError: errno.EEXIST,
}
_PERMANENT_ERRNOS = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EINVAL)


@dataclass(frozen=True)
class Diagnosis:
    """What an error of a file system or a store means. `permanent`: a retry cannot help."""

    cause: str
    permanent: bool
    remedy: str | None = field(default=None)


def classify_error(error: Exception, place: Location) -> Diagnosis:
    """Classify an error that `place` raised. Errors that are not known to be permanent are temporary."""
    if isinstance(error, OSError):
        found = _classify_os_error(error)
        if found is not None:
            return found
    if isinstance(place, ObjectPath):
        found = _classify_store_error(error, place)
        if found is not None:
            return found
    return Diagnosis(short_error(error), isinstance(error, (ValueError, TypeError, ImportError)))


def short_error(error: BaseException) -> str:
    """Class and first line of an error, without the queries and user-infos of URLs."""
    lines = str(error).splitlines()
    text = re.sub(r"\?\S+", "?...", lines[0]) if lines else ""
    text = re.sub(r"//[^/\s@]+@", "//", text)[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reading_error(
    kind: type[ImageError] | type[PictureError], subject: str, error: Exception, place: Location
) -> MagicHourError:
    """`kind` if a retry cannot help, else NetworkError. `subject`: how the message begins."""
    found = classify_error(error, place)
    what = f"{subject} cannot be read: {found.cause}."
    if found.permanent:
        return kind(what, remedy=found.remedy)
    return NetworkError(what, consequence=kind.default_consequence)


def s3_error_code(error: BaseException) -> str | None:
    """The error code in an S3 response, as botocore keeps it."""
    code: str | None = getattr(error, "response", {}).get("Error", {}).get("Code")
    return code


def _classify_os_error(error: OSError) -> Diagnosis | None:
    number = error.errno
    for kind, usual in _ERRNOS_OF_TYPES.items():
        if isinstance(error, kind):
            number = usual
    if number in _ERRNOS:
        cause, remedy = _ERRNOS[number]
        return Diagnosis(cause, True, f"{remedy} {_CANNOT_HELP}")
    if number in _PERMANENT_ERRNOS:
        return Diagnosis(os.strerror(number).lower(), True)
    return None


def _classify_store_error(error: Exception, place: ObjectPath) -> Diagnosis | None:
    scheme, conn_id, code, status = place.scheme, place.conn_id, s3_error_code(error), _http_status(error)
    if isinstance(error, ImportError):
        package = (
            f"airflow-provider-magichour[{_EXTRAS[scheme]}]"
            if scheme in _EXTRAS
            else f"the Airflow provider that adds {scheme}:// to ObjectStoragePath"
        )
        return Diagnosis(
            f"no driver for {scheme}:// is installed", True, f"Install {package}. {_CANNOT_HELP}"
        )
    if code in _S3_PERMANENT or _is_one_of(error, _INVALID_ARGUMENTS):
        return Diagnosis(short_error(error), True, f"Check the path and the connection. {_CANNOT_HELP}")
    if _is_one_of(error, _NO_CONNECTION) or _airflow_error_code(error) == "CONNECTION_NOT_FOUND":
        cause = f"connection {conn_id!r}, or something that it needs, is not defined ({short_error(error)})"
        return Diagnosis(cause, True, f"Check the connection. {_CANNOT_HELP}")
    if _is_one_of(error, _NO_CREDENTIALS):
        detail = "no connection was given" if conn_id is None else f"connection {conn_id!r} has none"
        remedy = f"Give the id of the store's connection (path_conn_id, image_conn_id, ...). {_CANNOT_HELP}"
        return Diagnosis(f"no credentials for the store were found ({detail})", True, remedy)
    if code in _S3_REFUSED or status in (401, 403) or _is_one_of(error, _REFUSED):
        cause = f"the store refused the credentials of connection {conn_id!r} ({short_error(error)})"
        return Diagnosis(cause, True, f"Correct the connection. {_CANNOT_HELP}")
    if 400 <= status < 500 and status not in (408, 429):
        return Diagnosis(short_error(error), True)
    return None


def _is_one_of(error: Exception, names: Iterable[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)


def _airflow_error_code(error: Exception) -> str | None:
    """What the task SDK's AirflowRuntimeError says: its `error.error` is a member of ErrorType."""
    return getattr(getattr(getattr(error, "error", None), "error", None), "value", None)


def _http_status(error: Exception) -> int:
    """The HTTP status that the drivers of Google and Azure keep on their errors; 0 if there is none."""
    for attribute in ("status_code", "status", "code"):
        value = getattr(error, attribute, None)
        if isinstance(value, int):
            return value
    return 0


# --- targets


@dataclass(frozen=True)
class Target:
    """The file to write.

    `path` is what downstream tasks open: an absolute local path, or a URL without connection id. `display`
    is for logs and errors. `names_project`: the file's name contains the project id. `consequence`: what a
    failure means, if the file is not a video.
    """

    path: str
    display: str
    place: Location = field(repr=False)
    names_project: bool = False
    consequence: str | None = None

    @classmethod
    def from_location(
        cls, place: Location, *, names_project: bool = False, consequence: str | None = None
    ) -> Target:
        """The target at this place."""
        if isinstance(place, Path):
            place = place.absolute()
            return cls(str(place), str(place), place, names_project, consequence)
        return cls(place.url, redact(place.url), place, names_project, consequence)

    def exists(self) -> bool:
        """Whether anything has this name. Raises DestinationError or TransferError."""
        try:
            if isinstance(self.place, Path):
                return self.place.exists()
            filesystem, path = self.place.connect()
            return bool(filesystem.exists(path))
        except Exception as error:
            raise self.write_error(error) from error

    def write_error(self, error: Exception) -> TransferError:
        """DestinationError if a retry cannot help, else TransferError."""
        found = classify_error(error, self.place)
        if found.permanent:
            what = f"{self.display} cannot be written: {found.cause}."
            return DestinationError(what, consequence=self.consequence, remedy=found.remedy)
        what = f"{self.display} could not be written: {found.cause}."
        return TransferError(what, consequence=self.consequence)

    def exists_error(self) -> DestinationError:
        """The error if an existing file may not be replaced."""
        return DestinationError(
            f"{self.display} exists already and is not known to be this video.",
            remedy="Remove it, choose another target, or pass if_exists='overwrite', then clear this task.",
        )


def resolve_target(
    path: str,
    project_id: str,
    conn_id: str | None = None,
    *,
    file_name: str = "{project_id}.mp4",
    name: str | None = None,
    index: int = 1,
) -> Target:
    """The target that `path` means for a video of `project_id`. Writes nothing.

    `path` is a folder if it ends with a slash or is an existing folder; the template `file_name` then names
    the video. Raises DestinationError, or TransferError if a store cannot be reached now.

    :param name: the project's name in the library.
    :param index: which of the project's videos, from 1 on; beside a file, each gets its number in its name.
    """
    if path.strip() in ("", "None"):
        raise DestinationError("No target was given: the path is empty.")
    try:
        place = parse_location(path, conn_id)
    except ValueError as error:
        raise DestinationError(f"{redact(path)} cannot be written: {error}.") from error
    try:
        into_folder = path.endswith("/") or is_folder(place)
    except Exception as error:
        raise Target.from_location(place).write_error(error) from error
    if not into_folder:
        numbered = add_number(file_name_at(place), index)
        if isinstance(place, Path):
            place = place if index == 1 else place.with_name(numbered)
        else:
            folder, slash, _ = place.url.rpartition("/")
            place = ObjectPath(place.scheme, f"{folder}{slash}{numbered}", place.conn_id)
        return Target.from_location(place)
    try:
        made = video_file_name(project_id, template=file_name, name=name, index=index)
    except ValueError as error:
        raise DestinationError(f"Nothing can be written to {redact(path)}: {error}") from None
    return Target.from_location(join(place, made), names_project=True)


# --- file names. Ids and names come from outside: what could leave the folder, hide the file or break a
# shell is replaced.

NAME_FIELDS = ("project_id", "name", "index")
_MAX_ID_CHARS = 120
_MAX_NAME_BYTES = 80
_MAX_FILE_NAME_BYTES = 250


def check_file_name(template: str) -> list[str]:
    """The fields of `template`. Raises ValueError unless it can tell videos apart, as `{project_id}` does."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"file_name {template!r} cannot be read: {error}.") from None
    fields = [field for _, field, _, _ in parts if field is not None]
    if set(fields) - set(NAME_FIELDS) or any(spec or conversion for _, _, spec, conversion in parts):
        allowed = ", ".join(f"{{{field}}}" for field in NAME_FIELDS)
        raise ValueError(f"file_name {template!r} may contain only plain text and {allowed}.")
    if "project_id" not in fields:
        raise ValueError(f"file_name {template!r} does not contain {{project_id}}, which keeps videos apart.")
    if re.search(r"[/\\\0]", template) or template.startswith("."):
        raise ValueError(f"file_name {template!r} must name a file: no slash, and no dot at the start.")
    return fields


def video_file_name(
    project_id: str, *, template: str = "{project_id}.mp4", name: str | None = None, index: int = 1
) -> str:
    """The file name of a project's video number `index`, from 1 on.

    The second and later ones get their number before the extension, unless the template contains `{index}`.
    Raises ValueError for a template that `check_file_name` refuses, or a name that gets too long.
    """
    fields = check_file_name(template)
    safe_name = re.sub(r"[^\w.-]+", "_", name or "").strip("_.")  # letters and digits of any script
    safe_name = safe_name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") or "video"
    made = template.format(project_id=safe_id(project_id), name=safe_name, index=index)
    made = re.sub(r"^[.-]", "_", made)
    if len(made.encode()) > _MAX_FILE_NAME_BYTES:
        raise ValueError(f"file_name {template!r} gives a name of more than {_MAX_FILE_NAME_BYTES} bytes.")
    return made if "index" in fields else add_number(made, index)


def add_number(file_name: str, index: int) -> str:
    """`a.mp4` for 1, `a-2.mp4` for 2, `a-3.mp4` for 3."""
    if index == 1:
        return file_name
    stem, dot, extension = file_name.rpartition(".")
    return f"{stem}-{index}{dot}{extension}" if stem else f"{file_name}-{index}"


def safe_id(project_id: str) -> str:
    """The id, if it is safe; else its safe characters and a hash, which keeps different ids apart."""
    if not project_id:
        raise ValueError("there is no project id to name the video after.")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", project_id)[:_MAX_ID_CHARS]
    safe = re.sub(r"^[.-]", "_", safe)
    if safe == project_id:
        return safe
    return f"{safe}-{hashlib.sha256(project_id.encode(errors='surrogatepass')).hexdigest()[:8]}"
