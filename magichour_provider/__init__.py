"""Apache Airflow provider for Magic Hour (magichour.ai): image-to-video jobs in Dags."""

from __future__ import annotations

__version__ = "0.1.0"
