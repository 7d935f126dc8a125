"""How strong the signal is in each shell, from images without poses.

The mean power of whitened coefficients is CTF² times that of the volume on the shell, plus that of the noise. A decoder
whose outputs are multiplied by this magnitude has outputs of order one in every shell, and learns all of them at the
same pace; with one level for all, low frequencies must first grow to tens of times the noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages

SAMPLE_IMAGES = 2000
BATCH = 64
STANDARD_ERRORS = 2.0  # above the estimate: a shell whose signal is hidden by the noise may still have as much
FLOOR = 1e-3  # of the strongest shell


def power_envelope(images: ParticleImages, radius: int) -> Float32[Tensor, " S"]:
    """Root mean square of the volume's coefficients in shells 0..``radius``, (radius + 1,) float32 on the CPU.

    Where the noise hides the signal, the largest magnitude that the data allow; the level of the noise in all shells
    when there is less power than the noise should have.
    """
    count = images.plane.prefix(radius)
    shell = images.plane.shell[:count]
    shells = radius + 1
    excess, ctf_power, number = torch.zeros(3, shells, dtype=torch.float64)
    sample = torch.linspace(0, images.n - 1, min(images.n, SAMPLE_IMAGES)).round().long()
    for rows in sample.split(BATCH):
        batch = images.batch(rows, count)
        noise = images.window_power[images.optics_index[rows]].to(batch.ctf)[:, None]
        seen = (batch.ctf != 0).double().cpu()
        power = (batch.coefficients.abs().square() - noise).double().cpu() * seen
        excess.index_add_(0, shell, power.sum(0))
        ctf_power.index_add_(0, shell, batch.ctf.square().double().cpu().sum(0))
        number.index_add_(0, shell, seen.sum(0))
    # The power of a complex normal coefficient scatters as much as it is large.
    allowed = excess + STANDARD_ERRORS * number.sqrt()
    square = torch.where(ctf_power > 0, allowed / ctf_power.clamp(min=1e-30), torch.zeros_like(ctf_power))
    magnitude = square.clamp(min=0.0).sqrt()
    if not float(magnitude.max()) > 0:  # less power than the noise should have: its level is all there is to go by
        return torch.full((shells,), float(images.noise_sigma[:, 1 : radius + 1].mean()))
    return magnitude.clamp(min=FLOOR * float(magnitude.max())).float()
