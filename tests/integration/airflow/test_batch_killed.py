"""`kill -9` of the process of a batch at random moments: each video is paid for once, and none is lost.

`BATCH_VIDEOS`, `BATCH_KILLS` and `BATCH_SEED` choose other numbers.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from attempts import IMAGE, jobs

WORKER = Path(__file__).with_name("batch_worker.py")
VIDEOS = int(os.environ.get("BATCH_VIDEOS", "60"))
KILLS = int(os.environ.get("BATCH_KILLS", "4"))


@pytest.mark.usefixtures("connection")
@pytest.mark.timeout(1800)
def test_processes_killed_at_random_pay_for_each_video_once(magichour_sandbox, tmp_path):
    chance = random.Random(int(os.environ.get("BATCH_SEED", "5")))
    magichour_sandbox.control.account(credits=100_000_000)
    magichour_sandbox.control.behaviour(render_seconds=0.6)
    items, videos = tmp_path / "catalogue.jsonl", tmp_path / "videos"
    rows = [
        {"key": f"item-{n}", "image": str(Path(IMAGE).absolute()), "prompt": f"{n}"} for n in range(VIDEOS)
    ]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = videos / "magichour_batch.jsonl"
    arguments = {"items": str(items), "path": str(videos), "model": "ltx-2.3", "resolution": "480p"}
    arguments |= {"end_seconds": 3, "poll_interval": 0.5, "download_delay": 2}

    def start(attempt):
        with (tmp_path / f"{attempt}.log").open("wb") as log:
            command = [sys.executable, str(WORKER), str(attempt), json.dumps(arguments)]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def progress():
        return state.read_bytes().count(b"\n") / (3 * VIDEOS) if state.exists() else 0.0

    killed_at = []
    for attempt, moment in enumerate(sorted(chance.uniform(0.0, 0.9) for _ in range(KILLS)), 1):
        with start(attempt) as process:
            while progress() < moment and process.poll() is None:
                time.sleep(0.02)
            assert process.poll() is None, (tmp_path / f"{attempt}.log").read_text()[-2000:]
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
        killed_at.append(round(progress(), 2))
    began = time.monotonic()
    with start(KILLS + 1) as process:
        process.wait()
    entries = [json.loads(line) for line in (videos / "manifest.jsonl").read_text().splitlines()]
    found = Counter(entry["status"] for entry in entries)
    charged = Counter(job["name"] for job in jobs(magichour_sandbox) if job["credits_charged"])
    ids = {job["name"]: job["id"] for job in jobs(magichour_sandbox)}
    print(f"{VIDEOS} videos, killed at {killed_at}: {dict(found)}, {sum(charged.values())} charged,")
    print(f"last attempt {time.monotonic() - began:.0f} s")
    assert max(charged.values()) == 1
    assert found["unknown"] <= 2 * KILLS
    assert found["complete"] == VIDEOS - found["unknown"]
    assert (process.returncode == 0) == (found["unknown"] == 0)
    for entry in entries:
        if entry["status"] == "complete":
            content = Path(entry["path"]).read_bytes()
            assert (len(content), sha256(content).hexdigest()) == (entry["size"], entry["sha256"])
            assert entry["project_id"] == ids[entry["key"]]
            assert charged[entry["key"]] == 1
