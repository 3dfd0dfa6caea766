"""Lineage of images, projects and clips: OpenLineage for the operators, Airflow's collector for the hook.

An operator's own lineage comes before what its hook has collected: the OpenLineage provider asks the
collector only where an operator names no dataset. Nothing here fails a task: it has its clip, or its error.

Datasets are named as https://openlineage.io/docs/spec/naming has it: namespace and name together are a URI.
What may sign a web address, its query, is in no name.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

from magichour_provider.asset_events import uri_of
from magichour_provider.assets import SCHEME, project_dataset
from magichour_provider.storage.images import UPLOADED_PREFIXES
from magichour_provider.storage.locations import locate, scheme_of

if TYPE_CHECKING:
    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.jobs.reference import JobReference

log = logging.getLogger(__name__)

Name = tuple[str, str]
"""Namespace and name of a dataset."""

_NAMESPACES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""The scheme in the specification, where a driver is known by another one too."""


@dataclass(frozen=True)
class Submission:
    """What a task has submitted, or would; `project_id` None while it has not."""

    image: object
    end_image: object
    prompt: object
    model: str | None
    resolution: str | None
    end_seconds: object
    project_id: str | None
    credits_charged: int | None


def of_submission(job: Submission) -> Any | None:
    """Images in, project out: an `OperatorLineage`; None without the OpenLineage provider."""
    if not _has_openlineage():
        return None
    from magichour_provider import lineage_facets as facets

    names = [image_name(each) for each in (job.image, job.end_image) if isinstance(each, str)]
    project = [facets.project_made(*project_dataset(job.project_id))] if job.project_id else []
    described = {
        "project_id": job.project_id,
        "model": job.model,
        "resolution": job.resolution,
        "end_seconds": _seconds(job.end_seconds),
        "credits": job.credits_charged,
        "prompt_sha256": _checksum(job.prompt),
    }
    return facets.operator_lineage([facets.image(*name) for name in names if name], project, described)


def of_landing(job: JobReference, landed: Mapping[str, Any] | None) -> Any | None:
    """Project in, clips out: an `OperatorLineage`; None without the OpenLineage provider.

    :param landed: what `MagicHourHook.download` has returned; None where nothing has landed.
    """
    if not _has_openlineage():
        return None
    from magichour_provider import lineage_facets as facets

    named = [(file_name(clip["path"]), clip) for clip in clips_of(landed)]
    described = {
        "project_id": job.project_id,
        "model": job.model,
        "resolution": job.resolution,
        "credits": job.credits_charged,
    }
    return facets.operator_lineage(
        [facets.project_read(*project_dataset(job.project_id))],
        [facets.clip(*name, clip) for name, clip in named if name],
        described,
    )


def collect_upload(hook: MagicHourHook, image: str) -> None:
    """Report that `hook` has read an image. One that is at Magic Hour already is no asset of Airflow's."""
    name = image_name(image)
    _collect(hook, inputs=[name if name and name[0] != SCHEME else None])


def collect_submission(hook: MagicHourHook, project_id: str) -> None:
    """Report that `hook` has made a project."""
    _collect(hook, outputs=[project_dataset(project_id)])


def collect_download(hook: MagicHourHook, project_id: str, landed: Mapping[str, Any]) -> None:
    """Report that `hook` has landed the clips of a project."""
    clips = [file_name(clip["path"]) for clip in clips_of(landed)]
    _collect(hook, inputs=[project_dataset(project_id)], outputs=clips)


def clips_of(landed: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Every clip of what `MagicHourHook.download` has returned: mostly the one."""
    return [] if landed is None else list(landed.get("clips") or [landed])


def image_name(image: str) -> Name | None:
    """The dataset of an image in any form that an operator takes; None for what names no file."""
    if image.startswith(UPLOADED_PREFIXES):
        return SCHEME, image
    if scheme_of(image) not in ("http", "https"):
        return file_name(image)
    try:
        url = urlsplit(image)
    except ValueError:
        return None
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}", url.path.lstrip("/") or "/"


def file_name(path: str) -> Name | None:
    """The dataset of a file on a disk or in an object store; None for what names no file."""
    if not path.strip():
        return None
    try:
        place = locate(path)
    except ValueError:
        return None
    if isinstance(place, Path):
        return "file", str(place.absolute())
    authority, _, key = place.url.partition("://")[2].partition("/")
    return f"{_NAMESPACES.get(place.scheme, place.scheme)}://{authority}", key.lstrip("/") or "/"


def _collect(
    hook: MagicHourHook, *, inputs: Iterable[Name | None] = (), outputs: Iterable[Name | None] = ()
) -> None:
    try:
        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        for name in filter(None, inputs):
            collector.add_input_asset(hook, uri=_asset_uri(*name))
        for name in filter(None, outputs):
            collector.add_output_asset(hook, uri=_asset_uri(*name))
    except Exception:
        log.warning("The lineage of this transfer could not be collected.", exc_info=True)


def _asset_uri(namespace: str, name: str) -> str:
    if namespace == "file":
        return uri_of(name)
    return f"{namespace}{'/' if '://' in namespace else '://'}{name.lstrip('/')}"


def _has_openlineage() -> bool:
    try:
        return find_spec("airflow.providers.openlineage") is not None
    except ModuleNotFoundError:
        return False


def _seconds(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _checksum(text: object) -> str | None:
    return hashlib.sha256(str(text).encode()).hexdigest() if text else None
