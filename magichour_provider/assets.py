"""The assets of this provider: a project, `magichour://projects/<project id>`, and new videos.

`magichour://videos` gets an event for each video of a job that a task of this Airflow has submitted, and
`magichour://videos/<dag id>` for those of one Dag, if Magic Hour's webhooks are in use.

A URI has no host: a project is the same one through a proxy and through Magic Hour's own address. The id is
in the path, because a host has no upper case.

Airflow loads this module to read any asset's URI, in every Dag file too: it imports little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from magichour_provider.client import is_project_id

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.sdk import Asset

SCHEME = "magichour"
PROJECTS, VIDEOS = "projects", "videos"


def project_uri(project_id: str) -> str:
    """The URI of a project. Raises ValueError if this is no project id."""
    if not is_project_id(project_id):
        raise ValueError(f"{project_id!r:.80} is not the id of a Magic Hour project.")
    return f"{SCHEME}://{PROJECTS}/{project_id}"


def videos_uri(dag_id: str | None = None) -> str:
    """The URI of all new videos, or of those of one Dag."""
    return f"{SCHEME}://{VIDEOS}" if dag_id is None else f"{SCHEME}://{VIDEOS}/{quote(dag_id, safe='')}"


def create_asset(*, project_id: str, extra: dict[str, Any] | None = None) -> Asset:
    """The asset of a project. Raises ValueError if this is no project id."""
    from airflow.sdk import Asset

    return Asset(uri=project_uri(project_id), extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check the URI of an asset. Raises ValueError if it names neither a project nor videos."""
    kind, path = uri.netloc.lower(), uri.path.removeprefix("/")
    is_videos = kind == VIDEOS and "/" not in path
    is_project = kind == PROJECTS and is_project_id(path)
    if not (is_videos or is_project) or uri.query:
        raise ValueError(
            f"{uri.geturl()!r:.200} names no asset of Magic Hour: its assets are {SCHEME}://{VIDEOS}, "
            f"{SCHEME}://{VIDEOS}/<dag id> and {SCHEME}://{PROJECTS}/<project id>."
        )
    return uri._replace(netloc=kind, path=f"/{path}" if path else "")


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> Any:
    """The OpenLineage dataset of an asset: its URI's namespace is the bare scheme."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    return Dataset(namespace=SCHEME, name=asset.uri.partition("://")[2])


def project_dataset(project_id: str) -> tuple[str, str]:
    """Namespace and name of a project's OpenLineage dataset.

    As with BigQuery and Pub/Sub, of which there is one for everybody too, the namespace is the bare scheme.
    """
    return SCHEME, f"{PROJECTS}/{project_id}"
