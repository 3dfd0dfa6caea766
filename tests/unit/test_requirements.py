"""What the package requires, beside what Airflow's published constraints pin."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from check_constraints import published_pins
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PINS = published_pins()


def unmet(pins, requirements):
    """The requirements that a release's pins do not meet."""
    pinned = {requirement.name: str(requirement.specifier)[2:] for requirement in map(Requirement, pins)}
    needed = [requirement for requirement in requirements if requirement.name in pinned]
    return [str(each) for each in needed if not each.specifier.contains(pinned[each.name])]


@pytest.mark.parametrize("release", PINS)
def test_published_constraints_meet_every_requirement(release):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    requirements = [Requirement(each) for each in (*project["dependencies"], *extras)]
    names = {requirement.name for requirement in requirements}
    assert {"aiohttp", "httpx", "apache-airflow-providers-common-compat"} <= names
    assert unmet([*PINS[release], f"apache-airflow=={release}"], requirements) == []


def test_requirement_of_a_later_version_is_noticed():
    later = [Requirement("httpx>=0.28"), Requirement("aiohttp>=3.10")]
    assert unmet(PINS["3.0.1"], later) == ["httpx>=0.28"]


def test_package_imports_no_module_that_an_old_common_compat_lacks():
    """Its `sdk` came with 1.8, its `connection` with 1.10; Airflow 3.0.0 pins 1.6.0."""
    pattern = re.compile(r"common\.compat(?:\.(sdk|connection)\b| import (sdk|connection))")
    files = [path for path in (ROOT / "magichour_provider").rglob("*.py") if path.name != "version_compat.py"]
    assert [path.name for path in files if pattern.search(path.read_text())] == []
