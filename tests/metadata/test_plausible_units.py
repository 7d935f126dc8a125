"""Numbers of another unit or sign, and names that only need a word: refused or said, with what to do."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.workflow.given_particles import read_given_particles
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import Record, particles_record, save


def of_all(builder: StarBuilder, label: str, value: str) -> None:
    table = builder.optics if label in builder.optics else builder.columns
    table[label] = [value] * len(table[label])


@pytest.mark.parametrize(
    ("label", "value", "complaint"),
    [
        ("rlnVoltage", "300000", "row 1 of data_optics .* voltage is 300000 kV, .* not in V"),
        ("rlnVoltage", "0.3", "voltage is 0.3 kV, .* give it in kV"),
        ("rlnSphericalAberration", "2700", "aberration is 2700 mm, .* not in µm"),
        ("rlnAmplitudeContrast", "10", "amplitude contrast is 10, but must lie in 0..1"),
    ],
)
def test_optics_of_another_unit_are_refused(label: str, value: str, complaint: str, tmp_path: Path) -> None:
    builder = StarBuilder()
    of_all(builder, label, value)
    with pytest.raises(InputError, match=complaint):
        read_particles(builder.write(tmp_path / "a.star"))


@pytest.mark.parametrize(("field", "value", "complaint"), [
    ("ctf/accel_kv", 300_000, r"row 1 \(uid \d+\): the voltage is 300000 kV"),
    ("ctf/cs_mm", 2700, r"row 1 \(uid \d+\): the spherical aberration is 2700 mm"),
])  # fmt: skip
def test_optics_of_a_cs_of_another_unit_are_refused(field: str, value: float, complaint: str, tmp_path: Path) -> None:
    record = particles_record()
    record[field] = value
    with pytest.raises(InputError, match=complaint):
        read_particles(save(tmp_path / "a.cs", record))


def in_micrometres(defocus_A: np.ndarray) -> np.ndarray:
    return defocus_A / 1e4


def overfocus(defocus_A: np.ndarray) -> np.ndarray:
    return -defocus_A


def first_unknown(defocus_A: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(defocus_A)) == 0, 0.0, defocus_A)


@pytest.mark.parametrize(("change", "note"), [
    (in_micrometres, "it may be in µm"),
    (overfocus, "particles is negative"),
    (first_unknown, "the defocus of 1 of"),
])  # fmt: skip
def test_an_unlikely_defocus_is_used_and_said(
    change: Callable[[np.ndarray], np.ndarray], note: str, tmp_path: Path
) -> None:
    builder, record = StarBuilder(), particles_record()
    for label, field in (("rlnDefocusU", "ctf/df1_A"), ("rlnDefocusV", "ctf/df2_A")):
        builder.columns[label] = [f"{one:.6f}" for one in change(np.array(builder.columns[label], float))]
        record[field] = change(record[field].astype(float))
    for path in (builder.write(tmp_path / "a.star"), save(tmp_path / "a.cs", record)):
        particles = read_particles(path)
        assert [one for one in particles.notes if note in one and one.startswith(str(path))]
    assert np.array_equal(particles.ctf.defocus_u_A, record["ctf/df1_A"].astype(float))


@pytest.mark.parametrize(("label", "value", "said"), [
    ("rlnCtfScalefactor", "0", "of 8 of 8 particles is 0 or below (down to 0)"),
    ("rlnCtfScalefactor", "-0.9", "is 0 or below (down to -0.9)"),
    ("rlnCtfScalefactor", "0.2", ""),
    ("rlnCtfBfactor", "50000", "of 8 of 8 particles is above 2763 Å² (up to 5e+04)"),
    ("rlnCtfBfactor", "-150", ""),
])  # fmt: skip
def test_an_envelope_that_leaves_nothing_is_said(label: str, value: str, said: str, tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns[label] = [value] * builder.n
    notes = " ".join(read_particles(builder.write(tmp_path / "a.star")).notes)
    assert (label in notes) == bool(said)
    assert said in notes


def test_ordinary_numbers_need_no_word(tmp_path: Path) -> None:
    builder = StarBuilder(box=64)
    assert read_particles(builder.write(tmp_path / "a.star")).notes == ()
    notes = read_particles(save(tmp_path / "a.cs", particles_record())).notes
    assert not [one for one in notes if "µm" in one or "negative" in one or "molecule" in one]


def test_a_pixel_size_in_nanometres_is_said(tmp_path: Path) -> None:
    builder = StarBuilder(box=64)
    of_all(builder, "rlnImagePixelSize", "0.125")
    note = read_particles(builder.write(tmp_path / "a.star")).notes[0]
    assert "8 Å wide" in note
    assert "not in nm" in note


def unnamed_groups(builder: StarBuilder) -> None:
    del builder.columns["rlnOpticsGroup"]


def halves_of_cryosparc(builder: StarBuilder) -> None:
    builder.columns["rlnRandomSubset"] = ["0", "1"] * 4


def three_halves(builder: StarBuilder) -> None:
    builder.columns["rlnRandomSubset"] = ["1", "2", "3", "1"] * 2


def single_images(builder: StarBuilder) -> None:
    builder.columns["rlnImageName"] = [f"Extract/one{i}.mrc" for i in range(8)]


@pytest.mark.parametrize(("change", "advice"), [
    (unnamed_groups, "--add_column rlnOpticsGroup"),
    (halves_of_cryosparc, "half-sets 0 and 1 are CryoSPARC's, so add 1 to all"),
    (three_halves, "is 3, .* take the column out"),
    (single_images, "1@ where a file is a single image"),
])  # fmt: skip
def test_refusals_say_what_to_do(change: Callable[[StarBuilder], None], advice: str, tmp_path: Path) -> None:
    builder = StarBuilder()
    change(builder)
    with pytest.raises(InputError, match=advice):
        read_particles(builder.write(tmp_path / "a.star"))


def test_a_table_of_another_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text(StarBuilder().text().replace("data_particles", "data_images"))
    with pytest.raises(InputError, match="rename data_images to data_particles"):
        read_particles(path)


def latin_1(record: Record) -> str:
    record["blob/path"][4] = "J7/Hände.mrc".encode("latin1")
    return r"row 5 \(uid \d+\): blob/path is b'J7/H\\xe4nde.mrc', but text in UTF-8 is expected"


def zero_byte_within(record: Record) -> str:
    record["blob/path"][4] = b"J7/a\0b.mrc"
    return r"row 5 \(uid \d+\): blob/path is 'J7/a\\x00b.mrc', but a name is expected"


def uid_twice(record: Record) -> str:
    record["uid"][5] = record["uid"][3]
    return "give every row a uid of its own"


@pytest.mark.parametrize("change", [latin_1, zero_byte_within, uid_twice])
def test_fields_that_cannot_be_carried_are_refused(change: Callable[[Record], str], tmp_path: Path) -> None:
    record = particles_record()
    complaint = change(record)
    with pytest.raises(InputError, match=complaint):
        read_particles(save(tmp_path / "a.cs", record))


@pytest.mark.parametrize(("field", "factor", "said"), [
    ("ctf/phase_shift_rad", 180 / np.pi, "the phase shift is up to 1.* rad, so it may be in degrees"),
    ("ctf/df_angle_rad", 180 / np.pi, "the defocus angle is up to .* rad, so it may be in degrees"),
    ("ctf/phase_shift_rad", np.pi / 180, "no phase shift is above 2.* degrees, so it may be in radians"),
    ("alignments3D/pose", 180 / np.pi, "most rotation vectors of alignments3D/pose are longer than a turn"),
])  # fmt: skip
def test_angles_of_the_other_unit_are_said(field: str, factor: float, said: str, tmp_path: Path) -> None:
    record = particles_record()
    right = read_particles(save(tmp_path / "a.cs", record)).notes
    assert not any(re.search(said, note) for note in right)
    record[field] = record[field] * factor
    assert any(re.search(said, note) for note in read_particles(save(tmp_path / "b.cs", record)).notes)


def test_defocus_angles_of_a_star_file_in_radians_are_said(tmp_path: Path) -> None:
    builder = StarBuilder(n=40, box=64)
    builder.columns["rlnOpticsGroup"] = ["1"] * 40
    builder.columns["rlnDefocusAngle"] = [f"{np.radians(float(one)):.6f}" for one in builder.columns["rlnDefocusAngle"]]
    (note,) = read_particles(builder.write(tmp_path / "a.star")).notes
    assert "no defocus angle is above 2.85 degrees, so it may be in radians" in note


@pytest.mark.parametrize("suffix", ["star", "cs"])
def test_a_magnification_that_no_microscope_has_is_refused(suffix: str, tmp_path: Path) -> None:
    """CryoSPARC's anisomag counts from the identity; converters have mixed the two up."""
    if suffix == "cs":
        record = particles_record()
        record["ctf/anisomag"] = [1, 0, 0, 1]
        path = save(tmp_path / "a.cs", record)
    else:
        builder = StarBuilder()
        builder.optics |= {"rlnMagMat00": ["2"] * 2, "rlnMagMat11": ["2"] * 2}
        path = builder.write(tmp_path / "a.star")
    with pytest.raises(InputError, match=r"magnification matrix \[\[2, 0\], \[0, 2\]\] is far from the identity"):
        read_particles(path)


@pytest.mark.parametrize("suffix", ["star", "cs"])
def test_particles_of_two_contrasts_are_refused_by_jobs_that_learn(suffix: str, tmp_path: Path) -> None:
    record = particles_record()
    record["blob/sign"][:30] = 1
    path = save(tmp_path / "a.cs", record)
    if suffix == "star":
        write_particles_star(read_particles(path), tmp_path / "a.star")
        path = tmp_path / "a.star"
    with pytest.raises(InputError, match="10 of its 40 particles are dark on light"):
        read_given_particles(path, tmp_path / "out", None)


def test_a_compressed_star_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.star.gz").write_bytes(gzip.compress(StarBuilder().text().encode()))
    with pytest.raises(InputError, match=r"a\.star\.gz: is compressed \(gzip\): decompress it first \(gunzip\)"):
        read_particles(tmp_path / "a.star.gz")
