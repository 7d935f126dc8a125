"""Orientations and shifts that look as if they were of another unit, or of other images, are used and said."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save

N = 40


def notes_of(tmp_path: Path, columns: dict[str, np.ndarray], style: str = "3.1") -> list[str]:
    builder = StarBuilder(style=style, n=N, box=64)
    builder.columns |= {label: [f"{value:.6f}" for value in values] for label, values in columns.items()}
    builder.columns["rlnOpticsGroup"] = ["1"] * N
    if style == "3.0":
        del builder.columns["rlnOpticsGroup"]
    return list(read_particles(builder.write(tmp_path / "a.star")).notes)


ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def test_angles_in_radians_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    radians = dict(zip(ANGLES, [rng.uniform(-np.pi, np.pi, N), rng.uniform(0, np.pi, N), rng.uniform(-np.pi, np.pi, N)],
                       strict=True))  # fmt: skip
    (note,) = notes_of(tmp_path, radians)
    assert "may be in radians" in note
    assert notes_of(tmp_path, {label: np.degrees(values) for label, values in radians.items()}) == []


def test_orientations_that_are_all_the_same_are_said(tmp_path: Path) -> None:
    (note,) = notes_of(tmp_path, dict.fromkeys(ANGLES, np.zeros(N)))
    assert "all 40 orientations are the same (0, 0, 0)" in note
    record = particles_record()
    record["alignments3D/pose"] = 0
    assert any(
        "all 40 orientations are the same" in note for note in read_particles(save(tmp_path / "a.cs", record)).notes
    )


@pytest.mark.parametrize("unaligned", [1, 6])
def test_particles_that_were_not_aligned_are_said(unaligned: int, tmp_path: Path) -> None:
    """As csparc2star shows them (pyem 68): rows of an ab initio reconstruction with the rotation vector 0, 0, 0."""
    record = particles_record()
    rows = np.random.default_rng(2).permutation(len(record))[:unaligned]
    record["alignments3D/pose"][rows] = 0
    record["alignments3D/shift"][rows] = 0
    notes = [note for note in read_particles(save(tmp_path / "a.cs", record)).notes if "did not align" in note]
    if unaligned == 1:  # which may have been found
        assert notes == []
    else:
        (note,) = notes
        assert f"6 of 40 particles have rotation 0 and shift 0, the first in row {rows.min() + 1}" in note


@pytest.mark.parametrize(("style", "label", "shift", "said"), [
    ("3.1", "rlnOriginXAngst", 79.0, ""),  # one of forty, in an image of 80 Å
    ("3.1", "rlnOriginXAngst", 81.0, "1 of 40 particles are shifted out of their images (up to 81 Å, in one 80 Å"),
    ("3.0", "rlnOriginY", 65.0, ""),  # RELION 3.0 counts pixels; without the stack its box is not known
])  # fmt: skip
def test_a_particle_outside_of_its_image_is_said(
    style: str, label: str, shift: float, said: str, tmp_path: Path
) -> None:
    values = np.zeros(N)
    values[7] = 0.5 * shift if said == "" and style == "3.1" else shift
    notes = notes_of(tmp_path, {label: values}, style)
    assert said in " ".join(notes)
    assert bool(said) == bool(notes)


def test_many_shifts_of_a_quarter_of_the_box_are_said(tmp_path: Path) -> None:
    values = np.where(np.arange(N) < 3, 21.0, 5.0)
    (note,) = notes_of(tmp_path, {"rlnOriginXAngst": values})
    assert "3 of 40 particles lie more than a quarter of the image off its centre (up to 21 Å)" in note
    values[2] = 5
    assert notes_of(tmp_path, {"rlnOriginXAngst": values}) == []


def test_shifts_of_a_cs_count_pixels_of_the_alignment(tmp_path: Path) -> None:
    record = particles_record()  # 64 pixels of 1.1 Å, aligned at 2.2 Å
    record["alignments3D/shift"][3] = [16.5, 0]
    (note,) = [one for one in read_particles(save(tmp_path / "a.cs", record)).notes if "shifted out" in one]
    assert "up to 36 Å, in one 70 Å wide" in note


def test_orientations_of_a_2d_classification_are_said(tmp_path: Path) -> None:
    (note,) = notes_of(tmp_path, dict.fromkeys(ANGLES[:2], np.zeros(N)))
    assert "rot and tilt of all 40 particles are 0, as after a 2D classification" in note


@pytest.mark.parametrize("moved_deg", [0.0, 120.0])
def test_rows_that_repeat_image_and_pose_are_said(moved_deg: float, tmp_path: Path) -> None:
    builder = StarBuilder(n=N, box=64)
    builder.columns["rlnOpticsGroup"] = ["1"] * N
    builder.columns["rlnImageName"] = [f"{i + 1}@a.mrcs" for i in range(N)]
    for values in builder.columns.values():
        values[9] = values[4]
    # A copy of symmetry expansion has another pose.
    builder.columns["rlnAngleRot"][9] = f"{float(builder.columns['rlnAngleRot'][4]) + moved_deg}"
    notes = " ".join(read_particles(builder.write(tmp_path / "a.star")).notes)
    assert ("1 of 40 rows repeat image and pose of another row, row 10 those of row 5" in notes) == (moved_deg == 0)


@pytest.mark.parametrize(("header_A", "said"), [(2.5, True), (1.27, False), (0.0, False), (1.0, False)])
def test_another_pixel_size_in_the_header_of_a_stack_is_said(header_A: float, said: bool, tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrcs") as stack:
        stack.set_data(np.zeros((N, 64, 64), np.float32))
        stack.set_image_stack()
        stack.voxel_size = header_A
    builder = StarBuilder(n=N, box=64)
    builder.columns["rlnOpticsGroup"] = ["1"] * N
    builder.columns["rlnImageName"] = [f"{i + 1}@a.mrcs" for i in range(N)]
    notes = " ".join(read_particles(builder.write(tmp_path / "a.star"), tmp_path).notes)
    assert ("says pixels of 2.5 Å, but the metadata 1.25 Å" in notes) == said


def test_positions_outside_of_the_micrograph_are_said(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "mic.mrc") as micrograph:
        micrograph.set_data(np.zeros((300, 400), np.int8))
    builder = StarBuilder(box=64)
    builder.columns |= {"rlnMicrographName": ["mic.mrc"] * 8, "rlnCoordinateY": ["5"] * 8,
                        "rlnCoordinateX": [f"{100 * i}" for i in range(8)]}  # fmt: skip
    notes = cs_from_star(read_particles(builder.write(tmp_path / "a.star"), tmp_path)).notes
    assert any("3 of 8 positions lie outside of their micrographs" in note for note in notes)
