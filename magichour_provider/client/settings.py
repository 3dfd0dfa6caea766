"""How to reach Magic Hour: what both clients are made from."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.request import getproxies, proxy_bypass

import httpx

from magichour_provider.client.protocol import DEFAULT_BASE_URL, RetryPolicy
from magichour_provider.exceptions import ConfigurationError


@dataclass(frozen=True)
class ClientSettings:
    """How to reach Magic Hour.

    :param timeout: seconds for each of connecting, sending and waiting for an answer's next bytes.
    :param max_attempts: how often a request is sent at most, where sending it again is safe.
    :param requests_per_second: how often the triggerer may look, all jobs of the connection together;
        None: as often as the schedule wants.
    :param proxy: URL of an HTTP proxy; None takes the environment's.
    :param verify: False turns certificate checks off.
    :param ca_bundle: path of a file with the certificate authorities to trust; None: the usual ones.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = 60.0
    max_attempts: int = 4
    requests_per_second: float | None = None
    proxy: str | None = field(default=None, repr=False)
    verify: bool = True
    ca_bundle: str | None = None

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ConfigurationError("The API key is missing.")
        if not (self.api_key.isascii() and self.api_key.isprintable()) or " " in self.api_key:
            raise ConfigurationError("The API key holds a character that no API key has, such as a space.")
        _check_base_url(self.base_url)
        _check_proxy(self.proxy)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When a request that failed is sent again."""
        return RetryPolicy(max_attempts=self.max_attempts)

    def tls(self) -> ssl.SSLContext | bool:
        """How certificates are checked; False: not at all. Takes some 25 ms."""
        if not self.verify:
            return False
        if self.ca_bundle is None:
            return httpx.create_ssl_context()
        try:
            return ssl.create_default_context(cafile=self.ca_bundle)
        except OSError as error:
            raise ConfigurationError(f"The CA bundle {self.ca_bundle!r} cannot be read: {error}.") from error


def _check_base_url(base_url: str) -> None:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ConfigurationError("The host is not a URL.") from None
    if url.userinfo:
        raise ConfigurationError("The host holds a user name or password, which Magic Hour does not use.")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"The host {base_url!r} is not an http(s) URL.")


def _check_proxy(proxy: str | None) -> None:
    try:
        usable = proxy is None or httpx.Proxy(proxy).url.scheme in ("http", "https")
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise ConfigurationError("The proxy is not a URL such as http://proxy.example:3128.")


def proxy_for(settings: ClientSettings, url: str) -> str | None:
    """The proxy by which to reach a URL: the settings', or the environment's as the stdlib reads it.

    Raises ValueError where it is no URL; the error does not show it.
    """
    if settings.proxy is not None:
        return settings.proxy
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("not a URL") from None
    proxies = getproxies()
    if proxy_bypass(target.netloc.decode()):
        return None
    return proxies.get(target.scheme) or proxies.get("all")
