"""Hand-over from another engine: latents, and the linear space of volumes that they span.

The neural engine's prior is a standard normal, so the latents handed over are whitened first, which changes no
volume: z = m + L z', hence V(z) = (V_0 + sum m_j V_j) + sum z'_j (sum_i L_ij V_i).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.base import Heterogeneity, Linear
from cryodrgn_ext.engines.distributed import Workers
from cryodrgn_ext.engines.neural.model import VolumeModel
from cryodrgn_ext.engines.neural.observations import ObservationSource
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.slices import FourierGrid, map_to_grid

FIT_STEPS = 300
FIT_POINTS = 1024
FIT_RATE = 3e-3
ENCODER_STEPS = 400
ENCODER_BATCH = 64
ENCODER_RATE = 1e-3
CLIP = 10.0  # the likelihood's gradient grows without bound where the first spreads are too narrow
SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class WarmStart:
    """Volumes and latents that the neural engine begins with.

    Attributes
    ----------
    z : (N, q) float32
        Latents of all particles, of mean 0 and covariance 1.
    mean : (D, D, D) float32 or None
        Volume at z = 0; None when only latents are handed over.
    components : (q, D, D, D) float32 or None
        V(z) = mean + sum over j of z_j components_j.
    """

    z: NDArray[np.float32]
    mean: NDArray[np.float32] | None = None
    components: NDArray[np.float32] | None = None

    @classmethod
    def from_result(cls, result: Heterogeneity) -> WarmStart:
        """Take over the latents of another engine's result, and its volumes where they are affine in z.

        Raises
        ------
        InputError
            When a latent dimension does not vary at all.
        """
        z = np.asarray(result.z, np.float64)
        n, q = z.shape
        center = z.mean(0)
        covariance = np.atleast_2d(np.cov(z, rowvar=False)) if n > 1 else np.eye(q)
        values, vectors = np.linalg.eigh(covariance)
        if values.min() <= SMALLEST_SPREAD**2 * values.max():
            raise InputError(
                f"the latents to start from have only {int((values > SMALLEST_SPREAD**2 * values.max()).sum())} of {q} "
                "independent dimensions: use a smaller --zdim"
            )
        back = vectors * np.sqrt(values)  # z = center + back z'
        whitened = np.ascontiguousarray(((z - center) @ vectors / np.sqrt(values)), np.float32)
        if not isinstance(result, Linear):
            return cls(whitened)
        form = result.linear_form()
        probes = np.concatenate([center[None], center + back.T]).astype(np.float32)  # z' = 0 and the unit vectors
        weights = np.asarray(form.weights(probes), np.float32)
        mean = np.array(form.mean, np.float32)
        components = np.zeros((q, *mean.shape), np.float32)
        for volume, column in zip(form.components(), weights.T, strict=True):
            mean += column[0] * volume
            for j in range(q):
                components[j] += (column[1 + j] - column[0]) * volume
        return cls(whitened, mean, components)


def fit_volumes(
    model: VolumeModel, start: WarmStart, consensus: NDArray[np.float32] | None, radius: int, seed: int
) -> float:
    """Teach a model the volumes of a warm start, less the consensus that it does not have to learn.

    The target is known on the whole Fourier grid, so that no image is needed: Adam on the squared error at random
    grid points of the training sphere and latents of random particles, in units of the model's envelope.

    Returns
    -------
    float
        Fraction of the variance that the model explains at the end (0 when the start has no volumes).
    """
    if start.mean is None or start.components is None:
        return 0.0
    device = model.envelope.device
    base = start.mean if consensus is None else start.mean - consensus
    grid = FourierGrid(len(base), radius, 1)
    targets = [map_to_grid(torch.as_tensor(v, device=device), grid).flatten() for v in (base, *start.components)]
    generator = torch.Generator().manual_seed(seed)
    z = torch.as_tensor(start.z)
    optimizer = torch.optim.Adam(model.parameters(), lr=FIT_RATE)
    model.train()
    explained = 0.0
    for step in range(FIT_STEPS):
        direction = torch.randn(FIT_POINTS, 3, generator=generator)
        length = radius * torch.rand(FIT_POINTS, 1, generator=generator) ** 0.5  # between uniform in shells and volume
        points = (direction / direction.norm(dim=1, keepdim=True) * length).trunc().to(device)
        points = torch.where(points[:, :1] < 0, -points, points)
        x, y, z_axis = points.long().unbind(1)
        index = ((z_axis + grid.half) * grid.shape[1] + y + grid.half) * grid.shape[2] + x
        rows = torch.randint(len(z), (8,), generator=generator)
        weights = torch.cat([torch.ones(8, 1), z[rows]], dim=1).to(device)
        wanted = weights.to(torch.complex64) @ torch.stack([spectrum[index] for spectrum in targets])
        scale = model.magnitude(points).clamp_min(1e-12)
        for group in optimizer.param_groups:
            group["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        error = _squared((model.decode(points, z[rows].to(device)) - wanted) / scale)
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        explained = 1.0 - float(error.detach()) / max(float(_squared(wanted / scale)), 1e-30)
    return explained


def fit_encoder(model: VaeModel, source: ObservationSource, z: Tensor, group: Workers, seed: int) -> None:
    """Teach an encoder the latents of a warm start: maximum likelihood of z under its Gaussian, images of the shard.

    Parameters
    ----------
    model : VaeModel
        With an encoder.
    source : ObservationSource
        Images of this process's shard.
    z : Tensor
        (rows of the shard, q) latents.
    group : Workers
        Gradients are averaged over it, so that all processes keep the same weights.
    seed : int
    """
    if model.encoder is None:
        return
    parameters = list(model.encoder.parameters())
    optimizer = torch.optim.Adam(parameters, lr=ENCODER_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ENCODER_STEPS if len(z) else 0):
        rows = torch.randint(len(z), (ENCODER_BATCH,), generator=generator)
        mean, log_variance = model.encode(source.latent(rows))
        error = mean - z[rows].to(mean.device)
        loss = 0.5 * (log_variance + error.square() * (-log_variance).exp()).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if group.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            group.sum(*gradients)
            for gradient in gradients:
                gradient /= group.size
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()


def _squared(values: Tensor) -> Tensor:
    return (values.real.square() + values.imag.square()).mean()
