"""What Airflow learns of images, jobs and videos: OpenLineage, the hook's lineage, and asset events.

An operator's own lineage precedes what its hook has collected: the OpenLineage provider asks the collector
only if an operator names no dataset. Datasets are named as in https://openlineage.io/docs/spec/naming:
namespace and name together are a URI, without the query, which may sign a web address.

Nothing here fails a task: its video is saved and paid for.
"""

from __future__ import annotations

import hashlib
import logging
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from magichour_provider.assets import SCHEME, project_dataset, project_uri
from magichour_provider.client import library_url
from magichour_provider.storage.locations import parse_location, url_scheme

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.jobs.reference import JobReference

log = logging.getLogger(__name__)

DatasetName = tuple[str, str]
"""Namespace and name."""
EventExtra = dict[str, Any]

_NAMESPACES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""The scheme of the specification, if a driver has another one too."""
_ASCII = string.ascii_letters + string.digits + string.punctuation + " "

# --- OpenLineage


@dataclass(frozen=True)
class Submission:
    """What a task has submitted or would submit; `project_id` is None before that."""

    image: object
    end_image: object
    prompt: object
    model: str | None
    resolution: str | None
    end_seconds: object
    project_id: str | None
    credits_charged: int | None


def submission_lineage(job: Submission) -> Any | None:
    """Images in, project out: an `OperatorLineage`; None without the OpenLineage provider."""
    if not _has_openlineage():
        return None
    facets = _facets()
    images = [image_dataset(each) for each in (job.image, job.end_image) if isinstance(each, str)]
    try:
        end_seconds = float(str(job.end_seconds))
    except ValueError:
        end_seconds = None
    described = {
        "project_id": job.project_id,
        "model": job.model,
        "resolution": job.resolution,
        "end_seconds": end_seconds,
        "credits": job.credits_charged,
        "prompt_sha256": hashlib.sha256(str(job.prompt).encode()).hexdigest() if job.prompt else None,
    }
    return facets.operator_lineage(
        [facets.input(name) for name in images if name],
        [facets.project_output(project_dataset(job.project_id))] if job.project_id else [],
        described,
    )


def download_lineage(job: JobReference, result: Mapping[str, Any] | None) -> Any | None:
    """Project in, videos out: an `OperatorLineage`; None without the OpenLineage provider.

    :param result: what `MagicHourHook.download` returned; None if nothing was saved.
    """
    if not _has_openlineage():
        return None
    facets = _facets()
    videos = [(file_dataset(video["path"]), video) for video in (result or {}).get("videos", ())]
    described = {
        "project_id": job.project_id,
        "model": job.model,
        "resolution": job.resolution,
        "credits": job.credits_charged,
    }
    return facets.operator_lineage(
        [facets.project_input(project_dataset(job.project_id))],
        [facets.video_output(name, video) for name, video in videos if name],
        described,
    )


def _has_openlineage() -> bool:
    try:
        return find_spec("airflow.providers.openlineage") is not None
    except ModuleNotFoundError:
        return False


@cache
def _facets() -> SimpleNamespace:
    """OpenLineage's objects and our own facets. Imports the OpenLineage provider.

    Our facets keep the schema URL of their base: the specification's RunFacet and DatasetFacet allow more
    keys.
    """
    import attrs
    from airflow.providers.common.compat.openlineage import facet
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.facet_v2 import dataset_version_dataset, datasource_dataset

    from magichour_provider.exceptions import LIBRARY_URL

    @attrs.define
    class MagicHourJobRunFacet(facet.RunFacet):
        """The job of a run, key `magichour_job`; None for unknown values.

        `end_seconds` in seconds, `credits` as charged. The checksum of the prompt tells whether two runs
        had the same one; its text may be confidential.
        """

        project_id: str | None = None
        url: str | None = None
        model: str | None = None
        resolution: str | None = None
        end_seconds: float | None = None
        credits: int | None = None
        prompt_sha256: str | None = None

    @attrs.define
    class MagicHourVideoDatasetFacet(facet.DatasetFacet):
        """A video, key `magichour_video`: `duration` in seconds, `width` and `height` in pixels."""

        project_id: str
        content_type: str
        duration: float
        width: int
        height: int
        fps: float

    def operator_lineage(inputs: list[Any], outputs: list[Any], job: Mapping[str, Any]) -> Any:
        url = library_url(job["project_id"]) if job["project_id"] else None
        run_facets = {"magichour_job": MagicHourJobRunFacet(url=url, **job)}
        return OperatorLineage(inputs=inputs, outputs=outputs, run_facets=run_facets)

    def input_dataset(name: DatasetName, **facets: Any) -> Any:
        return facet.InputDataset(namespace=name[0], name=name[1], facets=facets)

    def project_facets() -> dict[str, Any]:
        return {"dataSource": datasource_dataset.DatasourceDatasetFacet(name="Magic Hour", uri=LIBRARY_URL)}

    def project_output(name: DatasetName) -> Any:
        return facet.OutputDataset(namespace=name[0], name=name[1], facets=project_facets())

    def video_output(name: DatasetName, video: Mapping[str, Any]) -> Any:
        ours = {each.name for each in attrs.fields(MagicHourVideoDatasetFacet)} & video.keys()
        return facet.OutputDataset(
            namespace=name[0],
            name=name[1],
            facets={
                "version": dataset_version_dataset.DatasetVersionDatasetFacet(video["sha256"]),
                "magichour_video": MagicHourVideoDatasetFacet(**{key: video[key] for key in ours}),
            },
            outputFacets={
                "outputStatistics": facet.OutputStatisticsOutputDatasetFacet(size=video["size"], fileCount=1)
            },
        )

    return SimpleNamespace(
        operator_lineage=operator_lineage,
        input=input_dataset,
        project_input=lambda name: input_dataset(name, **project_facets()),
        project_output=project_output,
        video_output=video_output,
    )


def image_dataset(image: str) -> DatasetName | None:
    """The dataset of an image in any form that an operator accepts; None if it names no file."""
    from magichour_provider.storage.images import UPLOADED_PREFIXES

    if image.startswith(UPLOADED_PREFIXES):
        return SCHEME, image
    if url_scheme(image) not in ("http", "https"):
        return file_dataset(image)
    try:
        url = urlsplit(image)
    except ValueError:
        return None
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}", url.path.lstrip("/") or "/"


def file_dataset(path: str) -> DatasetName | None:
    """The dataset of a file on a disk or in an object store; None if it names no file."""
    if not path.strip():
        return None
    try:
        place = parse_location(path)
    except ValueError:
        return None
    if isinstance(place, Path):
        return "file", str(place.absolute())
    authority, _, key = place.url.partition("://")[2].partition("/")
    return f"{_NAMESPACES.get(place.scheme, place.scheme)}://{authority}", key.lstrip("/") or "/"


# --- lineage of the hook


def collect_upload(hook: MagicHourHook, image: str) -> None:
    """Report that `hook` has read an image. One that is at Magic Hour already is no asset of Airflow's."""
    name = image_dataset(image)
    _collect(hook, inputs=[name if name and name[0] != SCHEME else None])


