"""Numbers that can be right, but look as if they were of another unit or sign: said, not refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_ctf import ParticleCtf

#: Defocus in Å, of every particle of a file, below which it looks like one in µm: no stage is set so finely.
LEAST_DEFOCUS_A = 100.0
#: Width of a box in Å that holds no molecule.
LEAST_BOX_A = 20.0
#: B-factor that leaves exp(-B / 4 / (10 Å)²) = 1/1000 of the signal at 10 Å.
WIPED_OUT_A2 = 400.0 * float(np.log(1000.0))
#: Angles of more turns than this are of another unit.
CIRCLES = 1.5
#: Fewest different angles that tell their unit by all being small.
MANY = 10


def unit_notes(path: Path, ctf: ParticleCtf, optics: tuple[OpticsGroup, ...]) -> tuple[str, ...]:
    """Return what a user should check of defocus, angles and pixel size, one sentence each.

    Parameters
    ----------
    path : Path
        The file, for the sentences.
    ctf : ParticleCtf
        Of N particles.
    optics : tuple of OpticsGroup
    """
    return (
        *_defocus_notes(path, ctf), *_angle_notes(path, ctf), *_envelope_notes(path, ctf), *_box_notes(path, optics),
    )  # fmt: skip


def _angle_notes(path: Path, ctf: ParticleCtf) -> tuple[str, ...]:
    """Say which angles are likely to be of the other unit: beyond the circle in radians, or all near 0 in degrees."""
    notes = []
    for what, angle_rad in (("phase shift", ctf.phase_shift_rad), ("defocus angle", ctf.defocus_angle_rad)):
        largest = float(np.abs(angle_rad).max(initial=0.0))
        if largest > CIRCLES * 2 * np.pi:
            notes.append(
                f"{path}: the {what} is up to {largest:.4g} rad, so it may be in degrees: CryoSPARC counts it in "
                "radians and RELION in degrees, and so is it taken here"
            )
        few = np.radians(np.pi)  # half a circle in radians, taken for degrees
        if 0 < largest <= few and len(np.unique(angle_rad)) >= MANY:
            notes.append(
                f"{path}: no {what} is above {np.degrees(largest):.3g} degrees, so it may be in radians: RELION counts "
                "it in degrees and CryoSPARC in radians, and so is it taken here"
            )
    return tuple(notes)


def _envelope_notes(path: Path, ctf: ParticleCtf) -> tuple[str, ...]:
    """Say where scale and B-factor leave nothing of particles, or turn their contrast."""
    n, notes = len(ctf.scale), []
    turned = int(np.count_nonzero(ctf.scale <= 0))
    if turned:
        notes.append(
            f"{path}: the scale of the CTF (rlnCtfScalefactor, ctf/scale) of {turned} of {n} particles is 0 or below "
            f"(down to {ctf.scale.min():.3g}): 0 leaves nothing of a particle, and a negative one turns its contrast"
        )
    gone = ctf.b_factor_A2 > WIPED_OUT_A2
    if gone.any():
        notes.append(
            f"{path}: the B-factor of the CTF (rlnCtfBfactor, ctf/bfactor) of {int(gone.sum())} of {n} particles is "
            f"above {WIPED_OUT_A2:.0f} Å² (up to {ctf.b_factor_A2.max():.4g}), which leaves less than a thousandth of "
            "their signal at 10 Å"
        )
    return tuple(notes)


def _defocus_notes(path: Path, ctf: ParticleCtf) -> tuple[str, ...]:
    defocus_A = 0.5 * (ctf.defocus_u_A + ctf.defocus_v_A)
    n, largest_A = len(defocus_A), float(np.abs(defocus_A).max(initial=0.0))
    focus, over = int(np.count_nonzero(defocus_A == 0)), int(np.count_nonzero(defocus_A < 0))
    notes = []
    if focus:
        notes.append(
            f"{path}: the defocus of {focus} of {n} particles is 0, as where it was never measured: their CTF is that "
            "of an image in focus"
        )
    if 0 < largest_A < LEAST_DEFOCUS_A:
        notes.append(
            f"{path}: no defocus is above {largest_A:.3g} Å, so it may be in µm: RELION and CryoSPARC count it in Å "
            "(15000 for 1.5 µm), and so is it taken here"
        )
    if over:
        notes.append(
            f"{path}: the defocus of {over} of {n} particles is negative, which RELION and CryoSPARC take for "
            "overfocus: if it comes from a program that counts underfocus as negative, turn its sign"
        )
    return tuple(notes)


def _box_notes(path: Path, optics: tuple[OpticsGroup, ...]) -> tuple[str, ...]:
    for group in optics:
        if group.box_size is not None and group.box_size * group.pixel_size_A < LEAST_BOX_A:
            return (
                f"{path}: the images of {group.name} are {group.box_size * group.pixel_size_A:.3g} Å wide "
                f"({group.box_size} pixels of {group.pixel_size_A:g} Å), which holds no molecule: give pixel "
                "sizes in Å, not in nm",
            )
    return ()
