from __future__ import annotations

import pytest

from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import ConfigurationError


def test_repr_shows_no_api_key():
    assert "hush" not in repr(ClientSettings("hush", proxy="http://user:hush@proxy"))


@pytest.mark.parametrize("key", ["", "with space", "with\nnewline", "schlüssel"])
def test_invalid_api_key_is_refused_and_not_shown(key):
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings(key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("base_url", ["ftp://host", "host", "", "https://[::1", "https://a\r\nb"])
def test_base_url_must_be_http(base_url):
    with pytest.raises(ConfigurationError, match="host"):
        ClientSettings("key", base_url)


def test_credentials_in_host_and_proxy_are_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings("key", "https://user:hush@host")
    assert "hush" not in str(refused.value)
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings("key", proxy="user:hush@proxy:port")
    assert "hush" not in str(refused.value)


def test_missing_ca_bundle_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no-such"):
        ClientSettings("key", ca_bundle=str(tmp_path / "no-such.pem")).tls()
