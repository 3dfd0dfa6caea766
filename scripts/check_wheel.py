"""Check the wheel in an environment without anything else: imports, and Airflow's own view."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

DISTRIBUTION = "airflow-provider-magichour"
MODULES = [
    "client.sync",
    "hooks.magichour",
    "operators.download",
    "operators.image_to_video",
    "sensors.video_job",
    "triggers.video_job",
    "links",
]


def main() -> None:
    """Import every public module from the installed wheel, and ask Airflow for the provider."""
    for name in MODULES:
        module = importlib.import_module(f"magichour_provider.{name}")
        if "site-packages" not in (module.__file__ or ""):
            sys.exit(f"{name} was imported from {module.__file__}, not from the wheel.")
    package = Path(sys.modules["magichour_provider"].__file__ or "").parent
    if not (package / "py.typed").exists():
        sys.exit("The wheel has no py.typed.")
    command = [sys.executable, "-m", "airflow", "providers", "get", DISTRIBUTION, "--output", "plain"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    if DISTRIBUTION not in shown or version(DISTRIBUTION) not in shown:
        sys.exit(f"Airflow does not show the provider:\n{shown}")
    print(f"{DISTRIBUTION} {version(DISTRIBUTION)} from {package}: {len(MODULES)} modules import.")


if __name__ == "__main__":
    main()
