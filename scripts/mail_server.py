"""A local mail server for tests: it accepts every mail and keeps it.

with MailServer() as mails:
    ...
    (mail,) = mails.to("someone@example.com")
"""

from __future__ import annotations

import email
from asyncio import Server
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class MailServer:
    """SMTP on 127.0.0.1 and a port that the system picks, in a thread, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._received: list[Envelope] = []
        self._controller = _OnAnyPort(self, hostname="127.0.0.1", port=0)

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._controller.stop()

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it, as JSON."""
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
        host, port = self._controller.hostname, self._controller.port
        return {"conn_type": "smtp", "host": host, "port": port, "extra": extra}

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to an address, oldest first."""
        return [_parsed(envelope) for envelope in list(self._received) if address in envelope.rcpt_tos]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep one mail; called by aiosmtpd."""
        self._received.append(envelope)
        return "250 kept"


class _OnAnyPort(Controller):
    def _trigger_server(self) -> None:
        """Set the port before aiosmtpd uses it to check that the server responds."""
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


def _parsed(envelope: Envelope) -> EmailMessage:
    message = email.message_from_bytes(envelope.original_content or b"", policy=default)
    assert isinstance(message, EmailMessage)
    return message
