"""From findings to tables: `docs/performance.md`, and the same on the screen."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata

from findings import BARE, OURS, SPREAD, Findings
from import_cost import OURS as IMPORT_OF_OURS
from polling import Load
from prose import INTRODUCTION, METHOD, SCHEDULE, TRIGGERER
from schedule import MEMORYLESS, NARROW, Row
from subjects import NEVER, SUBJECTS, Subject
from triggerer import Restarts

MAX_CPU_RATIO = 1.5
MAX_LAG_MS_P99, MAX_LAG_MS_AT_1_000, MAX_LAG_MS_AT_10_000 = 5, 50, 100
MAX_KIB_PER_JOB = 10
MAX_IMPORT_MS = 30
MAX_POLL_RATIO = 0.4
"""Polls per video, divided by those of a fixed interval of the same delay, for render times of +-20 %."""
MAX_SOCKETS = 10
MAX_BLOCK_SECONDS = 0.2
_NONE = "-"


def page(findings: Findings) -> str:
    """The whole page, in Markdown."""
    parts = [
        INTRODUCTION,
        _machine(),
        "## The bars\n\n" + _bars(findings),
        _why_not_run(findings),
        *[_load_section(findings, load) for load in findings.loads()],
        _import_section(findings),
        *findings.sections,
        _method(findings),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def _machine() -> str:
    packages = ["apache-airflow", "aiohttp"]
    packages += [subject.distribution for subject in SUBJECTS.values() if subject.distribution]
    versions = [f"{name} {version}" for name in dict.fromkeys(packages) if (version := version_of(name))]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()}, {platform.machine()}"
    return f"{os.cpu_count()} CPUs, {system}; {python}; {', '.join(versions)}.\n"


def version_of(distribution: str) -> str | None:
    """The installed version; None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _bars(findings: Findings) -> str:
    columns = _columns(findings)
    added = [[*row, *[_NONE] * (4 + len(columns) - len(row))] for row in findings.bars]
    rows = [
        *_cpu_bars(findings),
        *_lag_bars(findings),
        *_memory_bars(findings),
        *_import_bar(findings),
        *_poll_bars(findings),
    ]
    head = ["figure", "bar", "this provider", "", *[SUBJECTS[who].title for who in columns]]
    return table(head, [*rows, *added])


def _columns(findings: Findings) -> list[str]:
    """The subjects beside ours that were measured."""
    there = {result.who for result in findings.results}
    return [name for name in SUBJECTS if name in there and name not in (OURS, NEVER)]


def _cpu_bars(findings: Findings) -> list[list[str]]:
    load = findings.main
    return [
        _bar(
            findings,
            f"CPU per poll at {_jobs(load)}, divided by that of {words}",
            f"<= {MAX_CPU_RATIO}",
            lambda who, limit=limit: findings.times(limit, "cpu_per_poll", who, load),
            lambda ratio: ratio <= MAX_CPU_RATIO,
            "{:.2f} x",
        )
        for limit, words in ((BARE, "the bare loop"), (SPREAD, "the spread bare loop"))
    ]


def _lag_bars(findings: Findings) -> list[list[str]]:
    loads = (
        (findings.main, MAX_LAG_MS_AT_1_000),
        (findings.many, MAX_LAG_MS_AT_10_000),
    )
    return [
        _bar(
            findings,
            f"event-loop lag at {_jobs(load)}, {name}{words}",
            f"<= {limit} ms",
            lambda who, name=f"{kind}_{name}", load=load: findings.figure(name, who, load),
            lambda lag, limit=limit: lag <= limit,
            form,
        )
        for load, max_ms in loads
        for name, limit, form in (("p99", MAX_LAG_MS_P99, "{:.1f} ms"), ("max", max_ms, "{:.0f} ms"))
        for kind, words in (("lag", ""), ("own", ", own share"))
    ]


def _memory_bars(findings: Findings) -> list[list[str]]:
    return [
        _bar(
            findings,
            f"memory per waiting job at {_jobs(load)}, beyond Airflow's own",
            f"<= {MAX_KIB_PER_JOB} KiB",
            lambda who, load=load: findings.memory_beyond_airflow(who, load),
            lambda kib: kib <= MAX_KIB_PER_JOB,
            "{:.1f} KiB",
        )
        for load in (findings.main, findings.many)
    ]


