"""Posteriors of images over all rotations of a grid and all shifts, and the sums of the images that they make.

Scores are images times slices, and the sums of every slice of the grid are posteriors times images: matrix products
both ways, a quarter as long where sections come in mirrored fours (:mod:`.mirrors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.mirrors import Mirrors
from cryodrgn_ext.pose.model import as_model, points_on
from cryodrgn_ext.pose.scoring import CACHE_BYTES, Scorer
from cryodrgn_ext.pose.shared_scores import SectionSums, SharedScores

#: Shifts with less than this share of an image's posterior are left out of the sums.
LEAST_POSTERIOR = 1e-5
SCORES_BYTES_GPU = 1 << 30


@dataclass(frozen=True)
class SearchGrid:
    """Rotations, shifts and frequencies of a search.

    Attributes
    ----------
    rotation : Tensor
        (R, 3, 3) float32, a whole grid.
    front : Tensor
        (R / 4, 3, 3) the first of each four that :func:`so3_grid.quads` puts together.
    kxy : Tensor
        (M, 2) frequencies, a prefix of the half plane's.
    shift_px : Tensor
        (T, 2).
    box_size : int
    """

    rotation: Float[Tensor, "R 3 3"]
    front: Float[Tensor, "G 3 3"]
    kxy: Shaped[Tensor, "M 2"]
    shift_px: Float[Tensor, "T 2"]
    box_size: int

    @classmethod
    def of(cls, level: int, kxy: Tensor, shift_px: Tensor, box_size: int) -> SearchGrid:
        """Grid of a level, on the device of the frequencies."""
        rotation = torch.from_numpy(so3_grid.grid(level)).to(kxy.device, torch.float32)
        front = rotation[torch.from_numpy(so3_grid.quads(level)[:, 0]).to(kxy.device)]
        return cls(rotation, front, kxy, shift_px, box_size)

    @property
    def n_rotations(self) -> int:
        """Number R of rotations."""
        return len(self.rotation)


@dataclass(frozen=True)
class Expectation:
    """Posteriors of some images, as sums of the images over sections of the grid.

    Attributes
    ----------
    points : Tensor
        (G, M, 3) where the sections lie: of all rotations, or of one of each four that show the same.
    numerator : Tensor
        (G, M) complex64: sums of posterior times CTF times image.
    weight : Tensor
        (G, M) float32: sums of posterior times CTF².
    effective_rotations : Tensor
        (b,) float32: one over the sum of the squared posteriors of an image's rotations.
    """

    points: Float[Tensor, "G M 3"]
    numerator: Complex[Tensor, "G M"]
    weight: Float[Tensor, "G M"]
    effective_rotations: Float[Tensor, " b"]


def expectation(
    scorer: Scorer,
    rows: Int[Tensor, " b"],
    volume: FourierVolume,
    grid: SearchGrid,
    frequency_matrix: Float[Tensor, "2 2"],
    exponent: float,
) -> Expectation:
    """Give some images their posteriors.

    Parameters
    ----------
    scorer : Scorer
    rows : Tensor
        (b,) int64 of its images.
    volume : FourierVolume
        What they are compared with.
    grid : SearchGrid
    frequency_matrix : Tensor
        (2, 2) that these images have in common.
    exponent : float
        Of the likelihood.
    """
    sheared = bool((frequency_matrix[0, 1] != 0) | (frequency_matrix[1, 0] != 0))
    mirrors, rotation = (None, grid.rotation) if sheared else (Mirrors.of(grid.kxy), grid.front)
    job = SharedScores(as_model(volume, scorer.device), grid.kxy, grid.shift_px, grid.box_size, mirrors,
                       None if scorer.scale_precision is None else exponent * scorer.scale_precision)  # fmt: skip
    points = points_on(frequency_matrix @ rotation[:, :2], job.kxy)
    sections, norms = job.sections(volume.slice(points))
    sums = SectionSums.like(sections, norms)
    count, shape = len(grid.kxy), (len(job.phases), job.fold, len(rotation))
    # Scores, posteriors and what they are added up in share the cache.
    budget = CACHE_BYTES // 2 if scorer.device.type == "cpu" else SCORES_BYTES_GPU
    block = max(1, min(len(rows), budget // (4 * shape[0] * shape[1] * shape[2])))
    buffer = torch.empty(block, *shape, device=scorer.device)
    effective = torch.empty(len(rows), device=scorer.device)
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        data, power = scorer.data[chosen, :count], scorer.power[chosen, :count]
        scores = buffer[: len(chosen)]
        job.score(exponent * data, exponent * power, sections, norms, scores)
        scores -= scores.flatten(1).amax(1)[:, None, None, None]
        posterior = scores.exp_()  # times a total
        of_shift = posterior.flatten(2).sum(2)
        total = of_shift.sum(1, keepdim=True)
        effective[start : start + block] = total[:, 0].square() / posterior.sum(1).flatten(1).square().sum(1)
        # Most shifts of an image are out of the question before long.
        job.accumulate(data / total, power / total, posterior, of_shift > LEAST_POSTERIOR * total, sums)
    return Expectation(points, job.complex_sums(sums), sums.weight, effective)
