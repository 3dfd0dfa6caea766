"""Neither API key nor signed URL is left in Airflow's database, logs and files. Runs after the others."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import sqlalchemy
from postgres import folder_of
from runs import API_KEY, Run
from test_pipelines import reading

SIGNED_URL_PARTS = [
    *("signature=", "signature%3D", "?expires=", "%3Fexpires%3D", "output.mp4?", "output.mp4%3F")
]


def test_no_key_and_no_signed_url_is_written(starter, sandbox, sandbox_url):
    run: Run = starter.start_at(sandbox, "magichour_render_and_download", "secrets")
    assert run.wait() == "success"
    complete = [job["id"] for job in sandbox.state()["jobs"] if job["status"] == "complete"]
    urls = [urlsplit(video_url(sandbox_url, job_id)) for job_id in complete]
    signatures = [parse_qs(url.query)["signature"][0] for url in urls]
    assert all(f"{url.path}?{url.query}".count("output.mp4?") == 1 for url in urls)

    secrets = [API_KEY, "mhk_live_UNKNOWN_KEY", *signatures, *SIGNED_URL_PARTS]
    places = dict(written_by(starter.airflow))
    leaks = {(place, each) for place, text in places.items() for each in secrets if each.encode() in text}

    assert leaks == set()
    seen = [place for place, text in places.items() if run.only_job()["id"].encode() in text]
    assert any(place.startswith("table ") for place in seen), "a leak into a row would be seen"
    assert any(place.startswith("postgres-") for place in seen), "a leak into a deleted row would be seen"
    assert any(place.endswith(".log") for place in seen), "a leak into a log would be seen"


def video_url(sandbox_url, project_id):
    """The signed URL of a video: the sandbox gives the same one as long as it is valid."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    response = httpx.get(f"{sandbox_url}/v1/video-projects/{project_id}", headers=headers, trust_env=False)
    return str(response.raise_for_status().json()["download"]["url"])


def written_by(airflow):
    """All that Airflow wrote: its files, those of its database, and every row.

    The rows besides the files, as a long value may be compressed in those; the files, as they hold deleted
    rows too.
    """
    for folder in (airflow.home, folder_of(airflow.database)):
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(folder.parent)), path.read_bytes()
    with reading(airflow) as database:
        tables = sqlalchemy.MetaData()
        tables.reflect(database)
        for table in tables.sorted_tables:
            rows = database.execute(sqlalchemy.select(table))
            cells: list[Any] = [
                bytes(cell) if isinstance(cell, memoryview) else cell for row in rows for cell in row
            ]
            yield f"table {table.name}", "\n".join(map(str, cells)).encode()
