"""Print what the Magic Hour SDK of this environment says about the API, as JSON; `check_drift.py` runs it.

A field is named by its operation and path, such as `POST /v1/image-to-video request: style.prompt`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any, TypedDict

TYPES = {
    "POST /v1/image-to-video request": "V1ImageToVideoCreateBody",
    "POST /v1/image-to-video response": "V1ImageToVideoCreateResponse",
    "GET /v1/video-projects/{id} response": "V1VideoProjectsGetResponse",
    "POST /v1/files/upload-urls request": "V1FilesUploadUrlsCreateBody",
    "POST /v1/files/upload-urls response": "V1FilesUploadUrlsCreateResponse",
    "GET /v1/account response": "V1AccountListResponse",
}
"""The operations that the provider uses, and the SDK's types of their bodies."""


class SdkField(TypedDict):
    """One field of a body: `values` are those of an enum, `text` is its description."""

    type: str
    required: bool
    values: list[str]
    text: str


def describe() -> dict[str, SdkField]:
    """All fields of the operations; without those of a type that the SDK does not have."""
    import pydantic

    # The SDK's models inherit this if it is set before they are imported.
    pydantic.BaseModel.model_config["use_attribute_docstrings"] = True
    modules = [importlib.import_module(f"magic_hour.types.{name}") for name in ("params", "models")]
    found: dict[str, SdkField] = {}
    for operation, name in TYPES.items():
        for kind in [getattr(module, name) for module in modules if hasattr(module, name)]:
            if not issubclass(kind, pydantic.BaseModel):
                kind.__pydantic_config__ = pydantic.ConfigDict(use_attribute_docstrings=True)
            schema = pydantic.TypeAdapter(kind).json_schema()
            found |= {f"{operation}: {path}": field for path, field in fields(schema)}
    return found


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, SdkField]]:
    """Path and content of each field below a JSON schema, such as `items[].extension`."""
    yield from _below(schema, schema.get("$defs", {}), "")


def _below(schema: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[tuple[str, SdkField]]:
    for each in _branches(schema, defs):
        if isinstance(each.get("items"), dict):
            yield from _below(each["items"], defs, f"{path}[]")
        for name, child in each.get("properties", {}).items():
            child_path = f"{path}.{name.rstrip('_')}".lstrip(".")
            branches = list(_branches(child, defs))
            values = [value for branch in branches for value in branch.get("enum", _constants(branch))]
            yield (
                child_path,
                {
                    "type": " or ".join(sorted({branch.get("type", "any") for branch in branches})),
                    "required": name in each.get("required", ()),
                    "values": sorted(map(str, values)),
                    "text": child.get("description", ""),
                },
            )
            yield from _below(child, defs, child_path)


def _branches(schema: dict[str, Any], defs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in schema:
        yield from _branches(defs[schema["$ref"].rpartition("/")[2]], defs)
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _branches(branch, defs)
    else:
        yield schema


def _constants(schema: dict[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else []


if __name__ == "__main__":
    print(json.dumps(describe()))
