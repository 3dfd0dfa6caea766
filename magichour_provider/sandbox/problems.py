"""Refusals of the API origin, in either of the two documented body shapes."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from magichour_provider.sandbox.behaviour import Behaviour

CODES = {
    400: "invalid_request",
    401: "unauthorized",
    402: "insufficient_credits",
    403: "forbidden",
    404: "not_found",
    422: "unprocessable_entity",
    429: "too_many_requests",
    500: "internal_server_error",
}
"""`code` by status. 403 and 429 are in no specification; their codes are made up here."""


class Problem(Exception):
    """An error answer: HTTP status, machine code (None: the status's usual one) and message."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.message = message
        self.code = code or CODES.get(status, f"http_{status}")
        super().__init__(message)

    def response(self, behaviour: Behaviour) -> JSONResponse:
        """The answer, in the shape that `behaviour` asks for."""
        body = {"message": self.message}
        if behaviour.error_shape == "code":
            body = {"code": self.code, **body}
        return JSONResponse(body, self.status)


def unauthorized() -> Problem:
    """401: no key, or not one that counts."""
    return Problem(401, "Unauthorized")


def not_found() -> Problem:
    """404: no such route or project."""
    return Problem(404, "Not Found")
