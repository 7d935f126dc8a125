"""Where the user's file says that particles lie in their images, where a search for poses may begin.

Particles selected from 2D classes know where the centre of their class average lies in each image: RELION's origins
(rlnOriginXAngst, or rlnOriginX in pixels), minus which is our shift, whatever the angle in the plane; CryoSPARC's
alignments2D/shift. Searches may then look for the rest around these places. But a file cannot tell whether its origins
are any good, or of these very images (an extraction anew moves the centre; a refinement that went wrong left shifts,
too), so the images decide: the signal-to-noise ratio of their average, each moved back by its origin, is the higher the
better they are centred. No model and no orientation is needed for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.particle_images import ParticleImages, group_pixel_A
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.pose.centring import recentred
from cryodrgn_ext.progress import Monitor

#: Largest |k| of the average that is judged, as a fraction of the box: finer detail has no common centre to be seen.
JUDGED_BAND = 0.25
#: Standard deviations (of a difference of two averages of noise) by which the better average must lead.
SIGNIFICANT_LEAD = 4.0
BATCH = 512


@dataclass(frozen=True)
class Origins:
    """Where a file says that particles lie.

    Attributes
    ----------
    shift_A : ndarray
        (N, 2) float64 displacement x, y from the box centre.
    path : Path
        The file.
    fields : str
        What they were read from.
    """

    shift_A: NDArray[np.float64]
    path: Path
    fields: str

    @property
    def rms_A(self) -> float:
        """Root mean square of their lengths."""
        return float(np.sqrt(np.square(self.shift_A).sum(axis=1).mean()))


@dataclass(frozen=True)
class JudgedOrigins:
    """Whether origins centre the images.

    Attributes
    ----------
    used : bool
        Whether the search begins from them.
    snr, snr_without : float
        Signal-to-noise ratio of the average image with and without them, see :func:`average_snr`.
    """

    used: bool
    snr: float
    snr_without: float

    def sentence(self, origins: Origins, choice: str) -> str:
        """One sentence for the user."""
        if choice == "no":
            return f"Ignored, as --use_origins says: the origins in {origins.path} ({origins.fields})."
        what = f"the origins in {origins.path} ({origins.fields}; root mean square {origins.rms_A:.1f} Å)"
        times = max(self.snr, 0.0) / self.snr_without if self.snr_without > 0 else 0.0
        if self.used and self.snr >= self.snr_without:
            by = f"{times:.2g} times as high as" if self.snr_without > 0 else "high, and next to nothing"
            return (
                f"The search looks for shifts around {what}: with them the SNR of the average of all images is {by} "
                "without (--use_origins no ignores them)."
            )
        if self.used:
            return (
                f"Warning: the search looks for shifts around {what}, as --use_origins says, but with them the SNR of "
                f"the average of all images is only {times:.2g} times as high as without: are they of these images?"
            )
        return (
            f"Not used: {what}, as the SNR of the average of all images is no higher with them than without "
            "(--use_origins yes uses them all the same)."
        )


def read_origins(particles: ParticleSet) -> Origins | None:
    """Return the origins that particles (as read from their file) have; None when there are none, or all are 0."""
    fields, shift_A = particles.source.origins(particles.shift_A, particles.row_id, particles.has_poses)
    return Origins(shift_A, particles.path, fields) if np.any(shift_A != 0) else None


def usable_origins(particles: ParticleSet, extent_A: float, choice: str) -> tuple[Origins | None, str | None]:
    """Origins of particles (as read from their file) for a choice of ``--use_origins``.

    Returns
    -------
    (origins, note) : (Origins or None, str or None)
        None where the file has none, or where ``auto`` cannot use them, which the note then says.

    Raises
    ------
    InputError
        When ``yes`` asks for origins that lie farther off than the edge of the images (``extent_A`` wide), or that the
        file does not have.
    """
    origins = read_origins(particles)
    if origins is None:
        if choice == "yes":
            raise InputError(
                f"{particles.path} has no origins (or all are 0), but --use_origins is yes: leave that option out."
            )
        return None, None
    outside = np.abs(origins.shift_A).max(axis=1) > 0.5 * extent_A
    if choice == "no" or not outside.any():
        return origins, None
    row = int(np.argmax(outside))
    fault = (
        f"the origin in row {row + 1} of {origins.path} ({origins.fields}) lies outside of the images, which are "
        f"{extent_A:.0f} Å wide ({np.count_nonzero(outside)} such rows)"
    )
    if choice == "yes":
        raise InputError(f"{fault}: it is of other images; leave --use_origins out, which then ignores all of them.")
    return None, f"The origins are not used: {fault}."


def origins_px(origins: Origins, images: ParticleImages) -> Float[Tensor, "N 2"]:
    """(N, 2) float32 the same in working pixels of each image."""
    return torch.from_numpy(origins.shift_A / group_pixel_A(images)[:, None]).float()


def judge_origins(images: ParticleImages, origins: Origins, choice: str, monitor: Monitor) -> JudgedOrigins:
    """Compare the average images with and without origins; ``choice`` is that of ``--use_origins``."""
    plain = images.with_poses(Poses(images.rotation, torch.zeros_like(images.shift_px)))
    moved = images.with_poses(Poses(images.rotation, origins_px(origins, images).to(images.shift_px.device)))
    count = images.plane.prefix(max(2, round(JUDGED_BAND * images.box_size)))
    without = average_snr(plain, count, monitor, "Average of the images as they are")
    with_them = average_snr(moved, count, monitor, "Average of the images, centred by their origins")
    lead = SIGNIFICANT_LEAD * math.sqrt(2.0 * count)
    return JudgedOrigins(choice == "yes" or (choice == "auto" and with_them > without + lead), with_them, without)


def average_snr(images: ParticleImages, n_coefficients: int, monitor: Monitor, title: str) -> float:
    """Signal-to-noise ratio of the average of all images, centred by their shifts, summed over its coefficients.

    The sum over |k| > 0 of |S(k)|² / (W(k) w), less its expectation for noise alone, which is one each:
    S = sum over images of c y, W = sum of c², w the noise power of a whitened coefficient. This is twice the logarithm
    of how much more probable the images are when all have their average in common.
    """
    device = images.rotation.device
    total = torch.zeros(n_coefficients, dtype=torch.complex128, device=device)
    weight = torch.zeros(n_coefficients, dtype=torch.float64, device=device)
    parts = torch.arange(images.n).split(BATCH)
    for rows in monitor.track(parts, title, len(parts)):
        batch = images.batch(rows, n_coefficients)
        power = images.window_power[images.optics_index[rows]].to(device)[:, None]
        total += (batch.ctf * batch.coefficients / power).sum(0)
        weight += (batch.ctf.square() / power).sum(0)
    apart = (images.plane.shell[:n_coefficients].to(device) > 0) & (weight > 0)
    return float((total[apart].abs().square() / weight[apart] - 1.0).sum())


def centred_on(images: ParticleImages, centre_px: Float[Tensor, "N 2"] | None) -> ParticleImages:
    """Images moved so that the places ``centre_px`` (N, 2) come to lie at their centres; None leaves them.

    Shifts, those that the images have included, count from these places in what is returned.
    """
    if centre_px is None:
        return images
    moved = images.with_poses(images.poses.moved(-centre_px.to(images.shift_px.device)))
    return recentred(moved, centre_px)


@dataclass(frozen=True)
class PlacedImages:
    """Images without poses, and the places that shifts are searched around.

    Attributes
    ----------
    images : ParticleImages
    centre_px : Tensor or None
        (N, 2) x, y in working pixels; None for the centres of the images.
    """

    images: ParticleImages
    centre_px: Tensor | None

    def unaligned(self) -> ParticleImages:
        """The images centred on these places: every shift there is zero."""
        if self.centre_px is None:
            return self.images
        return self.near(self.images.with_poses(Poses(self.images.rotation, self.centre_px)))

    def near(self, aligned: ParticleImages) -> ParticleImages:
        """The images with poses, centred on these places."""
        return centred_on(aligned, self.centre_px)

    def in_image(self, poses: Poses) -> Poses:
        """Poses found for centred images, with shifts from the centres of the images as they are."""
        return poses if self.centre_px is None else poses.moved(self.centre_px)
