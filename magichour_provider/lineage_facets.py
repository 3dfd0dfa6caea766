"""OpenLineage's objects, and our own facets. Imported only where the OpenLineage provider is installed.

The schema of our facets is what the specification asks of every facet; docs/lineage.md says what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from airflow.providers.common.compat.openlineage.facet import (
    DatasetFacet,
    InputDataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.facet_v2 import dataset_version_dataset, datasource_dataset

from magichour_provider.client import library_url
from magichour_provider.exceptions import LIBRARY_URL


@attrs.define
class MagicHourJobRunFacet(RunFacet):
    """The job of a run, key `magichour_job`; None for what nobody knows.

    `url` is its page in the library, `end_seconds` in seconds, `credits` what was charged. Of the prompt
    there is a checksum, by which two runs with one prompt are told; its text may be a secret of the house.
    """

    project_id: str | None = None
    url: str | None = None
    model: str | None = None
    resolution: str | None = None
    end_seconds: float | None = None
    credits: int | None = None
    prompt_sha256: str | None = None


@attrs.define
class MagicHourClipDatasetFacet(DatasetFacet):
    """A landed clip, key `magichour_clip`: `duration` in seconds, `width` and `height` in pixels."""

    project_id: str
    content_type: str
    duration: float
    width: int
    height: int
    fps: float


def operator_lineage(inputs: list[Any], outputs: list[Any], job: Mapping[str, Any]) -> Any:
    """What the OpenLineage provider asks an operator for; `job` is what the run facet holds."""
    project_id = job.get("project_id")
    facet = MagicHourJobRunFacet(url=library_url(project_id) if project_id else None, **job)
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets={"magichour_job": facet})


def image(namespace: str, name: str) -> Any:
    """An image, read."""
    return InputDataset(namespace=namespace, name=name)


def project_made(namespace: str, name: str) -> Any:
    """A project, made."""
    return OutputDataset(namespace=namespace, name=name, facets={"dataSource": _magic_hour()})


def project_read(namespace: str, name: str) -> Any:
    """A project, read."""
    return InputDataset(namespace=namespace, name=name, facets={"dataSource": _magic_hour()})


def clip(namespace: str, name: str, landed: Mapping[str, Any]) -> Any:
    """A clip, landed: its checksum is its version."""
    ours = {each.name for each in attrs.fields(MagicHourClipDatasetFacet)} & landed.keys()
    return OutputDataset(
        namespace=namespace,
        name=name,
        facets={
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(landed["sha256"]),
            "magichour_clip": MagicHourClipDatasetFacet(**{key: landed[key] for key in ours}),
        },
        outputFacets={
            "outputStatistics": OutputStatisticsOutputDatasetFacet(size=landed["size"], fileCount=1)
        },
    )


def _magic_hour() -> Any:
    return datasource_dataset.DatasourceDatasetFacet(name="Magic Hour", uri=LIBRARY_URL)
