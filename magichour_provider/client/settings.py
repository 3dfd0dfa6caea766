"""`ClientSettings`: how to reach Magic Hour. Importing it loads no HTTP library.

Its optional fields are the extras of the Airflow connection. Each is declared once, with its place in the
connection form: the provider info reads the form from here, the connection its checks.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from magichour_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from magichour_provider.client.protocol import RetryPolicy

DEFAULT_BASE_URL = "https://api.magichour.ai"


def _extra(default: Any, type_name: str, label: str, description: str, **limits: float) -> Any:
    """A connection extra: its default, JSON type and limits, and how the connection form shows it."""
    schema: dict[str, Any] = {"type": [type_name, "null"], **limits}
    if default is not None:
        schema["default"] = default
    form_field = {"label": label, "schema": schema, "description": description}
    return field(default=default, repr=label != "Proxy", metadata={"form_field": form_field})


@dataclass(frozen=True)
class ClientSettings:
    """How to reach Magic Hour. Raises ConfigurationError for values that cannot be used.

    :param timeout: seconds for each of connecting, sending and waiting for the next bytes of an answer.
    :param max_attempts: how often a request is sent at most, if sending it again is safe.
    :param requests_per_second: how often the triggerer polls at most, all jobs of the connection together;
        None for no limit.
    :param proxy: URL of an HTTP proxy; None uses the environment's.
    :param verify: False turns certificate checks off.
    :param ca_bundle: path of a file with the certificate authorities to trust; None uses the usual ones.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = _extra(
        60,
        "integer",
        "Timeout (seconds)",
        "For connecting, for sending, and for waiting for the next bytes of an answer.",
        exclusiveMinimum=0,
        maximum=600,
    )
    max_attempts: int = _extra(
        4,
        "integer",
        "Attempts",
        "How often a request is sent at most, if sending it again is safe.",
        minimum=1,
        maximum=10,
    )
    requests_per_second: float | None = _extra(
        None,
        "number",
        "Polls per second",
        "How often a triggerer polls at most, all jobs together; empty for no limit.",
        exclusiveMinimum=0,
        maximum=10_000,
    )
    proxy: str | None = _extra(None, "string", "Proxy", "URL of an HTTP proxy; empty uses the environment's.")
    verify: bool = _extra(
        True, "boolean", "Check certificates", "Leave this on, except against a test server."
    )
    ca_bundle: str | None = _extra(
        None,
        "string",
        "CA bundle",
        "File with the certificate authorities to trust; empty uses the usual ones.",
    )

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ConfigurationError("The API key is missing.")
        if not (self.api_key.isascii() and self.api_key.isprintable()) or " " in self.api_key:
            raise ConfigurationError("The API key has a character that no API key has, such as a space.")
        _check_base_url(self.base_url)
        _check_proxy(self.proxy)

    @classmethod
    def form_fields(cls) -> dict[str, dict[str, Any]]:
        """Label, JSON schema and description of each connection extra, by its name."""
        return {each.name: each.metadata["form_field"] for each in fields(cls) if each.metadata}

    @property
    def retry_policy(self) -> RetryPolicy:
        """When a request that failed is sent again."""
        from magichour_provider.client.protocol import RetryPolicy

        return RetryPolicy(max_attempts=self.max_attempts)

    def tls(self) -> ssl.SSLContext | bool:
        """How certificates are checked; False for not at all. Takes some 25 ms."""
        import httpx

        if not self.verify:
            return False
        if self.ca_bundle is None:
            return httpx.create_ssl_context()
        try:
            return ssl.create_default_context(cafile=self.ca_bundle)
        except OSError as error:
            raise ConfigurationError(f"The CA bundle {self.ca_bundle!r} cannot be read: {error}.") from error


def _check_base_url(base_url: str) -> None:
    import httpx

    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ConfigurationError("The host is not a URL.") from None
    if url.userinfo:
        raise ConfigurationError("The host has a user name or password, which Magic Hour does not use.")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"The host {base_url!r} is not an http(s) URL.")


def _check_proxy(proxy: str | None) -> None:
    import httpx

    try:
        usable = proxy is None or httpx.Proxy(proxy).url.scheme in ("http", "https")
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise ConfigurationError("The proxy is not a URL such as http://proxy.example:3128.")


def proxy_for(settings: ClientSettings, url: str) -> str | None:
    """The proxy for a URL: the settings', or the environment's as the standard library reads it.

    Raises ValueError, without the URL, if it cannot be read.
    """
    if settings.proxy is not None:
        return settings.proxy
    try:
        target = urlsplit(url)
    except ValueError:
        raise ValueError("not a URL") from None
    proxies = getproxies()
    if proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    return proxies.get(target.scheme) or proxies.get("all")
