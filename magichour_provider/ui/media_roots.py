"""Which landed files the pages may show: below `[magichour] ui_video_roots`, the task's own.

Where a clip has landed is read from an XCom, which whoever may edit XComs can forge. So a path counts only
where it is spelled below a root, part by part, and where something that cannot be forged vouches for it: the
Dag's id in the root, or the task's rendered `path`, which its worker has written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from magichour_provider.exceptions import ConfigurationError
from magichour_provider.storage.locations import ObjectPath, display, locate, scheme_of

SETTING = "[magichour] ui_video_roots"
"""How messages name the setting."""

DAG_ID = "{dag_id}"
"""What stands for the Dag's id in a root."""

_SAFE_DAG_ID = re.compile(r"[\w.-]+")
_NOT_DOWN = frozenset({"", ".", ".."})
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class ClipError(Exception):
    """A landed file that is not shown; `reason` says why, for the page."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ClipRefusedError(ClipError):
    """It may not be shown, or there is no such clip."""


class ClipUnavailableError(ClipError):
    """Its file system or store gives no answer now; it may do so later."""


@dataclass(frozen=True)
class HeldClip:
    """A place that may be opened, by the root's own connection, and the root's `folder` above it.

    :param anchor: the part of `folder` that the setting itself names, above what the Dag's id has made.
    """

    place: Path | ObjectPath
    folder: str
    anchor: str


@dataclass(frozen=True)
class ClipRoot:
    """A folder below which landed clips may be shown. Its path may still hold `{dag_id}`.

    An object store's URL carries the connection by which clips are read, whatever a Dag or an XCom names.
    """

    place: Path | ObjectPath

    @property
    def is_per_dag(self) -> bool:
        """Whether the root vouches for a Dag's clips by itself."""
        return DAG_ID in _spelled(self.place)

    def holds(self, path: str, dag_id: str) -> HeldClip | None:
        """What `path` means below this root, for a task of this Dag; None where it does not lie there.

        Nothing is looked up: `path` must be spelled as the root is, and then only go down.
        """
        if self.is_per_dag and not _is_one_part(dag_id):
            return None
        folder = _spelled(self.place).replace(DAG_ID, dag_id)
        if not path.startswith(f"{folder}/") or _CONTROL.search(path):
            return None
        if not _NOT_DOWN.isdisjoint(path[len(folder) + 1 :].split("/")):
            return None
        if isinstance(self.place, Path):
            return HeldClip(Path(path), folder, self._anchor)
        if "?" in path:  # a driver may take what follows for a version of another key
            return None
        return HeldClip(replace(self.place, url=path), folder, self._anchor)

    @property
    def _anchor(self) -> str:
        named, found, _ = _spelled(self.place).partition(DAG_ID)
        return named.rpartition("/")[0] if found else named


def parse_roots(text: str) -> tuple[ClipRoot, ...]:
    """Read the setting: folders and object storage URLs, comma-separated; empty for none.

    Raises ConfigurationError for what cannot be a root.
    """
    return tuple(_root(entry.strip()) for entry in text.split(",") if entry.strip())


def admit(path: str, *, dag_id: str, rendered_path: str | None, roots: Iterable[ClipRoot]) -> HeldClip:
    """The place that `path` means, where a task of this Dag may be shown it. Raises ClipRefusedError.

    :param path: where the task says that its clip, or its poster, has landed.
    :param rendered_path: the task's own field `path` as it was rendered; None where Airflow has it no more.
    """
    held = [(root, found) for root in roots if isinstance(path, str) and (found := root.holds(path, dag_id))]
    if not held:
        raise ClipRefusedError(
            f"The clip does not lie below a folder that {SETTING} names, so it is not shown from where it "
            "has landed."
        )
    vouched = isinstance(rendered_path, str) and _vouches(rendered_path, path)
    for root, found in held:
        if root.is_per_dag or vouched:
            return found
    if rendered_path is None:
        raise ClipRefusedError(
            "Airflow keeps the rendered fields of a task's latest runs only ([core] "
            "max_num_rendered_ti_fields_per_task). Those of this run, which would say where its clip was to "
            f"land, are gone. A folder with {DAG_ID} in {SETTING} needs none."
        )
    raise ClipRefusedError(
        "The clip does not lie where the task's rendered field `path`, which must be absolute, has told it "
        f"to land. A folder with {DAG_ID} in {SETTING} needs no such field."
    )


def _vouches(rendered_path: str, path: str) -> bool:
    """Whether a task that is told to land at `rendered_path` may land a clip, or make a poster, at `path`."""
    try:
        told = _spelled(locate(rendered_path)).rstrip("/")
    except (ValueError, RuntimeError):  # another host's file; nobody's home
        return False
    folder, _, name = path.rpartition("/")
    told_folder, _, told_name = told.rpartition("/")
    if folder == told:
        return True
    return folder == told_folder and not rendered_path.endswith("/") and _is_named_after(name, told_name)


def _is_named_after(name: str, told: str) -> bool:
    """`clip.mp4` lands as itself, its project's other clips as `clip-2.mp4`, ..., and posters as `.jpg`."""
    stem, dot, extension = told.rpartition(".")
    if not stem:
        stem, dot, extension = told, "", ""
    ending = f"({re.escape(dot + extension)}|\\.jpg)"
    return re.fullmatch(f"{re.escape(stem)}(-[0-9]+)?{ending}", name) is not None


def _root(entry: str) -> ClipRoot:
    shown = display(entry)
    if re.search(r"[{}]", entry.replace(DAG_ID, "")):
        _unusable(shown, f"the only placeholder is {DAG_ID}")
    place = _place(entry, shown)
    spelled = _spelled(place)
    _, _, path = spelled.partition("://") if isinstance(place, ObjectPath) else ("", "", spelled.lstrip("/"))
    parts = path.split("/")
    if not parts[0]:
        _unusable(shown, "it must name a folder, or a bucket")
    if DAG_ID in parts[0]:
        _unusable(shown, f"{DAG_ID} must stand below a folder, or in a bucket, that the setting itself names")
    if _CONTROL.search(entry) or not _NOT_DOWN.isdisjoint(parts):
        _unusable(shown, "it must be written out, without '.', '..' or empty parts")
    return ClipRoot(place)


def _place(entry: str, shown: str) -> Path | ObjectPath:
    if scheme_of(entry) in ("http", "https"):
        _unusable(shown, "only folders and object storage are read, not web addresses")
    if scheme_of(entry) is None and not entry.startswith("/"):
        _unusable(shown, "it must be absolute")
    try:
        place = locate(entry)
    except ValueError as error:
        _unusable(shown, str(error))
    if isinstance(place, Path):
        return place
    if re.search(r"[:@{}]", place.conn_id or ""):
        _unusable(shown, "what stands before the '@' must be the id of an Airflow connection")
    return replace(place, url=place.url.removesuffix("/"))


def _spelled(place: Path | ObjectPath) -> str:
    return str(place) if isinstance(place, Path) else place.url


def _is_one_part(dag_id: str) -> bool:
    return _SAFE_DAG_ID.fullmatch(dag_id) is not None and dag_id not in (".", "..")


def _unusable(shown: str, why: str) -> NoReturn:
    raise ConfigurationError(
        f"{SETTING} cannot be used: {shown!r}: {why}.", consequence="", remedy="Correct the setting."
    )
