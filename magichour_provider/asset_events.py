"""Moved to `lineage`."""

from __future__ import annotations

from magichour_provider.lineage import emit_job_events as announce_job
from magichour_provider.lineage import job_event_extra as extra_of_job

__all__ = ["announce_job", "extra_of_job"]
