"""A branch on failure: the editor, billing or the on-call engineer gets a mail.

Moderation goes to the editor, missing credits go to billing, anything else goes to the on-call engineer.
The XCom `magichour_error` of `render` says why that task failed. The run fails in any case, because
`download` cannot run. After you fix the cause, clear `render` with its downstream tasks.
If `render` succeeds and `download` fails, no mail is sent. The run fails, and the XCom `magichour_error` of
`download` says why.

Setup: `pip install apache-airflow-providers-smtp`, and the connection `smtp_default` (with `from_email` in
its extra).
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
    def choose_recipient(ti: Any) -> str:
        """Read why there is no video, and choose the mail to send."""
        error = ti.xcom_pull(task_ids="render", key="magichour_error") or {}
        if error.get("error") == "ModerationError":
            return "mail_editor"
        if error.get("code") == "insufficient_credits":
            return "mail_billing"
        return "mail_on_call"

    # [END howto_failure]

    reason = "{{ (ti.xcom_pull('render', key='magichour_error') or {}).get('message', 'See the logs.') | e }}"
    mails = [
        EmailOperator(task_id=f"mail_{name}", to=f"{name}@example.com", subject=subject, html_content=reason)
        for name, subject in {
            "editor": "Choose another image or another prompt",
            "billing": "Magic Hour is out of credits",
            "on_call": "A video could not be made",
        }.items()
    ]
    render >> choose_recipient() >> mails
