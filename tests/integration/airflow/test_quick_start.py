"""The commands of the quick start, one after the other, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
PORT = "8808"
NOT_HERE = {"Install": "fetches", "See it in Airflow": "does not end", "Then for real": "spends"}
"""Sections whose commands no test runs, and why."""


def commands():
    """The page's commands, but for those that are not to be run here."""
    sections = [section.partition("\n") for section in PAGE.split("\n## ")[1:]]
    assert set(NOT_HERE) <= {title for title, _, _ in sections}
    for title, _, text in sections:
        if title not in NOT_HERE:
            yield from re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def two_free_ports():
    """A port with a free one behind it, as the sandbox takes two."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return str(port)
    raise RuntimeError("No two free ports in a row.")


@pytest.fixture
def run(tmp_path):
    """Run a script in an empty folder; whatever it leaves running ends with the test."""
    started = []

    def run(script):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                ["bash", "-euc", script],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started.append(process)
            process.wait(timeout=240)
        return process.returncode, (tmp_path / "output").read_text()

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def test_the_quick_start_comes_to_a_clip(run, tmp_path):
    example = ROOT / "dags_examples" / "first_video.py"
    (tmp_path / "dags").mkdir()
    dag = example.read_text().replace("/tmp/videos/", f"{tmp_path}/clips/")
    (tmp_path / "dags" / "first_video.py").write_text(dag)
    script = "\n".join(commands()).replace(PORT, two_free_ports())
    status, output = run(script)
    assert status == 0, output
    (clip,) = (tmp_path / "clips").iterdir()
    assert clip.suffix == ".mp4"
    assert "state=success" in output
    assert str(clip) in output
    assert re.search(r'"credits_charged": ?120', output)
