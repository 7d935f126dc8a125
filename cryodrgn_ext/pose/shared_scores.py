"""Scores of a block of images against slices that all of them share, as matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.pose.mirrors import Mirrors
from cryodrgn_ext.pose.model import SliceModel
from cryodrgn_ext.pose.particle_scale import at_best_scale_


class SharedScores:
    """Scores of images against slices that they share, with or without the slices' mirrors.

    Parameters
    ----------
    model : SliceModel
    kxy : Tensor
        (M, 2) frequencies that count, a prefix of the half plane's.
    shift_px : Tensor
        (T, 2) candidates.
    box_size : int
    mirrors : Mirrors, optional
        Score the mirrors of every slice as well; ``kxy`` is then in their order.
    scale_precision : float, optional
        Of the particle scale, which is then the best one for every score, see :mod:`.particle_scale`.
    """

    def __init__(
        self, model: SliceModel, kxy: Tensor, shift_px: Tensor, box_size: int, mirrors: Mirrors | None,
        scale_precision: float | None = None,
    ) -> None:  # fmt: skip
        self.model, self.mirrors, self.scale_precision = model, mirrors, scale_precision
        self.kxy = kxy if mirrors is None else kxy[mirrors.order]
        self.phases = shift_phases(self.kxy, -shift_px.to(kxy.device, torch.float32), box_size)
        #: How many scores each slice gives.
        self.fold = 1 if mirrors is None else 4

    def sections(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Slices (..., G, M) as real numbers, and their squares."""
        real = torch.view_as_real(values).flatten(-2) if self.mirrors is None else self.mirrors.split(values)
        return real, squared(values)

    def score(self, data: Tensor, power: Tensor, sections: Tensor, norms: Tensor, out: Tensor) -> None:
        """Write log-likelihoods (b, T, fold, G) of images, of which data and power (b, M) are given."""
        if self.mirrors is None:
            shifted = torch.view_as_real(data[:, None] * self.phases).flatten(-2)
            if sections.ndim == 2:
                torch.mm(shifted.flatten(0, 1), sections.mT, out=out.flatten(0, 2))
            else:
                torch.bmm(shifted, sections.mT, out=out[:, :, 0])
            norm = weighed(power, norms)[:, None]
        else:
            data, power = data[:, self.mirrors.order], power[:, self.mirrors.order]
            self.mirrors.products(self.mirrors.split(data[:, None] * self.phases), sections, out)
            front, back = weighed(power, norms), weighed(self.mirrors.swap(power), norms)
            norm = torch.stack([front, front, back, back], dim=1)
        at_best_scale_(out, norm[:, None], self.scale_precision)

    def accumulate(self, data: Tensor, power: Tensor, posterior: Tensor, likely: Tensor, sums: SectionSums) -> None:
        """Add images at their posteriors to every section.

        Parameters
        ----------
        data, power : Tensor
            (b, M) of images.
        posterior : Tensor
            (b, T, fold, G), up to a factor of each image, by which data and power are then divided.
        likely : Tensor
            (b, T) bool: shifts whose images are added; the others have next to no posterior.
        sums : SectionSums
            Added to.
        """
        rotations, chosen = posterior.sum(1), posterior.flatten(0, 1) if bool(likely.all()) else posterior[likely]
        if self.mirrors is None:
            shifted = torch.view_as_real(data[:, None] * self.phases).flatten(-2)[likely]
            sums.split.addmm_(chosen[:, 0].mT, shifted)
            sums.weight.addmm_(rotations[:, 0].mT, power)
            return
        data, power = data[:, self.mirrors.order], power[:, self.mirrors.order]
        self.mirrors.add_adjoint(chosen, self.mirrors.split(data[:, None] * self.phases)[likely], sums.split)
        sums.weight.addmm_((rotations[:, 0] + rotations[:, 1]).mT, power)
        sums.weight.addmm_((rotations[:, 2] + rotations[:, 3]).mT, self.mirrors.swap(power))

    def complex_sums(self, sums: SectionSums) -> Complex[Tensor, "G M"]:
        """Sums of images as complex numbers, in the order of :attr:`kxy`."""
        if self.mirrors is None:
            return torch.view_as_complex(sums.split.unflatten(-1, (-1, 2)))
        return self.mirrors.join(sums.split)


@dataclass
class SectionSums:
    """Sums of images over the sections that they share.

    Attributes
    ----------
    split : Tensor
        (G, 2 M or 2 M - 1) float32 sums of posterior times CTF times image, as real numbers.
    weight : Tensor
        (G, M) float32 sums of posterior times CTF².
    """

    split: Tensor
    weight: Tensor

    @classmethod
    def like(cls, sections: Tensor, norms: Tensor) -> SectionSums:
        """Zeros for the sections that :meth:`SharedScores.sections` returns."""
        return cls(torch.zeros_like(sections), torch.zeros_like(norms))


def weighed(power: Float[Tensor, "B M"], norms: Float[Tensor, "*slices M"]) -> Float[Tensor, "B G"]:
    """(B, G): sums of power (B, M) times squared slices (G, M), or (B, G, M)."""
    return power @ norms.T if norms.ndim == 2 else (norms @ power[..., None])[..., 0]


def squared(values: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """|values|², float32."""
    return torch.view_as_real(values).square().sum(-1)
