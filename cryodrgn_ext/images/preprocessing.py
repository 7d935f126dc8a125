"""Settings of how an image is prepared before its Fourier coefficients are taken, and the soft window.

They follow RELION's habits: the background is everything outside a circle of 75 % of the box, and the window is a
disc about the box centre (pixel D // 2) with a cosine edge. They act on images at their native size; downsampling
is a Fourier crop (:mod:`cryodrgn_ext.images.geometry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import soft_circle

#: Radius of the circle outside which RELION's extraction measures the background, as a fraction of the box.
RELION_BACKGROUND_RADIUS = 0.375
#: Inner and outer radius of the default window, as fractions of half the box.
DEFAULT_WINDOW = (0.85, 0.99)


@dataclass(frozen=True)
class PreprocessSettings:
    """Settings by which images become whitened Fourier coefficients.

    Attributes
    ----------
    box_size : int, optional
        Even number of pixels of the working box; the native box when omitted.
    radius : int, optional
        Largest |k| kept, in cycles per working box; up to the Nyquist frequency when omitted.
    mask_diameter_A : float, optional
        Diameter of the disc about the box centre that is kept, in Å. When omitted the disc nearly fills the box,
        which spares the signal that the CTF spreads beyond the particle.
    background_radius : float
        Radius of the circle outside which the background is measured, as a fraction of the box.
    normalise : bool
        Subtract the plane through the background of every image and bring it to standard deviation 1 (as RELION's
        extraction does; images that it normalised stay as they are within the error of the estimate), and replace
        outlier pixels (:mod:`cryodrgn_ext.images.outlier_pixels`).
    window : bool
        Apply the soft disc. Off only for tests and for images without surroundings.
    data_sign : {"auto", "white", "black"}
        How particles look in the files: white (light on dark, RELION's convention after "invert contrast"), black,
        or found out from the data. The option of the jobs is ``--contrast``.
    whiten : bool
        Whiten per shell; when False, one noise level per optics group for all shells.
    storage : {"float16", "float32"}
        Number type of the coefficients on disk.
    """

    box_size: int | None = None
    radius: int | None = None
    mask_diameter_A: float | None = None
    background_radius: float = RELION_BACKGROUND_RADIUS
    normalise: bool = True
    window: bool = True
    data_sign: str = "auto"
    whiten: bool = True
    storage: str = "float16"

    def __post_init__(self) -> None:
        if self.box_size is not None and (self.box_size < 8 or self.box_size % 2):
            raise InputError(f"the working box must be an even number of at least 8 pixels, got {self.box_size}")
        if not 0.1 <= self.background_radius <= 0.49:
            raise InputError(f"the background radius must be 0.1 to 0.49 of the box, got {self.background_radius}")
        if self.mask_diameter_A is not None and self.mask_diameter_A <= 0:
            raise InputError(f"the mask diameter must be positive (Å), got {self.mask_diameter_A}")
        if self.data_sign not in ("auto", "white", "black"):
            raise InputError(f"the data sign must be auto, white or black, got {self.data_sign!r}")
        if self.storage not in ("float16", "float32"):
            raise InputError(f"storage must be float16 or float32, got {self.storage!r}")


def radius_grid(box_size: int) -> Float64[Tensor, "D D"]:
    """(D, D) float64: distance of every pixel from the box centre, pixel D // 2, in pixels."""
    axis = torch.arange(box_size, dtype=torch.float64) - box_size // 2
    return torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)


def outside_circle(box_size: int, radius_px: float) -> Bool[Tensor, "D D"]:
    """(D, D) bool: pixels farther than ``radius_px`` from the box centre."""
    return radius_grid(box_size) > radius_px


def image_window(settings: PreprocessSettings, box_size: int, pixel_size_A: float) -> Float32[Tensor, "D D"]:
    """(D, D) float32: the window that ``settings`` ask for at this box and pixel size.

    Raises
    ------
    InputError
        When the mask diameter is larger than the box.
    """
    if not settings.window:
        return torch.ones(box_size, box_size)
    half = box_size / 2
    outer = DEFAULT_WINDOW[1] * half
    if settings.mask_diameter_A is None:
        return soft_circle(box_size, DEFAULT_WINDOW[0] * half, outer - DEFAULT_WINDOW[0] * half)
    inner = settings.mask_diameter_A / pixel_size_A / 2
    if inner > half:
        raise InputError(
            f"the mask diameter of {settings.mask_diameter_A:g} Å exceeds the images "
            f"({box_size} px of {pixel_size_A:g} Å = {box_size * pixel_size_A:g} Å): give a smaller one"
        )
    inner = min(inner, outer)
    return soft_circle(box_size, inner, min(max(5.0, 0.05 * box_size), half - inner))
