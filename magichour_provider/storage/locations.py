"""Places in file systems and object stores: parse an address, reach the place, explain its errors.

Object stores are reached by Airflow's `attach`, as `ObjectStoragePath` does: the scheme selects the driver,
the connection gives the credentials. `ObjectStoragePath` itself cannot be created on Airflow 3.0 with
current universal-pathlib, and reports lineage for every chunk. Nothing of Airflow or fsspec is imported
before a store is reached.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from magichour_provider.exceptions import (
    DestinationError,
    InvalidRequestError,
    MagicHourError,
    NetworkError,
    PictureError,
    TransferError,
)

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    PathArgument = str | os.PathLike[str] | ObjectStoragePath

_LOCAL_SCHEMES = frozenset({"file", "local"})
_WEB_SCHEMES = frozenset({"http", "https", "ftp", "data"})
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "amazon"),
    **dict.fromkeys(("gs", "gcs"), "google"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "microsoft-azure"),
}
S3_SCHEMES = frozenset({"s3", "s3a"})
GCS_SCHEMES = frozenset({"gs", "gcs"})
AZURE_SCHEMES = frozenset({"abfs", "abfss", "az"})
PUBLISH_ON_CLOSE_SCHEMES = S3_SCHEMES | GCS_SCHEMES | AZURE_SCHEMES
"""Stores that show a file only after it was closed."""
S3_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""The error codes by which S3-compatible stores refuse a condition that they do not support."""
_KNOWN_SCHEMES = _LOCAL_SCHEMES | _WEB_SCHEMES | _EXTRAS.keys() | {"s3n", "az", "memory"}
_VERSION = re.compile(r"\?(.*&)?(versionId|generation|snapshot)=(.*)", re.IGNORECASE | re.DOTALL)
_AZURE_HOST = re.compile(r"\.(core\.(windows\.net|(china|usgov)cloudapi\.(cn|net))|fabric\.microsoft\.com)$")
_BLANKS = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
_BLANKS += "".join(map(chr, range(0x2000, 0x2010)))
"""White space, and characters without a width, which a file or a web page leaves at the ends of a text."""
_MAX_ADDRESS_CHARS = 4096
_MAX_SHOWN_CHARS = 400


# --- addresses


class LocationError(ValueError):
    """An address, or a template of a file name, that cannot be used; the text says why."""

    remedy: str | None = None


@dataclass(frozen=True)
class ObjectPath:
    """A file in an object store. `url` has no user-info: that part of a URL is the connection id.

    A `url` that ends with `?versionId=` and a version names this version, in S3 alone.
    """

    scheme: str
    url: str
    conn_id: str | None = None

    @property
    def has_version(self) -> bool:
        """Whether `url` names one version of the object, which can only be read."""
        return _VERSION.search(self.url) is not None

    def connect(self) -> tuple[Any, str]:
        """The store's fsspec file system, and the path in it. Raises what the driver raises."""
        from airflow.sdk.io import attach

        self._require_connection()
        try:
            filesystem: Any = attach(self.scheme, self.conn_id).fs
        except ValueError as error:
            if str(error).startswith("No filesystem registered"):  # airflow.sdk.io.get_fs raises it
                raise ImportError(str(error)) from error
            raise
        if self.has_version:  # without this option, s3fs drops the version from the path
            filesystem = type(filesystem)(**{**filesystem.storage_options, "version_aware": True})
        path = str(filesystem._strip_protocol(self.url))
        filesystem.invalidate_cache(path)
        return filesystem, path

    def s3_client(self) -> tuple[Any, dict[str, str]]:
        """The boto3 client of Airflow's S3Hook, and the arguments that name the object in its methods."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        self._require_connection()
        bucket, _, key = self.url.split("://", 1)[1].partition("/")
        return S3Hook(aws_conn_id=self.conn_id).get_conn(), {"Bucket": bucket, "Key": key}

    def _require_connection(self) -> None:
        if self.conn_id and self.scheme in S3_SCHEMES:
            from magichour_provider.version_compat import BaseHook

            # Without it, Airflow's S3Hook goes to Amazon with the credentials of the machine.
            BaseHook.get_connection(self.conn_id)


Location = Path | ObjectPath


def address_of(path: PathArgument) -> str:
    """The address as text, without blanks at its ends. Raises LocationError for another type."""
    if not isinstance(path, str):
        if not isinstance(path, os.PathLike) and not hasattr(path, "joinpath"):
            raise LocationError(f"it is of type {type(path).__name__}, not a path")
        # An ObjectStoragePath is no os.PathLike; the text of an os.DirEntry is not its path.
        path = str(path) if hasattr(path, "joinpath") else os.fsdecode(path)
    return path.strip(_BLANKS)


def url_scheme(path: str) -> str | None:
    """The URL scheme of `path` in lower case; None if it is not a URL."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://", path)
    return match[1].lower() if match else None


