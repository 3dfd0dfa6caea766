"""From findings to tables: `docs/performance.md`, and the same on the screen."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata

from findings import OURS, Findings
from subjects import NEVER, SUBJECTS, Subject
from waiting import Load

_COLUMNS = [name for name in SUBJECTS if name not in (OURS, NEVER)]
_NONE = "-"
_INTRODUCTION = """\
# What waiting costs

Written by `make bench`; run it again to see your own machine's figures. All were measured in one run, on the
same machine and against the same local server, so the ratios say more than the values.
"""
_METHOD = """\
## How it is measured

- Each way of waiting runs in a process of its own with one event loop, and asks one local server in another
  process. The server gives each service's own answer for a job that still runs, with all its fields, at
  once or after 50 ms. There is no TLS in it.
- Waiters are started one after another as the triggerer does it, with two turns of the loop between them,
  and run as it runs them. What the triggerer has imported before its first trigger is imported before the
  clock starts.
- The bare loop is one `aiohttp` session and one coroutine for each clip: sleep, get, read the JSON, look at
  the status. It knows no error, no deadline and no limit of rate; it is what Python can do at best.
- The published triggers are used as they are, by a connection to the local server. dbt Cloud's hook knows
  nothing but `https`, which is taken out of its URLs.
- CPU per look: user and system time of the process over a window in which all wait, by the looks that the
  server counted in it. *With the start*: over the whole life of the process, import, start and lag clock
  included.
- Lag: a timer of 10 ms writes down how late it is, from before the first trigger is made, the start
  included. The maximum counts the import of the trigger's module too, which the triggerer does in its loop,
  and which some subjects put off until their first look. *Own* leaves out the time in which this process
  was ready and other processes had the CPU.
- Memory per clip: resident memory with all clips, less that of the same process with {few} clips, by clips.
  *Beyond Airflow's own*: less the same figure of a trigger that does nothing.
- Looks made: those that the server counted, of the clips times the seconds by the period.
- Figures of {repeated} are medians of {rounds} runs that took turns; the others' are of one.
"""


def page(findings: Findings) -> str:
    """The whole page, in Markdown."""
    parts = [
        _INTRODUCTION,
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
    packages = ["apache-airflow", "aiohttp", "httpx", "httpx-aiohttp"]
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
    main, many = findings.main, findings.many
    rows = [
        _bar(
            f"CPU per look at {_clips(main)}, by the bare loop's",
            "<= 2.5",
            lambda who: findings.times_limit("cpu_per_look", who, main),
            lambda ratio: ratio <= 2.5,
            "{:.2f} x",
        )
    ]
    for load in (main, many):
        rows += [
            _bar(
                f"event-loop lag at {_clips(load)}, p99",
                "<= 5 ms",
                lambda who, load=load: findings.figure("lag_p99", who, load),
                lambda lag: lag <= 5,
                "{:.1f} ms",
            ),
            _bar(
                f"event-loop lag at {_clips(load)}, max",
                "<= 50 ms",
                lambda who, load=load: findings.figure("lag_max", who, load),
                lambda lag: lag <= 50,
                "{:.0f} ms",
            ),
        ]
    for load in (main, many):
        rows.append(
            _bar(
                f"memory per clip at {_clips(load)}, beyond Airflow's own",
                "<= 10 KiB",
                lambda who, load=load: findings.memory_beyond_airflow(who, load),
                lambda kib: kib <= 10,
                "{:.1f} KiB",
            )
        )
    rows += [
        _bar(
            f"sockets to the API for {_clips(many)}",
            "<= 10",
            lambda who: findings.figure("peak_sockets", who, many),
            lambda sockets: sockets <= 10,
            "{:.0f}",
        ),
        _bar(
            f"looks due that were made, {_clips(many)}, one per {many.period:g} s",
            ">= 99 %",
            lambda who: findings.figure("looks_made", who, many),
            lambda share: share >= 0.99,
            "{:.1%}",
        ),
        *[[*row, *[_NONE] * (4 + len(_COLUMNS) - len(row))] for row in findings.bars],
    ]
    head = ["what", "bar", "ours", "", *[SUBJECTS[who].title for who in _COLUMNS]]
    return table(head, rows)


def _bar(
    what: str,
    bar: str,
    figure: Callable[[str], float | None],
    holds: Callable[[float], bool],
    form: str,
) -> list[str]:
    ours = figure(OURS)
    verdict = _NONE if ours is None else "pass" if holds(ours) else "**miss**"
    return [what, bar, _text(form, ours), verdict, *[_text(form, figure(who)) for who in _COLUMNS]]


def _why_not_run(findings: Findings) -> str:
    """Who was left out of the run with many clips, and what that would have taken."""
    lines = []
    for who in _COLUMNS:
        kib = findings.memory(who, findings.main)
        start = findings.figure("starting.cpu", who, findings.main)
        if findings.of(who, findings.many) or not findings.of(OURS, findings.many) or not kib or not start:
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
        "own share",
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
        figure("{:.0f} ms", "lag_own"),
    ]
    memory = _text("{:.1f} KiB", findings.memory(subject.name, load))
    if subject.name == NEVER:
        return [subject.title, *[_NONE] * 3, *lags, *[_NONE] * 2, memory]
    return [
        subject.title,
        figure("{:.3f} ms", "cpu_per_look"),
        _text("{:.2f} x", findings.times_limit("cpu_per_look", subject.name, load)),
        _text("{:.2f} x", findings.times_limit("cpu_per_look_started", subject.name, load)),
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


def _method(findings: Findings) -> str:
    rounds = max((len(findings.of(OURS, load)) for load in findings.loads()), default=1)
    repeated = f"ours and the bare loop at {_clips(findings.main)} with answers at once"
    return _METHOD.format(few=findings.few.clips, rounds=rounds, repeated=repeated)


def _clips(load: Load) -> str:
    return f"{load.clips:,} clips"


def _text(form: str, value: float | None) -> str:
    return _NONE if value is None else form.format(value)
