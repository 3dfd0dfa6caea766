"""Say what bytes seem to be by how they start, for error messages."""

from __future__ import annotations

SHOWN_BYTES = 16
"""The most of a file's content that a message ever shows."""

# Starts in lower case, as they are compared.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"<html", "a web page"),
    (b"<!doc", "a web page"),
    (b"<?xml", "an XML document"),
    (b"<svg", "an SVG drawing"),
    (b"<", "markup"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"%pdf", "a PDF"),
    (b"gif8", "a GIF"),
    (b"\x89png", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"riff", "a RIFF file"),
    (b"\x1ae\xdf\xa3", "a WebM or Matroska video"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
)


def describe_start(head: bytes) -> str:
    """`starts with '<html>': a web page`, from the first bytes of a file."""
    shown = head[:SHOWN_BYTES]
    text = shown.decode("latin-1")
    is_text = text.isascii() and all(letter.isprintable() or letter.isspace() for letter in text)
    quoted = repr(text) if is_text else f"bytes {shown.hex()}"
    kind = _kind(head)
    return f"starts with {quoted}{f': {kind}' if kind else ''}"


def _kind(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return "an mp4 or a kind of HEIF"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((name for magic, name in _KINDS if start.startswith(magic)), None)
