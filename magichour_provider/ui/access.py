"""What a user may see, as the auth manager decides for Airflow's own pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from fastapi import Depends


@dataclass(frozen=True)
class CurrentUser:
    """The user of one request."""

    user: Any

    def may_read(self, dag_id: str) -> bool:
        """Whether the user may read a Dag's task instances, with their rendered fields, and XComs."""
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        manager = get_auth_manager()
        return all(
            manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=self.user)
            for entity in (DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)
        )

    def readable_dag_ids(self, dag_ids: set[str]) -> set[str]:
        """The part of `dag_ids` that the user may read."""
        readable = get_auth_manager().get_authorized_dag_ids(user=self.user, method="GET") & dag_ids
        return {dag_id for dag_id in readable if self.may_read(dag_id)}

    def may_read_connection(self, conn_id: str) -> bool:
        """Whether the user may read a connection."""
        details = ConnectionDetails(conn_id=conn_id, team_name=Connection.get_team_name(conn_id))
        return bool(
            get_auth_manager().is_authorized_connection(method="GET", details=details, user=self.user)
        )


async def _current_user(user: GetUserDep) -> CurrentUser:
    return CurrentUser(user)


CurrentUserDep = Annotated[CurrentUser, Depends(_current_user)]
"""For a route: the user of the request; 401 without a login."""
