"""A storage that answers any bytes a test writes, and a client's way to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from magichour_provider.client.models import DownloadUrl
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient

SIGNATURE = "X-Amz-Signature=0123456789abcdefSIGNED"


@dataclass
class Request:
    """What a client has sent: the first line, and headers with lower-case names."""

    line: str
    headers: dict[str, str]
    sock: socket.socket = field(repr=False)

    def start(self) -> int:
        """The byte from which on it asks for the video."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def answer(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        """Send an answer as it is given; nothing is added."""
        head = f"HTTP/1.1 {status} Anything\r\n" + "".join(
            f"{key}: {value}\r\n" for key, value in headers.items()
        )
        self.sock.sendall(head.encode("latin-1") + b"\r\n" + body)

    def reset(self) -> None:
        """Break the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class RawStorage:
    """Gives each request, one to a connection, to `handler`; closes after it."""

    def __init__(self, handler: Callable[[Request], None], tls: ssl.SSLContext | None = None) -> None:
        self._handler, self._tls = handler, tls
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> RawStorage:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes its thread
        self._listener.close()
        for request in self.requests:
            request.sock.close()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/job/output.mp4?{SIGNATURE}"

    def link(self) -> DownloadUrl:
        """A signed link to the video."""
        return DownloadUrl.model_validate({"url": self.url})

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock:
                received = b""
                while b"\r\n\r\n" not in received:
                    chunk = sock.recv(65536)
                    if not chunk:
                        return
                    received += chunk
                line, *rest = received.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
                headers = {
                    key.lower(): value.strip() for key, _, value in (item.partition(":") for item in rest)
                }
                request = Request(line, headers, sock)
                self.requests.append(request)
                self._handler(request)


def client_for(**settings: object) -> MagicHourClient:
    """A client that needs no API."""
    return MagicHourClient.from_settings(ClientSettings(**{"api_key": "mhk_KEY", "timeout": 5.0, **settings}))
