"""The items of a batch, from a list or a manifest: every fault is named with its line."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.arguments import parse_id
from magichour_provider.jobs.request import VideoRequest
from magichour_provider.storage.images import stamp_images
from magichour_provider.storage.locations import LocationError
from magichour_provider.storage.manifest import Manifest
from magichour_provider.storage.targets import safe_id

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

REQUEST_FIELDS = ("end_image", "prompt", "model", "resolution", "end_seconds", "audio", "name")
ITEM_FIELDS = ("key", "image", *REQUEST_FIELDS)

_MAX_SHOWN_FAULTS = 20
_MAX_KEY_CHARS = 120


@dataclass(frozen=True)
class BatchItem:
    """One video of a batch. `where` is its place in the manifest, `key` what it is known by in later runs."""

    where: str
    key: str
    request: VideoRequest

    @property
    def file_name(self) -> str:
        """The name of its video."""
        return f"{safe_id(self.key)}.mp4"


def read_items(
    source: Iterable[Any] | PathArgument, conn_id: str | None, defaults: Mapping[str, Any]
) -> tuple[list[BatchItem], list[str]]:
    """The items of a list or a manifest, and every fault, with its line.

    :param defaults: the fields of `VideoRequest` for items that do not have their own.

    Raises InvalidRequestError if there is no manifest to read, NetworkError if a retry may help.
    """
    manifest = Manifest(source, conn_id)
    items: list[BatchItem] = []
    places: dict[str, str] = {}
    faults = list(manifest.faults)
    for row in manifest.rows:
        try:
            items.append(item := _read_item(row.where, row.values, manifest, defaults))
        except (InvalidRequestError, LocationError) as error:
            faults.append(f"{row.where}: {getattr(error, 'what', error)}")
            continue
        name = item.file_name.lower()  # some disks do not tell A from a
        if name in places:
            faults.append(f"{row.where}: its key {item.key!r} is that of {places[name]}, too.")
        places.setdefault(name, row.where)
    if not items and not faults:
        log.info("The manifest has no items.")
    return items, faults


def _read_item(
    where: str, values: Mapping[str, Any], manifest: Manifest, defaults: Mapping[str, Any]
) -> BatchItem:
    for name in values:
        if name not in ITEM_FIELDS:
            near = difflib.get_close_matches(name, ITEM_FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f". Known are {', '.join(ITEM_FIELDS)}."
            raise InvalidRequestError(f"{name!r} is no field of an item{hint}")
    given = {name: value for name, value in values.items() if value not in (None, "")}
    for name in ("image", "end_image"):
        if isinstance(given.get(name), str):
            given[name] = manifest.address(given[name])
    fields = {**defaults, **{name: given[name] for name in ("image", *REQUEST_FIELDS) if name in given}}
    request = VideoRequest.from_arguments(**{"image": None, **fields})
    stem = request.image.partition("?")[0].rstrip("/").rpartition("/")[2].rpartition(".")
    key = parse_id("key", given.get("key")) or stem[0] or stem[2]
    if not key or len(key) > _MAX_KEY_CHARS or not key.isprintable():
        raise InvalidRequestError(
            f"its key {key!r:.140} must have 1 to {_MAX_KEY_CHARS} printable characters."
        )
    return BatchItem(where, key, replace(request, name=request.name or key))


def faults_error(faults: list[str], count: int) -> InvalidRequestError:
    """The error of a batch with faults; the log has all of them."""
    for fault in faults:
        log.error("%s", fault)
    shown = "; ".join(fault.rstrip(".") for fault in faults[:_MAX_SHOWN_FAULTS])
    more = (
        f"; and {len(faults) - _MAX_SHOWN_FAULTS} more, see the log"
        if len(faults) > _MAX_SHOWN_FAULTS
        else ""
    )
    return InvalidRequestError(
        f"{len(faults)} faults in {count} items: {shown}{more}.",
        remedy="Correct these items, then clear this task.",
    )


def stamp_items(items: Iterable[BatchItem]) -> dict[str, str]:
    """What tells an unchanged item without its image being read: hashes of its fields and of its images."""
    items = list(items)
    stamps = stamp_images(
        {(each, item.request.image_conn_id) for item in items for each in _images_of(item.request)}
    )
    made: dict[str, str] = {}
    for item in items:
        request = item.request
        parts = [stamps[each, request.image_conn_id] for each in _images_of(request)]
        fields = [request.image, *(getattr(request, name) for name in REQUEST_FIELDS if name != "name")]
        made[item.key] = f"{_hash(fields)}-{'' if None in parts else _hash(parts)}"
    return made


def is_complete(stamp: str) -> bool:
    """Whether a stamp tells the images, too: those of a web page have none."""
    return not stamp.endswith("-")


def have_same_fields(stamp: str, other: str | None) -> bool:
    """Whether two stamps are of the same fields; the images may differ."""
    return stamp.partition("-")[0] == (other or "").partition("-")[0]


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:32]


def _images_of(request: VideoRequest) -> list[str]:
    return [request.image] if request.end_image is None else [request.image, request.end_image]
