"""One ImageToVideoBatchOperator beside mapped tasks, in a live Airflow; writes docs/batch-performance.md.

python benchmarks/batch.py                            # half an hour
python benchmarks/batch.py --batch 5000 --mapped 500  # other numbers of videos
python benchmarks/batch.py --quick                    # a check that it runs; writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import sqlalchemy
from report import table, version_of

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

import processes  # noqa: E402
from live_airflow import LiveAirflow  # noqa: E402
from postgres import postgres  # noqa: E402
from sandbox_process import sandbox  # noqa: E402

PAGE = ROOT / "docs" / "batch-performance.md"
IMAGE = ROOT / "dags_examples" / "images" / "grace_hopper.jpg"
RENDER_SECONDS = 0.6
"""A hundredth of a minute, the usual time of a video."""
PARTS = ("scheduler", "api-server", "dag-processor", "triggerer", "workers")
MIN_RATIO = 10
_IDLE_SECONDS = 30.0
_PATIENCE_SECONDS = 7200.0
_FLUSH_SECONDS = 11.0
"""PostgreSQL's idle connections report the rows that they have written after ten seconds."""

INTRODUCTION = """\
# Performance of a batch

`make bench-batch` writes this page; run it to see the figures of your own machine. A live Airflow with
LocalExecutor and PostgreSQL makes {batch:,} videos with one
[`ImageToVideoBatchOperator`](operators/image_to_video_batch.md), and {mapped:,} videos with mapped tasks. The
sandbox renders a hundred times faster than Magic Hour. Every video has an image of its own, and all are
downloaded to a disk.

{machine}
"""
METHOD = """\
## Method

- *Mapped* is [the example of a folder of images](operators/image_to_video.md): one mapped
  `ImageToVideoOperator` that waits in the triggerer, and one mapped `DownloadVideoOperator`. That is the most
  economical way with tasks for each video: with `VideoJobSensor` there are three.
- CPU: user and system time of all processes of each part, from the start of the run to its end. Airflow
  starts a process for each task. The kernel adds the time of a process that has ended to the process that
  waited for it, so the time of short ones is counted. *Workers* are the processes of the LocalExecutor with
  their tasks. The time of PostgreSQL and the sandbox does not count.
- Rows written: rows that PostgreSQL inserted, updated and deleted in Airflow's tables, by
  `pg_stat_user_tables`. *Rows left*: inserted less deleted.
- The operators and the intervals of Airflow's parts have their defaults. Four tasks run at a time. Each way
  has made two videos before, so the first requests do not count. An idle Airflow counts: in this run it took
  {idle_cpu:.1f} s of CPU and wrote {idle_rows:.0f} rows in a minute.
- Other programs ran on the machine. That changes the wall time much, and the CPU time a little.
"""
_AIRFLOW_DEFAULTS = {
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "5",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "300",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
}
"""Tests have shorter intervals, which take more CPU."""


@dataclass(frozen=True)
class Usage:
    """What Airflow has used since its start, or in a run."""

    wall: float
    cpu: Counter[str]
    written: Counter[str]
    left: Counter[str]
    tasks: int

    def __sub__(self, before: Usage) -> Usage:
        cpu, written, left = (Counter(each) for each in (self.cpu, self.written, self.left))
        cpu.subtract(before.cpu)
        written.subtract(before.written)
        left.subtract(before.left)
        return Usage(self.wall - before.wall, cpu, written, left, self.tasks - before.tasks)


class Bench:
    """A live Airflow at a sandbox, and its database."""

    def __init__(self, airflow: LiveAirflow, folder: Path) -> None:
        self.airflow, self.folder = airflow, folder
        self._database = sqlalchemy.create_engine(airflow.database)

    def run(self, dag_id: str, videos: int) -> Usage:
        """Make the videos; what that has used."""
        folder = self.folder / f"{dag_id}-{videos}"
        catalogue = _write_items(folder, videos)
        time.sleep(_FLUSH_SECONDS)
        before = self._usage()
        conf = {"catalogue": str(catalogue), "folder": str(folder / "videos")}
        self.airflow.wait_for_dag(dag_id, timeout=_PATIENCE_SECONDS)
        run_id = self.airflow.trigger(dag_id, conf)
        # Read from the database: requests to the API server would be counted.
        states = f"SELECT state FROM dag_run WHERE run_id = '{run_id}' AND state IN ('success', 'failed')"
        processes.wait_until(lambda: bool(self._rows(states)), timeout=_PATIENCE_SECONDS, every=0.5)
        after = self._usage()
        time.sleep(_FLUSH_SECONDS)
        flushed = self._usage()
        made = len(list((folder / "videos").glob("*.mp4")))
        if self._rows(states) != [("success",)] or made != videos:
            raise RuntimeError(f"{run_id} of {dag_id} has made {made} of {videos} videos.")
        used = Usage(after.wall, after.cpu, flushed.written, flushed.left, flushed.tasks) - before
        sums = f"{used.cpu.total():.1f} s of CPU, {used.written.total()} rows written"
        print(f"{dag_id}, {videos} videos: {sums}", flush=True)
        return used

    def idle(self) -> Usage:
        """What Airflow uses in some seconds without a task."""
        before = self._usage()
        time.sleep(_IDLE_SECONDS)
        return self._usage() - before

    def _usage(self) -> Usage:
        counts = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
        rows = self._rows(counts)
        written = Counter({name: inserted + updated + deleted for name, inserted, updated, deleted in rows})
        left = Counter({name: inserted - deleted for name, inserted, _, deleted in rows})
        ((tasks,),) = self._rows("SELECT count(*) FROM task_instance")
        return Usage(time.monotonic(), self._cpu(), written, left, tasks)

    def _cpu(self) -> Counter[str]:
        """CPU seconds of each part, with those of its ended processes."""
        cpu: Counter[str] = Counter()
        for name, leader in self.airflow.processes.items():
            for process_id in processes.session_members(leader.pid):
                with suppress(psutil.NoSuchProcess):
                    times = psutil.Process(process_id).cpu_times()
                    part = "workers" if name == "scheduler" and process_id != leader.pid else name
                    cpu[part] += times.user + times.system
                    ended = times.children_user + times.children_system
                    cpu["workers" if name == "scheduler" else name] += ended
        return cpu

    def _rows(self, query: str) -> list[tuple[object, ...]]:
        with self._database.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]


