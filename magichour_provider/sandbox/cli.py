"""The command `magichour-sandbox`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from magichour_provider.client.pricing import Tier

if TYPE_CHECKING:
    from magichour_provider.sandbox.server import SandboxServer
    from magichour_provider.sandbox.state import Settings

_MISSING = "magichour-sandbox needs its extra: pip install 'airflow-provider-magichour[sandbox]' ({error})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sandbox until SIGINT or SIGTERM. Returns the exit code: 1 where it could not start."""
    arguments = _parser().parse_args(argv)
    try:
        from magichour_provider.sandbox.server import SandboxServer
    except ModuleNotFoundError as error:
        return _fail(_MISSING.format(error=error))
    try:
        settings = _settings(arguments)
    except ValueError as error:
        return _fail(f"magichour-sandbox: --behaviour: {error}")
    storage_port = arguments.storage_port
    if storage_port is None:
        storage_port = arguments.port + 1 if arguments.port else 0
    server = SandboxServer(settings, host=arguments.host, port=arguments.port, storage_port=storage_port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        server.start()
    except OSError as error:
        return _fail(f"magichour-sandbox: cannot start: {error}. For a free port: --port 0")
    _announce(server, settings)
    ended.wait()
    server.stop()
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line asks for. Raises ValueError that names a wrong switch."""
    from magichour_provider.sandbox.behaviour import Behaviour, parse_switches
    from magichour_provider.sandbox.state import Settings

    switches = {"render_seconds": arguments.render_seconds, **parse_switches(arguments.behaviour)}
    return Settings(
        api_keys=tuple(arguments.api_key),
        tier=Tier(arguments.tier),
        credits=arguments.credits,
        quick=arguments.quick,
        behaviour=Behaviour().changed(switches),
        data_dir=arguments.data_dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="magichour-sandbox", description="Magic Hour's image-to-video API on your own machine, free."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=_port, default=8808, help="0: the system chooses; the port is printed")
    add("--storage-port", type=_port, help="port of the storage host (default: port + 1)")
    add("--render-seconds", type=float, default=2.0, help="how long a render takes (default: 2)")
    add("--quick", action="store_true", help="tiny clips, cheap to make")
    add("--api-key", action="append", default=[], metavar="KEY", help="take this key only; repeatable")
    add("--tier", choices=[tier.value for tier in Tier], default=Tier.CREATOR.value)
    add("--credits", type=_not_negative, default=12_000)
    add("--data-dir", type=Path, help="where files are kept (default: temporary, removed at the end)")
    add("--behaviour", action="append", default=[], metavar="KEY=VALUE", help="set a switch; repeatable")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65_535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65534")
    return port


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _announce(server: SandboxServer, settings: Settings) -> None:
    own_keys = bool(settings.api_keys)
    keys = "the ones given" if own_keys else "any, except with invalid, wrong, bad or revoked in it"
    print(
        f"magichour-sandbox listening on {server.url}\n"
        f"  storage   {server.storage_url}\n"
        f"  account   {settings.tier.value}, {settings.credits} credits\n"
        f"  API keys  {keys}\n"
        f"  control   {server.url}/__sandbox__/\n"
        "  Ctrl-C ends it.",
        flush=True,
    )


def _fail(message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