def parse_location(path: PathArgument, conn_id: str | None = None) -> Location:
    """Parse a local path, a `file://` URL, or a store's URL (`s3://bucket/key`, `s3://conn_id@bucket/key`).

    A store's `?` is a character of the key, but for `?versionId=` at the end of an S3 URL.

    :param conn_id: Airflow connection of the store; empty or `None` as text: the one in the URL.

    Raises LocationError for what only looks like an address, and names the form that was probably meant.
    """
    address = address_of(path)
    check_address(address)
    scheme = url_scheme(address)
    if scheme is None:
        try:
            return Path(address).expanduser()
        except RuntimeError as error:
            raise LocationError(
                "this machine does not know that home folder; give an absolute path"
            ) from error
    authority, _, key = address.split("://", 1)[1].partition("/")
    if scheme in _WEB_SCHEMES:
        raise LocationError("it is a web address, not a path on a disk or in an object store")
    if scheme in _LOCAL_SCHEMES:
        if authority not in ("", "localhost"):
            raise LocationError("a file:// URL has three slashes before its absolute path")
        return Path(f"/{unquote(key)}")
    user_info, bucket = _split_authority(authority)
    if not bucket:
        hint = f", as in {redact(f'{scheme}://{key}')}" if key else ""
        raise LocationError(f"it must name a bucket{hint}")
    if ":" in user_info:
        raise LocationError("the part before the '@' must be the id of an Airflow connection")
    scheme = "s3" if scheme == "s3n" else scheme
    version = _VERSION.search(key)
    if version is not None:
        if scheme not in S3_SCHEMES:
            raise LocationError(f"a version can be selected in S3 only, not in {scheme}://")
        if version[1] or re.fullmatch(r"(?!None$)[^/?#&\s]+", version[3]) is None:
            raise LocationError(
                "a version is selected by '?versionId=' and one version, at the end and without anything else"
            )
        key = f"{key[: version.start()]}?versionId={version[3]}"
    return ObjectPath(scheme, f"{scheme}://{bucket}/{key}", given_text(conn_id) or given_text(user_info))


def parse_writable(path: PathArgument, conn_id: str | None = None) -> Location:
    """Parse the address of a file to write. Raises LocationError."""
    place = parse_location(path, conn_id)
    if isinstance(place, ObjectPath) and place.has_version:
        raise LocationError("a version of an object can only be read; leave '?versionId=' out")
    return place


