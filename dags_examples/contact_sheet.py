"""A contact sheet of a run: some frames of each video, on one picture that fits into a mail.

Setup: `pip install 'airflow-provider-magichour[pictures]'`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_contact_sheet",
    schedule=None,
    params={"image": str(PHOTOGRAPH), "folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):
    # [START howto_operator_contact_sheet]
    render = ImageToVideoOperator.partial(
        task_id="render",
        image="{{ params.image }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    ).expand(prompt=["She smiles", "She turns to the side", "The camera moves slowly closer"])
    download = DownloadVideoOperator.partial(task_id="download", path="{{ params.folder }}/").expand(
        project_id=render.output
    )
    ContactSheetOperator(
        task_id="sheet",
        videos=download.output,
        jobs=render.output,
        path="{{ params.folder }}/",
        title="Three prompts, one photograph",
        trigger_rule="all_done",
    )
    # [END howto_operator_contact_sheet]
