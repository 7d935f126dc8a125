"""associations.json in checkpoint/ of a result: what states and latents go with, found with the images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.associations import Association

ASSOCIATIONS_NAME = "associations.json"


def write_associations(layout: Layout, found: Sequence[Association]) -> None:
    """Write what states and latents of a job go with, atomically."""
    write_json(layout.checkpoint / ASSOCIATIONS_NAME, {"explained_by": [_rounded(one) for one in found]})


def read_associations(layout: Layout) -> list[dict[str, Any]]:
    """Read them, as they stand in job.yaml; none where an earlier version wrote none."""
    try:
        return list(load_json(layout.checkpoint / ASSOCIATIONS_NAME)["explained_by"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _rounded(one: Association) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(one).items()}
