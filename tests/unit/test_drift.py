"""`make drift` says what changed: with altered copies of the SDK, and of an Airflow of a few lines."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import check_drift
import pytest
from check_drift import CATALOG, CannotCompareError, Finding, compare_airflows, compare_sdks
from describe_airflow import describe as describe_airflow

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

ROOT = Path(__file__).parents[2]
SDK = Path(importlib.util.find_spec("magic_hour").origin).parent
CREATE = "POST /v1/image-to-video request: "

PACKAGE = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING or AIRFLOW_V_3_2_PLUS:
    from airflow.tasks import Task, conf
else:
    from airflow.old import Task, conf

def store():
    from airflow.tasks import Store
    return Store

def run(task: Task, values: object):
    from airflow.tasks import Reference
    task.owner
    getattr(task, "_Task__mapped", False)
    store().put(key="a", value=1)
    store().get("a", **{"run": "b"})
    if isinstance(values, Reference):
        values.operator
    conf.getint("workers", "heartbeat")
    try:
        from airflow.tasks import stats
    except ImportError:
        from airflow.older import stats
"""
TASKS = """
from airflow.configuration import conf
stats = 1
class Task:
    __mapped = False
    def __init__(self): self.owner = "a"
class Store:
    @classmethod
    def put(cls, key: str, value: int) -> None: ...
    @staticmethod
    def get(key, run=None): ...
class Reference:
    operator: str
"""
CONFIGURATION = """
class conf:
    @staticmethod
    def has_option(section, option): return (section, option) == ("workers", "heartbeat")
    @staticmethod
    def get_default_value(section, option): return 5
    @staticmethod
    def getint(section, option): ...
"""


def describe(script, folder, *arguments):
    """What a describing script prints if the modules in a folder come first."""
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def known():
    return describe("describe_sdk.py", SDK.parent)


def altered_sdk(folder, changes):
    """What a copy of the SDK says in which texts are replaced everywhere."""
    shutil.copytree(SDK, folder / SDK.name)
    for path in (folder / SDK.name / "types").rglob("*.py"):
        before = text = path.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        if text != before:
            path.write_text(text)
    return describe("describe_sdk.py", folder)


def test_the_sdk_of_the_development_environment_is_no_drift(known):
    assert len(known) > 60
    assert list(compare_sdks(known, known)) == []


def test_changes_of_the_sdk_are_named_with_their_file(known, tmp_path):
    newest = altered_sdk(
        tmp_path,
        {
            'file_path: str = pydantic.Field(\n        alias="file_path"': "path: str = pydantic.Field(\n"
            '        alias="path"',
            '"ltx-2.5",': '"ltx-2.5", "ltx-3",',
            "* **`ltx-2.5`**: any integer from 1 to 60\n": "* **`ltx-2.5`**: any integer from 1 to 90\n"
            "    * **`ltx-3`**: 5, 10, 15\n",
            "* **`ltx-2.5`**: Supports 480p, 720p, 1080p.\n": "* **`ltx-2.5`**: Supports 480p, 720p, 1080p.\n"
            "    * **`ltx-3`**: Supports 4k. Requires a duration of 5 seconds or less.\n",
            '"canceled", "complete"': '"complete"',
            '"business", "creator"': '"business", "creator", "team"',
            "    name: typing_extensions.NotRequired[str]": "    seed: typing_extensions.Required[int]\n"
            "    name: typing_extensions.NotRequired[str]",
            "A value of -1 indicates the width can be ignored.": "A value of 0 means unknown.",
            "    fps: float": "    fps: str",
        },
    )
    newest[f"{CREATE}resolution"]["text"] = newest[f"{CREATE}resolution"]["text"].replace(
        "4k. Requires a duration of 5 seconds or less", "4k"
    )
    found = {each.text.partition(" Add this version: ")[0]: each.file for each in compare_sdks(known, newest)}
    project, width = "GET /v1/video-projects/{id} response: ", "width: the description now"
    text = "The width of the final output video. A value of"
    assert found == {
        "POST /v1/files/upload-urls response: items[].file_path is now called items[].path; "
        "the package reads it": check_drift.BODIES,
        f"{CREATE}model: 'ltx-3' is new": CATALOG,
        "model 'ltx-2.5': durations 1-90, was 1-60.": CATALOG,
        "model 'ltx-3': durations 5, 10, 15; resolutions 4k; audio no; end_image 4k up to 5 s.": CATALOG,
        f"{project}status: 'canceled' is gone": check_drift.BODIES,
        "GET /v1/account response: tier: 'team' is new": check_drift.PRICING,
        f"{CREATE}seed is new (required integer): no description": check_drift.BODIES,
        f"{CREATE}seed is required, and the package does not send it": check_drift.BODIES,
        f"{project}{width} lacks: {text} -1 indicates the width can be ignored.": check_drift.BODIES,
        f"{project}{width} says: {text[:-10]}A value of 0 means unknown.": check_drift.BODIES,
        f"{project}fps: type is string, was number": check_drift.BODIES,
    }


