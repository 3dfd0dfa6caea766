"""The three files of docs/testing.md are a project of their own. Its tests pass."""

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


@pytest.mark.timeout(600)
def test_project_of_the_page_passes(tmp_path):
    files = dict(FILE.findall(PAGE))
    assert set(files) == {"dags/videos.py", "tests/conftest.py", "tests/test_videos.py"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    files["tests/test_hook.py"] = next(text for text in blocks if "def test_the_account" in text)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    for command in (
        ["ruff", "check", "--isolated", "--line-length", "110", "--select", "E,F,B", "."],
        ["ruff", "format", "--isolated", "--line-length", "110", "--check", "."],
        ["pytest", "-q", "-p", "no:cacheprovider", "tests"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    tests = len(re.findall(r"^def test_", PAGE, re.MULTILINE))
    assert f"{tests} passed" in done.stdout
