"""What README, CONTRIBUTING and the documentation say is so."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from airflow.models.connection import Connection

from magichour_provider import __version__
from magichour_provider.get_provider_info import get_provider_info
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.hooks.connection_form import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = {
    path: path.read_text()
    for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
}
NAMES = [str(path.relative_to(ROOT)) for path in TEXTS]

every_page = pytest.mark.parametrize("path", TEXTS, ids=NAMES)


def without_code(text):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text, *languages):
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def anchors(path):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_relative_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(TEXTS[path])):
        if urlsplit(target).scheme:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_table_of_contents():
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", TEXTS[page], re.DOTALL | re.MULTILINE):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {page.parent / f"{entry}.md" for entry in entries}
    assert listed == set(PAGES)


@every_page
def test_python_in_a_page_compiles(path):
    for block in blocks(TEXTS[path], "python"):
        ast.parse(block)


MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE)) | {"LIVE"}
OURS = re.compile(r"(?<![\w./{-])(?:scripts|tests|dags_examples|docs|magichour_provider)/[\w./-]*\w")
BUILT = ("docs/_build",)


@every_page
def test_the_commands_of_a_page_exist(path):
    code = [*re.findall(r"`([^`\n]+)`", TEXTS[path]), *blocks(TEXTS[path], "bash", "console")]
    for line in [line for text in code for line in text.splitlines() if line.startswith("make ")]:
        words = shlex.split(line, comments=True)[1:]
        asked = {word for word in words if word != "..." and "=" not in word}
        assert asked <= TARGETS, line
        assert {word.partition("=")[0] for word in words if "=" in word} <= VARIABLES, line


@pytest.mark.parametrize("path", [path for path in TEXTS if path.name in ("README.md", "CONTRIBUTING.md")])
def test_the_files_that_are_named_exist(path):
    for name in OURS.findall(TEXTS[path]):
        assert name.startswith(BUILT) or (ROOT / name).exists(), name


def included(text):
    """What a page takes by `literalinclude`: file, and the two markers."""
    for file, options in re.findall(
        r"^```\{literalinclude\} (\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        yield (
            file,
            *re.findall(r'^:(?:start-after|end-before): "\[(?:START|END) (\w+)\]"$', options, re.MULTILINE),
        )


def test_every_example_is_shown_and_what_is_shown_is_there():
    there, shown = set(), set()
    for example in (ROOT / "dags_examples").glob("*.py"):
        starts, ends = (re.findall(rf"# \[{word} (\w+)\]", example.read_text()) for word in ("START", "END"))
        assert starts == ends, example
        there |= {(example, name) for name in starts}
    for page in PAGES:
        for file, start, end in included(TEXTS[page]):
            assert start == end
            shown.add(((page.parent / file).resolve(), start))
    copied = {(ROOT / "dags_examples" / "on_a_new_clip.py", "on_a_new_clip")}  # held by test_readme.py
    assert shown == there - copied


HOWTOS = {
    "operators/image_to_video.md": ImageToVideoOperator,
    "operators/download.md": DownloadVideoOperator,
    "operators/contact_sheet.md": ContactSheetOperator,
    "sensors/video_job.md": VideoJobSensor,
    "hooks/magichour.md": MagicHourHook,
}


def rows(text, heading):
    """The rows of the table below a heading, by the names in their first cell."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return {name: line for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}


@pytest.mark.parametrize("page", HOWTOS)
def test_the_table_of_arguments_is_the_signature(page):
    parameters = inspect.signature(HOWTOS[page].__init__).parameters.values()
    named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} - {"self"}
    table = rows(TEXTS[DOCS / page], "Arguments")
    assert set(table) == named
    templated = {name for name, row in table.items() if row.split("|")[1].strip().endswith(" T")}
    assert templated == set(getattr(HOWTOS[page], "template_fields", ()))
    required = {
        each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    }
    assert {name for name, row in table.items() if not row.split("|")[2].strip()} == required


@pytest.mark.parametrize("page", [page for page in HOWTOS if not page.startswith("hooks")])
def test_the_table_of_results_is_what_the_docstring_promises(page):
    promised = inspect.getdoc(HOWTOS[page]).split(":return:")[1]
    assert set(rows(TEXTS[DOCS / page], "What it returns")) == set(re.findall(r"`(\w+)`", promised))


def test_the_table_of_methods_has_those_of_the_hook():
    own = {
        name
        for name, value in vars(MagicHourHook).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert set(rows(TEXTS[DOCS / "hooks/magichour.md"], "Methods")) == own


CONNECTION = TEXTS[DOCS / "connections" / "magichour.md"]


def test_the_table_of_extras_is_the_form():
    table = {
        name: [cell.strip() for cell in row.split("|")] for name, row in rows(CONNECTION, "Extras").items()
    }
    assert {name: cells[2] for name, cells in table.items()} == {
        name: field["label"] for name, field in CONN_FIELDS.items()
    }
    for name, field in CONN_FIELDS.items():
        if "default" in field["schema"]:
            assert table[name][3] == str(field["schema"]["default"]).lower()


def test_the_table_of_fields_is_the_form():
    lines = re.findall(r"^\| (\w+) \| ([\w ]+) \| .* \|$", CONNECTION, re.MULTILINE)
    shown = dict(line for line in lines if line[0] not in ("field", "extra"))
    relabelled = UI_FIELD_BEHAVIOUR["relabeling"]
    assert {name: relabelled.get(name, name.title()) for name in shown} == shown
    assert not set(shown) & set(UI_FIELD_BEHAVIOUR["hidden-fields"])


def made_by(line):
    """The connection that a line of the page makes."""
    if line.startswith("export"):
        value = shlex.split(line)[1].partition("=")[2]
        return Connection.from_json(value) if value.startswith("{") else Connection(uri=value)
    from airflow.cli import cli_parser

    asked = cli_parser.get_parser().parse_args(shlex.split(line)[1:])
    if asked.conn_json:
        return Connection.from_json(asked.conn_json, conn_id=asked.conn_id)
    return Connection(
        asked.conn_id, conn_type=asked.conn_type, password=asked.conn_password, extra=asked.conn_extra
    )


MAKERS = ("export AIRFLOW_CONN", "airflow connections add")


@pytest.mark.parametrize(
    "line",
    [line for block in blocks(CONNECTION, "bash") for line in block.splitlines() if line.startswith(MAKERS)],
)
def test_every_way_to_make_the_connection_makes_it(line):
    made = made_by(line)
    settings = settings_from_connection(made)
    assert (made.conn_type, settings.api_key, settings.timeout) == ("magichour", "YOUR-API-KEY", 30)


REGISTRY = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())


def test_the_registry_is_told_what_airflow_is_told():
    info = get_provider_info()
    assert REGISTRY["package-name"] == info["package-name"]
    assert REGISTRY["display-name"] == info["name"]
    assert (ROOT / REGISTRY["logo"]).exists()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        told = {entry["module"].rpartition(".")[0] for entry in REGISTRY[kind]}
        assert told == {module for entry in info[kind] for module in entry["python-modules"]}


@pytest.mark.parametrize(
    "entry", [entry for kind in REGISTRY.values() if isinstance(kind, list) for entry in kind], ids=str
)
def test_the_registry_names_classes_that_are_there(entry):
    module, _, name = entry["module"].rpartition(".")
    assert inspect.isclass(getattr(import_module(module), name))
    assert "\n" not in entry["description"]


def test_the_changelog_names_this_version_below_what_is_not_released():
    headings = re.findall(r"^## \[(.*?)\](.*)$", TEXTS[ROOT / "CHANGELOG.md"], re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])
