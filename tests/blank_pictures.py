"""Pictures of the right size with nothing in them: drawing takes most of the time of a small job.

Figures are still made of a job's own data; only that they are drawn is left to the tests of reports, which draw them.
UMAP, which only pictures show and which is compiled anew in every process, gives way to two of its input's axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import Embedding


def install(patch: pytest.MonkeyPatch) -> None:
    """Save an empty figure wherever a figure is saved, and embed without UMAP."""
    draw = Figure.savefig

    def savefig(figure: Figure, *args: Any, **options: Any) -> None:
        draw(Figure(figsize=(figure.get_figwidth(), figure.get_figheight())), *args, **options)

    patch.setattr(Figure, "savefig", savefig)
    patch.setattr("cryodrgn_ext.report.movie.SIZE_PX", 16)
    for module in ("analysis.volume_landscape", "report.states_report"):
        patch.setattr(f"cryodrgn_ext.{module}.umap_embedding", first_axes)


def first_axes(points: NDArray[np.floating], **_: object) -> Embedding:
    """Place points (N, q) by their first two coordinates."""
    xy = np.zeros((len(points), 2), np.float32)
    width = min(2, points.shape[1])
    xy[:, :width] = points[:, :width]
    return Embedding(np.arange(len(points)), xy)
