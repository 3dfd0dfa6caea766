"""From findings to tables: `docs/performance.md`, and the same on the screen."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata

from findings import LIMIT, OURS, SPREAD, Findings
from prose import INTRODUCTION, METHOD, SCHEDULE, TRIGGERER
from schedule import MEMORYLESS, NARROW, Row
from subjects import NEVER, SUBJECTS, Subject
from triggerer import Restarts
from waiting import Load

_COLUMNS = [name for name in SUBJECTS if name not in (OURS, NEVER)]
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
    """The installed version; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _bars(findings: Findings) -> str:
    added = [[*row, *[_NONE] * (4 + len(_COLUMNS) - len(row))] for row in findings.bars]
    rows = [
        *_cpu_bars(findings),
        *_lag_bars(findings),
        *_memory_bars(findings),
        *_look_bars(findings),
        *added,
    ]
    return table(["what", "bar", "ours", "", *[SUBJECTS[who].title for who in _COLUMNS]], rows)


def _cpu_bars(findings: Findings) -> list[list[str]]:
    load = findings.main
    return [
        _bar(
            f"CPU per look at {_clips(load)}, by {words}",
            "<= 2.5",
            lambda who, limit=limit: findings.times(limit, "cpu_per_look", who, load),
            lambda ratio: ratio <= 2.5,
            "{:.2f} x",
        )
        for limit, words in ((LIMIT, "the bare loop's"), (SPREAD, "the spread bare loop's"))
    ]


def _lag_bars(findings: Findings) -> list[list[str]]:
    return [
        _bar(
            f"event-loop lag at {_clips(load)}, {name}{words}",
            f"<= {limit} ms",
            lambda who, name=f"{kind}_{name}", load=load: findings.figure(name, who, load),
            lambda lag, limit=limit: lag <= limit,
            form,
        )
        for load in (findings.main, findings.many)
        for name, limit, form in (("p99", 5, "{:.1f} ms"), ("max", 50, "{:.0f} ms"))
        for kind, words in (("lag", ""), ("own", ", its own share"))
    ]


def _memory_bars(findings: Findings) -> list[list[str]]:
    return [
        _bar(
            f"memory per clip at {_clips(load)}, beyond Airflow's own",
            "<= 10 KiB",
            lambda who, load=load: findings.memory_beyond_airflow(who, load),
            lambda kib: kib <= 10,
            "{:.1f} KiB",
        )
        for load in (findings.main, findings.many)
    ]


def _look_bars(findings: Findings) -> list[list[str]]:
    load = findings.many
    return [
        _bar(
            f"sockets to the API for {_clips(load)}",
            "<= 10",
            lambda who: findings.figure("peak_sockets", who, load),
            lambda sockets: sockets <= 10,
            "{:.0f}",
        ),
        _bar(
            f"looks due that were made, {_clips(load)}, one per {load.period:g} s",
            ">= 99 %",
            lambda who: findings.figure("looks_made", who, load),
            lambda share: share >= 0.99,
            "{:.1%}",
        ),
    ]


def _bar(
    what: str,
    bar: str,
    figure: Callable[[str], float | None],
    holds: Callable[[float], bool],
    form: str,
) -> list[str]:
    ours = figure(OURS)
    verdict = _NONE if ours is None else _verdict(holds(ours))
    return [what, bar, _text(form, ours), verdict, *[_text(form, figure(who)) for who in _COLUMNS]]


def _verdict(holds: bool) -> str:
    return "pass" if holds else "**miss**"


def _why_not_run(findings: Findings) -> str:
    """Who was left out of the run with many clips, and what that would have taken."""
    lines = []
    for who in _COLUMNS:
        kib = findings.memory(who, findings.main)
        start = findings.figure("starting.cpu", who, findings.main)
        if who in (LIMIT, SPREAD) or findings.of(who, findings.many) or not kib or not start:
            continue
        times = findings.many.clips / findings.main.clips
        lines.append(
            f"{SUBJECTS[who].title} was not run with {_clips(findings.many)}: by its figures at "
            f"{_clips(findings.main)} it would take {kib * findings.many.clips / 2**20:.1f} GiB and "
            f"{start * times:.0f} s of CPU time to start.\n"
        )
    return "\n".join(lines)


