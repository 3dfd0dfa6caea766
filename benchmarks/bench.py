"""Every benchmark, one after another: prints the tables and writes docs/performance.md.

python benchmarks/bench.py            # half an hour
python benchmarks/bench.py --quick    # whether it works at all; writes nothing
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import import_cost
import report
import schedule
import triggerer
from findings import LIMIT, OURS, SPREAD, Findings
from server import LocalServer
from subjects import NEVER, SUBJECTS
from waiting import Load, describe, measure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
OTHERS = ["dbt_cloud", "openai", "airbyte"]


@dataclass(frozen=True)
class Plan:
    """What is run, in this order, and under which of the loads the bars and the memory are read."""

    runs: list[tuple[str, Load]]
    few: Load
    main: Load
    many: Load
    modules: list[str]
    import_runs: int
    env: dict[str, str]
    schedule: bool = True


def full_plan() -> Plan:
    """Some twenty minutes, and five more for the triggerer."""
    few = Load(10, 1, window=1)
    main = Load(1_000, 5)
    slow = Load(1_000, 5, answer_ms=50, window=5, patience=15)
    many = Load(10_000, 30)
    many_slow = Load(10_000, 30, answer_ms=50)
    runs = [
        *[(who, few if who == OURS else replace(few, start=3)) for who in SUBJECTS],
        *[(who, main) for _ in range(3) for who in (OURS, LIMIT, SPREAD)],
        *[(who, main) for who in (*OTHERS, NEVER)],
        *[(who, slow) for who in (OURS, LIMIT, *OTHERS)],
        *[(who, many) for who in (OURS, LIMIT, SPREAD, "dbt_cloud")],
        (NEVER, Load(10_000, 30, start=3, window=1)),
        (OURS, many_slow),
    ]
    return Plan(runs, few, main, many, modules=import_cost.MODULES, import_runs=5, env={})


def quick_plan() -> Plan:
    """Half a minute: two subjects, hardly a clip."""
    few, main, many = (Load(clips, 0.5, start=2.5, window=0.5) for clips in (2, 20, 40))
    runs = [(who, load) for load in (few, main) for who in (OURS, LIMIT)]
    runs.append((OURS, many))
    quickly = {"AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0"}  # ours begins to look that much sooner
    return Plan(runs, few, main, many, [import_cost.OURS], import_runs=1, env=quickly, schedule=False)


def run(plan: Plan) -> Findings:
    """Measure; each result is printed as it comes."""
    findings = Findings(plan.few, plan.main, plan.many)
    with LocalServer() as server:
        for who, load in _runnable(plan):
            result = measure(who, load, server, plan.env)
            findings.results.append(result)
            print(describe(result), flush=True)
    if plan.schedule:
        _measure_schedule(findings)
    findings.imports = import_cost.costs(plan.modules, plan.import_runs)
    return findings


def _measure_schedule(findings: Findings) -> None:
    """The schedule beside fixed intervals, over many distributions of render times: a simulation."""
    rows = list(schedule.rows())
    findings.bars += report.schedule_rows(rows)
    findings.sections.append(report.schedule_section(rows))


def _measure_triggerer(findings: Findings) -> None:
    restarts = triggerer.measure()
    print(triggerer.describe(restarts), flush=True)
    findings.bars.append(report.triggerer_row(restarts))
    findings.sections.append(report.triggerer_section(restarts))


def _runnable(plan: Plan) -> Iterator[tuple[str, Load]]:
    """The runs of the subjects that are installed."""
    missing = {who for who, _ in plan.runs if not _is_installed(who)}
    for who in sorted(missing):
        print(f"{SUBJECTS[who].title} is left out: {SUBJECTS[who].distribution} is not installed.")
    return ((who, load) for who, load in plan.runs if who not in missing)


def _is_installed(who: str) -> bool:
    distribution = SUBJECTS[who].distribution
    return distribution is None or report.version_of(distribution) is not None


def main() -> None:
    """Run the plan that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run that measures nothing worth telling")
    parser.add_argument("--without-triggerer", action="store_true", help="start no Airflow")
    options = parser.parse_args()
    begin = time.monotonic()
    findings = run(quick_plan() if options.quick else full_plan())
    if not (options.quick or options.without_triggerer):
        _measure_triggerer(findings)
    text = report.page(findings)
    print(f"\n{text}\nTook {(time.monotonic() - begin) / 60:.1f} minutes.")
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
