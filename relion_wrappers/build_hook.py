"""Metadata hook of the build (hatchling): ``project.scripts`` are those of the registry of jobs."""

from __future__ import annotations

import sys
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ScriptsHook(MetadataHookInterface):  # type: ignore[misc]  # its type is unknown outside the build
    """Fills ``scripts`` in, which pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the scripts; the project itself is imported from its sources."""
        sys.path.insert(0, self.root)
        try:
            from relion_wrappers.console_scripts import console_scripts
        finally:
            sys.path.remove(self.root)
        metadata["scripts"] = console_scripts()
