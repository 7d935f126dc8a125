"""The half of the Fourier plane that holds all the information of a real image, as a list sorted by |k|.

Because the list is sorted by |k|, every lower band is a prefix: ``coefficients[:, :plane.prefix(r)]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Float32, Int64
from torch import Tensor


@dataclass(frozen=True)
class HalfPlane:
    """Half-plane coefficients of a ``box_size`` image with 0 <= |k| <= ``radius``, in order of increasing |k|.

    Frequencies are integers in cycles per box: divide by ``box_size`` for cycles per pixel, by
    ``box_size * pixel_size_A`` for 1/Å. The half plane is kx > 0, and ky >= 0 on the line kx = 0.
    The Nyquist lines, where kx or ky is D / 2, are left out: their coefficient is its own partner's alias.

    Attributes
    ----------
    box_size : int
        Even number of pixels D.
    radius : int
        Largest |k| kept, in cycles per box; box_size // 2 at most.
    """

    box_size: int
    radius: int

    def __post_init__(self) -> None:
        if self.box_size < 4 or self.box_size % 2:
            raise ValueError(f"box_size must be even and at least 4, got {self.box_size}")
        if not 1 <= self.radius <= self.box_size // 2:
            raise ValueError(f"radius must lie in 1..{self.box_size // 2}, got {self.radius}")

    @cached_property
    def kxy(self) -> Int64[Tensor, "M 2"]:
        """(M, 2) int64: (kx, ky) in cycles per box, sorted by |k|, ties by ky then kx."""
        r, last = self.radius, min(self.radius, self.box_size // 2 - 1)
        ky, kx = torch.meshgrid(torch.arange(-last, last + 1), torch.arange(0, last + 1), indexing="ij")
        keep = (kx**2 + ky**2 <= r * r) & ((kx > 0) | (ky >= 0))
        pairs = torch.stack([kx[keep], ky[keep]], dim=1)
        order = torch.argsort((pairs**2).sum(1), stable=True)
        return pairs[order]

    @property
    def n_coefficients(self) -> int:
        """Number M of coefficients kept."""
        return len(self.kxy)

    @cached_property
    def norm(self) -> Float32[Tensor, " M"]:
        """(M,) float32: |k| in cycles per box."""
        return (self.kxy.double() ** 2).sum(1).sqrt().float()

    @cached_property
    def shell(self) -> Int64[Tensor, " M"]:
        """(M,) int64: nearest-integer shell, 0..radius."""
        return torch.round(self.norm.double()).long()

    @cached_property
    def multiplicity(self) -> Float32[Tensor, " M"]:
        """(M,) float32: how many coefficients of the full plane each entry stands for (1 at k = 0, else 2)."""
        weight = torch.full((self.n_coefficients,), 2.0)
        weight[0] = 1.0
        return weight

    @cached_property
    def rfft_index(self) -> Int64[Tensor, " M"]:
        """(M,) int64: flat index of each coefficient in an ``rfft2`` array of shape (D, D // 2 + 1)."""
        kx, ky = self.kxy.unbind(1)
        return (ky % self.box_size) * (self.box_size // 2 + 1) + kx

    @cached_property
    def origin_sign(self) -> Float32[Tensor, " M"]:
        """(M,) float32: (-1)^(kx+ky); moves the phase origin from pixel 0 to pixel D // 2."""
        return 1.0 - 2.0 * (self.kxy.sum(1) % 2).float()

    def prefix(self, radius: float) -> int:
        """Number of leading coefficients with |k| <= ``radius`` (cycles per box)."""
        return int(torch.searchsorted(self.norm.double(), torch.tensor(float(radius) + 1e-6, dtype=torch.float64)))

    def from_images(self, images: Float[Tensor, "*batch D D"]) -> Complex[Tensor, "*batch M"]:
        """Fourier coefficients of real images, phase origin at pixel D // 2.

        Parameters
        ----------
        images : Tensor
            (B, D, D) real, axes y, x.

        Returns
        -------
        Tensor
            (B, M) complex, unnormalised DFT: ``sum_x image(x) exp(-2 pi i k.(x - D//2) / D)``.
        """
        if images.shape[-2:] != (self.box_size, self.box_size):
            raise ValueError(f"images of {self.box_size} px expected, got shape {tuple(images.shape)}")
        spectrum = torch.fft.rfft2(images).flatten(-2)
        index = self.rfft_index.to(images.device)
        values: Tensor = spectrum[..., index] * self.origin_sign.to(device=images.device, dtype=images.dtype)
        return values

    def to_images(self, coefficients: Complex[Tensor, "*batch M"]) -> Float[Tensor, "*batch D D"]:
        """Real images (B, D, D) from coefficients (B, M' <= M), inverse of :meth:`from_images` in the band."""
        count = coefficients.shape[-1]
        d = self.box_size
        spectrum = torch.zeros(
            (*coefficients.shape[:-1], d * (d // 2 + 1)), dtype=coefficients.dtype, device=coefficients.device
        )
        values = coefficients * self.origin_sign[:count].to(coefficients.device)
        spectrum[..., self.rfft_index[:count].to(coefficients.device)] = values
        on_axis = self.kxy[:count, 0] == 0  # the line kx = 0 also needs its partner at -ky
        partner = (-self.kxy[:count, 1] % d * (d // 2 + 1))[on_axis].to(coefficients.device)
        spectrum[..., partner] = values[..., on_axis.to(coefficients.device)].conj()
        if count:
            spectrum[..., 0] = values[..., 0].real.to(coefficients.dtype)
        images: Tensor = torch.fft.irfft2(spectrum.unflatten(-1, (d, d // 2 + 1)), s=(d, d))
        return images
