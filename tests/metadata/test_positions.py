"""Positions on micrographs go there and come back, in the direction that the other program counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset

from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.to_cryosparc import CsConversion, cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import Record, particles_record, save

FIELDS = ("micrograph_uid", "exp_group_id", "micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")


def there_and_back(record: Record, folder: Path) -> tuple[tuple[str, ...], Dataset]:
    conversion = star_from_cs(read_particles(save(folder / "a.cs", record)))
    write_star(folder / "a.star", conversion.star)
    write_particles_cs(read_particles(folder / "a.star"), folder / "b.cs")
    return conversion.notes, Dataset.load(folder / "b.cs")


def same_location(back: Dataset, record: Record) -> None:
    for name in FIELDS:
        assert np.array_equal(np.asarray(back[f"location/{name}"]).astype(record[f"location/{name}"].dtype),
                              record[f"location/{name}"]), name  # fmt: skip


def test_fractions_come_back_to_the_last_bit(tmp_path: Path) -> None:
    record = particles_record()
    notes, back = there_and_back(record, tmp_path)
    assert notes == ()
    same_location(back, record)


@pytest.mark.parametrize("rows", [slice(None), slice(3, 5)])
def test_micrographs_of_unknown_size_keep_their_fractions(rows: slice, tmp_path: Path) -> None:
    record = particles_record()
    record["location/micrograph_shape"][rows] = 0
    notes, back = there_and_back(record, tmp_path)
    n = len(record[rows])
    assert any(f"is 0 or not there in {n} of 40 rows" in note and "no rlnCoordinateX" in note for note in notes)
    columns = starfile.read(tmp_path / "a.star")["particles"].columns
    assert "rlnCoordinateX" not in columns
    assert "rlnMicrographName" in columns
    same_location(back, record)


def test_y_of_a_micrograph_that_was_turned_already(tmp_path: Path) -> None:
    record = particles_record()
    particles = read_particles(save(tmp_path / "a.cs", record))
    for flip_y in (True, False):
        write_star(tmp_path / "a.star", star_from_cs(particles, flip_y=flip_y).star)
        y = starfile.read(tmp_path / "a.star")["particles"]["rlnCoordinateY"]
        fraction = record["location/center_y_frac"].astype(np.float64)
        np.testing.assert_allclose(y, 3000 * (1 - fraction if flip_y else fraction), atol=1e-3)
        back = cs_from_star(read_particles(tmp_path / "a.star"), flip_y=flip_y).table
        assert np.array_equal(back.columns["location/center_y_frac"], record["location/center_y_frac"])


def test_a_position_that_was_moved_wins_over_what_came_along(tmp_path: Path) -> None:
    record = particles_record()
    write_star(tmp_path / "a.star", star_from_cs(read_particles(save(tmp_path / "a.cs", record))).star)
    star = starfile.read(tmp_path / "a.star", parse_as_string=list(starfile.read(tmp_path / "a.star")["particles"]))
    moved = star["particles"]["rlnCoordinateX"].astype(float)
    moved.iloc[6] += 40  # re-centred in RELION
    star["particles"]["rlnCoordinateX"] = moved.map("{:.6f}".format)
    starfile.write(star, tmp_path / "b.star")
    back = cs_from_star(read_particles(tmp_path / "b.star")).table.columns["location/center_x_frac"]
    difference = (back.astype(np.float64) - record["location/center_x_frac"]) * 4000
    np.testing.assert_allclose(difference, np.where(np.arange(40) == 6, 40, 0), atol=1e-3)


def star_with_micrographs(tmp_path: Path) -> CsConversion:
    builder = StarBuilder()
    builder.columns["rlnCoordinateY"] = [f"{100.0 * i:.6f}" for i in range(8)]
    for i in range(2):
        path = tmp_path / f"MotionCorr/job002/mic{i}.mrc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.array([4000, 3000, 1, 2], "<i4").tobytes() + bytes(192) + b"MAP DD\0\0" + bytes(808))
    return cs_from_star(read_particles(builder.write(tmp_path / "a.star"), tmp_path))


def test_uids_of_micrographs_that_are_invented_are_said_to_be(tmp_path: Path) -> None:
    conversion = star_with_micrographs(tmp_path)
    assert any("micrograph_uid is invented" in note for note in conversion.notes)
    write_cs(tmp_path / "b.cs", conversion.table)
    assert len(np.unique(Dataset.load(tmp_path / "b.cs")["location/micrograph_uid"])) == 2
    # CryoSPARC's own come back and are not invented.
    write_star(tmp_path / "c.star", star_from_cs(read_particles(save(tmp_path / "c.cs", particles_record()))).star)
    assert not [note for note in cs_from_star(read_particles(tmp_path / "c.star")).notes if "invented" in note]
