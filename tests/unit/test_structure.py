"""The house keeps its walls: arrows point one way, and a Dag file loads no more than it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "magichour_provider"

LEVELS = [
    {"api"},
    {"choices"},
    {
        *("waiting", "storage", "pictures", "references", "timing"),
        *("connection_form", "killing", "record"),
    },
    {"compat"},
    {
        *("hooks", "links", "retry_policy", "durable", "delivered"),
        *("assets", "outlets", "lineage", "lineage_facets"),
    },
    {"policies", "failures"},
    {"paying", "triggers"},
    {"operators", "sensors"},
    {"ui"},
]
"""From the bottom to the top; a room imports from its own level and from those below."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE.name and len(parts) > 1 else None


FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in LEVEL]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    targets = {target for name in imports(path) if (target := room_of(name))} - {room}
    if room == "sandbox":
        assert targets <= {"api"}
        return
    assert "sandbox" not in targets
    assert {target for target in targets if LEVEL[target] > LEVEL[room]} == set()


@pytest.mark.parametrize("room", ["api", "waiting", "sandbox"])
def test_the_rooms_below_airflow_do_not_import_it(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "airflow"], path


def test_only_compat_looks_at_the_version_of_airflow():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "compat.py":
            assert "version_compat" not in path.read_text(), path


def loaded_by(statement, *, before="pass"):
    program = (
        f"import sys; {before}; old = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - old))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "room",
    [
        "api.client",
        "waiting.hubs",
        "storage.source",
        "storage.landing",
        "pictures.poster",
        "pictures.contact_sheet",
    ],
)
def test_the_rooms_below_airflow_run_without_it(room):
    assert not any(name.split(".")[0] == "airflow" for name in loaded_by(f"import magichour_provider.{room}"))


@pytest.mark.parametrize(
    "module",
    [
        "operators.image_to_video",
        "operators.download",
        "operators.contact_sheet",
        "sensors.video_job",
        "get_provider_info",
    ],
)
def test_a_dag_file_loads_no_client_no_model_and_no_storage(module):
    loaded = loaded_by(f"import magichour_provider.{module}", before="import airflow.sdk")
    heavy = {"httpx", "httpx_aiohttp", "aiohttp", "imagesize", "fsspec", "upath", "pydantic", "fastapi"}
    heavy |= {"av", "PIL"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert not {
        name
        for name in loaded
        if name.startswith(
            (
                "magichour_provider.client.models",
                "magichour_provider.storage",
                "magichour_provider.pictures",
            )
        )
    }


def test_the_public_names_are_there_and_cost_nothing_until_they_are_used():
    import magichour_provider

    for name in magichour_provider.__all__:
        assert getattr(magichour_provider, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        magichour_provider.no_such_name  # noqa: B018
    assert not {name for name in loaded_by("import magichour_provider") if "airflow" in name}