def test_entry_of_a_changed_model_can_be_pasted(known):
    field = known[f"{CREATE}end_seconds"]
    text = field["text"].replace("`kling-2.6`**: 5, 10", "`kling-2.6`**: 5, 10, 20")
    [found] = compare_sdks(known, known | {f"{CREATE}end_seconds": field | {"text": text}})
    entry = json.loads(found.text.partition("Add this version: ")[2])
    latest = check_drift.MODELS["kling-2.6"][-1]
    changed = check_drift.ModelSpec.model_validate(entry)
    assert changed == latest.model_copy(update={"source": changed.source, "durations": (5, 10, 20)})


def test_description_that_cannot_be_read_is_shown(known):
    field = known[f"{CREATE}audio"]
    text = field["text"].replace("`wan-3.0`**: Toggle-able", "`wan-3.0`**: Optional")
    [found] = compare_sdks(known, known | {f"{CREATE}audio": field | {"text": text}})
    assert found.text.startswith("model 'wan-3.0': its description cannot be read")
    assert "Optional: no additional credits" in found.text


@pytest.fixture
def compared(tmp_path):
    """Compare a small Airflow, in which texts are replaced, with itself."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "internals.py").write_text(PACKAGE)

    def describe_small(name, tasks):
        folder = tmp_path / name / "airflow"
        folder.mkdir(parents=True)
        for module, text in {"__init__": "", "tasks": tasks, "configuration": CONFIGURATION}.items():
            (folder / f"{module}.py").write_text(text)
        return describe("describe_airflow.py", folder.parent, str(tmp_path / "package"))

    def compare(**changes):
        tasks = TASKS
        for old, new in changes.values():
            assert old in tasks
            tasks = tasks.replace(old, new)
        return list(compare_airflows(describe_small("known", TASKS), describe_small("newest", tasks)))

    return compare


def test_unchanged_airflow_is_no_drift(compared):
    assert compared() == []


def test_gone_names_and_signatures_that_do_not_fit_are_named(compared):
    found = compared(
        attribute=("__mapped", "__is_mapped"),
        assigned=("self.owner", "self.owners"),
        keyword=("value: int", "item: int"),
        narrowed=("operator: str", "task: str"),
        imported=("stats = 1", ""),
    )
    at = "package/internals.py:"
    assert {(each.file, each.text.partition(";")[0].partition(": missing")[0]) for each in found} == {
        (f"{at}16", "airflow.tasks.Task._Task__mapped is gone"),
        (f"{at}15", "airflow.tasks.Task.owner is gone"),
        (f"{at}17", "airflow.tasks.Store.put no longer takes (key=, value=)"),
        (f"{at}20", "airflow.tasks.Reference.operator is gone"),
        (f"{at}23", "airflow.tasks.stats is gone"),
    }
    assert not any(each.is_note for each in found)


def test_signature_that_still_fits_is_a_note(compared):
    [found] = compared(optional=("value: int", "value: int, by: str = ''"))
    assert found.is_note
    assert "airflow.tasks.Store.put takes what the package passes; it now has by" in found.text


def test_private_names_of_the_package_are_found_in_this_airflow():
    names = describe_airflow(ROOT / "magichour_provider")
    private = {name for name in names if name.rpartition(".")[2].startswith("_")}
    assert {name.rpartition(".")[2] for name in private} >= {
        *("_BaseOperator__from_mapped", "_pre_execute_hook", "_post_execute_hook", "_set_xcom_in_db"),
        "_cached_template_context",
    }
    absent = {name for name in private if not names[name]["what"]}
    if not AIRFLOW_V_3_1_PLUS:  # it keeps no Dag for a trigger
        absent = {name for name in absent if not name.endswith("._cached_template_context")}
    assert absent == set()
    assert names["airflow.cfg [workers] min_heartbeat_interval"]["what"] == "option, by default 5"
    unfit = [name for name, each in names.items() if each["unfit"] and not name.endswith("Context.get")]
    assert unfit == [] or not AIRFLOW_V_3_1_PLUS  # 3.0 has no pages


@pytest.mark.parametrize(("changes", "status"), [({}, 0), ({"required": True}, 1)])
def test_exit_status(known, monkeypatch, capsys, changes, status):
    name = f"{CREATE}style.prompt"
    described = iter([("sdk", known, known | {name: known[name] | changes}), ("airflow", {}, {})])
    monkeypatch.setattr(check_drift, "_describe_both", lambda *_, pre: next(described))
    assert check_drift.main([]) == status
    printed = capsys.readouterr().out
    assert ("edit magichour_provider/client/models.py" in printed) == (status == 1)


def test_exit_status_if_nothing_can_be_installed(monkeypatch, capsys, tmp_path):
    with pytest.raises(CannotCompareError), check_drift.environment(str(tmp_path / "none"), pre=False):
        raise AssertionError

    def fail(*_, pre):
        raise CannotCompareError("No network.")

    monkeypatch.setattr(check_drift, "_describe_both", fail)
    assert check_drift.main([]) == 2
    assert capsys.readouterr().out == "Could not compare. No network.\n"


def test_notes_alone_are_no_drift(capsys):
    assert not check_drift.report("Airflow", [Finding("a.py:1", "a still fits", is_note=True)])
    assert "nothing to edit" in capsys.readouterr().out
