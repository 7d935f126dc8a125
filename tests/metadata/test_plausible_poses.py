"""Orientations and shifts that look as if they were of another unit, or of other images, are used and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.metadata.particles import read_particles
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
