"""The statements of README, CONTRIBUTING, CHANGELOG and docs/ are true."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import yaml
from airflow.models.connection import Connection
from airflow.sdk import BaseOperator, BaseSensorOperator

import magichour_provider
from magichour_provider import exceptions
from magichour_provider.client.pricing import IMAGE_EXTENSIONS, ModelRequest, estimate_credits, validate
from magichour_provider.get_provider_info import get_provider_info
from magichour_provider.hooks.connection import settings_from_connection

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXTS = {path: path.read_text() for path in [*PAGES, *(ROOT / name for name in NAMES)]}
INFO = get_provider_info()
FORM = INFO["connection-types"][0]

OURS = {name: getattr(magichour_provider, name) for name in magichour_provider.__all__}
HOWTOS = {
    "operators/image_to_video.md": OURS["ImageToVideoOperator"],
    "operators/image_to_video_batch.md": OURS["ImageToVideoBatchOperator"],
    "operators/download.md": OURS["DownloadVideoOperator"],
    "operators/contact_sheet.md": OURS["ContactSheetOperator"],
    "sensors/video_job.md": OURS["VideoJobSensor"],
    "hooks/magichour.md": OURS["MagicHourHook"],
}

every_page = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
every_howto = pytest.mark.parametrize("page", HOWTOS)


def blocks(text, *languages):
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [inspect.cleandoc("\n" + block) for language, block in found if language in languages]


def without_code(text):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def rows(page, heading):
    """The cells of the first table that begins behind a text, without its head."""
    lines = TEXTS[DOCS / page].split(heading, 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def names(page, heading):
    """The rows of that table by the names in their first cells."""
    return {name: cells for cells in rows(page, heading) for name in re.findall(r"`(\w+)`", cells[0])}


def marked(path, name):
    return path.read_text().split(f"# [START {name}]\n")[1].split(f"# [END {name}]")[0]


# Links, commands and code of all pages


@every_page
def test_relative_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(TEXTS[path])):
        if urlsplit(target).scheme:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", without_code(file.read_text()) + file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", TEXTS[page], re.DOTALL | re.MULTILINE):
            listed |= {page.parent / f"{entry}.md" for entry in re.findall(r"^[\w/-]+$", tree, re.M)}
    assert listed == set(PAGES)


@every_page
def test_python_blocks_parse_and_name_real_arguments(path):
    for call in [each for code in blocks(TEXTS[path], "python") for each in ast.walk(ast.parse(code))]:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in OURS:
            owners = (OURS[call.func.id], BaseSensorOperator, BaseOperator)
            known = {name for owner in owners for name in inspect.signature(owner.__init__).parameters}
            assert {keyword.arg for keyword in call.keywords} <= known


MAKEFILE = (ROOT / "Makefile").read_text()


@every_page
def test_make_commands_and_files_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    targets |= {f"test-on-{path.stem.rpartition('-')[2]}" for path in ROOT.glob("constraints-airflow-*.txt")}
    variables = {*re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE), "LIVE"}
    code = [*re.findall(r"`([^`\n]+)`", TEXTS[path]), *blocks(TEXTS[path], "bash", "console")]
    for line in [line for text in code for line in text.splitlines() if line.startswith("make ")]:
        words = set(shlex.split(line, comments=True)[1:]) - {"..."}
        assert {word for word in words if "=" not in word} <= targets, line
        assert {word.partition("=")[0] for word in words if "=" in word} <= variables, line
    if path.name in ("README.md", "CONTRIBUTING.md"):
        ours = r"(?<![\w./{-])(?:scripts|tests|dags_examples|docs|magichour_provider)/[\w./-]*\w"
        missing = [name for name in re.findall(ours, TEXTS[path]) if not (ROOT / name).exists()]
        assert [name for name in missing if not name.startswith("docs/_build")] == []


def test_pages_show_every_marked_example():
    there, shown = set(), set()
    for example in (ROOT / "dags_examples").glob("*.py"):
        there |= {(example, name) for name in re.findall(r"# \[START (\w+)\]", example.read_text())}
    pattern = r'\{literalinclude\} (\S+)\n[^`]*?START (\w+)\]"\n:end-before: "\[END (\w+)\]"'
    for page in PAGES:
        for file, start, end in re.findall(pattern, TEXTS[page]):
            assert start == end
            shown.add(((page.parent / file).resolve(), start))
    assert shown == there


def test_readme_shows_the_first_dag():
    example = marked(ROOT / "dags_examples" / "first_video.py", "first_video")
    assert blocks(TEXTS[ROOT / "README.md"], "python") == [example.strip()]


# Tables that name what the code has


@every_howto
def test_table_of_arguments_is_the_signature(page):
    parameters = inspect.signature(HOWTOS[page].__init__).parameters.values()
    table = names(page, "## Arguments")
    assert set(table) == {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} - {"self"}
    templated = {name for name, cells in table.items() if cells[0].endswith(" T")}
    assert templated == set(getattr(HOWTOS[page], "template_fields", ()))
    required = {
        each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    }
    assert {name for name, cells in table.items() if not cells[1]} == required


@pytest.mark.parametrize("page", [page for page in HOWTOS if not page.startswith("hooks")])
def test_table_of_results_is_the_docstring(page):
    promised = inspect.getdoc(HOWTOS[page]).split(":return:")[1]
    assert set(names(page, "## What it returns")) == set(re.findall(r"`(\w+)`", promised))


def test_table_of_methods_is_the_hook():
    own = {name for name, value in vars(OURS["MagicHourHook"]).items() if inspect.isfunction(value)}
    assert set(names("hooks/magichour.md", "## Methods")) == {name for name in own if name[0] != "_"}


def test_tables_of_the_connection_are_the_form():
    fields, behaviour = FORM["conn-fields"], FORM["ui-field-behaviour"]
    extras = names("connections/magichour.md", "## Extras")
    assert {name: cells[1] for name, cells in extras.items()} == {
        name: field["label"] for name, field in fields.items()
    }
    for name, field in fields.items():
        if "default" in field["schema"]:
            assert extras[name][2] == str(field["schema"]["default"]).lower()
    shown = {cells[0]: cells[1] for cells in rows("connections/magichour.md", "# The connection")}
    del shown["extra"]
    assert shown == {name: behaviour["relabeling"].get(name, name.title()) for name in shown}
    assert not set(shown) & set(behaviour["hidden-fields"])


def made_by(line):
    """The connection that a line of a page makes."""
    if line.startswith("export"):
        value = shlex.split(line)[1].partition("=")[2]
        return Connection.from_json(value) if value.startswith("{") else Connection(uri=value)
    from airflow.cli import cli_parser

    asked = cli_parser.get_parser().parse_args(shlex.split(line)[1:])
    if asked.conn_json:
        return Connection.from_json(asked.conn_json, conn_id=asked.conn_id)
    return Connection(asked.conn_id, asked.conn_type, password=asked.conn_password, extra=asked.conn_extra)


@every_page
def test_commands_make_the_connection(path):
    makers = ("export AIRFLOW_CONN", "airflow connections add")
    for line in "\n".join(blocks(TEXTS[path], "bash")).splitlines():
        if line.startswith(makers):
            made = made_by(line)
            settings = settings_from_connection(made)
            assert (made.conn_type, settings.timeout) == ("magichour", 30 if "timeout" in line else 60)
            assert settings.api_key in ("YOUR-API-KEY", "any-key")


def test_page_of_models_is_generated():
    import models_table

    assert models_table.PAGE.read_text() == models_table.page(), "run: make models"


def test_page_of_costs_has_the_published_rates():
    for model, resolution, seconds, audio, credits in rows("costs.md", "## The cost of a video"):
        request = ModelRequest(model.strip("`"), float(seconds), resolution, audio == "yes")
        validate(request)
        assert credits == str(estimate_credits(request) or "not published")
    page = " ".join(TEXTS[DOCS / "costs.md"].split())
    assert (
        f"of the first row cost {100 * estimate_credits(ModelRequest('ltx-2.3', 5, '480p'))} credits" in page
    )
    assert f"to a program: {estimate_credits(ModelRequest('kling-3.0', 5, '720p', audio=True))}." in page


def test_page_of_failures_lists_every_error():
    classes = [each for each in vars(exceptions).values() if inspect.isclass(each)]
    tree = {each for each in classes if issubclass(each, exceptions.MagicHourError)}
    abstract = {"MagicHourError", "JobError"}
    listed = {name: cells[2] for name, cells in names("failures.md", "## What an error says").items()}
    assert {name: cell.startswith("yes") for name, cell in listed.items()} == {
        each.__name__: each.retryable for each in tree if each.__name__ not in abstract
    }


def test_page_of_storage_lists_image_formats():
    listed = TEXTS[DOCS / "storage.md"].split("Supported formats are")[1].split(". ")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == IMAGE_EXTENSIONS


def test_page_of_testing_lists_faults_and_switches():
    from magichour_provider.sandbox import Behaviour
    from magichour_provider.sandbox.faults import FAULT_KINDS

    assert {cells[0].split("`")[1] for cells in rows("testing.md", "## Faults")} == set(FAULT_KINDS)
    (switches,) = [cells[1] for cells in rows("testing.md", "## Other controls") if "behaviour" in cells[0]]
    assert set(re.findall(r"`(\w+)`", switches)) <= set(Behaviour.model_fields)


def test_page_of_lineage_lists_event_keys_and_facet_fields():
    pytest.importorskip("airflow.providers.openlineage")
    from magichour_provider import lineage

    result = {"project_id": "abc", "end_seconds": 5.0, "model": None, "credits_charged": None}
    assert set(names("lineage.md", "contains these keys")) == set(lineage.job_event_extra(result))
    listed = {name: cells[2] for name, cells in names("lineage.md", "`projects/<project id>` |").items()}
    for name, facet in zip(
        ("magichour_job", "magichour_video", "magichour_batch"), lineage.facet_classes(), strict=True
    ):
        fields = {field.name for field in attrs.fields(facet) if field.name[0] != "_"}
        assert set(re.findall(r"`(\w+)`", listed[name])) == fields


def test_registry_lists_what_airflow_loads():
    registry = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())
    assert (registry["package-name"], registry["display-name"]) == (INFO["package-name"], INFO["name"])
    assert (ROOT / registry["logo"]).exists()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        listed = [entry["module"].rpartition(".") for entry in registry[kind]]
        assert all(inspect.isclass(getattr(import_module(module), name)) for module, _, name in listed)
        assert {module for module, _, _ in listed} == {
            module for entry in INFO[kind] for module in entry["python-modules"]
        }


def test_changelog_has_this_version_below_unreleased():
    headings = re.findall(r"^## \[(.*?)\](.*)$", TEXTS[ROOT / "CHANGELOG.md"], re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == magichour_provider.__version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])


def test_page_of_configuration_lists_every_option():
    options = INFO["config"]["magichour"]["options"]
    listed = [(name.strip("`"), default.strip("`")) for name, default, *_ in rows(
        "reference/configuration.md", "# Configuration"
    )]  # fmt: skip
    assert listed == [(name, option["default"] or "none") for name, option in options.items()]
