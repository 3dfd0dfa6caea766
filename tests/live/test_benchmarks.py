"""The benchmarks run; their results are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"


def test_quick_run_measures_the_provider_beside_a_bare_loop():
    done = subprocess.run([sys.executable, BENCH, "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bars = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| CPU per poll at")]
    assert bars[0][4] == "1.00 x"
    assert bars[0][2].endswith(" x")
    assert "| sockets to the API for 40 jobs | <= 10 |" in done.stdout
