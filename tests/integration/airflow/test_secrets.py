"""What a whole run leaves in Airflow's database and logs, held against docs/security.md."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

HOME = Path(os.environ["AIRFLOW_HOME"])
PROMPT = "A prompt that is a secret of the house"


def test_no_table_and_no_log_holds_the_key_or_a_link_and_only_the_code_and_rendered_fields_the_prompt(
    run_dag, connection, magichour_sandbox, tmp_path, capfd, caplog
):
    key = "mhk-a-key-that-is-easy-to-find-again"
    connection(password=key)
    run = run_dag("examples/branch_on_failure.py", folder=str(tmp_path), prompt=PROMPT)
    assert run.state == "success"
    storage = magichour_sandbox.storage_url.partition("://")[2]
    tables = _tables()
    assert {name for name, rows in tables.items() if key in rows or storage in rows} == set()
    rendered = tables.keys() & {"rendered_task_instance_fields", "rtif_v2"}  # to Airflow 3.3, and from 3.4
    # In dag_run is the conf, which the test gives.
    assert {name for name, rows in tables.items() if PROMPT in rows} == {"dag_run", *rendered}
    printed = "".join(capfd.readouterr())
    everything = printed + caplog.text + "".join(path.read_text() for path in HOME.rglob("*.log"))
    # Airflow 3.0's dag.test() prints, as debug lines, the very messages that name what to mask.
    logs = "\n".join(line for line in everything.splitlines() if "MaskSecret(" not in line)
    assert "is submitted for 72 credits" in logs
    assert key not in logs
    assert storage not in logs


def _tables() -> dict[str, str]:
    with sqlite3.connect(HOME / "airflow.db") as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        return {name: str(database.execute(f'select * from "{name}"').fetchall()) for name in names}
