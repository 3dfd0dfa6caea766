"""Say what changed at Magic Hour and in Airflow since this package was last brought up to date.

    make drift                    # the newest SDK of Magic Hour, and the newest Airflow
    make drift DRIFT_ARGS=--pre   # pre-releases too

Each is installed into an environment that is removed afterwards, and compared with the development
environment and with the package: `describe_sdk.py` and `describe_airflow.py` read both. Exit status 0: no
change; 1: changes, each with the file to edit; 2: it could not compare.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from describe_airflow import Found
from describe_sdk import SdkField, fields
from pydantic import BaseModel

from magichour_provider.client.models import (
    Account,
    CreatedJob,
    ImageToVideoRequest,
    JobStatus,
    UploadTargets,
    VideoProject,
)
from magichour_provider.client.pricing import (
    AUDIO_ALIASES,
    DEFAULT_MODEL,
    MODELS,
    RESOLUTIONS,
    Audio,
    EndImage,
    ModelSpec,
    Tier,
    format_durations,
)
from magichour_provider.client.protocol import create_upload_targets

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
CATALOG = "magichour_provider/client/models.json"
PRICING = "magichour_provider/client/pricing.py"
BODIES = "magichour_provider/client/models.py and sandbox/"
CODES = "magichour_provider/polling/outcome.py"

CREATE = "POST /v1/image-to-video request: "
GET = "GET /v1/video-projects/{id} response: "
UPLOAD = "POST /v1/files/upload-urls "
ACCOUNT = "GET /v1/account response: "
FILES = {
    **dict.fromkeys(
        (
            f"{CREATE}{name}"
            for name in ("model", "end_seconds", "resolution", "audio", "assets.end_image_file_path")
        ),
        CATALOG,
    ),
    f"{ACCOUNT}tier": PRICING,
    f"{UPLOAD}request: items[].extension": PRICING,
    f"{GET}error.code": CODES,
}
"""The file to edit if a field changes; `BODIES` for any other."""
KNOWN_VALUES: Mapping[str, set[str]] = {
    f"{CREATE}model": {DEFAULT_MODEL, *MODELS, *AUDIO_ALIASES},
    f"{CREATE}resolution": set(RESOLUTIONS),
    f"{GET}status": {status.value for status in JobStatus},
    f"{ACCOUNT}tier": {tier.value for tier in Tier},
}
_AUDIO = {
    "not supported": Audio.NO,
    "toggle-able: no additional credits for audio": Audio.FREE,
    "toggle-able: audio adds extra credits when enabled": Audio.EXTRA,
}
_MODEL_LINE = re.compile(r"^\* \*\*`(?P<model>[^`]+)`\*\*: (?P<text>.+)$", re.MULTILINE)

Sdk = Mapping[str, SdkField]


class CannotCompareError(Exception):
    """What was to be compared could not be installed or read."""


@dataclass(frozen=True)
class Finding:
    """A change, and the file to edit; a note needs no edit and does not count as drift."""

    file: str
    text: str
    is_note: bool = False


# Magic Hour -----------------------------------------------------------------------------------------


def compare_sdks(known: Sdk, newest: Sdk) -> Iterator[Finding]:
    """What the newest SDK says otherwise than the SDK of the development environment, or than the package."""
    sent, read = sent_fields(), read_fields()
    gone = [name for name in sorted({*known, *sent, *read}) if name not in newest]
    added = [name for name in newest if name not in known]
    for name in gone:
        use = "; the package sends it" if name in sent else "; the package reads it" if name in read else ""
        renamed = [each for each in added if _has_same_meaning(name, each, known, newest)]
        if renamed:
            added.remove(renamed[0])
            yield Finding(_file(name), f"{name} is now called {renamed[0].partition(': ')[2]}{use}")
        else:
            yield Finding(_file(name), f"{name} is gone{use}")
    for name in added:
        kind = f"{'required ' if newest[name]['required'] else ''}{newest[name]['type']}"
        yield Finding(_file(name), f"{name} is new ({kind}): {newest[name]['text'] or 'no description'}")
    for name in [name for name in newest if name in known]:
        for key in ("type", "required"):
            before, now = known[name][key], newest[name][key]
            if before != now:
                yield Finding(_file(name), f"{name}: {key} is {now}, was {before}")
        yield from (Finding(_file(name), f"{name}: {line}") for line in _new_words(known[name], newest[name]))
    for name, field in newest.items():
        known_values = known[name]["values"] if name in known else []
        ours = KNOWN_VALUES.get(name, set(known_values))
        yield from (
            Finding(_file(name), f"{name}: {each!r} is new") for each in sorted({*field["values"]} - ours)
        )
        gone_values = sorted({*known_values} - {*field["values"]})
        yield from (Finding(_file(name), f"{name}: {each!r} is gone") for each in gone_values)
    for name in newest:
        if name.partition(": ")[0].endswith("request") and newest[name]["required"] and name not in sent:
            yield Finding(_file(name), f"{name} is required, and the package does not send it")
    yield from compare_models(known, newest)


def sent_fields() -> set[str]:
    """The fields of requests that the package fills in."""
    paths = {"image_file_path": "a", "end_image_file_path": "b"}
    video = ImageToVideoRequest(
        **paths, end_seconds=3, prompt="a", model="a", resolution="a", audio=True, name="a"
    )
    assert video.model_fields_set == set(ImageToVideoRequest.model_fields)
    upload = create_upload_targets(["png"]).json or {}
    return {f"{CREATE}{path}" for path in _paths(video.body())} | {
        f"{UPLOAD}request: {path}" for path in _paths(upload)
    }


def read_fields() -> set[str]:
    """The fields of responses that the package reads."""
    readers: Mapping[str, type[BaseModel]] = {
        "POST /v1/image-to-video response: ": CreatedJob,
        GET: VideoProject,
        f"{UPLOAD}response: ": UploadTargets,
        ACCOUNT: Account,
    }
    return {f"{name}{path}" for name, kind in readers.items() for path, _ in fields(kind.model_json_schema())}


def compare_models(known: Sdk, newest: Sdk) -> Iterator[Finding]:
    """Models whose description in the SDK differs from their newest version in the catalogue."""
    described = _described(newest)
    for model in _described(known):
        if model not in described:
            yield Finding(CATALOG, f"model {model!r} is no longer described; the catalogue keeps it")
    for model, texts in described.items():
        latest = MODELS[model][-1] if model in MODELS else None
        try:
            spec = _spec(texts, latest)
        except (KeyError, ValueError) as error:
            yield Finding(CATALOG, f"model {model!r}: its description cannot be read ({error}): {texts}")
            continue
        if latest is not None and spec.model_copy(update={"source": latest.source}) == latest:
            continue
        changes = [
            f"{name} {_shown(getattr(spec, name))}"
            + (f", was {_shown(getattr(latest, name))}" if latest else "")
            for name in ("durations", "resolutions", "audio", "end_image")
            if latest is None or getattr(spec, name) != getattr(latest, name)
        ]
        yield Finding(CATALOG, f"model {model!r}: {'; '.join(changes)}. Add this version: {_entry(spec)}")


def _has_same_meaning(gone: str, added: str, known: Sdk, newest: Sdk) -> bool:
    if gone not in known or gone.rpartition(".")[0] != added.rpartition(".")[0]:
        return False
    return gone.partition(": ")[0] == added.partition(": ")[0] and known[gone] == newest[added]


def _file(name: str) -> str:
    return FILES.get(name, BODIES)


def _paths(body: Any, path: str = "") -> Iterator[str]:
    if isinstance(body, dict):
        for name, value in body.items():
            child = f"{path}.{name}".lstrip(".")
            yield child
            yield from _paths(value, child)
    elif isinstance(body, list):
        for each in body:
            yield from _paths(each, f"{path}[]")


def _new_words(known: SdkField, newest: SdkField) -> Iterator[str]:
    """The lines that differ between two descriptions, without those of models, which are read as data."""
    before, now = (_MODEL_LINE.sub("", field["text"]).splitlines() for field in (known, newest))
    for line in difflib.ndiff(before, now):
        if line[0] in "+-" and line[1:].strip():
            yield f"the description now {'says' if line[0] == '+' else 'lacks'}: {line[1:].strip()}"


def _described(sdk: Sdk) -> dict[str, dict[str, str]]:
    """What the SDK says of each model, by the name of the field in which it says so."""
    models: dict[str, dict[str, str]] = {}
    for name in ("end_seconds", "resolution", "audio", "assets.end_image_file_path"):
        for match in _MODEL_LINE.finditer(sdk.get(f"{CREATE}{name}", {"text": ""})["text"]):
            models.setdefault(match["model"], {})[name] = match["text"].strip()
    return models


def _spec(texts: Mapping[str, str], latest: ModelSpec | None) -> ModelSpec:
    """The entry of a model by its description; ratios and rates, which the SDK lacks, as in `latest`."""
    seconds = re.sub(r"any integer from (\d+) to (\d+)", r"\1-\2", texts["end_seconds"]).rstrip(".")
    end_image = texts.get("assets.end_image_file_path", "Not supported").rstrip(".")
    limit = re.search(r"\. Requires a duration of (\d+) seconds or less$", end_image)
    entry: dict[str, Any] = {
        "source": f"{datetime.now(timezone.utc):%B %Y}",
        "seconds": seconds,
        "resolutions": _resolutions(texts["resolution"].rstrip(".")),
        "audio": _AUDIO[texts.get("audio", "Not supported").rstrip(".").lower()],
        "credits_per_second": latest.rates if latest else {},
        "aspect_ratios": latest.aspect_ratios if latest else (),
    }
    if end_image != "Not supported":
        entry["end_image"] = {"resolutions": _resolutions(end_image[: limit and limit.start()])}
        entry["end_image"] |= {"max_seconds": int(limit[1])} if limit else {}
    return ModelSpec.model_validate(entry)


def _resolutions(text: str) -> tuple[str, ...]:
    match = re.fullmatch(r"Supports ((?:\d+[pk](?:, )?)+)", text)
    if match is None:
        raise ValueError(f"no resolutions in {text!r}")
    return tuple(match[1].split(", "))


def _shown(value: Any) -> str:
    if isinstance(value, Audio):
        return value.value
    if isinstance(value, EndImage):
        return f"{', '.join(value.resolutions)} up to {value.max_seconds} s"
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return format_durations(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _entry(spec: ModelSpec) -> str:
    entry = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps({**entry, "seconds": format_durations(spec.durations)})


# Airflow --------------------------------------------------------------------------------------------


def compare_airflows(known: Mapping[str, Found], newest: Mapping[str, Found]) -> Iterator[Finding]:
    """Names that the package uses, and that are gone, or no longer take what the package passes."""
    for name, found in newest.items():
        before = known[name]
        places = ", ".join(dict.fromkeys(found["used_at"]))
        if before["what"] and not found["what"]:
            yield Finding(places, f"{name} is gone; it was: {before['what']}")
        elif found["what"] and not before["what"]:
            yield Finding(places, f"{name} exists now: {found['what']}", is_note=True)
        elif unfit := [each for each in found["unfit"] if each not in before["unfit"]]:
            taken = ", ".join(found["parameters"])
            yield Finding(places, f"{name} no longer takes {'; '.join(unfit)}. It takes ({taken})")
        elif found["what"] != before["what"]:
            yield Finding(places, f"{name} is {found['what']}, was {before['what']}")
        else:
            added = [each for each in found["parameters"] if each not in before["parameters"]]
            gone = [each for each in before["parameters"] if each not in found["parameters"]]
            changes = [
                f"{text} {', '.join(names)}" for text, names in (("has", added), ("lacks", gone)) if names
            ]
            if changes:
                text = f"{name} takes what the package passes; it now {' and '.join(changes)}"
                yield Finding(places, text, is_note=True)


# Environments ---------------------------------------------------------------------------------------


@contextmanager
def environment(package: str, *, pre: bool) -> Iterator[Path]:
    """The interpreter of a new environment with the newest version of a package, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        python = Path(folder, "bin", "python")
        if uv := shutil.which("uv"):
            _run([uv, "venv", "--quiet", "--python", sys.executable, folder])
            install = [uv, "pip", "install", "--quiet", "--python", str(python)]
            install += ["--prerelease", "allow"] if pre else []
        else:
            _run([sys.executable, "-m", "venv", folder])
            install = [str(python), "-m", "pip", "install", "--quiet", *(["--pre"] if pre else [])]
        _run([*install, package])
        yield python


