"""Milliseconds that importing an operator adds to `airflow.sdk`: every parse of a Dag file takes them."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys

OURS = "magichour_provider.operators.image_to_video"
MODULES = [
    OURS,
    "magichour_provider.operators.download",
    "magichour_provider.sensors.video_job",
    "airflow.providers.airbyte.operators.airbyte",
    "airflow.providers.dbt.cloud.operators.dbt",
    "airflow.providers.openai.operators.openai",
    "airflow.providers.http.operators.http",
    "airflow.providers.standard.operators.python",
]
_PROGRAM = """
import time, airflow.sdk
from airflow.sdk import BaseOperator
start = time.perf_counter()
import {module}
print((time.perf_counter() - start) * 1000)
"""


def costs(modules: list[str], runs: int) -> dict[str, list[float]]:
    """Milliseconds of several fresh interpreters, sorted, by module; those not installed are left out.

    The modules take turns, after one turn that fills the file caches.
    """
    there = [module for module in modules if _is_there(module)]
    turns = [[_cost(module) for module in there] for _ in range(runs + 1)]
    return {module: sorted(times) for module, times in zip(there, zip(*turns[1:], strict=True), strict=True)}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _cost(module: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table."""
    print(f"{'module':<48} {'min':>8} {'median':>8} {'max':>8}  (ms)")
    for module, times in costs(MODULES, runs=7).items():
        print(f"{module:<48} {times[0]:>8.1f} {statistics.median(times):>8.1f} {times[-1]:>8.1f}")


if __name__ == "__main__":
    main()
