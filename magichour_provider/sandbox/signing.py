"""Signed storage URLs: method, path and expiry under an HMAC that only this sandbox can make."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode


class Signer:
    """Signs storage paths and checks signatures. The same path and expiry give the same URL."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def query(self, method: str, path: str, expires_at: datetime) -> str:
        """The query string that lets `method` reach `path` until `expires_at` (whole seconds)."""
        expires = str(int(expires_at.timestamp()))
        return urlencode({"expires": expires, "signature": self._signature(method, path, expires)})

    def allows(self, method: str, path: str, query: Mapping[str, str], now: datetime) -> bool:
        """Whether `query` is genuine for `method` and `path`, and not expired at `now`."""
        expires = query.get("expires", "")
        expected = self._signature(method, path, expires).encode()
        if not hmac.compare_digest(expected, query.get("signature", "").encode()):
            return False
        return now.timestamp() < int(expires)

    def _signature(self, method: str, path: str, expires: str) -> str:
        text = "\n".join((method, path, expires)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
