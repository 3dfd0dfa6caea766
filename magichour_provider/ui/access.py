"""What a user may see, as the auth manager decides for Airflow's own pages."""

from __future__ import annotations

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.connection import Connection
from airflow.models.dag import DagModel


def may_read(user: GetUserDep, dag_id: str) -> bool:
    """Whether the user may read a Dag's task instances, with their rendered fields, and XComs."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    manager = get_auth_manager()
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)
        for entity in (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
    )


def readable_dag_ids(user: GetUserDep, dag_ids: set[str]) -> set[str]:
    """The part of `dag_ids` that the user may read."""
    readable = get_auth_manager().get_authorized_dag_ids(user=user, method="GET") & dag_ids
    return {dag_id for dag_id in readable if may_read(user, dag_id)}


def may_read_connection(user: GetUserDep, conn_id: str) -> bool:
    """Whether the user may read a connection."""
    details = ConnectionDetails(conn_id=conn_id, team_name=Connection.get_team_name(conn_id))
    return bool(get_auth_manager().is_authorized_connection(method="GET", details=details, user=user))
