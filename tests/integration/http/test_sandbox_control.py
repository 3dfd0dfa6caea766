"""The ledger, the other control pages, the fixture, and what importing costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def test_the_ledger_tells_what_happened(magic, photo):
    job = magic.complete(name="one", model="ltx-2.3", audio=True, end_seconds=5)
    magic.files.get(job["download"]["url"])
    magic.files.get(job["download"]["url"])
    ledger = magic.control.state()
    [entry] = ledger["jobs"]
    [upload] = ledger["uploads"]
    assert ledger["account"]["credits"] == 12_000 - 240
    assert entry["charges"] == [{"at": entry["created_at"], "credits": 240, "reason": "create"}]
    assert (
        entry.items()
        >= {
            "id": job["id"],
            "name": "one",
            "status": "complete",
            "model": "ltx-2.3",
            "resolution": "720p",
            "end_seconds": 5,
            "audio": True,
            "image_file_path": upload["file_path"],
            "credits_charged": 240,
            "polls": 1,
            "downloads": 2,
        }.items()
    )
    assert upload.items() >= {"bytes": len(photo), "put_count": 1}.items()
    counts = {(r["origin"], r["method"], r["path"], r["status"]): r["count"] for r in ledger["requests"]}
    assert counts == {
        ("api", "POST", "/v1/files/upload-urls", 200): 1,
        ("storage", "PUT", "/api-assets/{upload_id}/{name}", 200): 1,
        ("api", "POST", "/v1/image-to-video", 200): 1,
        ("api", "GET", "/v1/video-projects/{id}", 200): 1,
        ("storage", "GET", "/{project_id}/output.mp4", 200): 2,
    }


def test_the_ledger_holds_no_secret(magic):
    job = magic.complete(image="https://example.com/a.jpg?token=hush-hush")
    magic.files.get(job["download"]["url"])
    magic.api.get("/secret-path")
    text = json.dumps(magic.control.state())
    for secret in (magic.server.api_key, "signature", "hush-hush", "secret-path"):
        assert secret not in text


def test_reset_brings_everything_back(magic):
    magic.complete()
    magic.control.account(tier="free", credits=3)
    magic.control.behaviour(error_shape="message")
    magic.control.faults([{"path": "*", "status": 500}])
    magic.control.advance_clock(10**6)
    url = magic.server.url
    magic.control.reset()
    ledger = magic.control.state()
    assert (ledger["account"]["tier"], ledger["account"]["credits"]) == ("creator", 12_000)
    assert [ledger[part] for part in ("jobs", "uploads", "requests", "faults")] == [[], [], [], []]
    assert magic.api.get("/v1/video-projects/x").json()["code"] == "not_found"
    assert magic.server.url == url


def test_reset_ends_well_while_clips_are_being_made(magic):
    magic.control.account(credits=10**6)
    for _ in range(8):
        magic.create(model="ltx-2.5", end_seconds=60)
    magic.control.reset()
    assert magic.complete()["status"] == "complete"


@pytest.mark.parametrize(
    ("page", "body"),
    [
        ("account", {"tier": "gold"}),
        ("account", {"credits": -1}),
        ("account", {"colour": "red"}),
        ("clock", {"advance": -1}),
        ("clock", {}),
        ("behaviour", {"expired_status": 500}),
        ("behaviour", {"no_such_switch": True}),
        ("behaviour", []),
        ("account", []),
    ],
)
def test_a_wrong_control_request_is_422_and_says_why(magic, page, body):
    answer = magic.files.post(f"{magic.server.url}/__sandbox__/{page}", json=body)
    assert answer.status_code == 422
    assert len(answer.json()["message"]) > 10


def test_an_unknown_job_is_said_so(magic):
    with pytest.raises(ValueError, match="no job unknown"):
        magic.control.set_job("unknown", "canceled")


def test_people_have_a_page_and_names_cannot_break_it(magic):
    magic.create(name="<script>")
    page = magic.files.get(f"{magic.server.url}/__sandbox__/")
    assert page.headers["content-type"].startswith("text/html")
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text


def test_importing_the_sandbox_or_its_plugin_loads_nothing_heavy():
    code = (
        "import sys, magichour_provider.sandbox, magichour_provider.sandbox.pytest_plugin\n"
        "heavy = ('av', 'PIL', 'fastapi', 'uvicorn', 'httpx', 'pydantic', 'airflow')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_whole_sandbox_imports_no_airflow_and_of_the_provider_only_catalogue_and_errors():
    code = (
        "import sys, magichour_provider.sandbox.cli, magichour_provider.sandbox.server\n"
        "own = 'magichour_provider.'\n"
        "print('airflow' in sys.modules, sorted(m for m in sys.modules if m.startswith(own) "
        "and not m.startswith(own + 'sandbox')))"
    )
    rooms = ("api", "api.catalog", "api.catalog_table", "api.errors", "api.projects")
    assert run(code) == f"False {[f'magichour_provider.{room}' for room in rooms]}"


def test_without_the_extra_the_fixture_says_what_to_install(tmp_path):
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['fastapi'] = None\n")
    (tmp_path / "test_it.py").write_text("def test_it(magichour_sandbox):\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "pip install 'airflow-provider-magichour[sandbox]'" in ended.stdout


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
