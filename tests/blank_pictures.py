"""Pictures of the right size with nothing in them: drawing takes most of the time of a small job.

Figures are still made of a job's own data; only that they are drawn is left to the tests of reports, which draw them.
"""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure


def install(patch: pytest.MonkeyPatch) -> None:
    """Save an empty figure wherever a figure is saved."""
    draw = Figure.savefig

    def savefig(figure: Figure, *args: Any, **options: Any) -> None:
        draw(Figure(figsize=figure.get_size_inches()), *args, **options)

    patch.setattr(Figure, "savefig", savefig)
