"""What a Dag that is scheduled on an asset reads of a clip, in the `extra` of the asset's event.

Plain JSON, flat, without a secret: Airflow stores it, and everybody with the UI may read it.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from magichour_provider.assets import project_uri

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.jobs.reference import JobReference

log = logging.getLogger(__name__)

Extra = dict[str, Any]

_ASCII = string.ascii_letters + string.digits + string.punctuation + " "


def announce_job(context: Context, outlets: Sequence[object], result: Mapping[str, Any]) -> None:
    """Say of a job, in every outlet's event, what its operator or sensor is about to return."""
    announce(context, outlets, [extra_of_job(result)])


def announce_clips(
    context: Context, outlets: Sequence[object], landed: Mapping[str, Any], job: JobReference
) -> None:
    """Say of landed clips, in every outlet's event, what `MagicHourHook.download` has returned."""
    announce(context, outlets, [extra_of_clip(clip, job) for clip in landed.get("clips") or [landed]])


def extra_of_job(result: Mapping[str, Any]) -> Extra:
    """The extra for a job, of what its operator or sensor returns: the clip is still at Magic Hour."""
    return {
        "project_id": result["project_id"],
        "uri": project_uri(result["project_id"]),
        "sha256": None,
        "bytes": None,
        "width": None,
        "height": None,
        "fps": None,
        "duration": result["end_seconds"],
        "model": result["model"],
        "credits": result["credits_charged"],
    }


def extra_of_clip(landed: Mapping[str, Any], job: JobReference) -> Extra:
    """The extra for a landed clip, of what `MagicHourHook.download` returns, or one of its `clips`."""
    return {
        "project_id": landed["project_id"],
        "uri": uri_of(landed["path"]),
        "sha256": landed["sha256"],
        "bytes": landed["size"],
        "width": landed["width"],
        "height": landed["height"],
        "fps": landed["fps"],
        "duration": landed["duration"],
        "model": job.model,
        "credits": job.credits_charged,
    }


def uri_of(path: str) -> str:
    """The URI of a landed clip: `file://` and a local path, or the object store's URL as it is.

    Of a path only `%`, `?`, `#` and what is not ASCII are escaped: most of Airflow unescapes nothing.
    """
    return path if "://" in path else "file://" + quote(path, safe=_without("%?#"))


def announce(context: Context, outlets: Sequence[object], extras: Sequence[Extra]) -> None:
    """Give every asset among `outlets` the first of `extras`, and every alias an asset for each of them.

    What the user has put into an event stays. Never raises: the clip is there, and may be paid for, whether
    Airflow can say so or not.
    """
    for outlet in outlets:
        try:
            _announce(context, outlet, extras)
        except Exception:
            log.exception("The asset event of %r goes without what it should say of the clip.", outlet)


def _announce(context: Context, outlet: object, extras: Sequence[Extra]) -> None:
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    from magichour_provider.airflow_internals import outlet_event

    event = outlet_event(context, outlet)
    if event is None:
        return
    if isinstance(outlet, AssetAlias):
        for extra in extras:
            # Airflow would drop what follows a '#' or a '?', and some databases take ASCII only.
            event.add(Asset(uri=quote(extra["uri"], safe=_without("?#"))), extra={**extra, **event.extra})
    else:
        event.extra = {**extras[0], **event.extra}


def _without(characters: str) -> str:
    return _ASCII.translate(str.maketrans("", "", characters))
