"""Send a mail when the video is published, with the poster frame attached.

Setup: `pip install 'airflow-provider-magichour[pictures]' apache-airflow-providers-smtp`, the connection
`smtp_default` (with `from_email` in its extra), and a folder that every worker can read: the mail attaches a
local file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.providers.smtp.operators.smtp import EmailOperator
from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_mail_the_video",
    schedule=None,
    params={
        "image": str(PHOTOGRAPH),
        "folder": str(Path(tempfile.gettempdir()) / "magichour"),
        "to": "you@example.com",
    },
    tags=["magichour", "example"],
):
    render = ImageToVideoOperator(
        task_id="render",
        image="{{ params.image }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    )
    # [START howto_operator_download_poster]
    download = DownloadVideoOperator(
        task_id="download", project_id=render.output, path="{{ params.folder }}/", poster=True
    )
    # [END howto_operator_download_poster]
    mail = EmailOperator(
        task_id="mail",
        to="{{ params.to }}",
        subject="A video of {{ ti.xcom_pull('download')['duration'] }} seconds",
        html_content="""
            <p>{{ ti.xcom_pull('download')['path'] }}</p>
            <p><a href="{{ ti.xcom_pull('render')['url'] }}">in the library</a>,
            for {{ ti.xcom_pull('render')['credits_charged'] }} credits</p>
        """,
        files=["{{ ti.xcom_pull('download')['poster'] }}"],
    )
    download >> mail
