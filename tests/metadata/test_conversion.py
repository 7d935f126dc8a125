"""STAR to .cs and back: every field against the formulas of the contract, and what neither can carry is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import only, particles_record, save
from tests.metadata.test_poses import exponential, relion_matrix


@pytest.fixture
def cs_particles(tmp_path: Path) -> ParticleSet:
    return read_particles(save(tmp_path / "a.cs", particles_record()))


def as_star(particles: ParticleSet, path: Path, **options: Any) -> tuple[Any, Any]:
    write_star(path, star_from_cs(particles, **options).star)
    blocks = starfile.read(path)
    return blocks["optics"], blocks["particles"]


def columns(frame: Any, *labels: str) -> NDArray[np.float64]:
    return np.asarray(frame[list(labels)].to_numpy(np.float64))


def test_cs_as_star_by_an_independent_reader(cs_particles: ParticleSet, tmp_path: Path) -> None:
    record = particles_record()
    optics, table = as_star(cs_particles, tmp_path / "a.star")
    angles = columns(table, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    expected = np.swapaxes(exponential(record["alignments3D/pose"].astype(np.float64)), 1, 2)
    np.testing.assert_allclose(relion_matrix(angles), expected, atol=1e-7)
    origin_A = record["alignments3D/shift"].astype(np.float64) * 2.2
    np.testing.assert_allclose(columns(table, "rlnOriginXAngst", "rlnOriginYAngst"), origin_A, atol=2e-6)
    np.testing.assert_allclose(table["rlnDefocusU"], record["ctf/df1_A"], atol=1e-6)
    np.testing.assert_allclose(table["rlnDefocusV"], record["ctf/df2_A"], atol=1e-6)
    np.testing.assert_allclose(np.radians(table["rlnDefocusAngle"]), record["ctf/df_angle_rad"], atol=1e-7)
    np.testing.assert_allclose(np.radians(table["rlnPhaseShift"]), record["ctf/phase_shift_rad"], atol=1e-7)
    assert np.array_equal(table["rlnRandomSubset"], record["alignments3D/split"] + 1)
    assert np.array_equal(table["rlnClassNumber"], record["alignments3D/class"] + 1)
    assert np.array_equal(table["rlnOpticsGroup"], record["ctf/exp_group_id"] + 1)
    x, y = record["location/center_x_frac"] * 4000.0, (1.0 - record["location/center_y_frac"]) * 3000.0
    np.testing.assert_allclose(columns(table, "rlnCoordinateX", "rlnCoordinateY").T, [x, y], atol=1e-3)
    assert table["rlnImageName"][16] == "000001@J7/extract/mic1_particles.mrc:mrcs"  # .mrc is a volume to RELION
    assert table["rlnMicrographName"][39] == "J2/motion/mic2.mrc"
    assert optics["rlnOpticsGroup"].tolist() == [4, 5]
    assert optics["rlnImageSize"].tolist() == [64, 64]
    np.testing.assert_allclose(optics["rlnImagePixelSize"], 1.1)
    np.testing.assert_allclose(
        columns(optics, "rlnBeamTiltX", "rlnBeamTiltY"), np.array([[0, 0], [0.2, -0.1]]), atol=1e-6
    )
    matrices = columns(optics, *(f"rlnMagMat{i}{j}" for i in "01" for j in "01"))
    np.testing.assert_allclose(matrices, np.array([[1, 0, 0, 1], [1.01, -0.002, -0.002, 0.99]]), atol=1e-6)


def test_cs_to_star_to_cs_gives_every_field_back(cs_particles: ParticleSet, tmp_path: Path) -> None:
    record = particles_record()
    conversion = star_from_cs(cs_particles)
    assert {"blob/sign", "alignments3D/error", "location/micrograph_uid"} <= set(conversion.foreign)
    assert conversion.lost == ()
    write_star(tmp_path / "a.star", conversion.star)
    write_cs(tmp_path / "b.cs", cs_from_star(read_particles(tmp_path / "a.star")).table)
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert np.array_equal(back["uid"], record["uid"])
    for name in record.dtype.names or ():
        assert back[name].shape == record[name].shape, name
        if record.dtype[name].base.kind == "f":
            np.testing.assert_allclose(back[name], record[name], rtol=1e-6, atol=2e-6, err_msg=name)
        else:
            assert np.array_equal(back[name], record[name]), name
        if record.dtype[name].kind != "S":
            assert back.dtype[name] == record.dtype[name], name


def test_without_carrying_what_is_lost_is_named(cs_particles: ParticleSet, tmp_path: Path) -> None:
    conversion = star_from_cs(cs_particles, embed=False)
    assert {"blob/sign", "alignments3D/error", "ctf/type"} <= set(conversion.lost)
    assert not {"alignments3D/pose", "ctf/df1_A", "location/center_x_frac", "ctf/trefoil_A"} & set(conversion.foreign)
    _, table = as_star(cs_particles, tmp_path / "a.star", embed=False)
    assert not [name for name in table.columns if name.startswith("cdxCs")]


def test_poses_changed_in_relion_win_over_what_was_embedded(cs_particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(cs_particles, tmp_path / "a.star")
    star = read_particles(tmp_path / "a.star")
    turned = star.rotation.copy()
    turned[3] = turned[3].T
    write_cs(tmp_path / "b.cs", cs_from_star(star.with_poses(turned, star.shift_A + 1)).table)
    again = read_particles(tmp_path / "b.cs")
    np.testing.assert_allclose(again.rotation, turned, atol=1e-6)
    np.testing.assert_allclose(again.shift_A, star.shift_A + 1, atol=1e-5)


def test_original_poses_can_be_kept(cs_particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(cs_particles.subset(np.array([4, 2])), tmp_path / "a.star")
    turned = cs_particles.with_poses(np.swapaxes(cs_particles.rotation, 1, 2), cs_particles.shift_A)
    write_particles_star(turned.subset(np.array([4, 2])), tmp_path / "b.star", keep_original_poses=True)
    assert (tmp_path / "b.star").read_bytes() == (tmp_path / "a.star").read_bytes()
    write_particles_star(turned.subset(np.array([4, 2])), tmp_path / "c.star")
    assert (tmp_path / "c.star").read_bytes() != (tmp_path / "a.star").read_bytes()


@pytest.mark.parametrize("style", ["3.0", "3.1", "5.0"])
def test_star_as_cs(style: str, star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder(style)
    builder.columns["rlnClassNumber"] = [str(i % 3 + 1) for i in range(builder.n)]
    builder.columns["rlnPhaseShift"] = [f"{10.0 * i}" for i in range(builder.n)]
    if style != "3.0":
        builder.optics |= {"rlnBeamTiltX": ["0.5", "0"], "rlnBeamTiltY": ["-0.25", "0"], "rlnMagMat00": ["1.02", "1"],
                           "rlnMagMat01": ["0.01", "0"], "rlnMagMat10": ["0.01", "0"],
                           "rlnMagMat11": ["0.98", "1"], "rlnOddZernike": ["[0,0,0.1]", "[0,0,0]"]}  # fmt: skip
    else:
        builder.columns["rlnImageSize"] = ["16"] * builder.n
    particles = read_particles(builder.write(tmp_path / "a.star"))
    if style == "3.0":
        with pytest.raises(InputError, match="image size of opticsGroup1 is unknown"):
            cs_from_star(particles)
        return
    conversion = cs_from_star(particles)
    table = conversion.table.columns
    frame = starfile.read(tmp_path / "a.star")["particles"]
    pose = table["alignments3D/pose"].astype(np.float64)
    expected = relion_matrix(columns(frame, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    np.testing.assert_allclose(np.swapaxes(exponential(pose), 1, 2), expected, atol=1e-6)
    shift_A = table["alignments3D/shift"] * table["alignments3D/psize_A"][:, None]
    np.testing.assert_allclose(shift_A, columns(frame, "rlnOriginXAngst", "rlnOriginYAngst"), rtol=1e-6)
    for field, label in (("df_angle_rad", "rlnDefocusAngle"), ("phase_shift_rad", "rlnPhaseShift")):
        np.testing.assert_allclose(table[f"ctf/{field}"], np.radians(frame[label]), rtol=1e-6)
    assert np.array_equal(table["alignments3D/split"], frame["rlnRandomSubset"] - 1)
    assert np.array_equal(table["alignments3D/class"], frame["rlnClassNumber"] - 1)
    assert np.array_equal(table["ctf/exp_group_id"], frame["rlnOpticsGroup"] - 1)
    assert table["blob/path"][5] == b"Extract/job012/mic1.mrcs"
    assert table["blob/idx"].tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(table["ctf/tilt_A"][0], 2.7e7 * np.sin([0.5e-3, -0.25e-3]), rtol=1e-6)
    np.testing.assert_allclose(table["ctf/anisomag"][0], [0.02, 0.01, 0.01, -0.02], atol=1e-7)
    assert {"rlnOddZernike", "rlnSomethingUnknown", "rlnCoordinateX"} <= set(conversion.lost)
    assert any("positions on micrographs" in note for note in conversion.notes)
    dtypes = {name: column.dtype for name, column in table.items()}
    assert dtypes["uid"] == np.uint64
    assert {dtypes[name] for name in table if name.startswith("alignments3D")} == {np.dtype("f4"), np.dtype("u4")}


def test_coordinates_need_the_size_of_the_micrograph(
    star_builder: type[StarBuilder], write_stack: Any, tmp_path: Path
) -> None:
    builder = star_builder()
    for i in range(2):
        write_stack(tmp_path / f"MotionCorr/job002/mic{i}.mrc", 1, 4000 + i, height=3000)
    particles = read_particles(builder.write(tmp_path / "a.star"), tmp_path)
    builder.columns["rlnCoordinateY"] = builder.columns["rlnCoordinateX"][::-1]
    particles = read_particles(builder.write(tmp_path / "a.star"), tmp_path)
    conversion = cs_from_star(particles)
    table = conversion.table.columns
    assert table["location/micrograph_shape"][[0, 7]].tolist() == [[3000, 4000], [3000, 4001]]
    x, y = (np.array(builder.columns[f"rlnCoordinate{axis}"], float) for axis in "XY")
    np.testing.assert_allclose(table["location/center_x_frac"][:4], x[:4] / 4000, rtol=1e-6)
    np.testing.assert_allclose(table["location/center_y_frac"], 1 - y / 3000, rtol=1e-5)
    assert len(np.unique(table["location/micrograph_uid"])) == 2
    assert "rlnCoordinateX" not in conversion.lost


def test_star_to_cs_to_star_with_reference_is_the_original(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    original = star_builder("5.0").write(tmp_path / "a.star")
    write_cs(tmp_path / "b.cs", cs_from_star(read_particles(original)).table)
    restored = restore(read_particles(tmp_path / "b.cs"), read_particles(original))
    assert restored.updated == ()
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    assert (tmp_path / "c.star").read_bytes() == original.read_bytes()


def test_reference_takes_what_has_changed(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    reference = read_particles(star_builder().write(tmp_path / "a.star"))
    table = cs_from_star(reference).table
    table.columns["alignments3D/pose"][:] = 0.5
    table.columns["ctf/df1_A"][2] += 100
    table.columns["alignments3D/split"] ^= 1
    table.columns["blob/path"] = np.array([b">J1/imported/003806243878409217281_" + one.rsplit(b"/", 1)[1]
                                           for one in table.columns["blob/path"].tolist()])  # fmt: skip
    write_cs(tmp_path / "b.cs", table, np.array([6, 2, 3]))
    restored = restore(read_particles(tmp_path / "b.cs"), reference)
    assert restored.updated == ("poses", "CTF", "half-sets")
    assert restored.joined_by == "imported image file name and index"
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    before, after = (starfile.read(tmp_path / f"{name}.star")["particles"] for name in "ac")
    chosen = before.iloc[[6, 2, 3]].reset_index(drop=True)
    np.testing.assert_allclose(after["rlnDefocusU"] - chosen["rlnDefocusU"], [0, 100, 0], atol=2e-3)
    assert after["rlnDefocusU"][0] == chosen["rlnDefocusU"][0]
    assert np.array_equal(after["rlnRandomSubset"], 3 - chosen["rlnRandomSubset"])
    angles = columns(after, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    np.testing.assert_allclose(relion_matrix(angles), np.swapaxes(exponential(np.full((3, 3), 0.5)), 1, 2), atol=1e-6)
    for label in ("rlnImageName", "rlnSomethingUnknown", "rlnMicrographName", "rlnOpticsGroup", "rlnCoordinateX"):
        assert after[label].tolist() == chosen[label].tolist()


def test_rows_are_joined_by_uid_before_anything_else(cs_particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(cs_particles.subset(np.array([5, 1])), tmp_path / "a.star")
    match = match_rows(read_particles(tmp_path / "a.star"), cs_particles)
    assert (match.rows.tolist(), match.joined_by, match.notes) == ([5, 1], "uid", ())


def test_particle_that_the_reference_lacks(cs_particles: ParticleSet) -> None:
    with pytest.raises(InputError, match=r"1 of 40 particles are not in this file, the first being .* row 8 "):
        restore(cs_particles, cs_particles.subset(np.delete(np.arange(40), 7)))


def test_reference_that_is_a_cs_restores_fields(cs_particles: ParticleSet, tmp_path: Path) -> None:
    record = particles_record()
    write_star(tmp_path / "a.star", star_from_cs(cs_particles, embed=False).star)
    restored = restore(read_particles(tmp_path / "a.star"), cs_particles)
    assert restored.updated == ()
    assert restored.particles.source.format == "cs"
    write_particles_cs(restored.particles, tmp_path / "b.cs", restored.columns)
    assert np.array_equal(np.load(tmp_path / "b.cs", allow_pickle=False), record)


def test_embedded_columns_that_were_cut_are_refused(cs_particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(cs_particles, tmp_path / "a.star")
    text = (tmp_path / "a.star").read_text()
    (tmp_path / "a.star").write_text(text.replace("cdxCs.alignments3D.pose.f4x3.1", "other"))
    with pytest.raises(InputError, match="of the 3 columns of alignments3D/pose only 2 are there"):
        cs_from_star(read_particles(tmp_path / "a.star"))


def test_aberrations_without_counterpart_come_back_and_are_named(tmp_path: Path) -> None:
    record, rng = particles_record(), np.random.default_rng(2)
    for field in ("trefoil_A", "tetra_A", "shift_A"):
        record[f"ctf/{field}"] = rng.normal(scale=300, size=record[f"ctf/{field}"].shape)
    particles = read_particles(save(tmp_path / "a.cs", record))
    note = next(note for note in particles.notes if "no verified counterpart" in note)
    assert "ctf/shift_A, ctf/trefoil_A, ctf/tetra_A" in note
    assert any("ctf/tilt_A" in note and "signs" in note for note in particles.notes)
    assert {"ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A"} <= set(star_from_cs(particles, embed=False).lost)
    write_particles_star(particles, tmp_path / "a.star")
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    for field in ("trefoil_A", "tetra_A", "shift_A"):
        assert np.array_equal(back[f"ctf/{field}"], record[f"ctf/{field}"]), field


def several_classes(k: int, n: int = 40) -> NDArray[Any]:
    """Output of an ab initio job of K classes for all particles."""
    rng, base = np.random.default_rng(k), only(particles_record(n), "blob", "ctf", "location")
    fields = [("split", "<u4", ()), ("class", "<u4", (k,)), ("pose", "<f4", (k, 3)), ("shift", "<f4", (k, 2)),
              ("psize_A", "<f4", ()), ("error", "<f4", (k,)), ("class_posterior", "<f4", (k,))]  # fmt: skip
    wide = np.empty(n, base.dtype.descr + [(f"alignments3D_multi/{name}", kind, shape) for name, kind, shape in fields])
    for name in base.dtype.names or ():
        wide[name] = base[name]
    values = {"split": np.arange(n) % 2, "class": np.arange(k), "pose": rng.normal(size=(n, k, 3)), "psize_A": 2.2,
              "shift": rng.normal(size=(n, k, 2)), "error": rng.uniform(0, 9, (n, k)),
              "class_posterior": rng.dirichlet(np.ones(k), n)}  # fmt: skip
    for name, one in values.items():
        wide[f"alignments3D_multi/{name}"] = one
    return wide


@pytest.mark.parametrize("k", [1, 3, 30])
def test_several_classes_go_to_star_and_back(k: int, tmp_path: Path) -> None:
    record = several_classes(k)
    particles = read_particles(save(tmp_path / "a.cs", record))
    best = record["alignments3D_multi/class_posterior"].argmax(axis=1)
    _, table = as_star(particles, tmp_path / "a.star")
    pose = record["alignments3D_multi/pose"][np.arange(40), best].astype(np.float64)
    angles = columns(table, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    np.testing.assert_allclose(relion_matrix(angles), np.swapaxes(exponential(pose), 1, 2), atol=1e-7)
    assert np.array_equal(table["rlnClassNumber"], best + 1)
    assert np.array_equal(table["rlnRandomSubset"], record["alignments3D_multi/split"] + 1)
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    for name in record.dtype.names or ():
        assert back[name].shape == record[name].shape, name
        if name.startswith("alignments3D_multi"):
            assert np.array_equal(back[name], record[name]), name
    np.testing.assert_allclose(exponential(back["alignments3D/pose"].astype(np.float64)), exponential(pose), atol=1e-6)
