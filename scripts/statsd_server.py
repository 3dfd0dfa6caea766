"""A local statsd server for tests: it keeps the metrics that Airflow sends."""

from __future__ import annotations

import socket
import threading


class StatsdServer:
    """Receives Airflow's metrics."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._lines: list[str] = []
        threading.Thread(target=self._receive, daemon=True).start()

    def values(self, name: str) -> list[str]:
        """The values that were sent for the metric `airflow.<name>`, with their type."""
        start = f"airflow.{name}:"
        return [line.removeprefix(start) for line in list(self._lines) if line.startswith(start)]

    def _receive(self) -> None:
        while True:
            self._lines += self._socket.recv(65536).decode().splitlines()
