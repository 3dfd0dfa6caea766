"""`ClientSettings`: how to reach Magic Hour. Importing it loads no HTTP library.

Its optional fields are the extras of the Airflow connection. Each is declared once, with its place in the
connection form: the provider info reads the form from here, the connection its checks.
"""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field, fields
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from magichour_provider.exceptions import ConfigurationError

DEFAULT_BASE_URL = "https://api.magichour.ai"

_TIMEOUT = "For connecting, for sending, and for waiting for the next bytes of an answer."
_ATTEMPTS = "How often a request is sent at most, if sending it again is safe."
_POLLS = "How often a triggerer polls at most, all jobs together; empty for no limit."
_WEBHOOK = "Of Magic Hour's webhook for this Airflow; two, with a blank between them, while you change it."
_CA_BUNDLE = "File with the certificate authorities to trust; empty uses the usual ones."


def _extra(default: Any, type_name: str, label: str, description: str, **more: float | str) -> Any:
    """A connection extra: its default, JSON type, limits and format, and how the connection form shows it."""
    schema: dict[str, Any] = {"type": [type_name, "null"], **more}
    if default is not None:
        schema["default"] = default
    form_field = {"label": label, "schema": schema, "description": description}
    return field(
        default=default, repr=label not in ("Proxy", "Webhook secret"), metadata={"form_field": form_field}
    )


