"""What the README shows is what runs."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from airflow.models.connection import Connection

from magichour_provider.connection_form import CONN_FIELDS
from magichour_provider.hooks.connection import settings_of
from magichour_provider.outlets import extra_of_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_the_first_dag_is_the_example():
    example = (ROOT / "dags_examples" / "first_clip.py").read_text()
    shown = next(text for language, text in BLOCKS if language == "python" and "first_clip" in text)
    assert shown == example.split("# [START first_clip]\n")[1].split("# [END first_clip]")[0]


@pytest.mark.parametrize(
    "line", [text for language, text in BLOCKS if language == "bash" and "AIRFLOW_CONN" in text]
)
def test_every_form_of_the_connection_can_be_used(line):
    value = line.strip().partition("=")[2].strip("'")
    made = Connection.from_json(value) if value.startswith("{") else Connection(uri=value)
    made.conn_id = "magichour_default"
    settings = settings_of(made)
    assert made.conn_type == "magichour"
    assert settings.api_key in ("YOUR-API-KEY", "any-key")
    assert settings.timeout == (30 if "timeout" in value else 60)


def test_every_extra_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", README, re.MULTILINE)) == set(CONN_FIELDS)


def test_every_command_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_relative_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_page_of_models_is_what_the_catalogue_says():
    import models_table

    assert models_table.PAGE.read_text() == models_table.page(), "run: make models"


LINEAGE = (ROOT / "docs" / "lineage.md").read_text()


def test_the_page_of_lineage_shows_the_example():
    example = (ROOT / "dags_examples" / "on_a_new_clip.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", LINEAGE, re.DOTALL)
    assert shown == [example.split("# [START on_a_new_clip]\n")[1].split("\n# [END on_a_new_clip]")[0] + "\n"]


def test_the_page_of_lineage_names_every_key_of_an_event_and_every_field_of_our_facets():
    pytest.importorskip("airflow.providers.openlineage")
    from magichour_provider.lineage_facets import MagicHourClipDatasetFacet, MagicHourJobRunFacet

    events, facets = LINEAGE.split("## OpenLineage")
    rows = {line.split("`")[1]: line for line in facets.splitlines() if line.startswith("| `magichour_")}
    ours = {"magichour_job": MagicHourJobRunFacet, "magichour_clip": MagicHourClipDatasetFacet}
    for name, facet in ours.items():
        fields = {field.name for field in attrs.fields(facet) if not field.name.startswith("_")}
        assert set(re.findall(r"`(\w+)`", rows[name])) == {name, *fields}
    first_cells = [line.split("|")[1] for line in events.splitlines() if line.startswith("| `")]
    result = {"project_id": "abc", "end_seconds": 5.0, "model": None, "credits_charged": None}
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == set(extra_of_job(result))