def _import_bar(findings: Findings) -> list[list[str]]:
    times = findings.imports.get(IMPORT_OF_OURS)
    if not times:
        return []
    median = statistics.median(times)
    bar = f"<= {MAX_IMPORT_MS} ms"
    return [["import of ImageToVideoOperator", bar, f"{median:.0f} ms", _verdict(median <= MAX_IMPORT_MS)]]


def _poll_bars(findings: Findings) -> list[list[str]]:
    load = findings.many
    return [
        _bar(
            findings,
            f"sockets to the API for {_jobs(load)}",
            f"<= {MAX_SOCKETS}",
            lambda who: findings.figure("peak_sockets", who, load),
            lambda sockets: sockets <= MAX_SOCKETS,
            "{:.0f}",
        ),
        _bar(
            findings,
            f"due polls that were made, {_jobs(load)}, one per {load.period:g} s",
            ">= 99 %",
            lambda who: findings.figure("polls_made", who, load),
            lambda share: share >= 0.99,
            "{:.1%}",
        ),
    ]


def _bar(
    findings: Findings,
    figure_name: str,
    bar: str,
    figure: Callable[[str], float | None],
    holds: Callable[[float], bool],
    form: str,
) -> list[str]:
    ours = figure(OURS)
    verdict = _NONE if ours is None else _verdict(holds(ours))
    others = [_text(form, figure(who)) for who in _columns(findings)]
    return [figure_name, bar, _text(form, ours), verdict, *others]


def _verdict(holds: bool) -> str:
    return "met" if holds else "**missed**"


def _why_not_run(findings: Findings) -> str:
    """The subjects that were not run with many jobs, and what that would have taken."""
    lines = []
    for who in _columns(findings):
        kib = findings.memory(who, findings.main)
        start = findings.figure("starting.cpu", who, findings.main)
        if who in (BARE, SPREAD) or findings.of(who, findings.many) or not kib or not start:
            continue
        times = findings.many.jobs / findings.main.jobs
        lines.append(
            f"{SUBJECTS[who].title} was not run with {_jobs(findings.many)}: by its figures at "
            f"{_jobs(findings.main)} it would take {kib * findings.many.jobs / 2**20:.1f} GiB and "
            f"{start * times:.0f} s of CPU time to start.\n"
        )
    return "\n".join(lines)


def _load_section(findings: Findings, load: Load) -> str:
    head = [
        "",
        "CPU per poll",
        "by the bare loop",
        "with the start",
        "lag p99",
        "lag max: import",
        "start",
        "after it",
        "own share p99",
        "max",
        "polls made",
        "sockets",
        "memory per job",
    ]
    rows = [
        _load_row(findings, subject, load) for subject in SUBJECTS.values() if findings.of(subject.name, load)
    ]
    slow = f", responses after {load.answer_ms:g} ms" if load.answer_ms else ", responses at once"
    title = f"## {_jobs(load).capitalize()}, one poll each per {load.period:g} s{slow}\n\n"
    return title + table(head, rows) + _not_started(findings, load)


def _load_row(findings: Findings, subject: Subject, load: Load) -> list[str]:
    def figure(form: str, name: str) -> str:
        return _text(form, findings.figure(name, subject.name, load))

    lags = [
        figure("{:.1f} ms", "lag_p99"),
        figure("{:.0f} ms", "importing.lag_max"),
        figure("{:.0f} ms", "starting.lag_max"),
        figure("{:.0f} ms", "timed.lag_max"),
        figure("{:.1f} ms", "own_p99"),
        figure("{:.0f} ms", "own_max"),
    ]
    memory = _text("{:.1f} KiB", findings.memory(subject.name, load))
    if subject.name == NEVER:
        return [subject.title, *[_NONE] * 3, *lags, *[_NONE] * 2, memory]
    return [
        subject.title,
        figure("{:.3f} ms", "cpu_per_poll"),
        _text("{:.2f} x", findings.times(BARE, "cpu_per_poll", subject.name, load)),
        _text("{:.2f} x", findings.times(BARE, "cpu_per_poll_started", subject.name, load)),
        *lags,
        figure("{:.1%}", "polls_made"),
        figure("{:.0f}", "peak_sockets"),
        memory,
    ]


def _not_started(findings: Findings, load: Load) -> str:
    lines = []
    for subject in SUBJECTS.values():
        for result in findings.of(subject.name, load):
            if result.waiters < load.jobs:
                lines.append(
                    f"\n{subject.title} had started {result.waiters:,} of its waiters after "
                    f"{result.load.patience:g} s; it was then measured with those.\n"
                )
    return "".join(lines)


