from __future__ import annotations

import asyncio

import httpx
import pytest

from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.settings import ClientSettings, proxy_for
from magichour_provider.client.sync import MagicHourClient, ProxiedTransport
from magichour_provider.exceptions import ConfigurationError

API = "https://api.example"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


def connect_by_httpx(settings):
    MagicHourClient.from_settings(settings).close()


def connect_by_aiohttp(settings):
    async def connect():
        await (await AsyncMagicHourClient.from_settings(settings)).aclose()

    asyncio.run(connect())


CONNECT = pytest.mark.parametrize("connect", [connect_by_httpx, connect_by_aiohttp])


def test_repr_shows_no_secret():
    assert "hush" not in repr(ClientSettings("hush", proxy="http://user:hush@proxy"))


@pytest.mark.parametrize("key", ["", "with space", "with\nnewline", "schlüssel"])
def test_invalid_api_key_is_refused_and_not_shown(key):
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings(key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize(
    "base_url", ["ftp://host", "host", "", "https://[::1", "https://a\r\nb", "https://http:/a"]
)
def test_base_url_must_be_http(base_url):
    with pytest.raises(ConfigurationError, match="host"):
        ClientSettings("key", base_url)


@pytest.mark.parametrize("given", [{"base_url": "https://user:hush@host"}, {"proxy": "user:hush@proxy:port"}])
def test_credentials_in_host_and_proxy_are_not_shown(given):
    with pytest.raises(ConfigurationError) as refused:
        ClientSettings("key", **given)
    assert "hush" not in str(refused.value)


# --- certificates


@CONNECT
@pytest.mark.parametrize("name", ["ca_bundle", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unreadable_certificates_name_their_setting(connect, name, content, tmp_path, environment):
    path = tmp_path / "no-such-folder" / "file.pem"
    if content is not None:
        if name == "SSLKEYLOGFILE":
            pytest.skip("its content does not matter")
        path = tmp_path / "file.pem"
        path.write_bytes(content)
    extras = {"ca_bundle": str(path)} if name == "ca_bundle" else {}
    if not extras:
        environment(name, str(path))
    with pytest.raises(ConfigurationError, match=name):
        connect(ClientSettings("key", API, **extras))


@CONNECT
def test_certificates_of_the_environment_are_not_read_if_they_are_not_used(connect, environment):
    import certifi

    environment("SSL_CERT_FILE", "/no/such.pem")
    connect(ClientSettings("key", API, ca_bundle=certifi.where()))
    connect(ClientSettings("key", API, verify=False))
    environment("SSL_CERT_FILE", "")
    connect(ClientSettings("key", API))


# --- proxies


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"https_proxy": "http://p:1"}, API, "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, API, "http://p:1"),
        ({"HTTPS_PROXY": "https://u:w@p"}, API, "https://u:w@p"),
        ({"HTTP_PROXY": "http://p:1"}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://api.example", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": ""}, API, "http://p:1"),
        ({"HTTPS_PROXY": ""}, API, None),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "api.example"}, API, None),
        ({"ALL_PROXY": "socks5://a:1", "HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
    ],
)
def test_proxy_of_the_environment(variables, url, proxy, environment):
    for name, value in variables.items():
        environment(name, value)
    assert proxy_for(ClientSettings("key"), url) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("*", "api.example", True),
        ("api.example", "api.example", True),
        ("API.Example", "api.example", True),
        ("example", "api.example", True),
        (".example", "api.example", True),
        ("*.example", "api.example", True),
        ("other, api.example", "api.example", True),
        ("other api.example", "api.example", True),
        ("xample", "api.example", False),
        ("api.example:443", "api.example", True),
        ("api.example:8443", "api.example", False),
        ("api.example:8443", "api.example:8443", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("127.0.0.1:8808", "127.0.0.1:8808", True),
        ("::1", "[::1]:8808", True),
        ("[::1]", "[::1]:8808", True),
        ("[::1]:8808", "[::1]:8808", True),
        ("[::1]:8809", "[::1]:8808", False),
        ("0:0:0:0:0:0:0:1", "[::1]", True),
        ("fd00::/8", "[fd00::5]", True),
        ("fd00::/8", "[fe80::5]", False),
        ("", "api.example", False),
        (" , ", "api.example", False),
        ("[", "api.example", False),
    ],
)
def test_no_proxy(no_proxy, host, is_direct, environment):
    environment("HTTPS_PROXY", "http://p:1")
    environment("NO_PROXY", no_proxy)
    assert (proxy_for(ClientSettings("key"), f"https://{host}/path") is None) == is_direct


UNUSABLE = ["socks5://u:hush@p:1", "socks5h://p:1", "socks://p:1", "ftp://p", "http://", "http://p:port"]
UNUSABLE += ["direct", "DIRECT", "http:/p:1", "http://u:12/hush@p:1", "http://u?hush@p", "u:1#hush@p:1"]
UNUSABLE += ["http://[::1", "http://p :1", "://p", f"http://{'x' * 64}.\u00fc", "http://p:0"]


@CONNECT
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", UNUSABLE)
def test_unusable_proxy_names_its_variable(connect, name, value, environment):
    environment(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name} is ") as refused:
        connect(ClientSettings("key", API))
    assert "hush" not in str(refused.value)
    environment("NO_PROXY", "api.example")
    connect(ClientSettings("key", API))


def test_small_letters_come_first(environment):
    environment("HTTPS_PROXY", "http://p:1")
    environment("https_proxy", "socks5://p:1")
    with pytest.raises(ConfigurationError, match=r"^https_proxy is "):
        proxy_for(ClientSettings("key"), API)


@pytest.mark.parametrize("value", UNUSABLE)
def test_unusable_proxy_of_the_connection_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"^The extra 'proxy' is "):
        ClientSettings("key", API, proxy=value)


def test_proxy_of_the_connection_comes_first(environment):
    environment("HTTPS_PROXY", "socks5://p:1")
    environment("NO_PROXY", "*")
    assert proxy_for(ClientSettings("key", proxy="p:3128"), API) == "http://p:3128"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_each_url_is_sent_through_its_own_proxy(proxy, environment):
    """As for an API within the network, and a storage outside."""
    environment("HTTP_PROXY", proxy)
    environment("HTTPS_PROXY", "socks5://127.0.0.1:9")
    environment("NO_PROXY", "127.0.0.1:10")
    transport = ProxiedTransport(ClientSettings("key", "http://127.0.0.1:10"))
    for url in ("http://127.0.0.1:10/", "http://127.0.0.1:11/"):
        with pytest.raises(httpx.ConnectError):
            transport.handle_request(httpx.Request("GET", url))
    assert set(transport._transports) == {None, proxy}
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
        transport.handle_request(httpx.Request("PUT", "https://storage.example/"))
    transport.close()
