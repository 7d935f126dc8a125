"""Two sets of particles as one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Complex64, Integer
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.coefficient_source import CoefficientSource
from cryodrgn_ext.images.particle_images import ParticleImages

SAME_PIXEL = 1e-3  # relative


@dataclass(frozen=True)
class JoinedCoefficients:
    """The rows of one source, then those of another.

    Attributes
    ----------
    first, second : CoefficientSource
    split : int
        Number of rows of the first.
    """

    first: CoefficientSource
    second: CoefficientSource
    split: int

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are available."""
        return min(self.first.n_coefficients, self.second.n_coefficients)

    def gather(self, rows: Integer[Tensor, " B"], n_coefficients: int) -> Complex64[Tensor, "B M"]:
        """See :class:`cryodrgn_ext.images.coefficient_source.CoefficientSource`."""
        late = rows >= self.split
        if not bool(late.any()):
            return self.first.gather(rows, n_coefficients)
        after = self.second.gather(rows[late] - self.split, n_coefficients)
        out = torch.empty((len(rows), n_coefficients), dtype=after.dtype, device=after.device)
        out[late.to(out.device)] = after
        if not bool(late.all()):
            out[~late.to(out.device)] = self.first.gather(rows[~late], n_coefficients)
        return out


def join_images(first: ParticleImages, second: ParticleImages) -> ParticleImages:
    """All particles of both, the first ones first; optics groups stay apart, metadata is left behind.

    Raises
    ------
    InputError
        When the working boxes, bands or pixel sizes differ, or only one of them has CTF parameters.
    """
    if first.plane != second.plane:
        raise InputError(
            f"images with a working box of {second.box_size} px (|k| up to {second.plane.radius}) cannot be joined to "
            f"those of {first.box_size} px (|k| up to {first.plane.radius}): give both the same"
        )
    if abs(second.pixel_size_A / first.pixel_size_A - 1) > SAME_PIXEL:
        raise InputError(
            f"images of {second.pixel_size_A:g} Å per working pixel cannot be joined to those of "
            f"{first.pixel_size_A:g} Å: give both the same"
        )
    if (first.ctf_parameters is None) != (second.ctf_parameters is None):
        raise InputError("only one of the two sets of images has CTF parameters: give both, or none")
    device = first.rotation.device
    parameters = None
    if first.ctf_parameters is not None and second.ctf_parameters is not None:
        mine, others = first.ctf_parameters, second.ctf_parameters.to(device)
        parameters = CtfParameters(*(torch.cat([getattr(mine, f.name), getattr(others, f.name)]) for f in fields(mine)))
    return ParticleImages(
        source=JoinedCoefficients(first.source, second.source, first.n),
        geometry=replace(first.geometry, groups=first.geometry.groups + second.geometry.groups),
        particles=None,
        rotation=torch.cat([first.rotation, second.rotation.to(device)]),
        shift_px=torch.cat([first.shift_px, second.shift_px.to(device)]),
        ctf_parameters=parameters,
        optics=first.optics + second.optics,
        half_set=torch.cat([first.half_set, second.half_set]),
        optics_index=torch.cat([first.optics_index, second.optics_index + len(first.optics)]),
        noise_sigma=torch.cat([first.noise_sigma, second.noise_sigma]),
        window_power=torch.cat([first.window_power, second.window_power]),
        data_sign=first.data_sign,
    )
