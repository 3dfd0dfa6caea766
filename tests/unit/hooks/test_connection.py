from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest
from airflow.models.connection import Connection

from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import ConfigurationError, UndefinedConnectionError
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.hooks.magichour import MagicHourHook


def connection(**fields):
    return Connection(**{"conn_id": "mh", "conn_type": "magichour", "password": "key", **fields})


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://api.magichour.ai"),
        ({"host": "https://proxy.example/mh/"}, "https://proxy.example/mh"),
        ({"host": "proxy.example"}, "https://proxy.example"),
        ({"host": "proxy.example", "port": 8443}, "https://proxy.example:8443"),
        ({"host": "127.0.0.1", "port": 8808}, "http://127.0.0.1:8808"),
        ({"host": "localhost:8808"}, "http://localhost:8808"),
        ({"host": "[::1]:8808"}, "http://[::1]:8808"),
        ({"host": "sandbox", "schema": "http", "port": 8808}, "http://sandbox:8808"),
        ({"host": "https://proxy.example/mh", "port": 8443}, "https://proxy.example:8443/mh"),
        ({"host": "http://127.0.0.1:8808", "port": 8808}, "http://127.0.0.1:8808"),
        ({"host": "http://[::1]:8808", "port": 443}, "http://[::1]:8808"),
        ({"host": "http://127.0.0.1:8808", "port": 0}, "http://127.0.0.1:8808"),
        ({"host": "proxy.example", "port": 0}, "https://proxy.example"),
        ({"port": 443}, "https://api.magichour.ai"),
        ({"host": "https://api.magichour.ai/v1"}, "https://api.magichour.ai"),
        ({"host": "api.magichour.ai/v1/", "port": 443}, "https://api.magichour.ai:443"),
        ({"host": "https://proxy.example/mh/v1"}, "https://proxy.example/mh"),
    ],
)
def test_base_url_from_host_schema_and_port(fields, base_url):
    assert settings_from_connection(connection(**fields)).base_url == base_url


@pytest.mark.parametrize(
    "host",
    [
        *("https://h?x=1", "https://h/?", "https://h#part", "h?x=1", "https://h/a?b#c"),
        *("https://h:99999", "https://h:0", "https://h:port", "ftp://h", "https://", "https://u:hush@h"),
        *("https://[::1", "[::1", "http:// h"),
    ],
)
def test_host_that_cannot_be_used_is_refused(host):
    with pytest.raises(ConfigurationError, match="'mh': The host") as refused:
        settings_from_connection(connection(host=host))
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["magichour://:a/b@", "magichour://:a#b@", "magichour://:a?b@", '{"password": "a",}', "{a"]
)
def test_value_that_airflow_cannot_parse_names_its_variable(value, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MH", value)
    with pytest.raises(UndefinedConnectionError, match=r"cannot parse the value of AIRFLOW_CONN_MH\..*%2F"):
        MagicHourHook("mh").get_conn()


def test_connection_from_uri():
    settings = settings_from_connection(
        Connection(conn_id="mh", uri="magichour://:key%2F1@?timeout=30&verify=false")
    )
    assert (settings.api_key, settings.timeout, settings.verify) == ("key/1", 30.0, False)
    assert settings.base_url == "https://api.magichour.ai"


def test_connection_from_json():
    text = '{"conn_type": "magichour", "password": "key", "host": "http://h:1", "extra": {"max_attempts": 2}}'
    settings = settings_from_connection(Connection.from_json(text, conn_id="mh"))
    assert (settings.base_url, settings.max_attempts) == ("http://h:1", 2)


@pytest.mark.parametrize("password", [None, ""])
def test_missing_password_names_the_connection(password):
    with pytest.raises(ConfigurationError, match="'mh' has no password"):
        settings_from_connection(connection(password=password))


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ('{"time_out": 5}', "time_out"),
        ('{"timeout": "soon"}', "timeout"),
        ('{"timeout": -1}', "timeout"),
        ('{"max_attempts": 0}', "max_attempts"),
        ('{"timeout": NaN}', "timeout"),
        ('{"requests_per_second": 1e999}', "requests_per_second"),
    ],
)
def test_invalid_extra_names_connection_and_key(extra, named):
    with pytest.raises(ConfigurationError) as refused:
        settings_from_connection(connection(extra=extra))
    assert "'mh'" in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize("extra", ["[1]", '{"timeout"', "[" * 100_000])
def test_extra_that_is_not_an_object_is_refused(extra):
    given = SimpleNamespace(conn_id="mh", password="key", host=None, port=None, schema=None, extra=extra)
    with pytest.raises(ConfigurationError, match="not a JSON object"):
        settings_from_connection(given)


def test_invalid_extra_is_not_quoted():
    with pytest.raises(ConfigurationError) as refused:
        settings_from_connection(connection(extra='{"proxy": ["http://u:hush@p"], "api_key": "hush"}'))
    assert "hush" not in str(refused.value)


def test_empty_extras_have_their_defaults():
    extra = '{"timeout": null, "proxy": "", "max_attempts": null, "verify": null, "ca_bundle": ""}'
    assert settings_from_connection(connection(extra=extra)) == settings_from_connection(connection())


def test_form_has_the_optional_settings_with_their_defaults():
    form = ClientSettings.form_fields()
    assert set(form) == {field.name for field in fields(ClientSettings)} - {"api_key", "base_url"}
    defaults = {name: field["schema"].get("default") for name, field in form.items()}
    assert ClientSettings("key", **defaults) == ClientSettings("key")
