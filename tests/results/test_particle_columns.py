"""Columns for plots are the numbers of the user's own file, whatever else stands in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.poses import rotation_from_euler
from cryodrgn_ext.results.particle_columns import VIEWS, shown_particles

STAR = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
one 1 300 2.7 0.1 1.5 32 2

# version 30001

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOpticsGroup #10
_rlnCtfFigureOfMerit #11
_rlnNoise #12
"""


def test_numbers_that_differ_become_columns(tmp_path: Path) -> None:
    rows = [
        f"{i + 1:06d}@'my stack.mrcs' {i} 90 0 0 0 {10000 + i} 10000 0 1 {'nan' if i == 3 else 0.1 * i} word{i}"
        for i in range(6)
    ]
    star = tmp_path / "particles.star"
    star.write_text(STAR + "\n".join(row.replace("'my stack.mrcs'", "stack.mrcs") for row in rows) + "\n\n")
    shown = shown_particles(read_particles(star, tmp_path), np.array([1, 3, 5]))
    assert set(shown.columns) == {*VIEWS, "rlnAngleRot", "rlnDefocusU", "rlnCtfFigureOfMerit"}
    np.testing.assert_array_equal(shown.row, [2, 4, 6])
    np.testing.assert_array_equal(shown.columns["rlnDefocusU"], [10001, 10003, 10005])
    np.testing.assert_allclose(shown.columns["rlnCtfFigureOfMerit"], [0.1, np.nan, 0.5])
    assert shown.stacks == ("stack.mrcs",)
    assert shown.image is not None
    np.testing.assert_array_equal(shown.image, [2, 4, 6])


def test_views_are_those_of_poses_that_were_found_later(tmp_path: Path) -> None:
    path = tmp_path / "particles.star"
    path.write_text(STAR + "".join(f"{i + 1:06d}@a.mrcs 0 0 0 0 0 10000 10000 0 1 0.1 {i}\n" for i in range(3)))
    particles = read_particles(path)
    found = rotation_from_euler(np.array([[10.0, 90.0, 30.0], [-40.0, 90.0, 0.0], [170.0, 90.0, 5.0]]))
    columns = shown_particles(particles, np.arange(3), found).columns
    # On the equator the map's x is the longitude times 2 sqrt(2) / pi.
    np.testing.assert_allclose(columns[VIEWS[0]], np.radians([10, -40, 170]) * 2 * 2**0.5 / np.pi, atol=1e-6)
    np.testing.assert_allclose(columns[VIEWS[1]], 0, atol=1e-6)
