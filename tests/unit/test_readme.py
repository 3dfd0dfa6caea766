"""What the README and the pages of docs/ show is what runs, and what they list is what there is."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import attrs
import pytest
from airflow.models.connection import Connection
from airflow.sdk import BaseOperator, BaseSensorOperator

import magichour_provider
from magichour_provider import exceptions as errors
from magichour_provider.asset_events import extra_of_job
from magichour_provider.client.pricing import IMAGE_EXTENSIONS, ModelRequest, estimate_credits, validate
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.hooks.connection_form import CONN_FIELDS
from magichour_provider.storage.locations import _EXTRAS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if "_build" not in page.parts
}
BLOCKS = [
    (name, language, inspect.cleandoc("\n" + text))
    for name, page in PAGES.items()
    for language, text in re.findall(r"^ *```(\w+)\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
]


def blocks(*languages):
    return [pytest.param(text, id=name) for name, language, text in BLOCKS if language in languages]


def rows(page, heading):
    """The cells of the table that comes first below a heading, without its head."""
    lines = PAGES[page].split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_first_dag_is_the_example():
    example = (ROOT / "dags_examples" / "first_video.py").read_text()
    shown = next(text for name, language, text in BLOCKS if language == "python" and name == "README.md")
    assert shown == example.split("# [START first_video]\n")[1].split("# [END first_video]")[0].strip()


CONNECTIONS = [
    pytest.param(line.partition("=")[2].strip("'"), id=name)
    for name, language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("export AIRFLOW_CONN_MAGICHOUR_DEFAULT=")
]


@pytest.mark.parametrize("value", CONNECTIONS)
def test_every_form_of_the_connection_can_be_used(value):
    made = Connection.from_json(value) if value.startswith("{") else Connection(uri=value)
    made.conn_id = "magichour_default"
    settings = settings_from_connection(made)
    assert made.conn_type == "magichour"
    assert settings.api_key in ("YOUR-API-KEY", "any-key")
    assert settings.timeout == (30 if "timeout" in value else 60)


def test_the_connection_is_shown_in_the_readme_and_with_the_sandbox():
    assert {param.id for param in CONNECTIONS} >= {"README.md", "docs/testing.md"}


def test_every_extra_is_in_the_table():
    extras = [cells[0].strip("`") for cells in rows("docs/connections/magichour.md", "## Extras")]
    assert extras == list(CONN_FIELDS)


def test_every_command_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in PAGES.values() for name in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_somewhere(name):
    """The README, and the pages as GitHub shows them; the anchors in them are Sphinx's to check."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[name]):
        assert target.startswith("https://") or ((ROOT / name).parent / target).exists(), target


OURS = {
    name: getattr(magichour_provider, name)
    for name in magichour_provider.__all__
    if name.endswith(("tor", "sor"))
}


@pytest.mark.parametrize("code", blocks("python"))
def test_every_snippet_is_python_and_gives_our_operators_arguments_that_they_take(code):
    for call in [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Request)]:
        target = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        if not isinstance(target, ast.Name) or target.id not in OURS:
            continue
        known = set()
        for owner in (OURS[target.id], BaseSensorOperator, BaseOperator):
            known |= set(inspect.signature(owner.__init__).parameters)
        assert {keyword.arg for keyword in call.keywords} <= known


def test_the_page_of_models_is_what_the_catalogue_says():
    import models_table

    assert models_table.PAGE.read_text() == models_table.page(), "run: make models"


PRICES = list(rows("docs/costs.md", "## What a clip costs"))


@pytest.mark.parametrize("cells", PRICES, ids=lambda cells: " ".join(cells[:4]))
def test_the_page_of_costs_says_what_the_catalogue_says(cells):
    model, resolution, seconds, audio, told = cells
    choice = ModelRequest(model.strip("`"), float(seconds), resolution, audio == "yes")
    validate(choice)
    assert told == str(estimate_credits(choice) or "not published")


def test_the_sums_of_the_page_of_costs_are_right():
    page = " ".join(PAGES["docs/costs.md"].split())
    for resolution, told in re.findall(r"`ltx-2\.3` at (480p), come to (\d+) credits", page):
        assert int(told) == 100 * (estimate_credits(ModelRequest("ltx-2.3", 5, resolution)) or 0)
    (at_1080p,) = re.findall(r"The same at 1080p are (\d+)\.", page)
    assert int(at_1080p) == 100 * (estimate_credits(ModelRequest("ltx-2.3", 5, "1080p")) or 0)
    (estimate,) = re.findall(r"audio=True\)` says the same to a program: (\d+)", page)
    assert int(estimate) == estimate_credits(ModelRequest("kling-3.0", 5, "720p", audio=True))


def test_the_page_of_failures_knows_every_error_and_whether_a_retry_can_help():
    tree = {
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.MagicHourError)
    }
    told = {
        name: cells[2].startswith("yes")
        for cells in rows("docs/failures.md", "## What an error says")
        for name in re.findall(r"`(\w+Error)`", cells[0])
    }
    abstract = {"MagicHourError", "APIError", "JobError"}
    assert told == {each.__name__: each.retryable for each in tree if each.__name__ not in abstract}


def test_the_page_of_storage_names_every_kind_of_image_and_every_extra_for_a_store():
    page = PAGES["docs/storage.md"]
    listed = page.split("## Images\n", 1)[1].split("are taken.")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == IMAGE_EXTENSIONS
    extras = {
        re.findall(r"\[(.+)\]", cells[2])[0]
        for cells in rows("docs/storage.md", "## Places")
        if "[" in cells[2]
    }
    assert extras == set(_EXTRAS.values())


def test_the_page_of_testing_names_every_fault_and_only_switches_that_there_are():
    from magichour_provider.sandbox import Behaviour
    from magichour_provider.sandbox.faults import FAULT_KINDS

    faults = [cells[0].split("`")[1] for cells in rows("docs/testing.md", "## Faults")]
    assert sorted(faults) == sorted(FAULT_KINDS)
    (switches,) = [
        cells[1]
        for cells in rows("docs/testing.md", "## Everything else that can be changed")
        if "behaviour" in cells[0]
    ]
    assert set(re.findall(r"`(\w+)`", switches)) <= set(Behaviour.model_fields)


LINEAGE = PAGES["docs/lineage.md"]


def test_the_page_of_lineage_shows_the_example():
    example = (ROOT / "dags_examples" / "on_a_new_video.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", LINEAGE, re.DOTALL)
    assert shown == [example.split("# [START on_a_new_video]\n")[1].split("\n# [END on_a_new_video]")[0] + "\n"]


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
