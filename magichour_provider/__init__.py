"""Apache Airflow provider for Magic Hour (magichour.ai): image-to-video jobs in Dags.

The public names load on first use, so that importing the package costs a Dag file nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "ContactSheetOperator",
    "DownloadVideoOperator",
    "ImageToVideoBatchOperator",
    "ImageToVideoOperator",
    "MagicHourError",
    "MagicHourHook",
    "VideoJobSensor",
    "VideoJobTrigger",
]

if TYPE_CHECKING:
    from magichour_provider.exceptions import MagicHourError
    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.operators.contact_sheet import ContactSheetOperator
    from magichour_provider.operators.download import DownloadVideoOperator
    from magichour_provider.operators.image_to_video import ImageToVideoOperator
    from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator
    from magichour_provider.sensors.video_job import VideoJobSensor
    from magichour_provider.triggers.video_job import VideoJobTrigger

_HOMES = {
    "ContactSheetOperator": "operators.contact_sheet",
    "DownloadVideoOperator": "operators.download",
    "ImageToVideoBatchOperator": "operators.image_to_video_batch",
    "ImageToVideoOperator": "operators.image_to_video",
    "MagicHourError": "exceptions",
    "MagicHourHook": "hooks.magichour",
    "VideoJobSensor": "sensors.video_job",
    "VideoJobTrigger": "triggers.video_job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
