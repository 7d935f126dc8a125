"""Optics groups as programs write them: numbers, names, particles with values of their own, thousands of groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryosparc.dataset import Dataset

from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.star_table import StarTable
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [(["1", "2"], [0, 1]), (["0", "1"], [0, 1]), (["0", "7"], [0, 7]), (["5", "3"], [4, 2]), (["-1", "4"], [0, 5])],
)
def test_numbers_stay_apart_whatever_they_count_from(numbers: list[str], expected: list[int], tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.optics["rlnOpticsGroup"] = numbers
    builder.columns["rlnOpticsGroup"] = [numbers[i % 2] for i in range(8)]
    write_particles_cs(read_particles(builder.write(tmp_path / "a.star")), tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    assert back["ctf/exp_group_id"].tolist() == expected * 4
    np.testing.assert_allclose(back["ctf/accel_kv"], [300, 200] * 4)


def test_names_are_kept_or_named(tmp_path: Path) -> None:
    builder = StarBuilder()
    particles = read_particles(builder.write(tmp_path / "a.star"))
    assert "rlnOpticsGroupName" not in cs_from_star(particles).lost  # they say no more than the numbers
    builder.optics["rlnOpticsGroupName"] = ["grid3_beamshift_1", "grid3_beamshift_2"]
    particles = read_particles(builder.write(tmp_path / "b.star"))
    assert [group.name for group in particles.optics] == ["grid3_beamshift_1", "grid3_beamshift_2"]
    assert "rlnOpticsGroupName" in cs_from_star(particles).lost
    write_particles_star(particles.subset([1]), tmp_path / "c.star")
    assert "grid3_beamshift_1" in (tmp_path / "c.star").read_text()


def test_a_voltage_of_the_particle_goes_before_that_of_its_group(tmp_path: Path) -> None:
    builder = StarBuilder()  # as of merged sets whose optics table was made by hand
    builder.columns |= {"rlnVoltage": ["300", "120"] * 4, "rlnSphericalAberration": ["2.7", "2.0", "0.01", "2.0"] * 2}
    particles = read_particles(builder.write(tmp_path / "a.star"))
    cs_mm = np.array([group.cs_mm for group in particles.optics])[particles.optics_index]
    assert cs_mm.tolist() == [2.7, 2.0, 0.01, 2.0] * 2
    write_particles_cs(particles, tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    np.testing.assert_allclose(back["ctf/accel_kv"], [300, 120] * 4)
    np.testing.assert_allclose(back["ctf/cs_mm"], [2.7, 2.0, 0.01, 2.0] * 2, rtol=1e-6)
    assert back["ctf/exp_group_id"].tolist() == [0, 1] * 4
    write_particles_star(particles, tmp_path / "c.star")
    assert (tmp_path / "c.star").read_bytes() == (tmp_path / "a.star").read_bytes()


def test_beam_tilts_of_particles_beside_an_optics_table(tmp_path: Path) -> None:
    builder = StarBuilder()  # csparc2star of older versions, with an optics table added
    builder.columns |= {"rlnBeamTiltX": [f"{0.1 * (i % 4)}" for i in range(8)], "rlnBeamTiltY": ["0.05"] * 8}
    particles = read_particles(builder.write(tmp_path / "a.star"))
    assert any("beam tilts of the particles are used" in note for note in particles.notes)
    tilt = np.array([group.beam_tilt_mrad for group in particles.optics])[particles.optics_index]
    np.testing.assert_allclose(tilt[:, 0], [0, 0.1, 0.2, 0.3] * 2, atol=1e-12)
    conversion = cs_from_star(particles)
    assert "rlnBeamTiltX" not in conversion.lost
    builder.optics |= {"rlnBeamTiltX": ["0.5", "0.5"], "rlnBeamTiltY": ["0", "0"]}
    particles = read_particles(builder.write(tmp_path / "b.star"))
    assert particles.optics[0].beam_tilt_mrad == (0.5, 0.0)
    assert any("which count" in note for note in particles.notes)
    assert {"rlnBeamTiltX", "rlnBeamTiltY"} <= set(cs_from_star(particles).lost)


def test_aberrations_that_are_nothing_are_not_named_as_lost(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.optics |= {"rlnOddZernike": ["[0,0,0,0,0,0]"] * 2, "rlnCtfDataAreCtfPremultiplied": ["0"] * 2}
    lost = cs_from_star(read_particles(builder.write(tmp_path / "a.star"))).lost
    assert not {"rlnOddZernike", "rlnCtfDataAreCtfPremultiplied"} & set(lost)
    builder.optics["rlnOddZernike"][1] = "[0,0.068,0,-1.8e+00,0,0]"
    assert "rlnOddZernike" in cs_from_star(read_particles(builder.write(tmp_path / "b.star"))).lost


def test_thousands_of_groups_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time would be no judge under load: columns are parsed as often as for two groups."""
    calls = {}
    for n in (2, 3000):
        builder = StarBuilder(n=n)
        builder.columns["rlnOpticsGroup"] = [str(i + 1) for i in range(n)]
        builder.optics = {label: [values[0]] * n for label, values in builder.optics.items()}
        builder.optics["rlnOpticsGroup"] = builder.columns["rlnOpticsGroup"]
        builder.optics["rlnBeamTiltX"] = [f"{0.001 * i:.6f}" for i in range(n)]
        path = builder.write(tmp_path / f"{n}.star")
        counted: list[str] = []
        for name in ("raw", "floats", "text", "integers", "value", "describe_row"):
            original = getattr(StarTable, name)

            def counting(self: StarTable, *given: object, original=original, counted=counted) -> object:  # type: ignore[no-untyped-def]
                counted.append(self.name)
                return original(self, *given)

            monkeypatch.setattr(StarTable, name, counting)
        particles = read_particles(path)
        monkeypatch.undo()
        calls[n] = len(counted)
        assert len(particles.optics) == n
    assert particles.optics[2999].beam_tilt_mrad == (2.999, 0.0)
    assert calls[3000] == calls[2]


