"""Whether the extra `pictures` is installed. Importing this costs nothing."""

from __future__ import annotations

from importlib import import_module

from magichour_provider.exceptions import InvalidRequestError


def require_pictures() -> None:
    """Raise InvalidRequestError unless PyAV and Pillow can be imported; call it before any work is done."""
    for module in ("av", "PIL.Image"):
        try:
            import_module(module)
        except ImportError as error:
            raise InvalidRequestError(
                f"Pictures of clips need PyAV and Pillow, and {module.partition('.')[0]} cannot be imported "
                f"({error}).",
                consequence="Nothing was done, and no credits were spent.",
                remedy="Run: pip install 'airflow-provider-magichour[pictures]' on the workers; trying again "
                "cannot help before that.",
            ) from error
