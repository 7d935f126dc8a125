"""Data sign: whether particles are white on black or black on white.

In RELION a CTF that starts at +Q0 and rises belongs to particles that are white on a dark background: relion_project
makes such images from positive density, and extraction does so when asked to "invert contrast", its default. A
micrograph as recorded has dark protein, and then X = -CTF V̂.

The data decide: correlate every centred image with CTF times a central Gaussian blob. The transform of a compact
density is positive at low frequency whatever the orientation, so the correlation has the data sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.images.particle_images import ParticleImages

#: Standard deviation of the blob as a fraction of the box: protein of 25 to 75 % of the box correlates with it.
BLOB_SD = 0.08
#: Standard errors that the mean correlation must be away from zero to be believed.
BELIEVED = 5.0


@dataclass(frozen=True)
class SignEvidence:
    """Evidence of the images.

    Attributes
    ----------
    score : float
        Mean correlation with a white blob in standard errors; positive when particles are white.
    n_images : int
    """

    score: float
    n_images: int

    @property
    def sign(self) -> int:
        """1 white, -1 black, 0 when the images do not say."""
        return 0 if abs(self.score) < BELIEVED else (1 if self.score > 0 else -1)


def sign_coefficients(plane: HalfPlane) -> int:
    """Number of leading coefficients that :func:`measure_data_sign` looks at."""
    return plane.prefix(1.0 / BLOB_SD)


def measure_data_sign(images: ParticleImages) -> SignEvidence:
    """Find the data sign of images that have not been inverted.

    Parameters
    ----------
    images : ParticleImages
        A sample (some hundreds), every one used.
    """
    norm = images.plane.norm
    blob = torch.exp(-2.0 * (torch.pi * BLOB_SD * norm) ** 2) * images.plane.multiplicity
    blob[0] = 0.0  # the mean of an image depends on the normalisation of its background
    count = sign_coefficients(images.plane)
    scores = []
    for rows in torch.arange(images.n).split(512):
        batch = images.batch(rows, min(count, images.source.n_coefficients))
        template = batch.ctf * blob[: batch.ctf.shape[1]]
        scores.append((batch.coefficients.real * template).sum(1) / template.square().sum(1).sqrt().clamp_min(1e-20))
    score = torch.cat(scores).double()
    if len(score) < 2:
        return SignEvidence(0.0, len(score))
    error = float(score.std()) / len(score) ** 0.5
    return SignEvidence(float(score.mean()) / max(error, 1e-20), len(score))
