"""Noise re-estimated from what a map leaves unexplained in the images."""

from __future__ import annotations

import torch
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor, SilentMonitor

COEFFICIENTS_PER_BATCH = 1 << 19


def estimate_noise_from_residuals(
    images: ParticleImages,
    volume: Tensor,
    indices: Tensor | None = None,
    monitor: Monitor | None = None,
) -> Tensor:
    """Standard deviation of the noise per optics group and shell, from residuals X - CTF V̂.

    Surroundings of particles and their places differ in ice and neighbours; residuals see the particles' own places.
    They also hold what the map does not explain (heterogeneity, errors of poses), which then counts as noise.
    Use the result with :meth:`ParticleImages.with_noise`.

    Parameters
    ----------
    images : ParticleImages
    volume : Tensor
        (D, D, D) map in the working box, such as a Wiener-filtered consensus: noise in it adds to the estimate.
    indices : Tensor, optional
        (n,) rows to use; some thousands are plenty. All when omitted.
    monitor : Monitor, optional

    Returns
    -------
    Tensor
        (G, D // 2) float32 like ``images.noise_sigma``; shells and groups without images keep their value.
    """
    monitor = SilentMonitor() if monitor is None else monitor
    rows = torch.arange(images.n) if indices is None else indices.cpu().long()
    device = images.rotation.device
    model = FourierVolume.from_map(volume.to(device), radius=images.plane.radius)
    count = images.source.n_coefficients
    shell = images.plane.shell[:count].to(device)
    groups, shells = images.noise_sigma.shape
    power = torch.zeros(groups, shells, dtype=torch.float64, device=device)
    seen = torch.zeros_like(power)
    size = max(1, COEFFICIENTS_PER_BATCH // count)
    for chunk in monitor.track(rows.split(size), "Noise from residuals", len(rows), size):
        batch = images.batch(chunk, count)
        residual = (batch.coefficients - batch.ctf * model.slice(batch.points)).abs().square().double()
        present = (batch.ctf != 0).double()
        group_of = images.optics_index[chunk]
        for g in group_of.unique().tolist():
            members = (group_of == g).nonzero()[:, 0].to(device)
            power[g].index_add_(0, shell, (residual[members] * present[members]).sum(0))
            seen[g].index_add_(0, shell, present[members].sum(0))
    ratio = (power / seen.clamp_min(1)).cpu() / images.window_power.double()[:, None]
    measured = (seen.cpu() > 0) & (ratio > 0)
    ratio[:, 0] = ratio[:, 1]  # the background's normalisation took the mean
    factor = torch.where(measured, ratio.clamp_min(1e-12).sqrt(), 1.0)
    return (images.noise_sigma.double() * factor).float()
