"""Options of the subspace engine. No torch here: entry points read them."""

from __future__ import annotations

from dataclasses import dataclass

from cryodrgn_ext.engines.settings import EngineSettings
from cryodrgn_ext.settings import setting

MOST_COMPONENTS = 32


@dataclass(frozen=True)
class SubspaceSettings(EngineSettings):
    """Options of the subspace engine; a job's settings inherit them."""

    fit_contrast: str = setting(
        "auto", choices=("auto", "yes", "no"),
        help="Fit a scale to every particle, so that thick ice is not taken for heterogeneity (subspace); auto does "
        "where particles differ in how strongly they show",
    )  # fmt: skip
    curve_features: int = setting(
        15, low=1, high=63,
        help="Smooth functions of the latents that volumes are made of to begin with (subspace); more follow sharper "
        "bends, and are taken where images call for them",
    )  # fmt: skip
    rare_states: int = setting(
        2, low=0, high=8,
        help="Rare states to look for, which at most one particle in twenty is in (subspace); each has a latent of its "
        "own",
    )  # fmt: skip
