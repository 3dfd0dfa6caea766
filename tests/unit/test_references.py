from __future__ import annotations

from types import SimpleNamespace

import pytest

from magichour_provider.jobs.reference import job_name

RUN = "manual__2026-11-22T13:48:24.123456+00:00_abcdef"


def name(dag_id="render_products", task_id="render", map_index=-1, run_id=RUN):
    ti = SimpleNamespace(dag_id=dag_id, task_id=task_id, map_index=map_index, run_id=run_id)
    return job_name({"ti": ti})


def test_a_job_is_named_after_dag_task_index_and_run():
    assert name() == f"render_products render {RUN}"
    assert name(map_index=7) == f"render_products render[7] {RUN}"


@pytest.mark.parametrize("lengths", [(60, 60), (10, 200), (200, 10), (250, 250)])
def test_a_long_name_keeps_index_and_run_and_says_which_task(lengths):
    long = {"dag_id": "d" * lengths[0], "task_id": "t" * lengths[1]}
    names = {
        name(**{**long, **change})
        for change in (
            {"map_index": 8},
            {"map_index": 9},
            {"map_index": 9, "task_id": long["task_id"] + "2"},
            {"map_index": 9, "dag_id": long["dag_id"] + "2"},
        )
    }
    assert len(names) == 4
    for each in names:
        assert len(each) <= 100
        assert each.endswith((f"[8] {RUN}", f"[9] {RUN}"))


def test_two_very_long_run_ids_give_two_names():
    names = {name(run_id="r" * 200 + end, map_index=3) for end in "ab"}
    assert len(names) == 2
    assert all(len(each) <= 100 and "render_products render[3] rrr" in each for each in names)
