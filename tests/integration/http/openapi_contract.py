"""Exchanges against the one transcription of Magic Hour's OpenAPI document, read strictly.

Both clients forgive what they read, so that Magic Hour may grow. A test of a client against the sandbox would
not notice if both differed from the API in the same way. Here no field may be unknown or missing, and no
status, enum or format may differ.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator, FormatChecker

SPEC = json.loads(Path(__file__).with_name("openapi-image-to-video.json").read_text())

UPLOAD_URLS = ("POST", "/v1/files/upload-urls")
CREATE = ("POST", "/v1/image-to-video")
GET = ("GET", "/v1/video-projects/{id}")
DELETE = ("DELETE", "/v1/video-projects/{id}")
ACCOUNT = ("GET", "/v1/account")

# jsonschema skips a format whose optional library is not installed, so the three of the document are here.
FORMATS = FormatChecker(formats=())
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
URI = re.compile(r"[A-Za-z][\w+.-]*://[\w.:@%~\[\]-]+([/?#][\w.~:/?#\[\]@!$&'()*+,;=%-]*)?", re.ASCII)
FORMATS.checks("date-time")(lambda value: not isinstance(value, str) or bool(DATE_TIME.fullmatch(value)))
FORMATS.checks("uri")(lambda value: not isinstance(value, str) or bool(URI.fullmatch(value)))
FORMATS.checks("float")(lambda value: not isinstance(value, (int, float)) or math.isfinite(value))


@dataclass(frozen=True)
class Exchange:
    """One request and its answer; header names in lower case."""

    method: str
    path: str
    query: bytes
    sent_headers: Mapping[str, str]
    sent: bytes
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def operation(self) -> tuple[str, str]:
        for template in SPEC["paths"]:
            if re.fullmatch(template.replace("{id}", "[^/]+"), self.path):
                return self.method, template
        return self.method, self.path

    def request_errors(self) -> list[str]:
        operation = described(self.operation)
        if operation is None:
            return [f"{self.method} {self.path} is no operation"]
        errors = [] if self.sent_headers.get("authorization", "").startswith("Bearer ") else ["no Bearer key"]
        errors += ["a query that is no parameter"] if self.query else []
        return errors + body_errors(operation.get("requestBody", {}), self.sent_headers, self.sent)

    def answer_errors(self) -> list[str]:
        answers = (described(self.operation) or {}).get("responses", {})
        if str(self.status) not in answers:
            return [f"{self.status} is no answer of {self.operation}"]
        return body_errors(resolved(answers[str(self.status)]), self.headers, self.body)


def described(operation: tuple[str, str]) -> dict[str, Any] | None:
    return SPEC["paths"].get(operation[1], {}).get(operation[0].lower())


def request_schema(operation: tuple[str, str], *, strict: bool = True) -> dict[str, Any]:
    body = described(operation)["requestBody"]
    return json_schema(body["content"]["application/json"]["schema"], strict=strict)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    return reduce(lambda node, name: node[name], part["$ref"].removeprefix("#/").split("/"), SPEC)


def json_schema(schema: dict[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """An OpenAPI 3.0 schema as JSON Schema; `strict` allows no property beyond those it names."""
    read = dict(resolved(schema))
    if read.pop("nullable", False):
        read["type"] = [read["type"], "null"]
    if "properties" in read:
        read["properties"] = {
            name: json_schema(each, strict=strict) for name, each in read["properties"].items()
        }
        read["additionalProperties"] = not strict
    if "items" in read:
        read["items"] = json_schema(read["items"], strict=strict)
    return read


def body_errors(part: dict[str, Any], headers: Mapping[str, str], body: bytes) -> list[str]:
    if "content" not in part:
        return [f"a body where none belongs: {body[:80]!r}"] if body else []
    if headers.get("content-type") != "application/json":
        return [f"content type {headers.get('content-type')}"]
    try:
        value = json.loads(body, parse_constant=refuse_constant)
    except ValueError as error:
        return [f"not JSON: {error}"]
    schema = json_schema(part["content"]["application/json"]["schema"])
    errors = Draft4Validator(schema, format_checker=FORMATS).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
