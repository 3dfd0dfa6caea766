"""Every benchmark, one after another: prints the tables and writes docs/performance.md.

python benchmarks/bench.py            # half an hour
python benchmarks/bench.py --short    # the bars in a quarter of an hour, without slow responses and restart
python benchmarks/bench.py --quick    # a check that it runs; writes nothing
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
from findings import BARE, OURS, SPREAD, Findings
from polling import Load, describe, measure
from server import LocalServer
from subjects import NEVER, SUBJECTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
OTHERS = ["dbt_cloud", "openai", "airbyte"]


@dataclass(frozen=True)
class Plan:
    """The runs in their order, and the loads from which bars and memory are read."""

    runs: list[tuple[str, Load]]
    few: Load
    main: Load
    many: Load
    modules: list[str]
    import_runs: int
    env: dict[str, str]
    schedule: bool = True


def full_plan() -> Plan:
    """About 25 minutes, and five more for the triggerer."""
    few = Load(10, 1, window=1)
    main = Load(1_000, 5)
    slow = Load(1_000, 5, answer_ms=50, window=5, patience=15)
    many = Load(10_000, 30)
    many_slow = Load(10_000, 30, answer_ms=50)
    runs = [
        *[(who, few if who == OURS else replace(few, start=3)) for who in SUBJECTS],
        *[(who, main) for _ in range(3) for who in (OURS, BARE, SPREAD)],
        *[(who, main) for who in (*OTHERS, NEVER)],
        *[(who, slow) for who in (OURS, BARE, *OTHERS)],
        *[(who, many) for who in (OURS, BARE, SPREAD, "dbt_cloud")],
        (NEVER, Load(10_000, 30, start=3, window=1)),
        (OURS, many_slow),
    ]
    return Plan(runs, few, main, many, modules=import_cost.MODULES, import_runs=5, env={})


def short_plan() -> Plan:
    """About 14 minutes: every bar but the restart, and the published providers once at 1,000 jobs."""
    few, main, many = Load(10, 1, window=1), Load(1_000, 5), Load(10_000, 30)
    runs = [
        *[(who, few if who == OURS else replace(few, start=3)) for who in SUBJECTS],
        *[(who, main) for _ in range(3) for who in (OURS, BARE)],
        *[(who, main) for who in (SPREAD, *OTHERS, NEVER)],
        *[(who, many) for who in (OURS, BARE)],
        (NEVER, replace(many, start=3, window=1)),
    ]
    return Plan(runs, few, main, many, modules=import_cost.MODULES, import_runs=3, env={})


def quick_plan() -> Plan:
    """Half a minute: two subjects and a few jobs."""
    few, main, many = (Load(jobs, 0.5, start=2.5, window=0.5) for jobs in (2, 20, 40))
    runs = [(who, load) for load in (few, main) for who in (OURS, BARE)]
    runs.append((OURS, many))
    quickly = {"AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0"}  # ours begins to poll that much sooner
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
    """The learned intervals beside fixed ones, over many distributions of render times: a simulation."""
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
    parser.add_argument("--quick", action="store_true", help="a check that it runs; writes nothing")
    parser.add_argument("--short", action="store_true", help="the bars in a quarter of an hour")
    parser.add_argument("--without-triggerer", action="store_true", help="start no Airflow")
    options = parser.parse_args()
    begin = time.monotonic()
    findings = run(quick_plan() if options.quick else short_plan() if options.short else full_plan())
    if not (options.quick or options.short or options.without_triggerer):
        _measure_triggerer(findings)
    text = report.page(findings)
    print(f"\n{text}\nTook {(time.monotonic() - begin) / 60:.1f} minutes.")
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
