"""Videos in each mode; a task stops where `params.stop_at` says, until it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import httpx
from airflow.sdk import DAG, Context

from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

STOPPED_INDEX = 1
"""Which of the mapped tasks stops."""
MANY = 20
COST = 72
SENSOR_CONN_ID = "sensor-triggerer-killed"
"""No template, as a sensor with one starts in a worker: the id of the only run of `breaking_sensor`."""


class BreakableOperator(ImageToVideoOperator):
    """The operator with delays in its first attempt; it leaves a file for each thing that a test waits for.

    `ready`: it waits for the file `params.gate`. `stopped`: it sleeps until it is killed. `terminated`:
    Airflow has sent it SIGTERM.
    """

    folder: Path | None = None
    stops_before_defer = False

    def execute(self, context: Context) -> dict[str, Any]:
        self.folder = Path(context["params"]["folder"])
        if gate := context["params"]["gate"]:
            self._sign("ready")
            while not Path(gate).exists():
                time.sleep(0.1)
        self.stops_before_defer = _stops(context, "defer")
        with self._stops_after_create() if _stops(context, "answer") else nullcontext():
            return super().execute(context)

    def defer(self, **kwargs: Any) -> NoReturn:
        if self.stops_before_defer:
            self._stop()
        super().defer(**kwargs)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        self.folder = Path(context["params"]["folder"])
        if _stops(context, "resume"):
            self._stop()
        return super().execute_complete(context, event)

    def on_kill(self) -> None:
        try:
            super().on_kill()
        finally:
            self._sign("terminated")

    def _stops_after_create(self) -> Any:
        send = httpx.Client.send

        def stopping(client: httpx.Client, request: httpx.Request, **kwargs: Any) -> httpx.Response:
            response = send(client, request, **kwargs)
            if (request.method, request.url.path) == ("POST", "/v1/image-to-video"):
                self._stop()
            return response

        return patch.object(httpx.Client, "send", stopping)

    def _stop(self) -> None:
        self._sign("stopped")
        time.sleep(600)

    def _sign(self, name: str) -> None:
        if self.folder is not None:
            (self.folder / name).write_text(str(os.getpid()))


def _stops(context: Context, point: str) -> bool:
    ti = context["ti"]
    is_the_one = ti.map_index in (-1, None, STOPPED_INDEX)
    return context["params"]["stop_at"] == point and ti.try_number == 1 and is_the_one


VIDEO: dict[str, Any] = {
    "task_id": "render",
    "image": "{{ params.image }}",
    "magichour_conn_id": "{{ params.conn_id }}",
    "model": "ltx-2.3",
    "resolution": "480p",
    "end_seconds": 3,
}
POLLED = {**VIDEO, "poll_interval": 1}
OPTIONS: dict[str, Any] = {
    "params": {"conn_id": "", "image": "", "folder": "", "stop_at": "", "gate": "", "project_id": ""},
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}

with DAG(dag_id="breaking_synchronous", schedule=None, **OPTIONS):
    BreakableOperator(**POLLED, deferrable=False)

with DAG(dag_id="breaking_timed", schedule=None, **OPTIONS):
    BreakableOperator(**POLLED, deferrable=False, execution_timeout=timedelta(seconds=15))

with DAG(dag_id="breaking_deferrable", schedule=None, **OPTIONS):
    BreakableOperator(**POLLED, deferrable=True)

for name, count in (("mapped", 3), ("many", MANY)):
    with DAG(dag_id=f"breaking_{name}", schedule=None, **OPTIONS):
        prompts = [f"video {number}" for number in range(count)]
        BreakableOperator.partial(**POLLED, deferrable=True).expand(prompt=prompts)

for name, count, affordable in (("many", 50, 40), ("few", 12, 8)):
    with DAG(dag_id=f"breaking_budget_{name}", schedule=None, **OPTIONS):
        budget = {"wait_for_completion": False, "max_credits_per_run": affordable * COST}
        prompts = [f"video {number}" for number in range(count)]
        ImageToVideoOperator.partial(**VIDEO, **budget).expand(prompt=prompts)

with DAG(dag_id="breaking_sensor", schedule=None, **OPTIONS):
    submitted = ImageToVideoOperator(**{**VIDEO, "task_id": "submit"}, wait_for_completion=False)
    VideoJobSensor(
        task_id="render",
        project_id=submitted.output,
        magichour_conn_id=SENSOR_CONN_ID,
        poke_interval=1,
        deferrable=True,
    )
