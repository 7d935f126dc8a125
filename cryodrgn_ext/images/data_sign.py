"""Data sign: whether particles are white on black or black on white.

In RELION a CTF that starts at +Q0 and rises belongs to particles that are white on a dark background: relion_project
makes such images from positive density, and extraction does so when asked to "invert contrast", its default. A
micrograph as recorded has dark protein, and then X = -CTF V̂.

The data decide. Where orientations are known, a map at low resolution of a sample of the images shows whether density
is positive or negative; one that has much of both is no evidence. Where they are not, every centred image is correlated
with CTF times a central Gaussian blob: the transform of a compact density is positive at low frequency whatever the
orientation, so the correlation has the data sign. That of a hollow one is not, so the map comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierAccumulator, FourierGrid, grid_to_map, gridding_correction
from cryodrgn_ext.images.particle_images import ParticleImages

#: Standard deviation of the blob as a fraction of the box: protein of 25 to 75 % of the box correlates with it.
BLOB_SD = 0.08
#: Standard errors that the mean correlation must be away from zero to be believed.
BELIEVED = 5.0


#: Frequency, in cycles per box, up to which the map is made.
MAP_RADIUS = 8
#: Standard deviation, as a fraction of the box, of the Gaussian that keeps the surroundings of the particle out, where
#: density rings with the opposite sign, as the CTF takes the lowest frequencies away.
MAP_SD = 0.2
#: Least purity of a map's sign, and least correlation of the maps of two halves of the images, that are believed.
PURE, REPRODUCED = 0.75, 0.5
#: Images that a map after a search is made of, at most.
MOST_IMAGES = 1000


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


class MapSign:
    """A map of all images that were added, in two halves, and the sign of its density.

    Parameters
    ----------
    radius : int
        Largest frequency of the images, in cycles per box.
    """

    def __init__(self, radius: int) -> None:
        self.radius = min(MAP_RADIUS, radius)
        self.grid = FourierGrid(2 * (self.radius + 2), self.radius)
        self.sums = (FourierAccumulator(self.grid), FourierAccumulator(self.grid))
        self.n_images = 0

    def add(self, images: ParticleImages) -> None:
        """Add images that have not been inverted, in turn to either half.

        Those without orientations, or all with one, add nothing.
        """
        rotation = images.rotation
        if not bool(torch.isfinite(rotation).all()) or bool((rotation == rotation[:1]).all()):
            return
        count = min(images.plane.prefix(self.radius), images.source.n_coefficients)
        for rows in torch.arange(images.n).split(512):
            for half, sums in enumerate(self.sums):
                chosen = rows[half::2]
                if len(chosen):
                    batch = images.batch(chosen, count)
                    sums.insert(batch.points, batch.ctf * batch.coefficients, batch.ctf.square())
        self.n_images += images.n

    @property
    def purity(self) -> float:
        """Mean cube of the density over the mean of its size, from -1 (all negative) to 1; 0 for a map of noise.

        Cubes weigh what stands out; what surrounds it counts little.
        """
        first, second = (self._map(sums) for sums in self.sums)
        axis = (torch.arange(self.grid.box_size) - self.grid.box_size // 2) / self.grid.box_size
        square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
        inside = square < 0.45**2
        pair = torch.stack([first[inside], second[inside]])
        if self.n_images < 2 or not float(torch.corrcoef(pair)[0, 1]) > REPRODUCED:
            return 0.0
        weight, density = torch.exp(-square / (2 * MAP_SD**2)), first + second
        size = float((weight * density.abs() ** 3).sum())
        return float((weight * density**3).sum()) / size if size > 0 else 0.0

    def _map(self, sums: FourierAccumulator) -> Tensor:
        floor = 0.05 * float(sums.weight.mean()) + torch.finfo(torch.float32).tiny
        volume = grid_to_map(sums.numerator / (sums.weight + floor), self.grid)
        return volume / gridding_correction(self.grid.box_size, self.grid.oversampling)


def map_sign(images: ParticleImages) -> float:
    """Return :attr:`MapSign.purity` of a map of at most some hundred of the images, evenly spaced.

    Of images that were inverted it is the sign of what was made of them.
    """
    sums = MapSign(images.plane.radius)
    sums.add(images.subset(torch.linspace(0, images.n - 1, min(images.n, MOST_IMAGES)).long()))
    return sums.purity


def sign_of_found_map(purity: float, data_sign: int) -> str:
    """Say what a map with orientations that were found tells of the data sign, which was judged without any.

    Parameters
    ----------
    purity : float
        Of the map, see :func:`map_sign`.
    data_sign : int
        What was taken: -1 when images were inverted.
    """
    names = {1: "white", -1: "black"}
    taken = names[data_sign]
    if purity >= PURE:
        return f"Contrast: the map that was found is positive (purity {purity:.2f}): particles are {taken}, as taken."
    if purity <= -PURE:
        return (
            f"Warning: the map that was found is negative (purity of sign {-purity:.2f}), so particles are "
            f"{names[-data_sign]} in the images, not {taken} as taken before there were orientations: run again with "
            f"--contrast {names[-data_sign]}."
        )
    return (
        f"Contrast: the map that was found does not tell whether particles are white or black (purity of sign "
        f"{abs(purity):.2f}); they were taken as {taken}. If the map is inside out, set --contrast."
    )
