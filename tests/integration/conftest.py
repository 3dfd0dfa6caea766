from __future__ import annotations

import json

import pytest

from magichour_provider.hooks.magichour import MagicHourHook


@pytest.fixture
def hook(monkeypatch, magichour_sandbox):
    """A hook with the connection `magichour_default` to the sandbox; it does not wait between attempts."""
    fields = {"password": magichour_sandbox.api_key, "host": magichour_sandbox.url, "conn_type": "magichour"}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(fields))
    hook = MagicHourHook(sleep=lambda seconds: None)
    yield hook
    hook.close()
