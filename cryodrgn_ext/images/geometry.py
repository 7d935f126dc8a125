"""The one working geometry that the images of all optics groups fit into, and the Fourier crop that takes them there.

Every group keeps the integer frequencies of its own box: coefficient (kx, ky) means the same number of cycles per
box in all groups. Their physical lengths differ when the boxes differ in Å; ``frequency_scale`` converts cycles per
image box into cycles per model box, and joins the magnification matrix on the way to the slice points.

Units of density. An image is the sum of the density along z in voxels of its own size, as RELION's projections are.
Coefficients are scaled to

    X_working = X_native * (a_native / a_working)² * (a_reference / a_working)

(a: pixel sizes of the image, of the working geometry, and of the reference group's files). The squared factor makes
the Fourier crop a proper downsampling that keeps pixel values; the last one makes a volume reconstructed in the
working box hold the same densities as one reconstructed from the full-size images, sampled more coarsely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int64
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.half_plane import HalfPlane


@dataclass(frozen=True)
class GroupGeometry:
    """One optics group in the working geometry.

    Attributes
    ----------
    native_box : int
        Pixels of the images on disk.
    pixel_size_A : float
        Extent of the images divided by the working box: what a shift in working pixels is measured in.
    frequency_scale : float
        Cycles per model box for one cycle per image box (model extent / image extent).
    value_scale : float
        X_working / X_native, see the module's text.
    max_radius : float
        Coefficients beyond this |k| (cycles per image box) are absent in this group: beyond the Nyquist line of its
        images or beyond the model's sphere.
    """

    native_box: int
    pixel_size_A: float
    frequency_scale: float
    value_scale: float
    max_radius: float


@dataclass(frozen=True)
class WorkingGeometry:
    """The common box of all groups: ``plane`` and ``pixel_size_A`` of the model, and a :class:`GroupGeometry` each."""

    plane: HalfPlane
    pixel_size_A: float
    groups: tuple[GroupGeometry, ...]

    @classmethod
    def make(
        cls,
        box_sizes: Sequence[int],
        pixel_sizes_A: Sequence[float],
        working_box: int | None,
        radius: int | None = None,
        reference: int = 0,
    ) -> WorkingGeometry:
        """Lay out the working geometry.

        Parameters
        ----------
        box_sizes, pixel_sizes_A : sequence
            Native box and pixel size of each optics group.
        working_box : int, optional
            The reference group's own box when omitted.
        radius : int, optional
            Largest |k|, in cycles per working box; Nyquist when omitted.
        reference : int
            The group whose extent in Å the model has (the one with most particles).

        Raises
        ------
        InputError
            When the working box is odd or larger than the reference group's, or a native box is odd.
        """
        for box in box_sizes:
            if box % 2 or box < 8:
                raise InputError(
                    f"the images are {box} px wide: only even boxes of at least 8 px can be used; "
                    "re-extract or pad them (relion_image_handler --new_box)"
                )
        box = box_sizes[reference] if working_box is None else working_box
        if box > box_sizes[reference]:
            raise InputError(
                f"the working box of {box} px is larger than the images ({box_sizes[reference]} px): give a smaller one"
            )
        limit = box // 2
        if radius is not None and not 1 <= radius <= limit:
            raise InputError(f"the radius must lie in 1..{limit} for a working box of {box} px, got {radius}")
        plane = HalfPlane(box, limit if radius is None else radius)
        extent = box_sizes[reference] * pixel_sizes_A[reference]
        model_pixel = extent / box
        groups = []
        for native_box, native_pixel in zip(box_sizes, pixel_sizes_A, strict=True):
            scale = extent / (native_box * native_pixel)
            groups.append(
                GroupGeometry(
                    native_box=native_box,
                    pixel_size_A=native_box * native_pixel / box,
                    frequency_scale=scale,
                    value_scale=(native_pixel / model_pixel) ** 2 * (pixel_sizes_A[reference] / model_pixel),
                    max_radius=min(native_box // 2, plane.radius / scale),
                )
            )
        return cls(plane, model_pixel, tuple(groups))


def crop_index(plane: HalfPlane, native_box: int) -> tuple[Int64[Tensor, " M"], Float[Tensor, " M"]]:
    """Where the working coefficients lie in the ``rfft2`` of native images.

    Returns
    -------
    (index, sign) : (M,) int64 into a flattened (D, D // 2 + 1) array; (M,) float32
        ``sign`` moves the phase origin to pixel D // 2 and is 0 where the native images have no such frequency.
    """
    kx, ky = plane.kxy.unbind(1)
    present = (kx < native_box // 2) & (ky.abs() < native_box // 2)
    index = (ky % native_box) * (native_box // 2 + 1) + kx
    return torch.where(present, index, 0), plane.origin_sign * present


def crop_transform(images: Float[Tensor, "B D D"], index: Int64[Tensor, " M"], sign: Tensor) -> Complex[Tensor, "B M"]:
    """Working coefficients (B, M) complex64 of native images (B, D, D), unnormalised native DFT; see crop_index."""
    spectrum: Tensor = torch.fft.rfft2(images)
    return spectrum.flatten(-2)[:, index] * sign
