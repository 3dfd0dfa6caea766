"""Resolve the package and its sandbox against Airflow's published constraints. Needs uv."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("sandbox", "pictures")


def published_pins() -> dict[str, list[str]]:
    """Pins such as `httpx==0.27.0` of each release of Airflow."""
    lines = (ROOT / "scripts/airflow_constraints.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {release.rstrip("*"): pins for release, *pins in rows}


def resolve(release: str, pins: list[str]) -> str:
    """Why the package cannot be installed with these constraints; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join([f"apache-airflow=={release}", *pins]))
        command = ["uv", "pip", "compile", "--quiet", "--python-version", "3.12", "pyproject.toml"]
        command += ["--constraint", str(constraints)]
        command += [argument for extra in EXTRAS for argument in ("--extra", extra)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr or "uv failed." if done.returncode else ""


def main() -> int:
    """Print a line for each release."""
    if shutil.which("uv") is None:
        print("Not checked: this needs uv.")
        return 0
    pins = published_pins()
    with ThreadPoolExecutor(max_workers=4) as pool:
        reasons = list(pool.map(resolve, pins, pins.values()))
    for release, reason in zip(pins, reasons, strict=True):
        print(f"Airflow {release}: {reason or 'can be installed'}")
    return 1 if any(reasons) else 0


if __name__ == "__main__":
    sys.exit(main())
