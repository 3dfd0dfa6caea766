"""An Airflow connection as `ClientSettings`."""

from __future__ import annotations

import json
import logging
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, get_type_hints
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from magichour_provider.client.settings import DEFAULT_BASE_URL, ClientSettings
from magichour_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)


def settings_from_connection(connection: Connection) -> ClientSettings:
    """Read a connection: password is the API key, host the base URL, the extras are optional.

    Raises ConfigurationError with the names of the connection and the field.
    """
    conn_id = connection.conn_id
    if not connection.password:
        raise ConfigurationError(f"Connection {conn_id!r} has no password: put the API key there.")
    base_url = _base_url(connection)
    if base_url.startswith("http://") and not _is_loopback(base_url.removeprefix("http://")):
        log.warning("Connection %r sends the API key unencrypted: its host is not https.", conn_id)
    extras = _parse_extras(connection)
    try:
        return ClientSettings(api_key=connection.password.strip(), base_url=base_url, **extras)
    except ConfigurationError as error:
        raise ConfigurationError(f"Connection {conn_id!r}: {error.what}") from None


def _parse_extras(connection: Connection) -> dict[str, Any]:
    # From the text: `extra_dejson` masks its values by a synchronous call, which a trigger must not make.
    try:
        given = json.loads(connection.extra or "{}")
        # The form saves an empty field as null or "".
        values = {name: value for name, value in given.items() if value not in (None, "")}
        return _extras_model().model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: "
            f"{'unknown' if fault['type'] == 'extra_forbidden' else fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
    except (ValueError, AttributeError, RecursionError):
        faults = "they are not a JSON object"
    known = ", ".join(ClientSettings.form_fields())
    raise ConfigurationError(
        f"Connection {connection.conn_id!r} has extras that cannot be used: {faults}. Known are: {known}."
    )


@cache
def _extras_model() -> type[BaseModel]:
    """The extras with their types and limits, as `ClientSettings` declares them."""
    hints = get_type_hints(ClientSettings)
    limit_names = {"minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le"}
    extras: dict[str, Any] = {}
    for name, form_field in ClientSettings.form_fields().items():
        schema = form_field["schema"]
        limits = {ours: schema[key] for key, ours in limit_names.items() if key in schema}
        extras[name] = (hints[name], Field(default=None, **limits))  # unset values are not read
    config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    model: type[BaseModel] = create_model("ConnectionExtras", __config__=config, **extras)
    return model


def _base_url(connection: Connection) -> str:
    scheme, _, address = (connection.host or "").strip().rpartition("://")
    # Magic Hour's pages show the API's address with the version, which the path of each request has, too.
    address = address.rstrip("/").removesuffix("/v1")
    if not scheme and not address:
        return DEFAULT_BASE_URL
    scheme = scheme or connection.schema or ("http" if _is_loopback(address) else "https")
    url = f"{scheme}://{address}"
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None
    except ValueError:  # no URL: ClientSettings refuses it
        return url
    if has_port or not connection.port:  # Airflow's UI may save an empty port as 0
        return url
    return parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
