"""The connection's form in the Airflow UI: one table for every version of Airflow.

From 3.2 on Airflow reads the form from the provider info; before that it asks the hook for wtforms fields.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

CONN_FIELDS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "timeout": {
            "label": "Timeout (seconds)",
            "schema": {"type": ["integer", "null"], "default": 60, "minimum": 1, "maximum": 600},
            "description": "For connecting, for sending, and for waiting for the next bytes of an answer.",
        },
        "max_attempts": {
            "label": "Attempts",
            "schema": {"type": ["integer", "null"], "default": 4, "minimum": 1, "maximum": 10},
            "description": "How often a request is sent at most, where sending it again is safe.",
        },
        "requests_per_second": {
            "label": "Looks per second",
            "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 10000},
            "description": "How often a triggerer may look, all clips together; empty: as often as helps.",
        },
        "proxy": {
            "label": "Proxy",
            "schema": {"type": ["string", "null"]},
            "description": "URL of an HTTP proxy; empty takes the environment's.",
        },
        "verify": {
            "label": "Check certificates",
            "schema": {"type": ["boolean", "null"], "default": True},
            "description": "Leave this on, except against a test server.",
        },
        "ca_bundle": {
            "label": "CA bundle",
            "schema": {"type": ["string", "null"]},
            "description": "File with the certificate authorities to trust; empty takes the usual ones.",
        },
    }
)
"""The extras, by the names that `ConnectionExtras` reads."""

UI_FIELD_BEHAVIOUR: MappingProxyType[str, Any] = MappingProxyType(
    {
        "hidden-fields": ["login", "schema", "extra"],
        "relabeling": {"password": "API key", "host": "Base URL"},
        "placeholders": {
            "host": "https://api.magichour.ai",
            "password": "from the Developer Hub at magichour.ai",
            "port": "443 (Test in Airflow 3.3 asks for one)",
        },
    }
)
"""What the form hides, calls otherwise and hints at.

The port stays, although a URL may hold it: in Airflow 3.3.1 and 3.3.2 the button Test refuses every saved
connection that has none (apache/airflow#73298).
"""


def wtforms_fields() -> dict[str, Any]:
    """The extras as wtforms fields, for Airflow 3.0 and 3.1; none where wtforms is not installed."""
    try:
        from wtforms import BooleanField, FloatField, IntegerField, StringField
    except ImportError:
        return {}

    kinds = {"integer": IntegerField, "number": FloatField, "string": StringField, "boolean": BooleanField}
    return {
        name: kinds[field["schema"]["type"][0]](
            field["label"], description=field["description"], default=field["schema"].get("default")
        )
        for name, field in CONN_FIELDS.items()
    }


def wtforms_behaviour() -> dict[str, Any]:
    """What to hide and rename, in the spelling of Airflow 3.0 and 3.1; without fields `extra` stays."""
    behaviour = {key.replace("-", "_"): value for key, value in UI_FIELD_BEHAVIOUR.items()}
    if not wtforms_fields():
        behaviour["hidden_fields"] = [name for name in behaviour["hidden_fields"] if name != "extra"]
    return behaviour