def _import_section(findings: Findings) -> str:
    if not findings.imports:
        return ""
    rows = [
        [f"`{module}`", *[f"{value:.0f} ms" for value in (times[0], statistics.median(times), times[-1])]]
        for module, times in findings.imports.items()
    ]
    return (
        "## Import of an operator\n\nOn top of `airflow.sdk`; every parse of a Dag file takes this time.\n\n"
        + table(["module", "minimum", "median", "maximum"], rows)
    )


def schedule_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Rows of the bars: narrow distributions, all others, and those in which fixed intervals are best."""
    narrow = max(row.ratio for row in rows if row.name in NARROW)
    memoryless = max(row.ratio for row in rows if row.name in MEMORYLESS)
    widest = max(row.ratio for row in rows if row.name not in MEMORYLESS)
    return [
        ["polls per video, divided by those of a fixed interval with the same delay, render times +-20 %",
         f"<= {MAX_POLL_RATIO}", f"{narrow:.2f}", _verdict(narrow <= MAX_POLL_RATIO)],
        ["the same for all other render times", "<= 1", f"{widest:.2f}", _verdict(widest <= 1)],
        ["the same for exponential render times, for which 1.00 is the least possible", _NONE,
         f"{memoryless:.2f}", _NONE],
    ]  # fmt: skip


def schedule_section(rows: Sequence[Row]) -> str:
    """Polls and delays of the learned intervals beside those of fixed ones."""
    fixed = ("every 5 s", "every 10 s", "every 30 s")
    head = ("render times", "first", "learned", *fixed, "polls", "polls, first")
    cells = [
        [
            row.name,
            *[f"{each.polls:.1f} / {each.delay:.1f} s" for each in (row.cold, row.warm, *row.fixed)],
            f"{row.ratio:.2f} x",
            f"{row.cold_ratio:.2f} x",
        ]
        for row in rows
    ]
    return SCHEDULE + table(head, cells)


def triggerer_row(restarts: Restarts) -> list[str]:
    """The row of the bars: every job is polled within a period and its jitter, and no block is long."""
    ours, idle = restarts.ours, restarts.idle
    all_polled = len(ours.polls) == restarts.jobs and ours.slowest_first_poll <= 1.1 * restarts.period
    return [
        f"triggerer restarted with {restarts.jobs:,} waiting jobs",
        f"all polled in {restarts.period:g} s, no block > {MAX_BLOCK_SECONDS * 1000:.0f} ms",
        f"{len(ours.polls):,} in {ours.slowest_first_poll:.0f} s, {ours.longest_block * 1000:.0f} ms "
        f"(with idle triggers: {idle.longest_block * 1000:.0f} ms)",
        _verdict(all_polled and ours.longest_block <= MAX_BLOCK_SECONDS),
    ]


def triggerer_section(restarts: Restarts) -> str:
    """A live triggerer with our triggers, and one with idle triggers."""
    rows = [
        [
            name,
            f"{seen.started:,}",
            f"{seen.handed_out:.0f} s",
            f"{len(seen.polls):,}" if seen.polls else _NONE,
            f"{seen.slowest_first_poll:.1f} s" if seen.polls else _NONE,
            str(len(seen.blocks)),
            f"{sum(seen.blocks):.1f} s",
            f"{seen.longest_block * 1000:.0f} ms",
        ]
        for name, seen in (("this provider", restarts.ours), ("idle trigger", restarts.idle))
    ]
    head = [
        "",
        "triggers started",
        "within",
        "jobs polled",
        "first poll within",
        "blocks",
        "in all",
        "longest",
    ]
    return TRIGGERER.format(jobs=restarts.jobs, period=restarts.period) + table(head, rows)


def _method(findings: Findings) -> str:
    rounds = max((len(findings.of(OURS, load)) for load in findings.loads()), default=1)
    repeated = f"this provider and the bare loop at {_jobs(findings.main)} with responses at once"
    return METHOD.format(few=findings.few.jobs, rounds=rounds, repeated=repeated)


def _jobs(load: Load) -> str:
    return f"{load.jobs:,} jobs"


def _text(form: str, value: float | None) -> str:
    return _NONE if value is None else form.format(value)
