"""Clips made large, or different, without rendering more: `free` boxes of mp4, which players pass over."""

from __future__ import annotations

import shutil
from pathlib import Path

MIN_BOX_BYTES = 8
"""The header alone: length and type (ISO/IEC 14496-12, 4.2)."""
_LARGEST_SHORT = (1 << 32) - 1


def add_free_box(path: Path, size: int, content: bytes = b"") -> None:
    """Append a `free` box of `size` bytes in all, zeros after `content`; sparse on disk."""
    if size > _LARGEST_SHORT:
        header = (1).to_bytes(4, "big") + b"free" + size.to_bytes(8, "big")
    else:
        header = size.to_bytes(4, "big") + b"free"
    with path.open("ab") as file:
        end = file.tell() + size
        file.write(header + content)
        file.truncate(end)


def another_clip(path: Path, target: Path, mark: str) -> None:
    """A playable copy at `target` whose bytes and length are its own, by `mark`."""
    shutil.copyfile(path, target)
    add_free_box(target, MIN_BOX_BYTES + len(mark.encode()), mark.encode())
