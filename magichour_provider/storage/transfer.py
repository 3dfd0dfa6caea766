"""Moved to `images`."""

from __future__ import annotations

from magichour_provider.storage.images import upload_image as upload

__all__ = ["upload"]
