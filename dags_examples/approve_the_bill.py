"""A user approves what a batch will cost before it spends anything. Needs Airflow 3.1 for `ApprovalOperator`.

The first task checks every image and every line, and returns the bill. It spends nothing. After the approval,
the second task submits what the first one has checked, and no more credits than the bill says.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

if AIRFLOW_V_3_1_PLUS:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    with DAG(
        dag_id="magichour_approve_the_bill",
        schedule=None,
        params={
            "catalogue": str(Path(__file__).parent / "images" / "catalogue.jsonl"),
            "videos": str(Path(tempfile.gettempdir()) / "magichour" / "approved"),
        },
        default_args={
            "items": "{{ params.catalogue }}",
            "path": "{{ params.videos }}",
            "model": "ltx-2.3",
            "resolution": "480p",
            "end_seconds": 3,
        },
        tags=["magichour", "example"],
    ):
        # [START howto_batch_approval]
        bill = ImageToVideoBatchOperator(task_id="bill", dry_run=True)
        approve = ApprovalOperator(
            task_id="approve",
            subject="{{ ti.xcom_pull(task_ids='bill')['estimate'] }} credits for "
            "{{ ti.xcom_pull(task_ids='bill')['to_submit'] }} videos",
        )
        render = ImageToVideoBatchOperator(
            task_id="render",
            max_credits="{{ ti.xcom_pull(task_ids='bill')['estimate'] or 1 }}",
        )
        bill >> approve >> render
        # [END howto_batch_approval]
