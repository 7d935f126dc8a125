"""associations.json in checkpoint/ of a result: what states and latents go with, found with the images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.associations import Association

ASSOCIATIONS_NAME = "associations.json"


def write_associations(layout: Layout, found: Sequence[Association]) -> None:
    """Write what states and latents of a job go with, atomically."""
    write_json(layout.checkpoint / ASSOCIATIONS_NAME, {"explained_by": [_rounded(one) for one in found]})


def read_associations(layout: Layout) -> list[dict[str, Any]]:
    """Read them, as they stand in job.yaml; none where an earlier version wrote none.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    path = layout.checkpoint / ASSOCIATIONS_NAME
    if not path.exists():
        return []
    with readable(path, "delete it; it is made anew when the states are"):
        return list(load_json(path)["explained_by"])


def _rounded(one: Association) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(one).items()}
