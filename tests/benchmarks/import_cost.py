"""What importing an operator adds to `airflow.sdk`, in milliseconds: every parse of a Dag file pays it."""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 7
MODULES = [
    "magichour_provider.operators.image_to_video",
    "magichour_provider.operators.download",
    "magichour_provider.sensors.video_job",
    "airflow.providers.standard.operators.python",
    "airflow.providers.smtp.operators.smtp",
]
PROGRAM = """
import time, airflow.sdk
from airflow.sdk import BaseOperator
start = time.perf_counter()
import {module}
print((time.perf_counter() - start) * 1000)
"""


def cost(module: str) -> list[float]:
    """Milliseconds of several fresh interpreters, after one that fills the file caches."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        for _ in range(RUNS + 1)
    ]
    return sorted(map(float, runs[1:]))


def main() -> None:
    """Print a table; the providers that Airflow brings along stand beside ours."""
    print(f"{'module':<48} {'min':>8} {'median':>8} {'max':>8}  (ms)")
    for module in MODULES:
        times = cost(module)
        print(f"{module:<48} {times[0]:>8.1f} {statistics.median(times):>8.1f} {times[-1]:>8.1f}")


if __name__ == "__main__":
    main()
