"""The curved decoder's components at full resolution: a regression of all images on smooth functions of their latents.

Wiener filtered per feature and shell with what both half-sets have in common, and held to the region of the particle
(the correction of the consensus) and to the moving region (all others), which keeps the noise of everything else out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from cryodrgn_ext.engines.subspace.assignment import Assignment, feature_pass
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.features import Features
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.progress import Monitor

PASSES = 2


@dataclass
class DecoderState:
    """Components after some passes.

    Attributes
    ----------
    values : Tensor
        (V, 2, Qp) float32.
    precision : Tensor
        (S, Q) float64 prior, from the first pass.
    done : int
        Passes finished.
    """

    values: Float32[Tensor, "V 2 Qp"]
    precision: Float64[Tensor, "S Q"]
    done: int = 0


def fit_decoder(
    band: Band,
    features: Features,
    assigned: Assignment,
    particle: Float32[Tensor, "D D D"],
    moving: Float32[Tensor, "D D D"],
    monitor: Monitor,
    state: DecoderState | None = None,
    checkpoint: Callable[[DecoderState], None] | None = None,
) -> Float32[Tensor, "V 2 Qp"]:
    """Components (V, 2, Qp) of the correction of the consensus, all features and rare states, at the full band.

    Parameters
    ----------
    band : Band
        Full band.
    features : Features
    assigned : Assignment
        Of the images of this process.
    particle, moving : Tensor
        (D, D, D) soft masks.
    monitor : Monitor
    state : DecoderState, optional
        Where an earlier run stopped.
    checkpoint : callable, optional
        Called after each pass.
    """
    q = features.count + 1 + assigned.rare.shape[1]
    cut = restriction(particle, moving)
    if state is None:
        values = torch.zeros(band.grid.n_voxels, 2, padded(q), device=band.device)
        state = DecoderState(values, torch.zeros(band.radius + 1, q, dtype=torch.float64))
    while state.done < PASSES:
        label = f"Volumes, pass {state.done + 1} of {PASSES}"
        equations = feature_pass(band, state.values, features, assigned, monitor, label)
        if state.done == 0:
            share = torch.full((q,), float(moving.square().mean()), dtype=torch.float64)
            share[0] = float(particle.square().mean())
            half1, half2 = (cut(band.grid, half) for half in equations.halves(state.values))
            state.precision = equations.precision(equations.signal(half1, half2), share.clamp_min(1e-6))
        state.values = cut(band.grid, equations.solve(state.values, state.precision))
        state.done += 1
        if checkpoint is not None:
            checkpoint(state)
    return state.values


def restriction(
    first: Float[Tensor, "D D D"], others: Float[Tensor, "D D D"]
) -> Callable[[ComponentGrid, Tensor], Tensor]:
    """Function that multiplies components by masks in real space: P_0 by the first, all others by the second."""

    def apply(grid: ComponentGrid, values: Tensor) -> Tensor:
        out = torch.zeros_like(values)
        for j in range(values.shape[2]):
            if bool(values[..., j].any()):
                mask = (first if j == 0 else others).to(values.device)
                out[..., j] = grid.from_map(grid.to_map(values[..., j].contiguous()) * mask)
        return out

    return apply
