"""The settings of the pages: Airflow's configuration, section `[magichour]`."""

from __future__ import annotations

from functools import cache

from airflow.providers.common.compat.sdk import conf

from magichour_provider.ui.media_roots import ClipRoot, parse_roots


@cache
def clip_roots() -> tuple[ClipRoot, ...]:
    """Below which landed clips may be shown; ConfigurationError where the setting cannot be used."""
    return parse_roots(str(conf.get("magichour", "ui_video_roots", fallback="") or ""))
