"""The asset URI of a project: `magichour://projects/<project id>`.

The kind of thing stands where a host would, and the id in the path, where its case is kept. There is no
host: a project is the same one whichever connection leads to it, a proxy's or Magic Hour's own.

Airflow loads this module wherever it reads any asset's URI, in every Dag file too: it imports little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magichour_provider.client import is_project_id

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.sdk import Asset

SCHEME = "magichour"
PROJECTS = "projects"


def project_uri(project_id: str) -> str:
    """The URI of a project. Raises ValueError for what is no project's id."""
    if not is_project_id(project_id):
        raise ValueError(f"{project_id!r:.80} is not the id of a Magic Hour project.")
    return f"{SCHEME}://{PROJECTS}/{project_id}"


def create_asset(*, project_id: str, extra: dict[str, Any] | None = None) -> Asset:
    """The asset of a project. Raises ValueError for what is no project's id."""
    from airflow.sdk import Asset

    return Asset(uri=project_uri(project_id), extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check what Airflow read as the URI of an asset. Raises ValueError where it names no project."""
    kind, project_id = uri.netloc.lower(), uri.path.removeprefix("/")
    if kind != PROJECTS or not is_project_id(project_id) or uri.query:
        raise ValueError(
            f"{uri.geturl()!r:.200} names no project of Magic Hour: its assets are "
            f"{SCHEME}://{PROJECTS}/<project id>."
        )
    return uri._replace(netloc=kind)


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> Any:
    """The OpenLineage dataset of a project's asset."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = project_dataset(asset.uri.rpartition("/")[2])
    return Dataset(namespace=namespace, name=name)


def project_dataset(project_id: str) -> tuple[str, str]:
    """Namespace and name of a project's OpenLineage dataset.

    As with BigQuery and Pub/Sub, of which there is one for everybody too, the namespace is the bare scheme.
    """
    return SCHEME, f"{PROJECTS}/{project_id}"
