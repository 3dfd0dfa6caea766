"""A plain task, a deferred one and a mapped one, for the tests of the harness."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, task


class Nap(BaseOperator):
    """Sleeps in the triggerer."""

    template_fields = ("seconds",)

    def __init__(self, *, seconds: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=float(self.seconds))), method_name="wake")

    def wake(self, context: Any, event: Any = None) -> str:
        return "awake"


@dag(schedule=None, params={"seconds": 3, "folder": ""})
def harness():
    @task
    def greet() -> dict[str, str]:
        print("hello from greet")
        return {"greeting": "hello"}

    @task
    def double(number: int) -> int:
        return 2 * number

    greet() >> Nap(task_id="nap", seconds="{{ params.seconds }}") >> double.expand(number=[1, 2, 3])


harness()