def collect_submission(hook: MagicHourHook, project_id: str) -> None:
    """Report that `hook` has created a project."""
    _collect(hook, outputs=[project_dataset(project_id)])


def collect_download(hook: MagicHourHook, project_id: str, result: Mapping[str, Any]) -> None:
    """Report that `hook` has saved the videos of a project."""
    videos = [file_dataset(video["path"]) for video in result["videos"]]
    _collect(hook, inputs=[project_dataset(project_id)], outputs=videos)


def _collect(
    hook: MagicHourHook,
    *,
    inputs: Iterable[DatasetName | None] = (),
    outputs: Iterable[DatasetName | None] = (),
) -> None:
    try:
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        for name in filter(None, inputs):
            collector.add_input_asset(hook, uri=_dataset_uri(*name))
        for name in filter(None, outputs):
            collector.add_output_asset(hook, uri=_dataset_uri(*name))
    except Exception:
        log.warning("The lineage of this transfer could not be collected.", exc_info=True)


def _dataset_uri(namespace: str, name: str) -> str:
    if namespace == "file":
        return file_uri(name)
    return f"{namespace}{'/' if '://' in namespace else '://'}{name.lstrip('/')}"


# --- asset events. Their extra is flat, plain JSON without a secret: Airflow stores it and shows it in the
# UI; Airflow 3.0 tells the events of an alias apart by the values in it, which must be hashable.


def emit_job_events(context: Context, outlets: Sequence[object], result: Mapping[str, Any]) -> None:
    """Describe a job in the event of every outlet; `result` is what its operator or sensor returns."""
    emit_events(context, outlets, [job_event_extra(result)])


def emit_video_events(
    context: Context, outlets: Sequence[object], result: Mapping[str, Any], job: JobReference
) -> None:
    """Describe saved videos in the event of every outlet; `result` is what `hook.download` returned."""
    emit_events(context, outlets, [video_event_extra(video, job) for video in result["videos"]])


def job_event_extra(result: Mapping[str, Any]) -> EventExtra:
    """The extra for a job, whose video is still at Magic Hour."""
    return {
        "project_id": result["project_id"],
        "uri": project_uri(result["project_id"]),
        **dict.fromkeys(("sha256", "bytes", "width", "height", "fps")),
        "duration": result["end_seconds"],
        "model": result["model"],
        "credits": result["credits_charged"],
    }


def video_event_extra(video: Mapping[str, Any], job: JobReference) -> EventExtra:
    """The extra for a saved video, one of the `videos` of a download."""
    return {
        "project_id": video["project_id"],
        "uri": file_uri(video["path"]),
        "bytes": video["size"],
        **{key: video[key] for key in ("sha256", "width", "height", "fps", "duration")},
        "model": job.model,
        "credits": job.credits_charged,
    }


def file_uri(path: str) -> str:
    """`file://` and a local path, or the object store's URL as it is.

    Only `%`, `?`, `#` and non-ASCII letters are escaped: most of Airflow does not unescape anything.
    """
    return path if "://" in path else "file://" + quote(path, safe=_ascii_without("%?#"))


def emit_events(context: Context, outlets: Sequence[object], extras: Sequence[EventExtra]) -> None:
    """Give every asset among `outlets` the first of `extras`, and every alias an asset for each of them.

    Keys that the user has set stay. Never raises.
    """
    for outlet in outlets:
        try:
            _emit(context, outlet, extras)
        except Exception:
            log.exception("The asset event of %r does not describe the video.", outlet)


def _emit(context: Context, outlet: object, extras: Sequence[EventExtra]) -> None:
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    from magichour_provider.airflow_internals import outlet_event

    event = outlet_event(context, outlet)
    if event is None:
        return
    if isinstance(outlet, AssetAlias):
        for extra in extras:
            # Airflow drops what follows a '#' or a '?', and some databases accept ASCII only.
            uri = quote(extra["uri"], safe=_ascii_without("?#"))
            event.add(Asset(uri=uri), extra={**extra, **event.extra})
    else:
        event.extra = {**extras[0], **event.extra}


def _ascii_without(characters: str) -> str:
    return _ASCII.translate(str.maketrans("", "", characters))
