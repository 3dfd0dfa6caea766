"""The command `magichour-sandbox`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from magichour_provider.client.pricing import Tier


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sandbox until SIGINT or SIGTERM. Raises SystemExit with a message if it cannot start."""
    arguments = _parser().parse_args(argv)
    try:
        from magichour_provider.sandbox import Behaviour, SandboxServer, Settings
        from magichour_provider.sandbox.schemas import validation_message
    except ModuleNotFoundError as error:
        advice = "pip install 'airflow-provider-magichour[sandbox]'"
        raise SystemExit(f"magichour-sandbox: the extra is missing: {advice} ({error})") from None
    switches: dict[str, Any] = {"render_seconds": arguments.render_seconds}
    for pair in arguments.behaviour:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SystemExit(f"magichour-sandbox: --behaviour: {pair!r} is not of the form KEY=VALUE")
        with suppress(ValueError):
            value = json.loads(value)
        switches[key] = value
    if arguments.webhook:
        switches["webhook_url"], switches["webhook_secret"] = arguments.webhook
    try:
        behaviour = Behaviour.model_validate(switches)
    except ValidationError as error:
        raise SystemExit(f"magichour-sandbox: --behaviour: {validation_message(error)}") from None
    keys, tier = tuple(arguments.api_key), Tier(arguments.tier)
    settings = Settings(keys, tier, arguments.credits, arguments.quick, behaviour)
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
        advice = "Use --port 0 for a free port."
        raise SystemExit(f"magichour-sandbox: cannot start: {error}. {advice}") from None
    print(
        f"magichour-sandbox listening on {server.url}\n"
        f"  storage   {server.storage_url}\n"
        f"  account   {tier.value}, {settings.credits} credits\n"
        f"  API keys  {'those given' if keys else 'any without invalid, wrong, bad or revoked in it'}\n"
        f"  control   {server.url}/__sandbox__/state\n"
        "  Press Ctrl-C to stop.",
        flush=True,
    )
    stopped.wait()
    server.stop()
    return 0


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
    add("--webhook", nargs=2, metavar=("URL", "SECRET"), help="send signed webhooks to this URL")
    return parser


if __name__ == "__main__":
    sys.exit(main())
