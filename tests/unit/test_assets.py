"""The asset of a project, as Airflow reads and makes it."""

from __future__ import annotations

import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk import Asset

from magichour_provider.assets import (
    convert_asset_to_openlineage,
    create_asset,
    project_uri,
    sanitize_uri,
    videos_uri,
)

PROJECT = "cmB4rTx0z~A_9.-"
URI = f"magichour://projects/{PROJECT}"


def test_airflow_takes_the_uri_of_a_project_as_it_is():
    asset = create_asset(project_id=PROJECT, extra={"campaign": "spring"})
    assert (asset.uri, asset.name, asset.extra) == (URI, URI, {"campaign": "spring"})
    assert asset.normalized_uri == project_uri(PROJECT) == URI


def test_airflow_has_our_handler_and_factory():
    manager = ProvidersManager()
    assert manager.asset_uri_handlers["magichour"] is sanitize_uri
    assert manager.asset_factories["magichour"] is create_asset


@pytest.mark.parametrize("written", [f"{URI}/", f"MagicHour://Projects/{PROJECT}", f"{URI}#page"])
def test_other_spellings_mean_the_same_project(written):
    assert Asset(written).uri == URI


@pytest.mark.parametrize(
    "uri",
    [
        "magichour://projects",
        "magichour://projects/",
        "magichour://projects/None",
        "magichour://projects/two/parts",
        "magichour://projects/a%2Fb",
        "magichour://projects/..",
        "magichour://videos/two/parts",
        "magichour://videos?a=1",
        "magichour://images/abc",
        "magichour:///projects/abc",
        "magichour://api.magichour.ai/projects/abc",
        f"{URI}?videoId=2",
    ],
)
def test_what_names_no_asset_is_refused_and_the_forms_are_reported(uri):
    with pytest.raises(
        ValueError, match=r"names no asset .*: its assets are magichour://videos, .*<project id>"
    ):
        Asset(uri)


@pytest.mark.parametrize("dag_id", [None, "nightly", "a.b-c_d", "größe", "a b"])
def test_airflow_takes_the_uri_of_videos_as_it_is(dag_id):
    asset = Asset(videos_uri(dag_id))
    assert asset.uri == asset.normalized_uri == videos_uri(dag_id)
    assert Asset("MagicHour://Videos/").uri == videos_uri()


@pytest.mark.parametrize("project_id", ["", "None", "a/b", "../x", "a b", "é"])
def test_there_is_no_asset_of_what_is_no_project(project_id):
    with pytest.raises(ValueError, match="not the id of a Magic Hour project"):
        create_asset(project_id=project_id)


def test_openlineage_knows_the_asset_by_the_name_of_the_project():
    pytest.importorskip("airflow.providers.openlineage")
    from airflow.providers.openlineage.utils.utils import translate_airflow_asset

    for dataset in (
        convert_asset_to_openlineage(Asset(URI), None),
        translate_airflow_asset(Asset(URI), None),
    ):
        assert (dataset.namespace, dataset.name) == ("magichour", f"projects/{PROJECT}")
