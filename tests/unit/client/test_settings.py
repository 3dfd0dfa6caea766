from __future__ import annotations

import pytest

from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import ConfigurationError


def test_the_key_is_not_in_the_repr():
    assert "hush" not in repr(ClientSettings("hush", proxy="http://user:hush@proxy"))


@pytest.mark.parametrize("key", ["", "with space", "with\nnewline", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key):
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings(key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("base_url", ["ftp://host", "host", "", "https://[::1", "https://a\r\nb"])
def test_a_host_that_is_no_http_url_is_refused(base_url):
    with pytest.raises(ConfigurationError, match="host"):
        ClientSettings("key", base_url)


def test_user_names_in_host_and_proxy_are_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings("key", "https://user:hush@host")
    assert "hush" not in str(refused.value)
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings("key", proxy="user:hush@proxy:port")
    assert "hush" not in str(refused.value)


def test_a_missing_ca_bundle_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no-such"):
        ClientSettings("key", ca_bundle=str(tmp_path / "no-such.pem")).tls()
