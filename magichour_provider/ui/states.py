"""Airflow's states of a task instance, in the three kinds that the pages tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow.utils.state import State

IN_PROGRESS, SUCCESS, FAILED = "in progress", "success", "failed"


def _values(states: Iterable[object]) -> frozenset[str]:
    return frozenset(str(getattr(state, "value", state)) for state in states if state is not None)


STATES: Mapping[str, frozenset[str]] = {
    IN_PROGRESS: _values(State.unfinished),
    SUCCESS: _values(State.success_states),
    FAILED: _values(State.finished - State.success_states),
}
FINAL_STATES = STATES[SUCCESS] | STATES[FAILED]
