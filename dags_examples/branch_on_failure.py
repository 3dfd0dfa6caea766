"""A branch on failure: moderation to a person, no credits to billing, anything else to whoever is on call.

The XCom `failure` says why a task of this provider has failed. The run fails then, whoever was told of it, as `download`
could not run: once the cause is mended, clear `render` and what is behind it.
Nobody is told of a `download` that fails after `render` has succeeded: it fails the run as any task does, and its own
XCom `failure` says why.

To set up: `pip install apache-airflow-providers-smtp`, and the connection `smtp_default` (with `from_email` in its extra).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.providers.smtp.operators.smtp import EmailOperator
from airflow.sdk import DAG, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_branch_on_failure",
    schedule=None,
    params={
        "image": str(PHOTOGRAPH),
        "prompt": "The camera moves slowly closer",
        "folder": str(Path(tempfile.gettempdir()) / "magichour"),
    },
    tags=["magichour", "example"],
):
    render = ImageToVideoOperator(
        task_id="render",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    )
    DownloadVideoOperator(task_id="download", project_id=render.output, path="{{ params.folder }}/")

    # [START howto_failure]
    @task.branch(trigger_rule="one_failed")
    def who_is_to_know(ti: Any) -> str:
        """Read why there is no clip."""
        failure = ti.xcom_pull(task_ids="render", key="failure") or {}
        if failure.get("error") == "ModerationError":
            return "tell_a_person"
        if failure.get("code") == "insufficient_credits":
            return "tell_billing"
        return "tell_on_call"

    # [END howto_failure]

    reason = (
        "{{ (ti.xcom_pull('render', key='failure') or {}).get('message', 'See the logs of the run.') | e }}"
    )
    mails = [
        EmailOperator(task_id=f"tell_{who}", to=f"{who}@example.com", subject=subject, html_content=reason)
        for who, subject in {
            "a_person": "Choose another image or another prompt",
            "billing": "Magic Hour is out of credits",
            "on_call": "A clip could not be made",
        }.items()
    ]
    render >> who_is_to_know() >> mails
