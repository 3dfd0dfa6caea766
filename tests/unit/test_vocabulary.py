"""The project uses the usual words: names, strings, comments and pages contain none of the words below."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    "magichour_provider",
    "tests/unit",
    "tests/integration",
    "tests/live",
    "tests/browser",
    "scripts",
    "benchmarks",
    "dags_examples",
    "docs",
)
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".airflow-registry.yaml", "Makefile")
SUFFIXES = {".py", ".md", ".html", ".css", ".js", ".sh", ".yaml"}

NAMES = {
    "agenda": "queue",
    "beat": "interval",
    "board": "store",
    "clip": "video",
    "disown": "invalidate",
    "hub": "scheduler",
    "landed": "downloaded",
    "landing": "download",
    "leftover": "temporary file",
    "look": "poll",
    "looked": "polled",
    "mend": "fix",
    "purchase": "submission",
    "told": "reported",
    "vouch": "confirm",
    "witness": "proof",
}
"""Parts of names that are not used, and the words to use instead. A plural is covered, too."""

SENTENCES = {
    r"(?<!Developer\s)hubs?": "scheduler",
    r"(?<!-)(?<!overflow:\s)clips?(?!-path|:)": "video",
    r"a person": "a user",
    r"agendas?": "queue",
    r"anew": "again",
    r"anybody|nobody|whoever|whatever": "each user, no user",
    r"boards?": "store",
    r"disown(s|ed)?": "invalidate",
    r"for nothing": "at no cost",
    r"go(es|ing)? on|went on": "continue, keep running",
    r"land(s|ed|ing)?": "download, publish",
    r"left ?-?overs?": "temporary file",
    r"look(s|ed|ing)?(?! (like|up|for|into)\b|-)": "poll, read, search",
    r"mend(s|ed|ing)?": "fix",
    r"purchase[sd]?": "submit",
    r"(take[sn]?|took|taking)( (it|them|this|that|a|the)( \w+)?)? up": "re-attach, resume",
    r"told": "reported",
    r"vouch(es|ed)?": "confirm",
    r"witness(es|ed)?": "proof",
}
"""Expressions that are not used in sentences, and the words to use instead."""

WORDS = [words.replace(" ", r"\s+") for words in SENTENCES]
SENTENCE = re.compile("|".join(rf"(?P<w{n}>\b({words})\b)" for n, words in enumerate(WORDS)), re.IGNORECASE)
COMPOUND = re.compile(r"\b(?!GitHub\b)[A-Za-z]+(?:_+[A-Za-z0-9]+|[a-z][A-Z][A-Za-z0-9]*)\w*")
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
PROSE = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

Found = Iterator[tuple[int, str]]
"""Lines, from 0, and what to write in place of what."""


def in_name(name: str) -> Found:
    for part in PART.findall(name):
        word = part.lower()
        if better := NAMES.get(word) or NAMES.get(word.removesuffix("s")):
            yield 0, f"{name} -> {better}"


def in_prose(text: str) -> Found:
    for match in SENTENCE.finditer(text):
        number = int(next(name for name in match.groupdict() if name and match[name])[1:])
        line = text.count("\n", 0, match.start())
        yield line, f"{' '.join(match[0].split())} -> {list(SENTENCES.values())[number]}"
    for match in COMPOUND.finditer(text):
        line = text.count("\n", 0, match.start())
        yield from ((line, message) for _, message in in_name(match[0]))


def in_python(text: str) -> Found:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        find = in_name if token.type == tokenize.NAME else in_prose if token.type in PROSE else None
        for line, message in find(token.string) if find else ():
            yield token.start[0] - 1 + line, message


def offences(path: Path) -> list[str]:
    text = path.read_text()
    if path.name == "CHANGELOG.md":
        text = text.partition("\n### Renamed")[0]  # behind it are the table of old names and the history
    found = {(0, f"file name: {message}") for _, message in in_name(path.stem)}
    found |= set(in_python(text) if path.suffix == ".py" else in_prose(text))
    return [f"{path.relative_to(ROOT)}:{line + 1}: {message}" for line, message in sorted(found)]


@pytest.mark.parametrize("place", [*PLACES, ""], ids=lambda place: place or "root")
def test_forbidden_words_are_not_used(place):
    paths = sorted((ROOT / place).rglob("*")) if place else [ROOT / name for name in PAGES]
    ours = [path for path in paths if path.suffix in SUFFIXES or not place]
    found = [
        line
        for path in ours
        if path != Path(__file__) and "_build" not in path.parts
        for line in offences(path)
    ]
    assert not found, f"{len(found)} lines:\n" + "\n".join(found)


def test_forbidden_words_are_found(tmp_path):
    code = 'class ClipHub:\n    """Takes the job\n    up, anew."""\n    told = 1  # landed, see clip_id\n'
    assert [line for line, _ in in_python(code)] == [0, 0, 1, 2, 3, 3, 3]
    assert list(in_prose("It looks like a look-up on GitHub, clip-path: none; was_told.")) == [
        (0, "was_told -> reported")
    ]
