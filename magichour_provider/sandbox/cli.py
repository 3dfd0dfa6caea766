"""The command `magichour-sandbox`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from magichour_provider.client.pricing import Tier

if TYPE_CHECKING:
    from magichour_provider.sandbox import SandboxServer, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sandbox until SIGINT or SIGTERM. Returns the exit code: 1 if it could not start."""
    arguments = _parser().parse_args(argv)
    try:
        from magichour_provider.sandbox import SandboxServer
        from magichour_provider.sandbox.schemas import validation_message
    except ModuleNotFoundError as error:
        return _fail(f"the extra is missing: pip install 'airflow-provider-magichour[sandbox]' ({error})")
    try:
        settings = _settings(arguments)
    except ValueError as error:
        reason = validation_message(error) if isinstance(error, ValidationError) else error
        return _fail(f"--behaviour: {reason}")
    storage_port = arguments.storage_port
    if storage_port is None:
        storage_port = arguments.port and arguments.port + 1
    server = SandboxServer(settings, host=arguments.host, port=arguments.port, storage_port=storage_port)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        server.start()
    except (OSError, OverflowError) as error:
        return _fail(f"cannot start: {error}. Use --port 0 for a free port.")
    _print_addresses(server, settings)
    stopped.wait()
    server.stop()
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the command line. Raises ValueError that names a wrong switch."""
    from magichour_provider.sandbox import Behaviour, Settings

    switches: dict[str, Any] = {"render_seconds": arguments.render_seconds}
    for pair in arguments.behaviour:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not of the form KEY=VALUE")
        switches[key] = json.loads(value) if value[:1].isdigit() or value in ("true", "false") else value
    return Settings(
        api_keys=tuple(arguments.api_key),
        tier=Tier(arguments.tier),
        credits=arguments.credits,
        quick=arguments.quick,
        behaviour=Behaviour().changed(switches),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="magichour-sandbox",
        description="Run Magic Hour's image-to-video API on this machine, at no cost.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=8808, help="port of the API (default: 8808; 0: a free port)")
    add("--storage-port", type=int, help="port of the file storage (default: port + 1)")
    add("--render-seconds", type=float, default=2.0, help="seconds from create to complete (default: 2)")
    add("--quick", action="store_true", help="render tiny videos, which saves CPU")
    add("--api-key", action="append", default=[], metavar="KEY", help="accept only this key; repeatable")
    add("--tier", choices=[tier.value for tier in Tier], default="creator", help="(default: creator)")
    add("--credits", type=int, default=12_000, help="credits of the account (default: 12000)")
    add("--behaviour", action="append", default=[], metavar="KEY=VALUE", help="set a switch; repeatable")
    return parser


def _print_addresses(server: SandboxServer, settings: Settings) -> None:
    keys = "those given" if settings.api_keys else "any without invalid, wrong, bad or revoked in it"
    print(
        f"magichour-sandbox listening on {server.url}\n"
        f"  storage   {server.storage_url}\n"
        f"  account   {settings.tier.value}, {settings.credits} credits\n"
        f"  API keys  {keys}\n"
        f"  control   {server.url}/__sandbox__/state\n"
        "  Press Ctrl-C to stop.",
        flush=True,
    )


def _fail(message: str) -> int:
    print(f"magichour-sandbox: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
