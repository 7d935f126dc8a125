"""What components begin with: random latents, or the deformations of the consensus that images vary by most."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.posterior import infer

RANDOM_BLOCK = 4096  # rows that one random generator starts
MOST_IMAGES = 6000  # a few dozen numbers are well known from
STEPS = 12  # of expectation maximisation; the few that vary most are ahead by then


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
    modes, count = anatomy.deformations(band.grid)
    modes, out = modes.to(band.device), torch.zeros_like(values)
    out[..., 0] = modes[..., 0] = values[..., 0]
    if count == 0:
        return out
    mine = max(1, MOST_IMAGES // current().size)
    chosen = rows[torch.linspace(0, max(len(rows) - 1, 0), min(mine, len(rows))).long().unique()]
    inner, cross = [torch.zeros(0, count + 1, count + 1)], [torch.zeros(0, count + 1)]
    for chunk in band.chunks(chosen):
        found = band.operators.gram(modes, count + 1, chunk)
        inner.append(found[0].float().cpu())
        cross.append(found[1].float().cpu())
    factor, information = _amplitudes(torch.cat(inner), torch.cat(cross))
    told, directions = torch.linalg.eigh(factor.T @ information @ factor)
    order = told.argsort(descending=True)[: -(-zdim // 2)]
    leading = (factor @ directions[:, order]).float().to(band.device)
    out[..., 1 : leading.shape[1] + 1] = modes[..., 1 : count + 1] @ leading
    return out


def _amplitudes(
    inner: Float[Tensor, "n Q Q"], cross: Float[Tensor, "n Q"]
) -> tuple[Float64[Tensor, "K K"], Float64[Tensor, "K K"]]:
    """Root of the covariance (K, K) of the amplitudes over images, and the mean information (K, K) of an image."""
    count = inner.shape[1] - 1
    sums = torch.cat([2 * inner[:, 1:, 1:].double().sum(0).flatten(), torch.tensor([float(len(inner))]).double()])
    current().sum(sums)
    information = sums[:-1].view(count, count) / sums[-1].clamp_min(1)
    factor = torch.eye(count, dtype=torch.float64) / information.diagonal().mean().clamp_min(1e-30).sqrt()
    for _ in range(STEPS):
        wide = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), factor)
        moments = torch.zeros(count, count, dtype=torch.float64)
        for i, c in zip(inner.split(1024), cross.split(1024), strict=True):
            found = infer(wide.T @ i.double() @ wide, c.double() @ wide)
            moments += found.mean.T @ found.mean + found.covariance.sum(0)
        current().sum(moments)
        values, vectors = torch.linalg.eigh(factor @ (moments / sums[-1].clamp_min(1)) @ factor.T)
        factor = vectors * values.clamp_min(1e-30).sqrt()
    return factor, information
