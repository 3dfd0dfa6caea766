"""A plain task, a deferred one and a mapped one, for the tests of the harness."""

from __future__ import annotations

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import dag, task


@dag(schedule=None, params={"seconds": 3})
def harness() -> None:
    @task
    def greet() -> dict[str, str]:
        print("hello from greet")
        return {"greeting": "hello"}

    @task
    def double(number: int) -> int:
        return 2 * number

    nap = DateTimeSensorAsync(
        task_id="nap", target_time="{{ dag_run.start_date + macros.timedelta(seconds=params.seconds) }}"
    )
    greet() >> nap >> double.expand(number=[1, 2, 3])


harness()
