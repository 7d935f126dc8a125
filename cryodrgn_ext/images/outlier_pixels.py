"""Pixels that no noise and no particle makes: hot and dead pixels, dust, columns of a detector; found and replaced.

A pixel is an outlier when it is farther from the image's background plane than noise reaches in all pixels of all
images of the optics group, and than particles of the group usually reach, and when its surroundings do not follow it:
ice, carbon and strong particles are wider than a few pixels and stay. relion_preprocess (--white_dust, --black_dust)
leaves the number of sigmas to the user, and replaces the pixels by random noise; here they take the median of their
surroundings, so that the same images always give the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from cryodrgn_ext.images.background import BackgroundSurface, LevelledImages, quartile_sd

#: Pixels of pure noise that would be called outliers, in all images of a group together.
FALSE_PIXELS = 0.01
#: Outliers reach so many times farther than the farthest pixel of most images, particle and all,
BEYOND_USUAL = 1.6
#: and by so many times the difference between the upper quartile and the median of these.
BEYOND_SPREAD = 5.0
#: Pixels to each side that are the surroundings of a pixel: wider than a column or a speck of dust.
REACH = 3
#: Share of its height by which an outlier stands above the median of its surroundings.
STEEP = 0.5
#: Up to so many thresholds an outlier must stand alone, by a greater share above its eight neighbours: no detail of a
#: particle does that, as it fills more than a pixel.
MODERATE, ALONE = 2.5, 0.8
#: Images with a greater share of such pixels hold nothing that can be trusted.
MOST_REPAIRED = 0.1
#: Repetitions of the fit of background and noise, the first with a spread by quartiles, and what it leaves out.
FITS, BY_QUARTILES, FITTED_SD = 6, 3, 5.0
#: Share of the pixels that have the median's very value where counts are in few steps, or images were masked.
TIED = 0.4
#: Of the threshold, at which an image is looked at closely.
SUSPICIOUS = 0.93
#: Spread by quartiles over the usual one, below which many outliers may have spoilt the latter.
SPOILT = 0.75


@dataclass(frozen=True)
class Repaired:
    """Images whose outlier pixels were replaced.

    Attributes
    ----------
    images : Tensor
        (B, D, D) float32; those with too many outliers are as they were but for pixels that are not finite, now 0.
    count : Tensor
        (B,) int64 pixels found.
    not_finite : Tensor
        (B,) int64 pixels that were not finite numbers.
    """

    images: Tensor
    count: Tensor
    not_finite: Tensor

    @property
    def is_lost(self) -> Tensor:
        """(B,) bool: so many pixels are outliers that the image cannot be used."""
        return self.count > MOST_REPAIRED * self.images[0].numel()


def outlier_threshold(n_pixels: int, peaks: Tensor) -> float:
    """Distance from the background, in standard deviations of the noise, beyond which a pixel may be an outlier.

    Parameters
    ----------
    n_pixels : int
        In all images of a group: more pixels of noise reach farther.
    peaks : Tensor
        (P,) farthest pixel of each image of a sample, in the same unit. A quarter of them may be damaged.
    """
    noise = -float(ndtri(FALSE_PIXELS / (2 * max(n_pixels, 1))))
    known = peaks[torch.isfinite(peaks)]
    if not len(known):
        return noise
    middle, upper = (float(known.quantile(share)) for share in (0.5, 0.75))
    return max(noise, BEYOND_USUAL * upper, upper + BEYOND_SPREAD * (upper - middle))


def suspicious_images(levelled: LevelledImages, background: BackgroundSurface, threshold: float) -> Tensor:
    """(S,) int64 images that may have outlier pixels, or that are not finite.

    Few outliers exceed the threshold although they are in the standard deviation; many spoil it.
    """
    fine = levelled.peak <= SUSPICIOUS * threshold * levelled.sd
    fine &= background.robust_sd(levelled.images) >= SPOILT * levelled.sd
    return (~fine).nonzero()[:, 0]


def repair_outliers(images: Tensor, background: BackgroundSurface, threshold: float) -> Repaired:
    """Replace outlier pixels of (B, D, D) images by the median of their surroundings.

    Background plane and noise are fitted again and again to the pixels within the threshold, from an estimate by
    quantiles: a dead column has more weight in a standard deviation than its own threshold.
    """
    flat = images.flatten(1).double()
    finite = torch.isfinite(flat)
    flat = torch.where(finite, flat, 0.0)
    plane, sd = _robust_fit(flat, finite, background)
    trend = plane @ background.basis.double()
    height = flat - trend
    far = ((height.abs() > threshold * sd[:, None]) | ~finite).nonzero()
    box = images.shape[-1]
    known = torch.where(finite, height, torch.nan).view(-1, box, box)
    there = height[far[:, 0], far[:, 1]]
    steep = (there - _median_around(known, far, REACH)).abs() > STEEP * there.abs()
    alone = (there - _median_around(known, far, 1)).abs() > ALONE * there.abs()
    strong = there.abs() > MODERATE * threshold * sd[far[:, 0]]
    found = far[(steep & (alone | strong)) | ~finite[far[:, 0], far[:, 1]]]
    known.view(flat.shape)[found[:, 0], found[:, 1]] = torch.nan
    value = torch.nan_to_num(_median_around(known, found, REACH)) + trend[found[:, 0], found[:, 1]]
    count = torch.bincount(found[:, 0], minlength=len(flat))
    trusted = (count <= MOST_REPAIRED * box**2)[found[:, 0]]
    found, value = found[trusted], value[trusted]
    flat[found[:, 0], found[:, 1]] = value
    return Repaired(flat.float().view_as(images), count, (~finite).sum(1))


def _robust_fit(flat: Tensor, finite: Tensor, background: BackgroundSurface) -> tuple[Tensor, Tensor]:
    """Surface (B, P), and standard deviation (B,) of the background pixels that are near it."""
    outside = background.outside.flatten().nonzero()[:, 0]
    basis, values, usable = background.basis[:, outside].double(), flat[:, outside], finite[:, outside]
    middle = torch.nan_to_num(torch.where(usable, values, torch.nan).nanmedian(dim=1, keepdim=True).values)
    values = torch.where(usable, values - middle, 0.0)
    tied = (values == 0).double().mean(1) > TIED
    inlier = usable & (values.abs() <= FITTED_SD * _spread(values, tied)[:, None])
    ridge = 1e-9 * len(outside) * torch.eye(len(basis), dtype=torch.float64)
    for number in range(FITS):
        weight = inlier.double()
        normal = torch.einsum("bn,in,jn->bij", weight, basis, basis) + ridge
        plane = torch.linalg.solve(normal, (weight * values) @ basis.T)
        rest = values - plane @ basis
        sd = ((weight * rest.square()).sum(1) / weight.sum(1).clamp_min(1.0)).sqrt()
        limit = torch.minimum(sd, _spread(rest, tied)) if number < BY_QUARTILES else sd
        inlier = usable & (rest.abs() <= FITTED_SD * limit[:, None])
    plane[:, 0] += middle[:, 0]
    return plane, sd


def _spread(values: Tensor, tied: Tensor) -> Tensor:
    """(B,) standard deviation of (B, K) values by quartiles; the usual one where these say nothing."""
    return torch.where(tied, values.square().mean(1).sqrt(), quartile_sd(values))


def _median_around(values: Tensor, where: Tensor, reach: int) -> Tensor:
    """(C,) median of finite values of (B, D, D) at up to ``reach`` from pixels ``where`` (C, 2): image, place in it."""
    width = values.shape[-1] + 2 * reach
    padded = torch.nn.functional.pad(values, (reach,) * 4, value=torch.nan).flatten(1)
    step = torch.arange(2 * reach + 1)
    offset = (step[:, None] * width + step).flatten()
    offset = offset[offset != reach * (width + 1)]  # the pixel itself has no say
    corner = where[:, 1] // values.shape[-1] * width + where[:, 1] % values.shape[-1]
    out = [
        padded[image[:, None], place[:, None] + offset].nanmedian(dim=1).values
        for image, place in zip(where[:, 0].split(1 << 16), corner.split(1 << 16), strict=True)
    ]
    return torch.cat(out) if out else values.new_zeros(0)
