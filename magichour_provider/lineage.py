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
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from magichour_provider.assets import SCHEME, project_dataset, project_uri
from magichour_provider.client import library_url
from magichour_provider.exceptions import LIBRARY_URL
from magichour_provider.storage.locations import (
    LocationError,
    address_of,
    given_text,
    parse_location,
    url_scheme,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.jobs.reference import JobReference
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)

DatasetName = tuple[str, str]
"""Namespace and name."""

_SAFE_IN_FILE_URI = (string.punctuation + " ").translate(str.maketrans("", "", "%?#"))

# --- OpenLineage


def submission_lineage(
    *,
    image: PathArgument,
    end_image: PathArgument | None,
    prompt: object,
    model: str | None,
    resolution: str | None,
    end_seconds: object,
    project_id: str | None,
    credits_charged: int | None,
) -> Any | None:
    """Images in, project out: an `OperatorLineage`; None without the OpenLineage provider.

    :param project_id: the submitted job; None before that.
    """
    if not _has_openlineage():
        return None
    from airflow.providers.common.compat.openlineage import facet

    images = [image_dataset(each) for each in (image, end_image) if each is not None]
    outputs = []
    if project_id:
        outputs = [facet.OutputDataset(*project_dataset(project_id), facets=_project_facets())]
    try:
        seconds = float(str(end_seconds))
    except ValueError:
        seconds = None
    prompt_hash = hashlib.sha256(str(prompt).encode(errors="surrogatepass")).hexdigest()
    return _operator_lineage(
        [facet.InputDataset(*name) for name in images if name],
        outputs,
        project_id,
        model=given_text(model),
        resolution=given_text(resolution),
        end_seconds=seconds,
        credits=credits_charged,
        prompt_sha256=prompt_hash if given_text(prompt) else None,
    )


def download_lineage(job: JobReference, result: Mapping[str, Any] | None) -> Any | None:
    """Project in, videos out: an `OperatorLineage`; None without the OpenLineage provider.

    :param result: what `MagicHourHook.download` returned; None if nothing was saved.
    """
    if not _has_openlineage():
        return None
    import attrs
    from airflow.providers.common.compat.openlineage import facet
    from openlineage.client.facet_v2 import dataset_version_dataset

    VideoFacet = facet_classes()[1]
    outputs = []
    for video in (result or {}).get("videos", ()):
        name = file_dataset(video["path"])
        if name is None:
            continue
        known = {field.name: video[field.name] for field in attrs.fields(VideoFacet) if field.name in video}
        size = facet.OutputStatisticsOutputDatasetFacet(size=video["size"], fileCount=1)
        version = dataset_version_dataset.DatasetVersionDatasetFacet(video["sha256"])
        facets = {"version": version, "magichour_video": VideoFacet(**known)}
        outputs.append(facet.OutputDataset(*name, facets=facets, outputFacets={"outputStatistics": size}))
    return _operator_lineage(
        [facet.InputDataset(*project_dataset(job.project_id), facets=_project_facets())],
        outputs,
        job.project_id,
        model=job.model,
        resolution=job.resolution,
        credits=job.credits_charged,
    )


def batch_lineage(items: object, path: object, summary: Mapping[str, Any] | None) -> Any | None:
    """Manifest of the items in; folder of the videos and manifest of the results out: an `OperatorLineage`.

    None without the OpenLineage provider.

    :param items: a manifest's address, or a list, which is no dataset.
    :param path: the folder; None: the videos stay at Magic Hour.
    :param summary: what the operator returns; None before the end.
    """
    if not _has_openlineage():
        return None
    import attrs
    from airflow.providers.common.compat.openlineage import facet
    from airflow.providers.openlineage.extractors import OperatorLineage

    def dataset(place: Any) -> DatasetName | None:
        try:
            return file_dataset(place) if given_text(address_of(place)) else None
        except LocationError:
            return None

    inputs = [facet.InputDataset(*name) for name in [dataset(items)] if name]
    if summary is None:
        return OperatorLineage(inputs=inputs)
    videos = facet.OutputStatisticsOutputDatasetFacet(fileCount=summary["complete"])
    outputs = [
        facet.OutputDataset(*name, outputFacets={"outputStatistics": videos} if place is path else {})
        for place in (path, summary["manifest"])
        if (name := dataset(place))
    ]
    BatchFacet = facet_classes()[2]
    known = {**summary, "credits": summary["credits_charged"]}
    counts = {each.name: known[each.name] for each in attrs.fields(BatchFacet) if each.name in known}
    return OperatorLineage(
        inputs=inputs, outputs=outputs, run_facets={"magichour_batch": BatchFacet(**counts)}
    )


def _has_openlineage() -> bool:
    try:
        return find_spec("airflow.providers.openlineage") is not None
    except ModuleNotFoundError:
        return False


def _operator_lineage(inputs: list[Any], outputs: list[Any], project_id: str | None, **job: Any) -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage

    url = library_url(project_id) if project_id else None
    job_facet = facet_classes()[0](project_id=project_id, url=url, **job)
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets={"magichour_job": job_facet})


def _project_facets() -> dict[str, Any]:
    from openlineage.client.facet_v2 import datasource_dataset

    return {"dataSource": datasource_dataset.DatasourceDatasetFacet(name="Magic Hour", uri=LIBRARY_URL)}