@contextmanager
def bench(mapped: int) -> Iterator[Bench]:
    """Start a sandbox, a PostgreSQL and an Airflow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "benchmarks" / "batch_dags", folder / "dags")
        options = ("--quick", "--render-seconds", str(RENDER_SECONDS), "--credits", "100000000")
        with sandbox(folder / "sandbox.log", *options) as url, postgres() as database:
            connection = {"conn_type": "magichour", "password": "any-key", "host": url}
            env = {
                "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection),
                "AIRFLOW__CORE__MAX_MAP_LENGTH": str(max(mapped, 1024)),
                **_AIRFLOW_DEFAULTS,
            }
            home, dags = folder / "airflow", folder / "dags"
            with LiveAirflow(home, dags, database=database, env=env) as airflow:
                yield Bench(airflow, folder)


def _write_items(folder: Path, videos: int) -> Path:
    """A manifest, and an image of its own for each line: no upload serves two videos."""
    (folder / "videos").mkdir(parents=True)
    content, lines = IMAGE.read_bytes(), []
    for number in range(videos):
        image = folder / f"image-{number}.jpg"
        image.write_bytes(content + str(image).encode())
        item = {"key": f"video-{number}", "image": str(image), "prompt": f"Video {number}."}
        lines.append(json.dumps(item) + "\n")
    catalogue = folder / "catalogue.jsonl"
    catalogue.write_text("".join(lines))
    return catalogue


def page(batch: tuple[int, Usage], mapped: tuple[int, Usage], idle: Usage) -> str:
    """The page, in Markdown."""
    both = (batch, mapped)

    def row(what: str, figures: list[float], form: str, bar: str = "") -> list[str]:
        per_video = [figure / videos for figure, (videos, _) in zip(figures, both, strict=True)]
        if not per_video[0]:
            return [what, *map(form.format, per_video), "-", bar, ""]
        ratio = per_video[1] / per_video[0]
        verdict = ("met" if ratio >= MIN_RATIO else "**missed**") if bar else ""
        shown = f"{ratio:.0f} x" if ratio >= MIN_RATIO else f"{ratio:.1f} x"
        return [what, *map(form.format, per_video), shown, bar, verdict]

    bar = f">= {MIN_RATIO}"
    used = [usage for _, usage in both]
    figures = [
        row("CPU of Airflow, all parts", [each.cpu.total() for each in used], "{:.3f} s", bar),
        *[row(f"- {part}", [each.cpu[part] for each in used], "{:.3f} s") for part in PARTS],
        row("rows written to the database", [each.written.total() for each in used], "{:.2f}", bar),
        row("rows left in the database", [each.left.total() for each in used], "{:.2f}"),
        row("task instances", [each.tasks for each in used], "{:.3f}"),
        row("wall time", [each.wall for each in used], "{:.2f} s"),
    ]
    names = [name for name, _ in mapped[1].written.most_common(8)]
    tables = [row(f"`{name}`", [each.written[name] for each in used], "{:.2f}")[:4] for name in names]
    minutes = idle.wall / 60
    parts = [
        INTRODUCTION.format(batch=batch[0], mapped=mapped[0], machine=_machine()),
        "## Per video\n\n" + table(["per video", "batch", "mapped", "mapped / batch", "bar", ""], figures),
        "## Rows written, by table\n\n" + table(["per video", "batch", "mapped", "mapped / batch"], tables),
        METHOD.format(idle_cpu=idle.cpu.total() / minutes, idle_rows=idle.written.total() / minutes),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} CPUs; {python}; apache-airflow {version_of('apache-airflow')}."


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=1_000, help="videos of the batch")
    parser.add_argument("--mapped", type=int, default=100, help="videos of the mapped tasks")
    parser.add_argument("--quick", action="store_true", help="a check that it runs; writes nothing")
    options = parser.parse_args()
    numbers = {"batch": 10, "mapped": 5} if options.quick else vars(options)
    with bench(numbers["mapped"]) as runs:
        for dag_id in ("batch", "mapped"):
            runs.run(dag_id, 2)
        idle = runs.idle()
        used = {
            dag_id: (numbers[dag_id], runs.run(dag_id, numbers[dag_id])) for dag_id in ("batch", "mapped")
        }
    text = page(used["batch"], used["mapped"], idle)
    print(f"\n{text}")
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
