"""The versions of Airflow on which this package behaves differently, and Airflow's public names that moved.

`airflow.providers.common.compat.sdk` has these names, too, but Airflow's own constraints of 3.0 and 3.1 pin
versions of common-compat without that module.
"""
# ruff: noqa: F401
# mypy: implicit-reexport

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow import __version__

_VERSION = tuple(int(part) for part in __version__.split(".")[:2])
"""Major and minor: a pre-release counts as its release."""

AIRFLOW_V_3_1_PLUS: bool = _VERSION >= (3, 1)
AIRFLOW_V_3_2_PLUS: bool = _VERSION >= (3, 2)
AIRFLOW_V_3_3_PLUS: bool = _VERSION >= (3, 3)
AIRFLOW_V_3_4_PLUS: bool = _VERSION >= (3, 4)

if TYPE_CHECKING or AIRFLOW_V_3_2_PLUS:
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralError,
        TaskDeferred,
    )
else:
    from airflow.configuration import conf
    from airflow.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralError,
        TaskDeferred,
    )

if TYPE_CHECKING or AIRFLOW_V_3_1_PLUS:
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret
else:
    from airflow.hooks.base import BaseHook
    from airflow.sdk.execution_time.secrets_masker import mask_secret
