"""Names for the clips in a folder, made of what is known of their project, and safe in any folder.

Ids and names come from outside: what could leave the folder, hide the file or break a shell is replaced.
"""

from __future__ import annotations

import hashlib
import re
from string import Formatter

DEFAULT_FILE_NAME = "{project_id}.mp4"
FIELDS = ("project_id", "name", "index")
"""What a template may name: the project's id, its name in the library, and the clip's number, from 1 on."""

_MAX_ID_CHARS = 120
_MAX_NAME_BYTES = 80
_MAX_FILE_BYTES = 250


def check_file_name(template: str) -> list[str]:
    """The fields in `template`. Raises ValueError unless it can name clips apart, as `{project_id}` does."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"file_name {template!r} cannot be read: {error}.") from None
    fields = [field for _, field, _, _ in parts if field is not None]
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown or any(spec or conversion for _, _, spec, conversion in parts):
        allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise ValueError(f"file_name {template!r} may hold only plain text and {allowed}.")
    if "project_id" not in fields:
        raise ValueError(f"file_name {template!r} has no {{project_id}} in it, which keeps clips apart.")
    if re.search(r"[/\\\0]", template) or template.startswith("."):
        raise ValueError(f"file_name {template!r} must name a file: no slash, and no dot at its start.")
    return fields


def video_file_name(
    project_id: str, *, template: str = DEFAULT_FILE_NAME, name: str | None = None, index: int = 1
) -> str:
    """The file name of a project's clip. `index`: which one of its clips, from 1 on.

    The second and later ones get their number before the extension where the template does not name it.
    Raises ValueError for a template that `check_file_name` refuses, or a name that gets too long.
    """
    fields = check_file_name(template)
    made = template.format(project_id=safe_id(project_id), name=_safe_name(name), index=index)
    made = re.sub(r"^[.-]", "_", made)
    if len(made.encode()) > _MAX_FILE_BYTES:
        raise ValueError(f"file_name {template!r} gives a name of more than {_MAX_FILE_BYTES} bytes.")
    return made if "index" in fields else numbered(made, index)


def numbered(file_name: str, index: int) -> str:
    """`clip.mp4`, `clip-2.mp4`, `clip-3.mp4`, ..."""
    if index == 1:
        return file_name
    stem, dot, extension = file_name.rpartition(".")
    return f"{stem}-{index}{dot}{extension}" if stem else f"{file_name}-{index}"


def safe_id(project_id: str) -> str:
    """The id, where it is safe; else what is safe of it, and a hash, which keeps different ids apart."""
    if not project_id:
        raise ValueError("there is no project id to name the clip after.")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", project_id)[:_MAX_ID_CHARS]
    safe = re.sub(r"^[.-]", "_", safe)
    if safe == project_id:
        return safe
    return f"{safe}-{hashlib.sha256(project_id.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _safe_name(name: str | None) -> str:
    """Letters and digits of any script, `.`, `_` and `-`."""
    safe = re.sub(r"[^\w.-]+", "_", name or "").strip("_.")
    return safe.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") or "clip"
