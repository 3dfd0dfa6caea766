"""The Dags of the breaking tests: one render in each mode, which stops where `params.stop_at` says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from airflow.sdk import DAG, Context

from magichour_provider.client.sync import MagicHourClient
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PARAMS = {"conn_id": "", "image": "", "signs": "", "stop_at": ""}
STOPS_AFTER = {
    "answer": (MagicHourClient, "create_image_to_video"),
    "record": (JobStateStore, "submitted"),
}
"""What has just been done where a task stops, by `params.stop_at`; `resume` is another such place."""
STOPPED_INDEX = 1
"""Which of the mapped tasks stops."""


class BreakableOperator(ImageToVideoOperator):
    """The operator with named delays in its first try; it leaves a file for each thing that a test waits for.

    `stopped` says that it sleeps, until it is killed; `terminated` that Airflow has told it to end.
    """

    signs: Path | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        self.signs = Path(context["params"]["signs"])
        with self._delay(context):
            return super().execute(context)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        self.signs = Path(context["params"]["signs"])
        if _stops(context, "resume"):
            self._stop()
        return super().execute_complete(context, event)

    def on_kill(self) -> None:
        try:
            super().on_kill()
        finally:
            self._sign("terminated")

    def _delay(self, context: Context) -> AbstractContextManager[Any]:
        for point, (owner, name) in STOPS_AFTER.items():
            if _stops(context, point):
                return patch.object(owner, name, _then(getattr(owner, name), self._stop))
        return nullcontext()

    def _stop(self) -> None:
        self._sign("stopped")
        time.sleep(600)

    def _sign(self, name: str) -> None:
        if self.signs is not None:
            (self.signs / name).write_text(str(os.getpid()))


def _stops(context: Context, point: str) -> bool:
    ti = context["ti"]
    is_the_one = ti.map_index in (-1, None, STOPPED_INDEX)
    return context["params"]["stop_at"] == point and ti.try_number == 1 and is_the_one


def _then(method: Callable[..., Any], stop: Callable[[], None]) -> Callable[..., Any]:
    def stopping(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        stop()
        return result

    return stopping


ORDER: dict[str, Any] = {
    "task_id": "render",
    "image": "{{ params.image }}",
    "magichour_conn_id": "{{ params.conn_id }}",
    "model": "ltx-2.3",
    "resolution": "480p",
    "poll_interval": 1,
}
DAG_OPTIONS: dict[str, Any] = {
    "params": PARAMS,
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}

with DAG(dag_id="breaking_synchronous", schedule=None, **DAG_OPTIONS):
    BreakableOperator(**ORDER, end_seconds=3, deferrable=False)

with DAG(dag_id="breaking_deferrable", schedule=None, **DAG_OPTIONS):
    BreakableOperator(**ORDER, end_seconds=3, deferrable=True)

with DAG(dag_id="breaking_mapped", schedule=None, **DAG_OPTIONS):
    BreakableOperator.partial(**ORDER, end_seconds=3, deferrable=True).expand(prompt=["near", "far", "away"])

with DAG(dag_id="breaking_timed", schedule=None, **DAG_OPTIONS):
    BreakableOperator(**ORDER, end_seconds=3, deferrable=False, execution_timeout=timedelta(seconds=15))