@cache
def facet_classes() -> tuple[type[Any], type[Any], type[Any]]:
    """Our facets of a run, of a video, and of the run of a batch. Imports the OpenLineage client.

    They keep the schema URL of their base: the specification's RunFacet and DatasetFacet allow more keys.
    """
    import attrs
    from airflow.providers.common.compat.openlineage import facet

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

    @attrs.define
    class MagicHourBatchRunFacet(facet.RunFacet):
        """What became of a batch, key `magichour_batch`: items by status, and the credits of this run."""

        items: int
        complete: int
        unchanged: int
        failed: int
        refused: int
        unknown: int
        submitted: int
        not_submitted: int
        credits: int

    return MagicHourJobRunFacet, MagicHourVideoDatasetFacet, MagicHourBatchRunFacet


def image_dataset(image: PathArgument) -> DatasetName | None:
    """The dataset of an image in any form that an operator accepts; None if it names no file."""
    from magichour_provider.storage.images import UPLOADED_PREFIXES

    try:
        address = address_of(image)
    except LocationError:
        return None
    if address.startswith(UPLOADED_PREFIXES):
        return SCHEME, address
    if url_scheme(address) not in ("http", "https"):
        return file_dataset(address)
    try:
        url = urlsplit(address)
    except ValueError:
        return None
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}", url.path.lstrip("/") or "/"


def file_dataset(path: PathArgument) -> DatasetName | None:
    """The dataset of a file on a disk or in an object store; None if it has no name in UTF-8."""
    try:
        place = parse_location(path)
        name = str(place.absolute()) if isinstance(place, Path) else place.url
        name.encode()
    except (ValueError, OSError):
        return None
    if isinstance(place, Path):
        return "file", name
    authority, _, key = name.partition("://")[2].partition("/")
    scheme = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}.get(place.scheme, place.scheme)
    return f"{scheme}://{authority}", key.lstrip("/") or "/"


# --- lineage of the hook


def collect_upload(hook: MagicHourHook, image: PathArgument) -> None:
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
    inputs: Iterable[DatasetName | None] = (),
    outputs: Iterable[DatasetName | None] = (),
) -> None:
    def uri(namespace: str, name: str) -> str:
        if namespace == "file":
            return file_uri(name)
        return f"{namespace}{'/' if '://' in namespace else '://'}{name.lstrip('/')}"

    try:
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        for name in filter(None, inputs):
            collector.add_input_asset(hook, uri=uri(*name))
        for name in filter(None, outputs):
            collector.add_output_asset(hook, uri=uri(*name))
    except Exception:
        log.warning("The lineage of this transfer could not be collected.", exc_info=True)


# --- asset events. Their extra is flat, plain JSON without a secret: Airflow stores it and shows it in the
# UI; Airflow 3.0 tells the events of an alias apart by the values in it, which must be hashable.


def emit_job_events(context: Context, outlets: Sequence[object], result: Mapping[str, Any]) -> None:
    """Describe a job in the event of every outlet; `result` is what its operator or sensor returns."""
    emit_events(context, outlets, [job_event_extra(result)])


def job_event_extra(result: Mapping[str, Any]) -> dict[str, Any]:
    """The extra for a job, whose video is still at Magic Hour."""
    return {
        "project_id": result["project_id"],
        "uri": project_uri(result["project_id"]),
        **dict.fromkeys(("sha256", "bytes", "width", "height", "fps")),
        "duration": result["end_seconds"],
        "model": result["model"],
        "credits": result["credits_charged"],
    }


def emit_video_events(
    context: Context, outlets: Sequence[object], result: Mapping[str, Any], job: JobReference
) -> None:
    """Describe saved videos in the event of every outlet; `result` is what `hook.download` returned."""
    extras = [
        {
            "project_id": video["project_id"],
            "uri": file_uri(video["path"]),
            "bytes": video["size"],
            **{key: video[key] for key in ("sha256", "width", "height", "fps", "duration")},
            "model": job.model,
            "credits": job.credits_charged,
        }
        for video in result["videos"]
    ]
    emit_events(context, outlets, extras)


def emit_batch_event(context: Context, outlets: Sequence[object], summary: Mapping[str, Any]) -> None:
    """Describe a batch in the event of every outlet; `summary` is what its operator returns."""
    extra = {"uri": file_uri(summary["manifest"]), **summary}
    extra["credits"] = extra.pop("credits_charged")
    emit_events(context, outlets, [extra])


def file_uri(path: str) -> str:
    """`file://` and a local path, or the object store's URL as it is.

    Only `%`, `?`, `#` and non-ASCII letters are escaped: most of Airflow does not unescape anything.
    """
    return path if "://" in path else "file://" + quote(path, safe=_SAFE_IN_FILE_URI)


def emit_events(context: Context, outlets: Sequence[object], extras: Sequence[dict[str, Any]]) -> None:
    """Give every asset among `outlets` the first of `extras`, and every alias an asset for each of them.

    Keys that the user has set stay. Never raises.
    """
    from airflow.sdk import Asset, AssetAlias

    from magichour_provider.airflow_internals import outlet_event

    for outlet in outlets:
        try:
            event = outlet_event(context, outlet)
            if event is None:
                continue
            if not isinstance(outlet, AssetAlias):
                event.extra = {**extras[0], **event.extra}
                continue
            for extra in extras:
                # Airflow drops what follows a '#' or a '?', and some databases accept ASCII only.
                uri = quote(extra["uri"], safe=_SAFE_IN_FILE_URI + "%")
                event.add(Asset(uri=uri), extra={**extra, **event.extra})
        except Exception:
            log.exception("The asset event of %r does not describe the video.", outlet)
