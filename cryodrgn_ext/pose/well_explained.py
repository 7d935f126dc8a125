"""Refinement once more, from a map of those images that the map at hand explains best.

A refinement ends where every image fits the map best, and the map shows every image where it lies. When a part of the
images lies wrong in a common way (a near symmetry of the particle), the map shows that part as well, which then finds
itself in it, in both half-sets alike. But these images are explained worse: more of their power is left over. A map of
the better half of the images is nearly without them; all images are searched against it. Images that show something
else are left out of it in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.half_references import make_references
from cryodrgn_ext.pose.initial import information, signal_power
from cryodrgn_ext.pose.particle_scale import with_scales
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.refinement import GROWTH, RefinementState
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import backproject

#: Share of each half-set that the map is made of: where most images lie right, nearly all of these do.
KEPT_SHARE = 0.5
#: A refinement is better than another when images gain by more than so many standard errors of the mean.
SURE = 2.0
IMAGES_PER_BATCH = 512
#: Images whose power is measured, and blocks of them by which its error is known.
SAMPLE, BLOCKS = 2000, 10


def unexplained_power(images: ParticleImages, state: RefinementState) -> Float[Tensor, " N"]:
    """Power of each image (N,) float64 that its pose leaves over, in the band of a refinement, noise included.

    With y the whitened image and P what is expected of it, |y - cP|² = |y|² - 2 (log-likelihood over no particle).
    """
    count = images.plane.prefix(state.radius)
    multiplicity = images.plane.multiplicity[:count]
    power = [
        (images.source.gather(rows, count).abs().square().cpu() * multiplicity).sum(1).double()
        for rows in torch.arange(images.n).split(IMAGES_PER_BATCH)
    ]
    return torch.cat(power) - 2.0 * state.estimates.log_likelihood


def best_explained_rows(images: ParticleImages, state: RefinementState) -> Int[Tensor, " n"]:
    """(n,) int64 increasing rows of the better half of the images in either half-set."""
    left = unexplained_power(images, state)
    half_of, kept = images.half_set.cpu(), []
    for half in (1, 2):
        rows = (half_of == half).nonzero()[:, 0]
        kept.append(rows[left[rows].argsort(stable=True)][: math.ceil(KEPT_SHARE * len(rows))])
    return torch.cat(kept).sort().values


def maps_of_best_explained(
    images: ParticleImages, state: RefinementState, settings: ReconstructSettings, monitor: Monitor
) -> tuple[Float[Tensor, "D D D"], Float[Tensor, "D D D"]]:
    """Maps of the half-sets, filtered and masked, made of the images that are explained best.

    Parameters
    ----------
    images : ParticleImages
        Their poses are not used.
    state : RefinementState
        Of a refinement that has ended.
    settings : ReconstructSettings
    monitor : Monitor
    """
    rows = best_explained_rows(images, state)
    d = images.box_size
    radius = settings.mask_radius(d)
    posed = with_scales(images.with_poses(state.estimates.poses), state.estimates.scale)
    grid = FourierGrid(d, min(images.plane.radius, math.ceil(state.radius * GROWTH) + 3))
    half_of = images.half_set.cpu()[rows]
    sums = [
        backproject(posed, rows[half_of == half], grid=grid, device=settings.device, monitor=monitor)
        for half in (1, 2)
    ]  # fmt: skip
    sphere = spherical_mask(d, 0.9 * radius, 0.1 * radius, sums[0].numerator.device)
    references = make_references(sums[0], sums[1], sphere)
    return references.half1, references.half2


@dataclass(frozen=True)
class Explained:
    """Signal of the images that a refinement explains.

    Attributes
    ----------
    nats : float
        Mean log-likelihood per image.
    expected : float
        What the true structure would reach at true poses: half of the signal's power in the images, over the noise.
    error : float
        Standard error of it.
    """

    nats: float
    expected: float
    error: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing beyond chance; poses and maps that follow the noise reach a little more."""
        return self.nats >= self.expected - SURE * self.error

    def sentence(self) -> str:
        """Say it, for the log."""
        said = f"The map explains {self.nats:.1f} nats per particle; the power of the images lets expect"
        said += f" {self.expected:.1f} ± {self.error:.1f} of one structure at its true poses"
        if self.is_whole:
            return said + "."
        return said + ": poses are wrong in a part of the images, or the particles differ from each other."


def explained_signal(images: ParticleImages, state: RefinementState, settings: ReconstructSettings) -> Explained:
    """Compare what a refinement explains with what the power of its images lets expect; parameters as above."""
    generator = torch.Generator().manual_seed(settings.seed)
    some = torch.randperm(images.n, generator=generator)[:SAMPLE]
    parts = []
    for rows in some.chunk(BLOCKS):
        scorer = Scorer(images, rows, state.radius, settings.device, settings.memory_bytes)
        parts.append(information(scorer, signal_power(images, scorer), state.radius))
    each = torch.tensor(parts, dtype=torch.float64)
    error = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else math.inf
    return Explained(float(state.estimates.log_likelihood.mean()), float(each.mean()), error)


def is_likelier(one: RefinementState, other: RefinementState) -> bool:
    """Whether the same images prefer ``one``, beyond chance."""
    gain = one.estimates.log_likelihood - other.estimates.log_likelihood
    return bool(gain.mean() > SURE * gain.std() / math.sqrt(len(gain)))
