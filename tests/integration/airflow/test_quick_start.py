"""The commands of the quick start, one after the other, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
PORT = 8808
NOT_RUN = {"Install": "downloads", "See it in Airflow": "does not end", "Use Magic Hour": "spends credits"}
"""Sections with commands that no test runs, and the reasons."""


def commands():
    sections = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
    assert set(NOT_RUN) <= set(sections)
    for title, text in sections.items():
        if title not in NOT_RUN:
            yield from re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def free_port():
    """A free port in front of another free one: the sandbox uses two."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            if not second.connect_ex(("127.0.0.1", first.getsockname()[1] + 1)):
                continue
            return first.getsockname()[1]


def test_quick_start_makes_a_video(tmp_path):
    dag = (ROOT / "dags_examples" / "first_video.py").read_text()
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "first_video.py").write_text(dag.replace("/tmp/videos/", f"{tmp_path}/videos/"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-euc", "\n".join(commands()).replace(str(PORT), str(free_port()))],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=240)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    log = output.read_text()
    assert status == 0, log
    (video,) = (tmp_path / "videos").iterdir()
    assert video.suffix == ".mp4"
    assert "state=success" in log
    assert str(video) in log
    assert re.search(r'"credits_charged": ?120', log)
