"""Bands of starts and searches, in cycles per box, from the size of the particle in it.

What a grid of rotations can tell apart, and what a random start can find, depends on how many periods of the highest
frequency lie across the particle, not across the box. The size is told by the images themselves, before any pose is
known: where in them the variance is, beyond that of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages

#: Radius with half of the variance, as a fraction of the box, for which the bands below hold as they stand.
USUAL_SPREAD = 0.16
LEAST_SCALE, MOST_SCALE = 0.75, 2.0
#: Images that tell the size, and the frequencies (fraction of all) by which they do.
SAMPLE, SAMPLE_BAND = 512, 0.6
#: Ring without particle (fractions of the box), and the largest radius that is looked at.
RING, OUTERMOST = (0.37, 0.42), 0.42


@dataclass(frozen=True)
class Bands:
    """Radii in cycles per box for a particle ``scale`` times smaller than usual in its box.

    Attributes
    ----------
    scale : float
    largest : float
        Of the images: no band goes beyond.
    """

    scale: float
    largest: float

    def _scaled(self, radius: float) -> float:
        return min(radius * self.scale, self.largest)

    @property
    def random_first(self) -> float:
        """First step of a random start."""
        return self._scaled(4.0)

    @property
    def random_coarse(self) -> float:
        """Largest band of the 30° grid."""
        return self._scaled(5.5)

    @property
    def random_last(self) -> float:
        """Last steps of a random start."""
        return self._scaled(7.0)

    @property
    def base(self) -> float:
        """Base grid of searches, 15°."""
        return self._scaled(8.0)

    @property
    def start_search(self) -> float:
        """Refinement of the searches of starts."""
        return self._scaled(10.0)

    @property
    def start(self) -> float:
        """Band in which starts are compared, and refinement of all other searches."""
        return self._scaled(12.0)


def choose_bands(images: ParticleImages) -> Bands:
    """Bands that suit the particle in these images."""
    spread = particle_spread(images) / images.box_size
    scale = min(max(USUAL_SPREAD / max(spread, 1e-6), LEAST_SCALE), MOST_SCALE)
    return Bands(scale, float(images.plane.radius))


def particle_spread(images: ParticleImages) -> float:
    """Radius in pixels, about the centres of the images, that holds half of the signal's variance.

    Shifts of the particles are part of it. The images are multiplied by their CTF, which undoes its phases.
    """
    d = images.box_size
    rows = torch.linspace(0, images.n - 1, min(images.n, SAMPLE)).long().unique()
    count = images.plane.prefix(max(4.0, SAMPLE_BAND * images.plane.radius))
    upright = images.with_poses(torch.eye(3).expand(images.n, 3, 3).to(images.rotation), images.shift_px * 0)
    batch = upright.batch(rows, count)
    pictures = images.plane.to_images(batch.coefficients * batch.ctf).cpu().double()
    multiplicity = images.plane.multiplicity[:count].double()
    noise = float((batch.ctf.cpu().double().square().mean(0) * multiplicity).sum()) / d**4
    return _half_radius(pictures.square().mean(0), noise)


def _half_radius(variance: Tensor, noise: float) -> float:
    """Radius that holds half of a variance (D, D) beyond the noise; noise is measured where there is room for it."""
    d = len(variance)
    axis = torch.arange(d, dtype=torch.float64) - d // 2
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    ring = variance[(radius >= RING[0] * d) & (radius <= RING[1] * d)].mean()
    # A narrow window leaves nothing of the ring: the noise that whitening promises is taken instead.
    floor = float(ring) if float(ring) > 0.5 * noise else noise
    inside = radius <= OUTERMOST * d
    order = radius[inside].argsort(stable=True)
    total = (variance[inside][order] - floor).cumsum(0)
    half = 0.5 * total[-1]
    if not float(half) > 0:
        return USUAL_SPREAD * d
    return float(radius[inside][order][int((total < half).sum().clamp_max(len(order) - 1))])