@dataclass(frozen=True)
class ClientSettings:
    """How to reach Magic Hour. Raises ConfigurationError for values that cannot be used.

    The optional fields are the connection's extras; their descriptions are those of its form.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = _extra(60, "integer", "Timeout (seconds)", _TIMEOUT, exclusiveMinimum=0, maximum=600)
    max_attempts: int = _extra(4, "integer", "Attempts", _ATTEMPTS, minimum=1, maximum=10)
    requests_per_second: float | None = _extra(
        None, "number", "Polls per second", _POLLS, exclusiveMinimum=0, maximum=10_000
    )
    proxy: str | None = _extra(None, "string", "Proxy", "URL of an HTTP proxy; empty uses the environment's.")
    verify: bool = _extra(
        True, "boolean", "Check certificates", "Leave this on, except against a test server."
    )
    ca_bundle: str | None = _extra(None, "string", "CA bundle", _CA_BUNDLE)
    webhook_secret: str | None = _extra(None, "string", "Webhook secret", _WEBHOOK, format="password")

    def __post_init__(self) -> None:
        import httpx

        if not self.api_key:
            raise ConfigurationError("The API key is missing.")
        if not (self.api_key.isascii() and self.api_key.isprintable()) or " " in self.api_key:
            raise ConfigurationError("The API key has a character that no API key has, such as a space.")
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL:
            raise ConfigurationError("The host is not a URL.") from None
        if url.userinfo:
            raise ConfigurationError("The host has a user name or password, which Magic Hour does not use.")
        is_http = url.scheme in ("http", "https") and url.host and (url.port is None or 0 < url.port < 65536)
        if not is_http or re.search(r"\s|//https?:", self.base_url):
            raise ConfigurationError(f"The host {self.base_url!r} is not an http(s) URL.")
        if "?" in self.base_url or "#" in self.base_url:  # the path of each request is appended
            what = "The host has a query or a fragment: remove it from the first ? or # on."
            raise ConfigurationError(what)
        if self.proxy is not None:
            _check_proxy(self.proxy, "The extra 'proxy'")

    @classmethod
    def form_fields(cls) -> dict[str, dict[str, Any]]:
        """Label, JSON schema and description of each connection extra, by its name."""
        return {each.name: each.metadata["form_field"] for each in fields(cls) if each.metadata}

    def tls(self) -> ssl.SSLContext:
        """How certificates are checked. Takes some 25 ms.

        The authorities are those of `ca_bundle`, else of the environment's SSL_CERT_FILE or SSL_CERT_DIR,
        else certifi's. Raises ConfigurationError, with the name of the setting, if they cannot be loaded.
        """
        import httpx

        if not self.verify:
            return httpx.create_ssl_context(verify=False, trust_env=False)
        sources = {"ca_bundle": self.ca_bundle}
        sources |= {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        name, path = next(((name, path) for name, path in sources.items() if path), ("certifi", None))
        try:
            if path is None:
                return httpx.create_ssl_context(trust_env=False)
            if name != "SSL_CERT_DIR":
                return ssl.create_default_context(cafile=path)
            if not any(map(os.path.isdir, path.split(os.pathsep))):  # which OpenSSL does not check
                raise NotADirectoryError("no such folder")
            return ssl.create_default_context(capath=path)
        except (OSError, ValueError) as error:
            source, key_log = name if path is None else f"{name}={path!r}", os.environ.get("SSLKEYLOGFILE")
            also = f", or SSLKEYLOGFILE={key_log!r} cannot be opened" if key_log else ""
            raise ConfigurationError(
                f"The certificate authorities of {source} cannot be loaded ({error}){also}.",
                remedy="Correct this setting of the connection or of the environment, then clear the task.",
            ) from None


# Proxies. Both clients ask `proxy_for`, so that they read the environment alike.


def proxy_for(settings: ClientSettings, url: str) -> str | None:
    """The proxy for a URL: the settings', or the environment's as the standard library reads it.

    Raises ConfigurationError, with the name of the variable and without a password, for a proxy that cannot
    be used; ValueError, without the URL, if that cannot be read.
    """
    if settings.proxy is not None:
        return _check_proxy(settings.proxy, "The extra 'proxy'")
    try:
        target = urlsplit(url)
        port = target.port or {"http": 80, "https": 443}.get(target.scheme)
    except ValueError:
        raise ValueError("not a URL") from None
    proxies = getproxies()
    kind = target.scheme if proxies.get(target.scheme) else "all"
    host = target.hostname or ""
    if not proxies.get(kind) or _is_in_no_proxy(host, port, proxies.get("no", "")) or proxy_bypass(host):
        return None
    variables = (name for name, value in os.environ.items() if value == proxies[kind])
    name = next((name for name in variables if name.lower() == f"{kind}_proxy"), "The system's proxy")
    return _check_proxy(proxies[kind], name)


def _is_in_no_proxy(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY has the host: as `*`, its name or domain, address or network, with or without port."""
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    for entry in re.split(r"[\s,]+", no_proxy.strip().lower()):
        match = re.fullmatch(r"\[(.*)\](?::(\d+))?|([^:]*):(\d+)|(.+)", entry)
        if match is None or int(match[2] or match[4] or port or 0) != (port or 0):
            continue
        name = match[1] or match[3] or match[5] or ""
        domain = name.lstrip("*.")
        if name == "*" or (domain and f".{host}".endswith(f".{domain}")):
            return True
        with suppress(ValueError):
            if address is not None and address in ip_network(name, strict=False):
                return True
    return False


def _check_proxy(proxy: str, source: str) -> str:
    """The proxy's URL; `http://` may be missing. Raises ConfigurationError, without the proxy's password."""
    import httpx

    url, kind = proxy if "://" in proxy else f"http://{proxy}", ""
    try:
        parts = urlsplit(url)
        is_host = parts.hostname and parts.port != 0 and parts.hostname not in ("direct", "http", "https")
        # An @ after the host: a user name or password has a / or # that is not escaped.
        if (
            is_host
            and "@" not in parts.path + parts.query + parts.fragment
            and not re.search(r"[\s\0-\x1f]", url)
        ):
            kind = parts.scheme
        if kind in ("http", "https"):
            httpx.Proxy(url)  # which reads the host name
            return url
    except (ValueError, httpx.InvalidURL):
        kind = ""
    what = f"is a {kind} proxy" if kind else "is not a URL such as http://proxy.example:3128"
    raise ConfigurationError(
        f"{source} {what}; only http proxies can be used.",
        remedy="Set an http proxy, or except the host by NO_PROXY, then clear the task.",
    )


def mask_proxy(proxy: str) -> str:
    """Scheme, host and port of a proxy's URL."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
