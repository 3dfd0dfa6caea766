"""The files that docs/testing.md shows are a project of its own, and its tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "testing.md").read_text()
FILE = re.compile(r"`([\w/]+\.py)`[.:]\n\n```python\n(.*?)```", re.DOTALL)
WITHOUT_A_DAG = "def test_the_account_can_pay_for_tonight"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The page's files, where it says that they are."""
    folder = tmp_path_factory.mktemp("project")
    files = dict(FILE.findall(PAGE))
    assert set(files) == {"dags/clips.py", "tests/conftest.py", "tests/test_clips.py"}
    block = next(
        text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if WITHOUT_A_DAG in text
    )
    for name, text in {**files, "tests/test_hook.py": block}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.timeout(600)
def test_the_tests_of_the_page_pass_as_they_stand_there(project):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=project,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = len(re.findall(r"^def test_", PAGE, re.MULTILINE))
    assert f"{written} passed" in done.stdout


def test_the_code_of_the_page_is_formatted_as_ours(project):
    for command in (
        ["check", "--line-length", "110", "--select", "E,F,B"],
        ["format", "--check", "--line-length", "110"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", str(project)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
