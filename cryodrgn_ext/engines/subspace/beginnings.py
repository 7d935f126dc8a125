"""What components begin with: random latents, or the deformations of the consensus that images vary by most."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.amplitudes import MOST_IMAGES, Motions, Products
from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.band import Band

RANDOM_BLOCK = 4096  # rows that one random generator starts


def random_latents(rows: Int64[Tensor, " B"], zdim: int, seed: int) -> Float64[Tensor, "B q"]:
    """Latents (B, q) from seed and row alone: the same however images are cut into chunks."""
    block_of = torch.div(rows, RANDOM_BLOCK, rounding_mode="floor")
    mean = torch.empty(len(rows), zdim, dtype=torch.float64)
    for block in block_of.unique().tolist():
        generator = torch.Generator().manual_seed(seed + 1_000_003 * (block + 1))
        numbers = torch.randn(RANDOM_BLOCK, zdim, generator=generator, dtype=torch.float64)
        members = block_of == block
        mean[members] = numbers[rows[members] - block * RANDOM_BLOCK]
    return mean


def leading_deformations(
    band: Band, rows: Int64[Tensor, " n"], anatomy: Anatomy, values: Float32[Tensor, "V 2 Qp"], zdim: int
) -> Float32[Tensor, "V 2 Qp"]:
    """Components (V, 2, Qp) whose columns hold, up to the half of them, the deformations that images vary by most.

    Amplitudes of the deformations are normally distributed over images, with a covariance that is found by expectation
    maximisation. Its directions follow in the order of what single images tell of them. Further columns are 0.

    Parameters
    ----------
    band : Band
    rows : Tensor
        (n,) images of this process.
    anatomy : Anatomy
    values : Tensor
        (V, 2, Qp), of which the first column stays: the consensus' correction.
    zdim : int
        Number of components.
    """
    deformations = anatomy.deformations(band.grid)
    out = torch.zeros_like(values)
    out[..., 0] = values[..., 0]
    if deformations.smooth == 0:
        return out
    deformations = deformations.on(band.device).about(values[..., 0])
    mine = max(1, MOST_IMAGES // current().size)
    chosen = rows[torch.linspace(0, max(len(rows) - 1, 0), min(mine, len(rows))).long().unique()]
    products = Products.of(band, deformations, chosen)
    loadings = Motions.learn(products, -(-zdim // 2), 0.0).loadings
    out[..., 1 : loadings.shape[1] + 1] = Motions.components(deformations, loadings)[..., : loadings.shape[1]]
    return out
