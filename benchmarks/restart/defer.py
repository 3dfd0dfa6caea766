"""Write into Airflow's database that every task of a run has deferred.

    defer.py <run id> <class path of the trigger> <its arguments, as JSON>

`{project_id}` in the arguments becomes the job of each task. It runs in the environment of the Airflow.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta

from airflow._shared.timezones import timezone
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select


def main() -> None:
    """Give each task a trigger of its own, instead of the one that it may have."""
    run_id, classpath, kwargs = sys.argv[1:]
    now = timezone.utcnow()
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one()
        run.state = DagRunState.RUNNING
        tasks = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id)).all()
        for task in tasks:
            project_id = f"cm3r{task.map_index:08d}01xk9v2t5q8z"
            task.trigger = Trigger(classpath, json.loads(kwargs.replace("{project_id}", project_id)))
            task.state = TaskInstanceState.DEFERRED
            task.start_date = now
            task.next_method = "execute_complete"
            task.next_kwargs = {}
            task.trigger_timeout = now + timedelta(days=1)
            task.try_number = 1
    print(len(tasks))


if __name__ == "__main__":
    main()