def _load_section(findings: Findings, load: Load) -> str:
    head = [
        "",
        "CPU per look",
        "by the bare loop's",
        "with the start",
        "lag p99",
        "lag max: import",
        "start",
        "after it",
        "own share: p99",
        "max",
        "looks made",
        "sockets",
        "memory per clip",
    ]
    rows = [
        _load_row(findings, subject, load) for subject in SUBJECTS.values() if findings.of(subject.name, load)
    ]
    slow = f", answers after {load.answer_ms:g} ms" if load.answer_ms else ", answers at once"
    title = f"## {_clips(load).capitalize()}, a look at each per {load.period:g} s{slow}\n\n"
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
        figure("{:.3f} ms", "cpu_per_look"),
        _text("{:.2f} x", findings.times(LIMIT, "cpu_per_look", subject.name, load)),
        _text("{:.2f} x", findings.times(LIMIT, "cpu_per_look_started", subject.name, load)),
        *lags,
        figure("{:.1%}", "looks_made"),
        figure("{:.0f}", "peak_sockets"),
        memory,
    ]


def _not_started(findings: Findings, load: Load) -> str:
    lines = []
    for subject in SUBJECTS.values():
        for result in findings.of(subject.name, load):
            if result.waiters < load.clips:
                lines.append(
                    f"\n{subject.title} had started {result.waiters:,} of its waiters after "
                    f"{result.load.patience:g} s of turns of the loop; it was then measured with those.\n"
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
        "## Import of an operator\n\nOn top of `airflow.sdk`; every parse of a Dag file pays it.\n\n"
        + table(["module", "least", "median", "most"], rows)
    )


def schedule_rows(rows: Sequence[Row]) -> list[list[str]]:
    """The rows of the bars: narrow spreads, any spread, and the one at which nothing beats an interval."""
    narrow = max(row.ratio for row in rows if row.name in NARROW)
    memoryless = max(row.ratio for row in rows if row.name in MEMORYLESS)
    widest = max(row.ratio for row in rows if row.name not in MEMORYLESS)
    return [
        ["looks, of a fixed interval's of the same delay, spread by +-20 %", "<= 0.33", f"{narrow:.2f}",
         _verdict(narrow <= 1 / 3)],
        ["the same, any other spread or change", "<= 1", f"{widest:.2f}", _verdict(widest <= 1)],
        ["the same, memoryless: 1.00 is the least there is", "<= 1", f"{memoryless:.3f}",
         _verdict(memoryless <= 1)],
    ]  # fmt: skip


def schedule_section(rows: Sequence[Row]) -> str:
    """Looks and delays of the schedule, beside those of fixed intervals."""
    head = (
        "render times",
        "first clips",
        "learned",
        "every 5 s",
        "every 10 s",
        "every 30 s",
        "looks",
        "first",
    )
    cells = [
        [
            row.name,
            *[f"{each.looks:.1f} / {each.delay:.1f} s" for each in (row.cold, row.warm, *row.fixed)],
            f"{row.ratio:.2f} x",
            f"{row.cold_ratio:.2f} x",
        ]
        for row in rows
    ]
    return SCHEDULE + table(head, cells)


def triggerer_row(restarts: Restarts) -> list[str]:
    """The row of the bars: all looked at within a period and its jitter, and no block of more than 200 ms."""
    ours, idle = restarts.ours, restarts.idle
    all_looked = len(ours.looks) == restarts.clips and ours.slowest_look <= 1.1 * restarts.period
    return [
        f"triggerer restarted with {restarts.clips:,} waiting clips",
        f"all looked at in {restarts.period:g} s, no block > 200 ms",
        f"{len(ours.looks):,} in {ours.slowest_look:.0f} s, {ours.longest_block * 1000:.0f} ms "
        f"(with triggers that do nothing: {idle.longest_block * 1000:.0f} ms)",
        _verdict(all_looked and ours.longest_block <= 0.2),
    ]


def triggerer_section(restarts: Restarts) -> str:
    """What a live triggerer did, beside one whose triggers do nothing."""
    rows = [
        [
            name,
            f"{seen.started:,}",
            f"{seen.handed_out:.0f} s",
            f"{len(seen.looks):,}" if seen.looks else _NONE,
            f"{seen.slowest_look:.1f} s" if seen.looks else _NONE,
            str(len(seen.blocks)),
            f"{sum(seen.blocks):.1f} s",
            f"{seen.longest_block * 1000:.0f} ms",
        ]
        for name, seen in (("ours", restarts.ours), ("a trigger that does nothing", restarts.idle))
    ]
    head = ["", "triggers started", "within", "clips looked at", "each within", "blocks", "in all", "longest"]
    return TRIGGERER.format(clips=restarts.clips, period=restarts.period) + table(head, rows)


def _method(findings: Findings) -> str:
    rounds = max((len(findings.of(OURS, load)) for load in findings.loads()), default=1)
    repeated = f"ours and the bare loops at {_clips(findings.main)} with answers at once"
    return METHOD.format(few=findings.few.clips, rounds=rounds, repeated=repeated)


def _clips(load: Load) -> str:
    return f"{load.clips:,} clips"


def _text(form: str, value: float | None) -> str:
    return _NONE if value is None else form.format(value)