def describe(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    """What a describing script prints in the environment of an interpreter."""
    with tempfile.TemporaryDirectory(prefix="drift-home-") as home:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "PYTHON"))}
        output = _run([str(python), str(SCRIPTS / script), *arguments], env | {"AIRFLOW_HOME": home})
    found: dict[str, Any] = json.loads(output.splitlines()[-1])  # Airflow may print before it
    return found


def version(python: Path, package: str) -> str:
    """The version of a package in the environment of an interpreter."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return _run([str(python), "-c", code, package]).strip()


def _run(command: list[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise CannotCompareError(f"{' '.join(command[:6])} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _describe_both(
    package: str, script: str, *arguments: str, pre: bool
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What is compared, in words; what the development environment has, and what the newest has."""
    here = Path(sys.executable)
    with environment(package, pre=pre) as python:
        title = f"{package} {version(python, package)} (developed on {version(here, package)})"
        return title, describe(here, script, *arguments), describe(python, script, *arguments)


def report(title: str, findings: list[Finding]) -> bool:
    """Print the findings by file; whether there is drift."""
    drift = [each for each in findings if not each.is_note]
    print(f"{title}: {f'{len(drift)} changes' if drift else 'nothing to edit'}")
    for each in [*drift, *(note for note in findings if note.is_note)]:
        print(f"  {'note' if each.is_note else 'edit'} {each.file}\n       {each.text}")
    return bool(drift)


def main(arguments: list[str] | None = None) -> int:
    """Compare both; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pre", action="store_true", help="take pre-releases, too")
    pre = parser.parse_args(arguments).pre
    package = str(ROOT / "magichour_provider")
    try:
        title, known, newest = _describe_both("magic-hour", "describe_sdk.py", pre=pre)
        has_drift = report(title, list(compare_sdks(known, newest)))
        title, known, newest = _describe_both("apache-airflow", "describe_airflow.py", package, pre=pre)
        has_drift |= report(title, list(compare_airflows(known, newest)))
    except CannotCompareError as error:
        print(f"Could not compare. {error}")
        return 2
    if has_drift:
        print("Edit these files, raise the version in pyproject.toml, then run `make constraints models`.")
    return int(has_drift)


if __name__ == "__main__":
    sys.exit(main())
