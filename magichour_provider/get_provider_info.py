"""The description of this provider. Airflow calls it at every start, so it imports no library."""

from __future__ import annotations

from typing import Any

from magichour_provider.client.settings import ClientSettings

UI_FIELD_BEHAVIOUR = {
    "hidden-fields": ["login", "schema", "extra"],
    "relabeling": {"password": "API key", "host": "Base URL"},
    "placeholders": {
        "host": "https://api.magichour.ai",
        "password": "from the Developer Hub at magichour.ai",
        "port": "443 (Test in Airflow 3.3 asks for one)",
    },
}
"""What the connection form hides, renames and suggests.

The port is shown, although the URL may hold it: in Airflow 3.3.1 and 3.3.2 the button Test refuses every
saved connection that has none (airflow#73298).
"""

_NAME = "Magic Hour"
_CONFIG = {
    "description": "The pages of Magic Hour in Airflow's UI, and the folders of the workers.",
    "options": {
        "ui_enabled": {
            "description": "Whether the pages are shown.",
            "version_added": "0.1.0",
            "type": "boolean",
            "example": None,
            "default": "True",
        },
        "ui_video_roots": {
            "description": (
                "Folders, and object storage URLs with their connection, whose videos the pages may "
                "show, separated by commas; {dag_id} stands for the Dag's id. Without one, videos are "
                "played by a new download URL of Magic Hour."
            ),
            "version_added": "0.2.0",
            "type": "string",
            "example": "/data/videos/{dag_id}/, s3://aws_default@videos/{dag_id}/",
            "default": "",
        },
        "shared_folders": {
            "description": (
                "Local folders that all workers share, separated by commas. If the executor runs tasks on "
                "several machines, a local state_path, and a local path with delete_remote, must be below "
                "one of them."
            ),
            "version_added": "0.2.0",
            "type": "string",
            "example": "/mnt/shared/videos",
            "default": "",
        },
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description; Airflow's provider_info.schema.json gives its shape."""
    return {
        "package-name": "airflow-provider-magichour",
        "name": _NAME,
        "description": "Turn still images into videos with [Magic Hour](https://magichour.ai/).",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://docs.magichour.ai/",
                "tags": ["service"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "magichour",
                "hook-class-name": "magichour_provider.hooks.magichour.MagicHourHook",
                "hook-name": _NAME,
                "conn-fields": ClientSettings.form_fields(),
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
            }
        ],
        "hooks": _modules("hooks.magichour"),
        "operators": _modules(
            "operators.image_to_video",
            "operators.image_to_video_batch",
            "operators.download",
            "operators.contact_sheet",
        ),
        "sensors": _modules("sensors.video_job"),
        "triggers": _modules("triggers.video_job", "triggers.video_sensor", "triggers.video_batch"),
        "asset-uris": [
            {
                "schemes": ["magichour"],
                "handler": "magichour_provider.assets.sanitize_uri",
                "factory": "magichour_provider.assets.create_asset",
                "to_openlineage_converter": "magichour_provider.assets.convert_asset_to_openlineage",
            }
        ],
        "extra-links": ["magichour_provider.links.VideoProjectLink"],
        "plugins": [{"name": "magichour", "plugin-class": "magichour_provider.ui.plugin.MagicHourPlugin"}],
        "config": {"magichour": _CONFIG},
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    modules = [f"magichour_provider.{name}" for name in names]
    return [{"integration-name": _NAME, "python-modules": modules}]
