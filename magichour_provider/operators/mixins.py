"""What several operators have alike."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magichour_provider.hooks.magichour import MagicHourHook


class MagicHourHookMixin:
    """An operator with a connection to Magic Hour."""

    magichour_conn_id: str

    @cached_property
    def hook(self) -> MagicHourHook:
        """The connection's hook."""
        from magichour_provider.hooks.magichour import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)


class OpenLineageMixin:
    """The three moments at which OpenLineage's listener asks; the operator says what it knows by then."""

    def get_openlineage_facets_on_start(self) -> Any:
        """Lineage: what is known before anything is done."""
        return self._lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Lineage: what went in and what came out."""
        return self._lineage()

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Lineage: as far as it came."""
        return self._lineage()

    def _lineage(self) -> Any:
        raise NotImplementedError
