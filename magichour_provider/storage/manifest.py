"""Manifests of a batch: the items of one, from a list, a JSONL or a CSV file; and the file of its results.

Every fault is collected with its line, so that a user corrects all of them at once.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.storage.images import UPLOADED_PREFIXES
from magichour_provider.storage.locations import (
    Location,
    ObjectPath,
    file_name_at,
    format_bytes,
    join,
    open_for_reading,
    parse_location,
    reading,
    redact,
    url_scheme,
)
from magichour_provider.storage.publish import publish_bytes
from magichour_provider.storage.targets import Target

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

_MAX_MANIFEST_BYTES = 64 << 20
_CSV_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """One entry of a manifest. `where` names it for a user: `line 12` or `item 3`."""

    where: str
    values: Mapping[str, Any]


class Manifest:
    """The rows of a manifest, and its faults: sentences that begin with their line.

    :param source: dicts, or the address of a file whose name ends in `.jsonl` (`.ndjson`) or `.csv` (`.tsv`).
    :param conn_id: Airflow connection of the object store.

    Raises InvalidRequestError if the file cannot be read, NetworkError if a retry may help.
    """

    def __init__(self, source: Iterable[Any] | PathArgument, conn_id: str | None = None) -> None:
        self.rows: list[Row] = []
        self.faults: list[str] = []
        self._folder: Location | None = None
        if not isinstance(source, str) and not hasattr(source, "joinpath") and isinstance(source, Iterable):
            for number, values in enumerate(source, 1):
                self._add(f"item {number}", values)
            return
        path = cast("PathArgument", source)
        subject = f"The manifest {redact(path)}"
        with reading(InvalidRequestError, subject):
            place = parse_location(path, conn_id)
        suffix = file_name_at(place).rpartition(".")[2].lower()
        if suffix not in ("jsonl", "ndjson", "csv", "tsv"):
            raise InvalidRequestError(f"{subject} has no name that ends in .jsonl or .csv.")
        with reading(InvalidRequestError, subject, place), open_for_reading(place) as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(content) > _MAX_MANIFEST_BYTES:
            raise InvalidRequestError(f"{subject} has more than {format_bytes(_MAX_MANIFEST_BYTES)}.")
        self._folder = _folder_of(place)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InvalidRequestError(f"{subject} is not in UTF-8: see line {line}.") from None
        for where, values in _read_csv(text) if suffix in ("csv", "tsv") else _read_jsonl(text):
            self._add(where, values)

    def _add(self, where: str, values: Any) -> None:
        if isinstance(values, str):
            self.faults.append(f"{where}: {values}")
        elif not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            self.faults.append(f"{where}: it is no object with names and values, but {values!r:.80}")
        else:
            self.rows.append(Row(where, values))

    def address(self, image: str) -> str:
        """The address of an image: a relative path is relative to the file of the manifest."""
        is_whole = url_scheme(image) or image.startswith(("/", "~", "data:", *UPLOADED_PREFIXES))
        if self._folder is None or is_whole:
            return image
        path = join(self._folder, image)
        if isinstance(path, ObjectPath):
            user_info = f"{path.conn_id}@" if path.conn_id else ""
            return path.url.replace("://", f"://{user_info}", 1)
        return str(path)


def _folder_of(place: Location) -> Location:
    if isinstance(place, Path):
        return place.parent
    return ObjectPath(place.scheme, place.url.partition("?")[0].rpartition("/")[0], place.conn_id)


def _read_jsonl(text: str) -> Iterator[tuple[str, Any]]:
    """Lines and their objects; a text in place of an object is a fault."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            values = f"it is no JSON ({error!s:.120})"
        else:
            values = f"it is a text, not a JSON object: {values!r:.80}" if isinstance(values, str) else values
        yield f"line {number}", values


def _read_csv(text: str) -> Iterator[tuple[str, Any]]:
    """Lines and their values by the header; an empty value is none. A text is a fault."""
    header = text.partition("\n")[0]
    delimiter = max(_CSV_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for values in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not any(value.strip() for value in values):
                continue
            if names is None:
                names = [name.strip() for name in values]
                if "" in names or len(set(names)) < len(names):
                    yield where, "the header has an empty name, or one name twice"
                    return
            elif len(values) != len(names):
                yield where, f"it has {len(values)} values, and the header names {len(names)}"
            else:
                yield where, {name: value or None for name, value in zip(names, values, strict=True)}
    except csv.Error as error:
        yield f"line {line}", f"it is no CSV ({error})"


def write_results(target: Target, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write the results of a batch as JSONL, atomically.

    Raises DestinationError, or TransferError (retryable).
    """
    lines = (json.dumps(entry, ensure_ascii=False, default=str) for entry in entries)
    publish_bytes("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"), target)
