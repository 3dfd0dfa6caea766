"""What each service answers about a job that still runs, with all its fields; `%ID%` is the job's id."""

from __future__ import annotations

import json

MAGIC_HOUR = {
    "id": "%ID%",
    "name": "Image To Video - dataset 2024-11-22",
    "status": "rendering",
    "type": "IMAGE_TO_VIDEO",
    "created_at": "2024-11-22T15:35:08.123Z",
    "width": -1,
    "height": -1,
    "enabled": True,
    "start_seconds": 0,
    "end_seconds": 5,
    "total_frame_cost": 450,
    "credits_charged": 450,
    "fps": 30,
    "error": None,
    "downloads": [],
    "download": None,
}
DBT_CLOUD = {
    "status": {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""},
    "data": {
        "id": "%ID%",
        "trigger_id": 280411032,
        "account_id": 1,
        "environment_id": 65260,
        "project_id": 71527,
        "job_definition_id": 226504,
        "status": 3,
        "dbt_version": "1.8.3",
        "git_branch": "main",
        "git_sha": "b0ea3c5f5d2f0b2c9b5d5a7c9dd2f1a5d8c2ce52",
        "status_message": None,
        "owner_thread_id": None,
        "executed_by_thread_id": "dbt-run-280411032-8x2wq",
        "deferring_run_id": None,
        "artifacts_saved": False,
        "artifact_s3_path": None,
        "has_docs_generated": False,
        "has_sources_generated": False,
        "notifications_sent": False,
        "blocked_by": [],
        "scribe_enabled": True,
        "created_at": "2024-11-22 15:35:08.123456+00:00",
        "updated_at": "2024-11-22 15:35:20.123456+00:00",
        "dequeued_at": "2024-11-22 15:35:09.123456+00:00",
        "started_at": "2024-11-22 15:35:12.123456+00:00",
        "finished_at": None,
        "last_checked_at": None,
        "last_heartbeat_at": None,
        "should_start_at": None,
        "trigger": None,
        "job": None,
        "environment": None,
        "run_steps": [],
        "status_humanized": "Running",
        "in_progress": True,
        "is_complete": False,
        "is_success": False,
        "is_error": False,
        "is_cancelled": False,
        "href": "https://cloud.getdbt.com/deploy/1/projects/71527/runs/%ID%/",
        "duration": "00:00:12",
        "queued_duration": "00:00:04",
        "run_duration": "00:00:08",
        "duration_humanized": "12 seconds",
        "queued_duration_humanized": "4 seconds",
        "run_duration_humanized": "8 seconds",
        "created_at_humanized": "12 seconds ago",
        "finished_at_humanized": "0 minutes from now",
        "retrying_run_id": None,
        "can_retry": False,
        "retry_not_supported_reason": "RETRY_NOT_FAILED_RUN",
        "job_id": 226504,
        "is_running": True,
    },
}
OPENAI_BATCH = {
    "id": "%ID%",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-abc123def456ghi789jkl0",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1732289708,
    "in_progress_at": 1732289718,
    "expires_at": 1732376108,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 100, "completed": 40, "failed": 0},
    "metadata": {"customer_id": "user_123456789", "batch_description": "Nightly eval job"},
}
AIRBYTE_JOB = {
    "jobId": "%ID%",
    "status": "running",
    "jobType": "sync",
    "startTime": "2024-11-22T15:35:08Z",
    "connectionId": "18dccc91-0ab1-4f72-9ed7-0b8fc27c5826",
    "lastUpdatedAt": "2024-11-22T15:35:20Z",
    "duration": "PT12S",
    "bytesSynced": 1048576,
    "rowsSynced": 4096,
}


def _prepared(body: dict[str, object], *, number: bool = False) -> bytes:
    text = json.dumps(body, separators=(",", ":"))
    return (text.replace('"%ID%"', "%ID%") if number else text).encode()


ANSWERS = {
    b"/v1/video-projects/": _prepared(MAGIC_HOUR),
    b"/api/v2/accounts/": _prepared(DBT_CLOUD, number=True),
    b"/v1/batches/": _prepared(OPENAI_BATCH),
    b"/v1/jobs/": _prepared(AIRBYTE_JOB, number=True),
}
"""Bodies by the beginning of the path that asks for them."""