def check_address(address: str) -> None:
    """Raise LocationError for what is no address, or was one before it lost a slash."""
    if address[:5].lower() == "data:":
        raise LocationError("a data: URL contains the file itself; write it to a file, and give its path")
    if given_text(address) is None:
        raise LocationError("the path is empty")
    if len(address) > _MAX_ADDRESS_CHARS:
        raise LocationError(f"it has {len(address):,} characters, more than any path")
    if "\0" in address:
        raise LocationError("it contains a null character")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", address):
        raise LocationError("it is a path of Windows, which this machine does not know")
    if re.search(r"\{\{.*\}\}|%\(\w+\)[sd]|^(?![\w+.-]+://)(.*/)?\$(\w+|\{\w+\})(/|$)", address):
        raise LocationError("it contains a template or a variable that nothing has replaced")
    missing = re.match(r"(?:[\w+.-]+://)?(None|null|nan|undefined|<no value>)(/|$)", address)
    if missing:
        raise LocationError(f"it starts with {missing[1]!r}, as if a template had found no value")
    if re.match(r"(?:[\[({]|\w+\()+['\"<].*[\])}>]$", address, re.DOTALL):
        raise LocationError(
            "it is the text of a Python object; give the path itself, and map a task over a list"
        )
    if address.startswith("arn:"):
        meant = redact(f"s3://{address.partition(':::')[2] or 'bucket/key'}")
        raise LocationError(f"it is an ARN, not a URL; probably {meant} is meant")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(:/?(?!/)|//|\s+://)(.*)", address, re.DOTALL)
    if match and (match[1].lower() in _KNOWN_SCHEMES or match[2] == ":/"):
        slashes = ":///" if match[1].lower() in _LOCAL_SCHEMES else "://"
        meant = redact(f"{match[1]}{slashes}{match[3].lstrip('/')}")
        raise LocationError(f"it lacks the '{slashes}' of a URL; probably {meant} is meant")


def given_text(value: object) -> str | None:
    """The text, without blanks at its ends; None if it is empty, or a rendered `None` or `null`."""
    value = value.value if isinstance(value, Enum) else value
    text = "" if value is None else str(value).strip(_BLANKS)
    return None if text in ("", "None", "null") else text


def _split_authority(authority: str) -> tuple[str, str]:
    """The connection id, or nothing, and the bucket; Azure's is `container@account.dfs.core.windows.net`."""
    user_info, _, bucket = authority.rpartition("@")
    if _AZURE_HOST.search(bucket) and ":" not in user_info:
        user_info, _, container = user_info.rpartition("@")
        bucket = f"{container}@{bucket}" if container else bucket
    return user_info, bucket


def file_name_at(place: Location) -> str:
    """The last part of the path; empty for a bucket."""
    return place.name if isinstance(place, Path) else place.url.rpartition("/")[2]


def join(folder: Location, name: str) -> Location:
    """The file `name` in a folder."""
    if isinstance(folder, Path):
        return folder / name
    return ObjectPath(folder.scheme, f"{folder.url.rstrip('/')}/{name}", folder.conn_id)


def is_folder(path: PathArgument, place: Location) -> bool:
    """Whether `path`, which was parsed as `place`, means a folder. Raises driver errors.

    It does if it ends with a slash, or a folder exists there. A path object cannot end with a slash: it is a
    folder if it has no extension: `v1.0` has none. A path in a store with an extension is a file.
    """
    name = file_name_at(place)
    if name == "" or address_of(path).endswith("/"):
        return True
    without_extension = not isinstance(path, str) and re.search(r"\.[A-Za-z]\w*$", name) is None
    if isinstance(place, Path):
        return place.is_dir() or (without_extension and not place.exists())
    if without_extension or "." in name:
        return without_extension
    filesystem, inner = place.connect()
    return bool(filesystem.isdir(inner))


def connection_id(path: PathArgument, conn_id: str | None = None) -> str | None:
    """The connection that reaches `path`: the given one, or the one in the URL."""
    place = parse_location(path, conn_id)
    return place.conn_id if isinstance(place, ObjectPath) else None


def redact(path: object) -> str:
    """A path for logs and errors: short, printable, a URL without user-info, query and fragment."""
    try:
        text = address_of(path)  # type: ignore[arg-type]
    except LocationError:
        return f"({type(path).__name__})"
    scheme = url_scheme(text)
    if text[:5].lower() == "data:":
        text = f"{text[:40].partition(',')[0]},…"
    elif scheme in _WEB_SCHEMES:
        text = re.split(r"[?#]", text, maxsplit=1)[0]
    elif (query := re.search(r"\?(?!versionId=)[\w.%-]+=", text, re.IGNORECASE)) is not None:
        text = text[: query.start()] + ("" if scheme else "?...")
    if scheme is not None:
        authority, slash, rest = text.split("://", 1)[1].partition("/")
        text = f"{scheme}://{_split_authority(authority)[1]}{slash}{rest}"
    if len(text) > _MAX_SHOWN_CHARS:
        text = f"{text[:100]}…{text[-40:]}"
    return text.encode("utf-8", "backslashreplace").decode() or "''"


# --- several machines


class NotSharedError(LocationError):
    """A path on the disk of one machine, for a file that tasks on other machines must find."""

    remedy = (
        "Use object storage. If all workers share the folder, the deployment can say so: [magichour] "
        "shared_folders."
    )


def require_shared(place: Location) -> None:
    """Raise NotSharedError unless every task finds the same file at `place`.

    They do in an object store, below a folder of `[magichour] shared_folders`, and if all tasks run on one
    machine.
    """
    executors = executors_of_several_machines() if isinstance(place, Path) else ""
    if not isinstance(place, Path) or not executors:
        return
    from magichour_provider.version_compat import conf

    folders = str(conf.get("magichour", "shared_folders", fallback="") or "").split(",")
    shared = [os.path.realpath(folder.strip()) for folder in folders if folder.strip()]
    if not any(Path(os.path.realpath(place)).is_relative_to(folder) for folder in shared):
        raise NotSharedError(
            f"tasks run on several machines ({executors}), and this path is on the disk of one of them"
        )


def executors_of_several_machines() -> str:
    """The executors that run tasks on other machines than the scheduler's; empty if there is none."""
    from magichour_provider.version_compat import conf

    # A pod's own configuration names the LocalExecutor, which runs its one task.
    for variable in ("AIRFLOW_IS_K8S_EXECUTOR_POD", "AIRFLOW_IS_EXECUTOR_CONTAINER"):
        if os.environ.get(variable):
            return "a container for each task"
    # `LocalExecutor`, `alias:module.Class`, `team=CeleryExecutor`, and lists of them.
    names = re.findall(r"\w+(?=\s*(?:[,;]|$))", str(conf.get("core", "executor", fallback="LocalExecutor")))
    return ", ".join(dict.fromkeys(name for name in names if name != "LocalExecutor"))


def get_hostname() -> str:
    """This machine's name, as Airflow shows it for task instances."""
    from airflow.utils import net

    return str(net.get_hostname())  # type: ignore[no-untyped-call]


# --- files


def open_for_reading(place: Location, block_bytes: int = 8 << 20) -> BinaryIO:
    """Open a file for reading. Raises what the file system or the driver raises.

    :param block_bytes: what a store's driver fetches at a time; the default of s3fs is 50 MiB.
    """
    if isinstance(place, Path):
        mode = place.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe waits for its other end
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return place.open("rb")
    filesystem, path = place.connect()
    return cast("BinaryIO", filesystem.open(path, "rb", block_size=block_bytes))


def sync_to_disk(descriptor: int, *, data_only: bool = False) -> None:
    """Flush a file or folder to its disk, if its file system offers that. Raises OSError for lost bytes."""
    try:
        os.fdatasync(descriptor) if data_only else os.fsync(descriptor)
    except OSError as error:  # file systems without a sync refuse it so; others, such as EIO, mean lost bytes
        refusals = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
        if error.errno not in refusals:
            raise


def format_bytes(size: float) -> str:
    """`12 bytes`, `3.4 kB`, `5.6 MB`, `1.23 GB`: decimal units, as disks and networks count."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


# --- errors


_CANNOT_HELP = "A retry cannot help before that."
_S3_REFUSED = {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_S3_PERMANENT = {"AuthorizationHeaderMalformed", "InvalidBucketName", "KeyTooLongError", "NoSuchBucket"}
_S3_PERMANENT |= {"PermanentRedirect"}
"""S3 error codes that do not go away. Other 4xx codes do, such as an upload that another attempt aborted."""

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
    errno.ENXIO: ("it is not a regular file", "Name a file."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Check the path."),
    errno.EEXIST: ("a part of the path is a file, not a folder", "Check the path."),
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), ("no space left", "Free some space or choose another place.")
    ),
    **dict.fromkeys(
        (errno.EINVAL, errno.EILSEQ),
        (
            "the file system does not take this name, or that of a folder (invalid argument)",
            "Choose names without ':', '?', '*' and the like; a run_id contains ':'.",
        ),
    ),
}
_ERRNOS_OF_TYPES = (  # drivers raise these without an errno
    (FileNotFoundError, errno.ENOENT),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
    (FileExistsError, errno.EEXIST),
)
_PERMANENT_ERRNOS = {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG}
_PERMANENT_ERRNOS |= {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # e.g. a mount that cannot rename


@dataclass(frozen=True)
class Diagnosis:
    """What an error of a file system or a store means. `permanent`: a retry cannot help."""

    cause: str
    permanent: bool
    remedy: str | None = None


def classify_error(error: Exception, place: Location | None = None) -> Diagnosis:
    """Classify an error that `place` raised, or that parsing it raised.

    Errors that are not known to be permanent are temporary.
    """
    if isinstance(error, LocationError):
        return Diagnosis(str(error).rstrip("."), True, error.remedy)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # adlfs raises one for any error of a block
    if isinstance(error, OSError):
        number = next((usual for kind, usual in _ERRNOS_OF_TYPES if isinstance(error, kind)), error.errno)
        if number == errno.ENOENT and isinstance(place, Path) and executors_of_several_machines():
            cause = f"this machine ({get_hostname()}) has no such file or folder"
            remedy = "Check the path. If another worker wrote the file to its own disk, use object storage."
            return Diagnosis(cause, True, f"{remedy} {_CANNOT_HELP}")
        if number in _ERRNOS:
            cause, remedy = _ERRNOS[number]
            return Diagnosis(cause, True, f"{remedy} {_CANNOT_HELP}")
        if number in _PERMANENT_ERRNOS:
            return Diagnosis(os.strerror(number).lower(), True)
    if isinstance(place, ObjectPath):
        found = _classify_store_error(error, place)
        if found is not None:
            return found
    return Diagnosis(short_error(error), isinstance(error, (ValueError, TypeError, ImportError)))


def _classify_store_error(error: Exception, place: ObjectPath) -> Diagnosis | None:
    scheme, conn_id, code = place.scheme, place.conn_id, s3_error_code(error)
    statuses = [getattr(error, name, None) for name in ("status_code", "status", "code")]  # not of S3
    status = next((number for number in statuses if isinstance(number, int)), 0)
    # Types by their full name, so that classifying an error imports no driver.
    types = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    # The task SDK's AirflowRuntimeError has an `error.error`, a member of ErrorType.
    airflow_code = getattr(getattr(getattr(error, "error", None), "error", None), "value", None)
    if isinstance(error, ImportError):
        package = (
            f"airflow-provider-magichour[{_EXTRAS[scheme]}]"
            if scheme in _EXTRAS
            else f"the Airflow provider that adds {scheme}:// to ObjectStoragePath"
        )
        cause, remedy = f"no driver for {scheme}:// is installed", f"Install {package}."
    elif code in _S3_PERMANENT or "botocore.exceptions.ParamValidationError" in types:
        cause, remedy = short_error(error), "Check the path and the connection."
    elif types & _NO_CONNECTION or airflow_code == "CONNECTION_NOT_FOUND":
        cause = f"connection {conn_id!r}, or something that it needs, is not defined ({short_error(error)})"
        remedy = "Check the connection."
    elif types & _NO_CREDENTIALS:
        detail = "no connection was given" if conn_id is None else f"connection {conn_id!r} has none"
        cause = f"no credentials for the store were found ({detail})"
        remedy = "Give the id of the store's connection (path_conn_id, image_conn_id, ...)."
    elif (
        code in _S3_REFUSED
        or status in (401, 403)
        or types & _REFUSED
        or (isinstance(error, OSError) and str(error).startswith("Forbidden: "))  # gcsfs, of a 403
    ):
        cause = f"the store refused the credentials of connection {conn_id!r} ({short_error(error)})"
        remedy = "Correct the connection."
    elif 400 <= status < 500 and status not in (408, 429):
        return Diagnosis(short_error(error), True)
    else:
        return None
    return Diagnosis(cause, True, f"{remedy} {_CANNOT_HELP}")


def s3_error_code(error: BaseException) -> str | None:
    """The error code in an S3 response, as botocore keeps it."""
    response = getattr(error, "response", None)  # an error of Azure has one, too, which is no dict
    code: str | None = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code


def short_error(error: BaseException) -> str:
    """Class and text of an error in one line, without the queries and user-infos of URLs."""
    text = re.sub(r"\?\S+", "?...", " ".join(str(error).split()))
    text = re.sub(r"//[^/\s@]+@", "//", text)[:200].encode("utf-8", "backslashreplace").decode()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def reading(
    kind: type[InvalidRequestError] | type[PictureError], subject: str, place: Location | None = None
) -> Iterator[None]:
    """Raise `kind` for the errors of an address or its place, or NetworkError if a retry can help.

    :param subject: how the message begins.
    """
    try:
        yield
    except MagicHourError:
        raise
    except Exception as error:
        found = classify_error(error, place)
        what = f"{subject} cannot be read: {found.cause}."
        if found.permanent:
            raise kind(what, remedy=found.remedy) from error
        raise NetworkError(what, consequence=kind.default_consequence) from error


def write_error(
    error: Exception, display: str, place: Location | None = None, consequence: str | None = None
) -> TransferError:
    """DestinationError for a path that cannot be written; TransferError if a retry can help."""
    found = classify_error(error, place)
    if found.permanent:
        what = f"{display} cannot be written: {found.cause}."
        return DestinationError(what, consequence=consequence, remedy=found.remedy)
    return TransferError(f"{display} could not be written: {found.cause}.", consequence=consequence)
