"""Limits on the package's shape, and imports that happen at run time; `make lint` checks the arrows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "magichour_provider"
MODULES = sorted(PACKAGE.rglob("*.py"))
DESIGN = (ROOT / "docs" / "design.md").read_text()
ROOT_MODULES = {
    *("__init__", "get_provider_info", "version_compat", "airflow_internals", "exceptions"),
    *("assets", "lineage", "links", "retry_policy"),
}
MAX_MODULES = 93
MAX_PACKAGE_LINES, MAX_TEST_LINES = 18_657, 25_913
"""What is reached: batches, webhooks, clusters and stores included. Lower these with each cut."""
PARTS = {
    "webhooks": r".*/webhooks\.py",
    "batches": r".*batch|storage/manifest",
    "pictures": r"storage/(frames|drawing|posters|contact_sheets)|operators/contact_sheet",
    "pages": "ui/",
    "sandbox": "sandbox/",
}
"""Modules of the parts beside the core, by their paths; the first pattern that matches counts."""
MIN_LINES_OF_A_MODULE_WITH_ONE_IMPORTER = 80
SMALL_ON_PURPOSE = {"ui/access.py"}
"""Authorisation of the pages, in one place for a review."""

OPERATORS = [
    "operators.image_to_video",
    "operators.image_to_video_batch",
    "operators.download",
    "operators.contact_sheet",
    "sensors.video_job",
    "get_provider_info",
]
HEAVY = {"httpx", "httpx_aiohttp", "aiohttp", "fsspec", "upath", "pydantic"}
HEAVY |= {"fastapi", "av", "PIL"}
HEAVY_MODULES = {"client.models", "storage.download", "storage.publish"}


def line_count(paths: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def imported_modules(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, at any level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith(PACKAGE.name)}


def loaded_by(statement: str, *, before: str = "pass") -> set[str]:
    program = (
        f"import sys; {before}; old = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - old))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_module_count_is_limited():
    assert len(MODULES) <= MAX_MODULES


def test_package_lines_are_limited():
    assert line_count(MODULES) <= MAX_PACKAGE_LINES


def test_test_lines_are_limited():
    assert line_count(list((ROOT / "tests").rglob("*.py"))) <= MAX_TEST_LINES


def test_page_of_design_lists_every_module_in_its_folder():
    layout = re.search(r"## Layout\n\n```\n(.*?)```", DESIGN, re.DOTALL)[1]
    folders = dict(re.findall(r"^  (\w+)/(.*?)(?=^  \w|\Z)", layout, re.DOTALL | re.MULTILINE))
    named = {(folder, name) for folder, text in folders.items() for name in re.findall(r"\w+\.py", text)}
    named |= {(PACKAGE.name, name) for name in re.findall(r"^  (\w+\.py)", layout, re.MULTILINE)}
    assert named == {(path.parent.name, path.name) for path in MODULES if path.stem != "__init__"}


def part_of(path: Path) -> str:
    name = str(path.relative_to(PACKAGE))
    patterns = (part for part, pattern in PARTS.items() if re.match(pattern, name))
    return next(patterns, "core")


def test_page_of_design_says_the_lines_of_each_part():
    lines: Counter[str] = Counter()
    for path in MODULES:
        lines[part_of(path)] += line_count([path])
    sentence = re.search(r"In lines: (.*?)\.", DESIGN, re.DOTALL)[1]
    said = {part: int(number.replace(",", "")) for part, number in re.findall(r"(\w+)\s([\d,]+\d)", sentence)}
    assert said == {part: pytest.approx(number, rel=0.1) for part, number in lines.items()}


def test_root_has_nine_modules():
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_small_module_has_more_than_one_importer():
    importers = Counter(name for path in MODULES for name in imported_modules(path))
    small = {}
    for path in MODULES:
        if path.parent == PACKAGE or str(path.relative_to(PACKAGE)) in SMALL_ON_PURPOSE:
            continue  # users import the root's modules
        parts = path.relative_to(ROOT).with_suffix("").parts
        lines = line_count([path])
        if lines < MIN_LINES_OF_A_MODULE_WITH_ONE_IMPORTER and importers[".".join(parts)] == 1:
            small[str(path.relative_to(PACKAGE))] = lines
    assert small == {}


def test_airflow_version_is_read_in_one_module():
    readers = {path.name for path in MODULES if "airflow.version" in path.read_text()}
    readers |= {path.name for path in MODULES if "airflow import __version__" in path.read_text()}
    assert readers <= {"version_compat.py", "airflow_internals.py"}


@pytest.mark.parametrize("room", ["client", "polling", "sandbox"])
def test_room_runs_without_airflow(room):
    modules = [path for path in sorted((PACKAGE / room).glob("*.py")) if path.stem != "__init__"]
    names = ", ".join(f"{PACKAGE.name}.{room}.{path.stem}" for path in modules)
    assert not any(name.split(".")[0] == "airflow" for name in loaded_by(f"import {names}"))


@pytest.mark.parametrize("module", OPERATORS)
def test_operator_import_loads_no_client_no_model_and_no_storage(module):
    # Airflow 3.4 loads fsspec and pydantic with BaseOperator, and not yet with airflow.sdk.
    base = "from airflow.sdk import BaseOperator, BaseSensorOperator"
    loaded = loaded_by(f"import magichour_provider.{module}", before=base)
    assert not HEAVY & {name.split(".")[0] for name in loaded}
    assert not {f"{PACKAGE.name}.{name}" for name in HEAVY_MODULES} & loaded


def test_storage_import_loads_no_airflow_no_driver_and_no_http_client():
    loaded = loaded_by("import magichour_provider.storage.images, magichour_provider.storage.download")
    assert not {"airflow", "fsspec", "upath", "httpx", "urllib.request"} & loaded


def test_public_names_are_loaded_when_they_are_used():
    import magichour_provider

    for name in magichour_provider.__all__:
        assert getattr(magichour_provider, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        magichour_provider.no_such_name  # noqa: B018
    assert not {name for name in loaded_by("import magichour_provider") if "airflow" in name}
