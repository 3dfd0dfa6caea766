"""An Airflow connection, read into the settings of a client."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from magichour_provider.client.protocol import DEFAULT_BASE_URL
from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


log = logging.getLogger(__name__)


class ConnectionExtras(BaseModel):
    """The connection's extras. An empty field, as the form saves it, means the default.

    :param timeout: seconds for connecting, sending, and waiting for the next bytes of an answer.
    :param max_attempts: how often a request is sent at most, where sending it again is safe.
    :param requests_per_second: how often a triggerer may look, all jobs of the connection together.
    :param proxy: URL of an HTTP proxy.
    :param verify: whether to check certificates.
    :param ca_bundle: path of a file with the certificate authorities to trust.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    timeout: float = Field(default=60.0, gt=0, le=600)
    max_attempts: int = Field(default=4, ge=1, le=10)
    requests_per_second: float | None = Field(default=None, gt=0, le=10_000, allow_inf_nan=False)
    proxy: str | None = None
    verify: bool = True
    ca_bundle: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value not in (None, "")}
        return data


def settings_from_connection(connection: Connection) -> ClientSettings:
    """Read a connection; ConfigurationError names the connection and the field at fault."""
    conn_id = connection.conn_id
    if not connection.password:
        raise ConfigurationError(f"Connection {conn_id!r} has no password: put the API key there.")
    extras = _extras(connection)
    base_url = _base_url(connection)
    if base_url.startswith("http://") and not _is_loopback(base_url.removeprefix("http://")):
        log.warning("Connection %r sends the API key unencrypted: its host is not https.", conn_id)
    try:
        return ClientSettings(
            api_key=connection.password.strip(),
            base_url=base_url,
            timeout=extras.timeout,
            max_attempts=extras.max_attempts,
            requests_per_second=extras.requests_per_second,
            proxy=extras.proxy,
            verify=extras.verify,
            ca_bundle=extras.ca_bundle,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"Connection {conn_id!r}: {error.what}") from None


def _extras(connection: Connection) -> ConnectionExtras:
    # From the text itself: `extra_dejson` masks its values by a synchronous call, which a trigger must
    # not make.
    try:
        return ConnectionExtras.model_validate_json(connection.extra or "{}")
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'extra'}: "
            f"{'unknown' if fault['type'] == 'extra_forbidden' else fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        known = ", ".join(ConnectionExtras.model_fields)
        raise ConfigurationError(
            f"Connection {connection.conn_id!r} has extras that cannot be used: {faults}. Known are: {known}."
        ) from None


def _base_url(connection: Connection) -> str:
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        return DEFAULT_BASE_URL
    if "://" in host:
        return _with_port(host, connection.port)
    scheme = connection.schema or ("http" if _is_loopback(host) else "https")
    return _with_port(f"{scheme}://{host}", connection.port)


def _with_port(url: str, port: int | None) -> str:
    """The URL with a port, unless it has one; what Airflow's UI makes of an empty port may be 0."""
    parts = urlsplit(url)
    try:
        has_port = parts.port is not None
    except ValueError:  # not a port at all: ClientSettings says so
        return url
    if has_port or not port:
        return url
    return parts._replace(netloc=f"{parts.netloc}:{port}").geturl()


def _is_loopback(host: str) -> bool:
    name = host.split(":")[0]
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