def test_exposure_groups_with_gaps_come_back(tmp_path: Path) -> None:
    record = particles_record()
    record["ctf/exp_group_id"] = np.array([3, 17, 4021, 0])[np.arange(40) % 4]
    record["location/exp_group_id"] = record["ctf/exp_group_id"]
    record["ctf/tilt_A"], record["ctf/anisomag"] = 0, 0
    write_star(tmp_path / "a.star", star_from_cs(read_particles(save(tmp_path / "a.cs", record))).star)
    star = read_particles(tmp_path / "a.star")
    assert sorted(group.number for group in star.optics) == [1, 4, 18, 4022]
    write_particles_cs(star, tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    assert np.array_equal(back["ctf/exp_group_id"], record["ctf/exp_group_id"])
    assert np.array_equal(back["location/exp_group_id"], record["location/exp_group_id"])


def test_a_beam_tilt_of_particles_along_one_axis_is_used(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns["rlnBeamTiltX"] = ["0.25"] * builder.n
    particles = read_particles(builder.write(tmp_path / "a.star"))
    assert {group.beam_tilt_mrad for group in particles.optics} == {(0.25, 0.0)}
    assert any("beam tilts of the particles are used" in note for note in particles.notes)


def test_groups_whose_table_is_gone_stay_apart(tmp_path: Path) -> None:
    """Columns of RELION 3.0 beside numbers of groups: relion_convert_star makes one group of them, we keep them."""
    builder = StarBuilder(style="3.0")
    builder.columns["rlnOpticsGroup"] = ["7", "3"] * 4
    particles = read_particles(builder.write(tmp_path / "a.star"))
    numbers = np.array([group.number for group in particles.optics])[particles.optics_index]
    assert numbers.tolist() == [7, 3] * 4
    builder.columns["rlnVoltage"] = ["300"] * 7 + ["200"]  # one number, two microscopes
    particles = read_particles(builder.write(tmp_path / "b.star"))
    assert sorted(group.number for group in particles.optics) == [1, 2, 3]


@pytest.mark.parametrize("style", ["3.0", "3.1"])
@pytest.mark.parametrize(("label", "value", "said"), [
    ("rlnMagMat00", "1.01", True), ("rlnMagMat00", "1.000", False), ("rlnOddZernike", "[0.1,0,0]", True),
    ("rlnEvenZernike", "[0,0.0,0e0]", False), ("rlnEvenZernike", "[]", False),
])  # fmt: skip
def test_aberrations_of_particles_that_are_not_used_are_said(
    style: str, label: str, value: str, said: bool, tmp_path: Path
) -> None:
    builder = StarBuilder(style=style)
    builder.columns[label] = [value] * builder.n
    notes = [note for note in read_particles(builder.write(tmp_path / "a.star")).notes if label in note]
    assert len(notes) == said


def test_images_that_are_to_be_mirrored_are_said(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns["rlnIsFlip"] = ["0", "1"] * 4
    notes = read_particles(builder.write(tmp_path / "a.star")).notes
    assert any("4 of 8 images are to be mirrored" in note for note in notes)
    builder.columns["rlnIsFlip"] = ["0"] * 8
    assert not any("mirrored" in note for note in read_particles(builder.write(tmp_path / "a.star")).notes)


@pytest.mark.parametrize(("optics", "particles", "used", "said"), [
    ("1", "0", True, "is not that of the optics table, which counts"), ("1", "1", True, ""),
    (None, "1", True, "of the particles is used"), (None, "0", False, ""),
])  # fmt: skip
def test_where_images_are_called_premultiplied(
    optics: str | None, particles: str, used: bool, said: str, tmp_path: Path
) -> None:
    """relion_reconstruct reads the optics table only."""
    builder = StarBuilder()
    label = "rlnCtfDataAreCtfPremultiplied"
    if optics is not None:
        builder.optics[label] = [optics] * 2
    builder.columns[label] = [particles] * builder.n
    read = read_particles(builder.write(tmp_path / "a.star"))
    assert {group.ctf_premultiplied for group in read.optics} == {used}
    notes = [note for note in read.notes if label in note]
    assert [said in note for note in notes] == [True] * bool(said)
    old = StarBuilder(style="3.0")
    old.columns[label] = [particles] * old.n
    notes = [note for note in read_particles(old.write(tmp_path / "old.star")).notes if label in note]
    assert len(notes) == (particles == "1")
