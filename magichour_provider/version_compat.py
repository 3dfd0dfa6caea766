"""The versions of Airflow on which this package behaves differently."""

from __future__ import annotations

from airflow import __version__

_VERSION = tuple(int(part) for part in __version__.split(".")[:2])
"""Major and minor: a pre-release counts as its release."""

AIRFLOW_V_3_1_PLUS: bool = _VERSION >= (3, 1)
AIRFLOW_V_3_3_PLUS: bool = _VERSION >= (3, 3)
AIRFLOW_V_3_4_PLUS: bool = _VERSION >= (3, 4)
