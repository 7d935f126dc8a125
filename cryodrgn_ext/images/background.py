"""The smooth background of each image: a plane through the pixels outside the particle's circle, as RELION fits it.

relion_preprocess subtracts a x + b y + c, fitted by least squares to the pixels outside a circle about the box centre,
and divides by the standard deviation of what is left of them. The pixels are the same in all images of a box, so the
normal matrix is too: coefficients of a block of images are one matrix product.

Where the backgrounds of an optics group are curved, which :func:`curvature_excess` tells from a sample, x², xy and y²
are fitted as well: a bowl of one standard deviation hides a motion of 60 degrees. Elsewhere they are not, since what is
extrapolated into the circle brings noise there, the more of it the higher the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.images.preprocessing import outside_circle

#: Background pixels that the robust spread is taken from: its error, 7 %, is small beside thresholds of many sigma.
SAMPLED_PIXELS = 256
#: Standard deviations between the quartiles of a normal distribution.
QUARTILES_SD = 1.34898
#: Smallest number that single precision has in full.
SMALLEST = torch.finfo(torch.float32).tiny
#: Relative errors of single precision: of a number, and of a fit, which is a sum over thousands of pixels.
ROUNDING, FIT_ROUNDING = torch.finfo(torch.float32).eps, 1e-6
#: Quantile of the images whose curvatures are compared: it is enough that one of four is curved.
CURVED_SHARE = 0.8


@dataclass(frozen=True)
class LevelledImages:
    """Images without their background planes.

    Attributes
    ----------
    images : Tensor
        (B, D, D) float32, in the units of the files.
    plane : Tensor
        (B, P) value at the box centre, change along x and y over half a box, and terms of second order if they are
        fitted, in the same units.
    sd : Tensor
        (B,) root mean square of the background that is left.
    peak : Tensor
        (B,) largest absolute value in the images that are left.
    """

    images: Tensor
    plane: Tensor
    sd: Tensor
    peak: Tensor

    def normalised(self) -> Tensor:
        """(B, D, D) images with a background of standard deviation 1 (of 0 where it is constant)."""
        return self.images / self.sd.clamp_min(SMALLEST)[:, None, None]

    @property
    def is_constant(self) -> Tensor:
        """(B,) bool: nothing is left of the background but rounding errors, of its level in the file and of the fit."""
        level, terms = self.plane[:, 0].abs(), self.plane[:, 1:].abs().sum(1)
        return self.sd <= (ROUNDING * level + FIT_ROUNDING * terms).clamp_min(SMALLEST)


@dataclass(frozen=True)
class BackgroundSurface:
    """Least-squares fit of a plane, or of a surface of second order, to the background of images of one box.

    Attributes
    ----------
    outside : Tensor
        (D, D) bool: the background's pixels.
    basis : Tensor
        (P, D²) float32: 1, x, y (and xx, xy, yy) at every pixel, from -1 to 1 over the box.
    solve : Tensor
        (D², P) float32: pixels to coefficients; 0 inside the circle.
    sampled : Tensor
        (K,) int64 background pixels, spread evenly.
    counted : Tensor
        (D²,) float32: 1 for background pixels.
    """

    outside: Tensor
    basis: Tensor
    solve: Tensor
    sampled: Tensor
    counted: Tensor

    @classmethod
    def make(cls, box_size: int, radius_px: float, order: int = 1) -> BackgroundSurface:
        """Prepare the fit outside a circle of ``radius_px`` pixels: of a plane, or to second ``order``."""
        outside = outside_circle(box_size, radius_px)
        basis = surface_basis(box_size, order)
        inside_free = basis * outside.flatten()
        normal = inside_free @ inside_free.T
        solve = torch.linalg.solve(normal, inside_free)
        pixels = outside.flatten().nonzero()[:, 0]
        sampled = pixels[torch.linspace(0, len(pixels) - 1, min(len(pixels), SAMPLED_PIXELS)).long()]
        return cls(outside, basis.float(), solve.T.float().contiguous(), sampled, outside.flatten().float())

    @property
    def n_pixels(self) -> int:
        """Number of background pixels."""
        return int(self.outside.sum())

    def level(self, images: Tensor) -> LevelledImages:
        """Subtract from each image (B, D, D) the surface through its background; a NaN gives NaN."""
        flat = images.flatten(1)
        # A value near the mean goes first: raw counts can have a mean of thousands and a spread of one.
        middle = flat[:, self.sampled].mean(1, keepdim=True)
        centred = flat - middle
        plane = centred @ self.solve
        centred.addmm_(plane, self.basis, alpha=-1.0)
        plane[:, :1] += middle
        peak = centred.abs().amax(1)
        # By powers of two near 1, which loses nothing: squares of 1e30 or 1e-30 have no place in single precision.
        unit = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent.where(torch.isfinite(peak), 0))
        square = (centred / unit[:, None]).square() @ self.counted
        return LevelledImages(centred.view_as(images), plane, (square / self.n_pixels).sqrt() * unit, peak)

    def robust_sd(self, levelled: Tensor) -> Tensor:
        """(B,) standard deviation of some background pixels of (B, D, D) by their quantiles: blind to outliers."""
        values = levelled.flatten(1)[:, self.sampled]
        return quartile_sd(values)


def surface_basis(box_size: int, order: int = 1) -> Tensor:
    """(P, D²) float64: products of x and y up to ``order``, in half boxes from the box centre, pixel D // 2."""
    axis = (torch.arange(box_size, dtype=torch.float64) - box_size // 2) / (box_size / 2)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    terms = [x ** (degree - power) * y**power for degree in range(order + 1) for power in range(degree + 1)]
    return torch.stack(terms).flatten(1)


def curvature_excess(images: Tensor, outside: Tensor) -> float:
    """How much stronger terms of second order are in the background of images than those of third order.

    Noise, of any colour, has about as much of one as of the other (a ratio near 1); what is smooth has less.

    Parameters
    ----------
    images : Tensor
        (B, D, D) images without their background planes, in units of the background's standard deviation.
    outside : Tensor
        (D, D) bool: pixels of the background.
    """
    basis = surface_basis(images.shape[-1], order=3)[:, outside.flatten()]
    orthonormal = torch.linalg.qr(basis.T).Q[:, 3:].to(images.dtype)
    known = images.flatten(1)[:, outside.flatten()]
    power = (known[torch.isfinite(known).all(1)] @ orthonormal).square()
    if not len(power):
        return 1.0
    second, third = (part.mean(1).quantile(CURVED_SHARE) for part in (power[:, :3], power[:, 3:]))
    return float(second / third.clamp_min(1e-30))


def quartile_sd(values: Tensor) -> Tensor:
    """(B,) standard deviation of (B, K) normal values by the distance between their quartiles."""
    rank = max(1, round(0.25 * values.shape[1]))
    low = values.kthvalue(rank, dim=1).values
    return (values.kthvalue(values.shape[1] + 1 - rank, dim=1).values - low) / QUARTILES_SD
