from __future__ import annotations

from airflow.utils.state import TaskInstanceState

from magichour_provider.ui.states import FAILED, FINAL_STATES, IN_PROGRESS, STATES


def test_every_state_of_airflow_is_of_one_kind():
    for state in TaskInstanceState:
        assert sum(state.value in states for states in STATES.values()) == 1, state


def test_what_has_failed_is_over_and_what_waits_is_not():
    assert {"failed", "upstream_failed"} <= STATES[FAILED] <= FINAL_STATES
    assert "deferred" in STATES[IN_PROGRESS]
    assert not STATES[IN_PROGRESS] & FINAL_STATES
