"""The contrast transfer function as RELION computes it.

``CTF(k) = scale * exp(-B k^2 / 4) * (-sin(gamma))`` with

``gamma = -pi lambda (dU kU^2 + dV kV^2) + (pi / 2) Cs lambda^3 k^4 - phase shift - atan(Q0 / sqrt(1 - Q0^2)) + even``

where kU is the component of k along the defocus angle, kV the one across it, k is the frequency in 1/Å after the
magnification matrix, and ``even`` the symmetric Zernike terms. Defocus is positive for underfocus. The CTF starts at
+Q0 and rises: with positive density it describes particles that are white on a dark background, which is how RELION
stores them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Integer, Real
from torch import Tensor

from cryodrgn_ext.fourier.aberrations import electron_wavelength_A


@dataclass(frozen=True)
class CtfParameters:
    """CTF parameters of B images, one tensor of shape (B,) per field.

    Keep them in float64: they are combined in their own dtype, then rounded once.

    Attributes
    ----------
    defocus_u_A, defocus_v_A : Tensor
        Defocus along and across the defocus angle, in Å, underfocus positive.
    defocus_angle_rad : Tensor
        Angle between the x axis and the direction of ``defocus_u_A``.
    voltage_kV, cs_mm : Tensor
        Acceleration voltage; spherical aberration.
    amplitude_contrast : Tensor
        Q0, in [0, 1).
    phase_shift_rad : Tensor
        Phase plate shift.
    b_factor_A2 : Tensor
        rlnCtfBfactor: positive values damp.
    scale : Tensor
        rlnCtfScalefactor.
    """

    defocus_u_A: Float[Tensor, " _"]
    defocus_v_A: Float[Tensor, " _"]
    defocus_angle_rad: Float[Tensor, " _"]
    voltage_kV: Float[Tensor, " _"]
    cs_mm: Float[Tensor, " _"]
    amplitude_contrast: Float[Tensor, " _"]
    phase_shift_rad: Float[Tensor, " _"]
    b_factor_A2: Float[Tensor, " _"]
    scale: Float[Tensor, " _"]

    def __post_init__(self) -> None:
        shapes = {field.name: tuple(getattr(self, field.name).shape) for field in fields(self)}
        if len(set(shapes.values())) != 1 or len(shapes["scale"]) != 1:
            raise ValueError(f"all CTF parameters must have the same shape (B,), got {shapes}")

    def __len__(self) -> int:
        return len(self.scale)

    def index(self, indices: Integer[Tensor, " b"] | Bool[Tensor, " b"]) -> CtfParameters:
        """Parameters of the images in ``indices`` (LongTensor or boolean mask)."""
        return CtfParameters(*(getattr(self, field.name)[indices] for field in fields(self)))

    def to(self, device: torch.device | str) -> CtfParameters:
        """Parameters on ``device``."""
        return CtfParameters(*(getattr(self, field.name).to(device) for field in fields(self)))


def ctf(
    params: CtfParameters,
    kxy: Real[Tensor, "M 2"],
    pixel_size_A: Float[Tensor, " B"] | float,
    box_size: Integer[Tensor, " B"] | int,
    gamma_offset: Float[Tensor, "*#B M"] | None = None,
    mag_matrix: Float[Tensor, "*#B 2 2"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B M"]:
    """CTF of every image at every frequency of the list.

    Parameters
    ----------
    params : CtfParameters
        Of B images.
    kxy : Tensor
        (M, 2) frequencies (kx, ky) in cycles per box of the image.
    pixel_size_A, box_size : Tensor (B,) or number
        Only their product, the physical edge of the box in Å, matters; Fourier cropping leaves it unchanged.
    gamma_offset : Tensor, optional
        (M,) or (B, M) radians added to gamma: :func:`cryodrgn_ext.fourier.aberrations.even_zernike_phase`.
    mag_matrix : Tensor, optional
        (2, 2) or (B, 2, 2), rlnMagMat: applied to the frequencies.
    dtype : torch.dtype
        Of the result, and of the sums over frequencies: float32 keeps gamma to about 1e-6 relative.

    Returns
    -------
    Tensor
        (B, M).
    """
    device = params.scale.device
    edge_A = torch.as_tensor(pixel_size_A, dtype=torch.float64, device=device)
    edge_A = (edge_A * torch.as_tensor(box_size, device=device)).expand(len(params))
    wavelength = electron_wavelength_A(params.voltage_kV.double())
    # Astigmatic defocus as a quadratic form in (kx, ky) / edge: J diag(dU, dV) J^T
    u, v = params.defocus_u_A.double(), params.defocus_v_A.double()
    cosine, sine = params.defocus_angle_rad.double().cos(), params.defocus_angle_rad.double().sin()
    form = torch.stack(
        [u * cosine**2 + v * sine**2, (u - v) * cosine * sine, (u - v) * cosine * sine, u * sine**2 + v * cosine**2], 1
    ).unflatten(1, (2, 2))
    metric = torch.eye(2, dtype=torch.float64, device=device).expand(len(params), 2, 2)
    if mag_matrix is not None:
        magnification = mag_matrix.to(device).double().expand(len(params), 2, 2)
        form = magnification.transpose(1, 2) @ form @ magnification
        metric = magnification.transpose(1, 2) @ magnification
    quadratic = -math.pi * wavelength[:, None, None] * form / edge_A[:, None, None] ** 2
    metric = metric / edge_A[:, None, None] ** 2
    spherical = 0.5 * math.pi * params.cs_mm.double() * 1e7 * wavelength**3
    q0 = params.amplitude_contrast.double()
    constant = -params.phase_shift_rad.double() - torch.atan2(q0, (1.0 - q0**2).clamp(min=0.0).sqrt())

    kx, ky = kxy.to(device=device, dtype=dtype).unbind(1)
    xx, xy, yy = kx * kx, 2.0 * kx * ky, ky * ky

    def column(values: Tensor) -> Tensor:
        return values.to(dtype)[:, None]

    gamma = column(quadratic[:, 0, 0]) * xx
    gamma = gamma.addcmul_(column(quadratic[:, 0, 1]), xy).addcmul_(column(quadratic[:, 1, 1]), yy)
    if mag_matrix is None:
        k2 = column(metric[:, 0, 0]) * (xx + yy)
    else:
        k2 = column(metric[:, 0, 0]) * xx + column(metric[:, 0, 1]) * xy + column(metric[:, 1, 1]) * yy
    gamma = gamma.addcmul_(column(spherical), k2 * k2).add_(column(constant))
    if gamma_offset is not None:
        gamma = gamma + gamma_offset.to(gamma)
    result = gamma.sin_().mul_(column(-params.scale))
    if bool((params.b_factor_A2 != 0).any()):
        result = result.mul_(torch.exp(column(params.b_factor_A2.double() * -0.25) * k2))
    return result
