"""Files of other versions and kinds: classes of CryoSPARC to 4.4, filaments, RELION 3.0, tomography."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.relion31 import as_relion31
from cryodrgn_ext.metadata.star import new_star, new_table, write_star
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import StarConversion, star_from_cs
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import Record, only, particles_record, save
from tests.metadata.test_poses import exponential, relion_matrix


def with_fields(base: Record, fields: dict[str, NDArray[Any]]) -> Record:
    wide = np.empty(len(base), [*base.dtype.descr, *((name, one.dtype, one.shape[1:]) for name, one in fields.items())])
    for name in base.dtype.names or ():
        wide[name] = base[name]
    for name, values in fields.items():
        wide[name] = values
    return wide


# CryoSPARC up to 4.4
def old_classes(k: int, n: int = 40, posterior: bool = True, first: int = 0) -> Record:
    """A heterogeneous refinement (or an ab initio job) of CryoSPARC up to 4.4: one slot for every class."""
    rng, base = np.random.default_rng(k), only(particles_record(n), "blob", "ctf", "location")
    chances = rng.dirichlet(np.full(k, 0.3), n).astype(np.float32)
    fields: dict[str, NDArray[Any]] = {}
    for i in range(k):
        slot = f"alignments_class_{i + first}"
        fields |= {
            f"{slot}/split": (np.arange(n) % 2).astype("u4"), f"{slot}/shift": rng.normal(size=(n, 2)).astype("f4"),
            f"{slot}/pose": rng.normal(size=(n, 3)).astype("f4"), f"{slot}/psize_A": np.full(n, 2.0 + i, "f4"),
            f"{slot}/error": rng.uniform(0, 9, n).astype("f4"), f"{slot}/class": np.full(n, i + first, "u4"),
        }  # fmt: skip
        if posterior:
            fields[f"{slot}/class_posterior"] = chances[:, i]
    return with_fields(base, fields)


@pytest.mark.parametrize(("k", "first"), [(2, 0), (3, 0), (12, 0), (3, 1)])
def test_the_most_probable_class_gives_the_pose(k: int, first: int, tmp_path: Path) -> None:
    record = old_classes(k, first=first)
    slots = [f"alignments_class_{i + first}" for i in range(k)]
    best = np.argmax([record[f"{slot}/class_posterior"] for slot in slots], axis=0)
    rows = np.arange(40)
    pose, shift, psize = (np.stack([record[f"{slot}/{name}"] for slot in slots])[best, rows].astype(np.float64)
                          for name in ("pose", "shift", "psize_A"))  # fmt: skip
    particles = read_particles(save(tmp_path / "a.cs", record))
    np.testing.assert_allclose(particles.rotation, np.swapaxes(exponential(pose), 1, 2), atol=1e-7)
    np.testing.assert_allclose(particles.shift_A, -shift * psize[:, None], rtol=1e-6)
    assert np.array_equal(particles.half_set, record[f"{slots[0]}/split"] + 1)
    assert any(f"poses of {k} classes (alignments_class_" in note for note in particles.notes)
    write_particles_star(particles, tmp_path / "a.star")
    table = starfile.read(tmp_path / "a.star")["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float64)
    np.testing.assert_allclose(relion_matrix(angles), np.swapaxes(exponential(pose), 1, 2), atol=1e-6)
    assert np.array_equal(table["rlnClassNumber"], best + first + 1)
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    for name in record.dtype.names or ():
        if name.startswith("alignments_class_"):
            np.testing.assert_allclose(back[name], record[name], rtol=1e-6, err_msg=name)


def test_one_class_needs_no_probabilities_and_several_do(tmp_path: Path) -> None:
    one = read_particles(save(tmp_path / "a.cs", old_classes(1, posterior=False)))
    assert one.has_poses
    with pytest.raises(InputError, match=r"several classes \(alignments_class_0 to 2\) without class_posterior"):
        read_particles(save(tmp_path / "b.cs", old_classes(3, posterior=False)))


def test_alignments_of_one_refinement_go_before_those_of_classes(tmp_path: Path) -> None:
    record = old_classes(3)
    refined = only(particles_record(40), "alignments3D")
    both = with_fields(record, {name: refined[name] for name in refined.dtype.names or () if "/" in name})
    particles = read_particles(save(tmp_path / "a.cs", both))
    pose = both["alignments3D/pose"].astype(np.float64)
    np.testing.assert_allclose(particles.rotation, np.swapaxes(exponential(pose), 1, 2), atol=1e-7)
    np.testing.assert_allclose(
        particles.shift_A,
        -both["alignments3D/shift"] * both["alignments3D/psize_A"][:, None].astype(np.float64),
        rtol=1e-6,
    )


def test_the_class_is_that_of_the_3d_alignment_not_of_an_earlier_2d_classification(tmp_path: Path) -> None:
    record = with_fields(old_classes(3), {"alignments2D/class": np.full(40, 49, np.uint32)})
    best = np.argmax([record[f"alignments_class_{i}/class_posterior"] for i in range(3)], axis=0)
    particles = read_particles(save(tmp_path / "a.cs", record))
    classes = particles.source.classes()
    assert classes is not None
    assert np.array_equal(classes, best)


def test_particles_of_a_2d_classification_keep_class_and_centre(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    record = with_fields(only(particles_record(40), "blob", "ctf", "location"), {
        "alignments2D/class": rng.integers(0, 50, 40).astype(np.uint32), "alignments2D/psize_A": np.full(40, 3.5, "f4"),
        "alignments2D/shift": rng.normal(size=(40, 2)).astype("f4"),
        "alignments2D/pose": rng.normal(size=40).astype("f4"), "alignments2D/split": np.zeros(40, "u4"),
        "alignments2D/cross_cor": rng.normal(size=40).astype("f4"),
    })  # fmt: skip
    conversion = star_from_cs(read_particles(save(tmp_path / "a.cs", record), require_poses=False))
    write_star(tmp_path / "a.star", conversion.star)
    table = starfile.read(tmp_path / "a.star")["particles"]
    assert np.array_equal(table["rlnClassNumber"], record["alignments2D/class"] + 1)
    np.testing.assert_allclose(table["rlnOriginXAngst"], record["alignments2D/shift"][:, 0] * 3.5, atol=2e-6)
    assert {"rlnAnglePsi", "rlnAngleRot", "rlnRandomSubset"}.isdisjoint(table.columns)
    # RELION has a column for an angle in the plane; for a correlation it has none.
    assert "alignments2D/pose" in conversion.unconverted
    assert "alignments2D/cross_cor" in conversion.foreign
    write_particles_cs(read_particles(tmp_path / "a.star", require_poses=False), tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    for name in record.dtype.names or ():
        if name.startswith("alignments2D/"):
            np.testing.assert_allclose(back[name], record[name], rtol=1e-6, err_msg=name)


def test_2d_alignments_that_relion_made_anew_are_not_mixed_with_old_ones(tmp_path: Path) -> None:
    record = with_fields(only(particles_record(40), "blob", "ctf"), {
        "alignments2D/class": np.arange(40, dtype="u4") % 5, "alignments2D/shift": np.ones((40, 2), "f4"),
        "alignments2D/psize_A": np.full(40, 2, "f4"), "alignments2D/pose": np.ones(40, "f4")})  # fmt: skip
    particles = read_particles(save(tmp_path / "a.cs", record), require_poses=False)
    classes = np.arange(40) % 5 + 1
    classes[7] = 1  # Class2D has moved one
    write_particles_star(particles, tmp_path / "a.star", {"rlnClassNumber": classes})
    conversion = cs_from_star(read_particles(tmp_path / "a.star", require_poses=False))
    assert not [field for field in conversion.table.columns if field.startswith("alignments2D/")]
    assert any("2D alignments that came along" in note for note in conversion.notes)


def test_that_relion_has_no_columns_is_said_where_it_is_true(tmp_path: Path) -> None:
    record = particles_record()
    record["ctf/trefoil_A"] = 7
    conversion = star_from_cs(read_particles(save(tmp_path / "a.cs", record)))
    assert conversion.unconverted == ("ctf/trefoil_A",)
    assert {"blob/sign", "alignments3D/error", "location/micrograph_uid"} <= set(conversion.foreign)
    assert not [field for field in conversion.foreign if field.startswith(("alignments3D/pose", "filament"))]


# Filaments
def filaments(angle_deg: NDArray[np.float64], segments: int = 4) -> Record:
    """Straight filaments at these angles from x on the micrograph as RELION sees it (y downward in its image)."""
    rng, n = np.random.default_rng(0), len(angle_deg) * segments
    record = particles_record(n)
    tube, segment = np.divmod(np.arange(n), segments)
    direction = np.radians(angle_deg)[tube]
    x, y = (rng.uniform(1000, 2000, len(angle_deg))[tube] for _ in "xy")
    x, y = x + 40 * segment * np.cos(direction), y + 40 * segment * np.sin(direction)
    record["location/micrograph_shape"] = [4092, 5760]
    record["location/center_x_frac"], record["location/center_y_frac"] = x / 5760, 1 - y / 4092
    record["location/micrograph_uid"] = np.array([11, 22])[tube % 2]
    record["location/micrograph_path"] = np.array([b"J2/motion/a.mrc", b"J2/motion/b.mrc"])[tube % 2]
    order = rng.permutation(n)
    return with_fields(record, {
        "filament/filament_uid": rng.integers(1 << 60, 1 << 62, len(angle_deg)).astype(np.uint64)[tube],
        "filament/filament_pose": -direction.astype(np.float32),
        "filament/position_A": (50.0 + 44.0 * segment).astype(np.float32),
        "filament/arc_length_A": np.full(n, 500, np.float32),
    })[order]  # fmt: skip


def converted(record: Record, path: Path) -> tuple[StarConversion, Any]:
    conversion = star_from_cs(read_particles(save(path.with_suffix(".cs"), record)))
    write_star(path, conversion.star)
    return conversion, starfile.read(path)["particles"]


def test_filaments_become_tubes(tmp_path: Path) -> None:
    angle_deg = np.array([10.0, -75.0, 160.0, 89.0, 30.0])
    record = filaments(angle_deg)
    conversion, table = converted(record, tmp_path / "a.star")
    uid, micrograph = record["filament/filament_uid"], record["location/micrograph_uid"]
    for one in np.unique(micrograph):
        tubes = table["rlnHelicalTubeID"][micrograph == one]
        assert sorted(set(tubes)) == list(range(1, len(np.unique(uid[micrograph == one])) + 1))
    pairs = set(zip(micrograph.tolist(), table["rlnHelicalTubeID"], uid.tolist(), strict=True))
    assert len(pairs) == len(angle_deg)
    np.testing.assert_allclose(table["rlnHelicalTrackLengthAngst"], record["filament/position_A"] - 50, atol=1e-4)
    assert (table["rlnAngleTiltPrior"] == 90).all()
    assert (table["rlnAnglePsiFlipRatio"] == 0.5).all()
    # RELION's helix.cpp: psi = -atan2(dy, dx) of the tube, in degrees.
    expected = np.degrees(record["filament/filament_pose"].astype(np.float64))
    apart = (table["rlnAnglePsiPrior"].to_numpy() - expected + 180) % 360 - 180
    assert np.abs(apart).max() < 0.1
    assert not [field for field in (*conversion.foreign, *conversion.unconverted) if field == "filament/filament_uid"]
    assert "filament/arc_length_A" in conversion.foreign
    # Here CryoSPARC's angle is the negative of ours, so the note says that it counts from elsewhere.
    assert any("counts from another one" in note for note in conversion.notes)
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    for name in record.dtype.names or ():
        if name.startswith("filament/"):
            np.testing.assert_allclose(back[name], record[name], rtol=1e-6, err_msg=name)


@pytest.mark.relion
def test_relion_extracts_filaments_with_the_same_priors(tmp_path: Path) -> None:
    """Start and end points of three tubes go through RELION's extraction; its segments come to us as CryoSPARC's."""
    ends = np.array([[100, 100, 400, 200], [600, 500, 600, 200], [500, 560, 120, 480]], float)
    with mrcfile.new(tmp_path / "mic.mrc") as handle:
        handle.set_data(np.random.default_rng(0).normal(size=(600, 800)).astype(np.float32))
        handle.voxel_size = 2.0
    optics: dict[str, list[Any]] = {
        "rlnOpticsGroupName": ["og1"], "rlnOpticsGroup": [1], "rlnMicrographPixelSize": [2.0],
        "rlnMicrographOriginalPixelSize": [2.0], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }  # fmt: skip
    micrographs: dict[str, list[Any]] = {"rlnMicrographName": ["mic.mrc"], "rlnOpticsGroup": [1]}
    write_star(tmp_path / "mics.star", new_star([new_table("optics", optics), new_table("micrographs", micrographs)]))
    points = ends.reshape(-1, 2)
    picked = new_table("", {"rlnCoordinateX": points[:, 0], "rlnCoordinateY": points[:, 1]})
    write_star(tmp_path / "mic_tubes.star", new_star([picked]))
    command = (
        "relion_preprocess --i mics.star --coord_suffix _tubes.star --coord_dir ./ --part_star particles.star "
        "--part_dir out/ --extract --extract_size 32 --helix --helical_outer_diameter 40 "
        "--helical_bimodal_angular_priors "
        "--helical_tubes --helical_cut_into_segments --helical_nr_asu 5 --helical_rise 10"
    )
    (tmp_path / "out").mkdir()
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    relions = starfile.read(tmp_path / "particles.star")["particles"]
    n = len(relions)
    assert n > 10
    record = particles_record(n)
    record["location/micrograph_shape"], record["location/micrograph_uid"] = [600, 800], 5
    record["location/center_x_frac"] = relions["rlnCoordinateX"] / 800
    record["location/center_y_frac"] = 1 - relions["rlnCoordinateY"] / 600
    record = with_fields(record, {
        "filament/filament_uid": relions["rlnHelicalTubeID"].to_numpy().astype(np.uint64) + np.uint64(1 << 50),
        "filament/position_A": relions["rlnHelicalTrackLengthAngst"].to_numpy().astype(np.float32) + 13,
        "filament/filament_pose": np.zeros(n, np.float32),
    })  # fmt: skip
    _, table = converted(record, tmp_path / "ours.star")
    for label in ("rlnHelicalTubeID", "rlnAngleTiltPrior", "rlnAnglePsiFlipRatio"):
        assert np.array_equal(table[label], relions[label]), label
    np.testing.assert_allclose(table["rlnHelicalTrackLengthAngst"], relions["rlnHelicalTrackLengthAngst"], atol=1e-3)
    apart = (table["rlnAnglePsiPrior"] - relions["rlnAnglePsiPrior"] + 180) % 360 - 180
    assert np.abs(apart).max() < 0.05


def test_a_tube_that_agrees_with_its_pose_needs_no_note(tmp_path: Path) -> None:
    record = filaments(np.array([10.0, -75.0, 160.0]))
    record["filament/filament_pose"] *= -1
    conversion, table = converted(record, tmp_path / "a.star")
    assert conversion.notes == ()
    np.testing.assert_allclose(
        (table["rlnAnglePsiPrior"] + np.degrees(record["filament/filament_pose"]) + 90) % 180, 90, atol=0.1
    )


def test_single_segments_take_the_angle_that_cryosparc_has(tmp_path: Path) -> None:
    conversion, table = converted(filaments(np.array([10.0, 50.0]), segments=1), tmp_path / "a.star")
    np.testing.assert_allclose(sorted(table["rlnAnglePsiPrior"]), [10, 50], atol=1e-4)
    assert any("2 segments have no neighbour" in note for note in conversion.notes)


def test_filaments_without_angle_or_positions(tmp_path: Path) -> None:
    record = filaments(np.array([10.0, 50.0]))
    names = [name for name in record.dtype.names or () if name not in ("filament/filament_pose", "filament/position_A")]
    bare = np.empty(len(record), [(name, record.dtype[name]) for name in names])
    for name in names:
        bare[name] = record[name]
    _, table = converted(bare, tmp_path / "a.star")
    assert "rlnHelicalTubeID" in table
    assert not {"rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst"} & set(table.columns)


@pytest.mark.parametrize("style", ["3.0", "3.1"])
def test_tubes_of_relion_become_filaments(style: str, tmp_path: Path) -> None:
    builder = StarBuilder(style)
    length = "rlnHelicalTrackLength" if style == "3.0" else "rlnHelicalTrackLengthAngst"
    builder.columns |= {
        "rlnHelicalTubeID": ["1", "1", "2", "2"] * 2, length: [f"{40.0 * (i % 2)}" for i in range(8)],
        "rlnAnglePsiPrior": [f"{10.0 * i}" for i in range(8)], "rlnAngleTiltPrior": ["90.0"] * 8,
        "rlnHelicalTubePitch": ["0.5"] * 8,
    }  # fmt: skip
    builder.optics["rlnImageSize"] = ["64"] * 2
    particles = read_particles(builder.write(tmp_path / "a.star"))
    if style == "3.0":
        particles = dataclasses.replace(
            particles, optics=tuple(dataclasses.replace(one, box_size=64) for one in particles.optics)
        )
    conversion = cs_from_star(particles)
    write_cs(tmp_path / "a.cs", conversion.table)
    back = Dataset.load(tmp_path / "a.cs")
    tubes = [(i // 4, i % 4 // 2) for i in range(8)]  # four segments a micrograph
    uid = back["filament/filament_uid"]
    assert [[uid[i] == uid[j] for i in range(8)] for j in range(8)] == [[a == b for a in tubes] for b in tubes]
    pixel_A = 1.25 if style == "3.0" else 1.0
    np.testing.assert_allclose(back["filament/position_A"], [40 * pixel_A * (i % 2) for i in range(8)], rtol=1e-6)
    np.testing.assert_allclose(back["filament/arc_length_A"], 40 * pixel_A, rtol=1e-6)
    np.testing.assert_allclose(back["filament/filament_pose"], -np.radians(10.0 * np.arange(8)), rtol=1e-6)
    assert "rlnHelicalTubePitch" in conversion.lost
    assert not {"rlnHelicalTubeID", length, "rlnAnglePsiPrior", "rlnAngleTiltPrior"} & set(conversion.lost)
    builder.columns |= {"rlnHelicalTubeID": ["3", "3", "5", "5"] * 2, "rlnAngleTiltPrior": ["80.0"] * 8}
    renumbered = read_particles(builder.write(tmp_path / "c.star"))
    renumbered = dataclasses.replace(renumbered, optics=particles.optics)
    assert {"rlnHelicalTubeID", "rlnAngleTiltPrior"} <= set(cs_from_star(renumbered).lost)
    write_particles_star(read_particles(tmp_path / "a.cs"), tmp_path / "b.star")
    again = starfile.read(tmp_path / "b.star")["particles"]
    assert again["rlnHelicalTubeID"].tolist() == [1, 1, 2, 2] * 2
    np.testing.assert_allclose(again["rlnHelicalTrackLengthAngst"], [40 * pixel_A * (i % 2) for i in range(8)])


# RELION 3.0
@pytest.fixture
def old_project(tmp_path: Path, write_stack: Callable[..., Path]) -> Path:
    """Two pixel sizes, beam tilts, priors and tubes, as RELION 3.0 writes them."""
    builder = StarBuilder("3.0")
    builder.columns |= {
        "rlnMagnification": ["10000.000000", "10100.000000"] * 4, "rlnBeamTiltX": ["0.100000"] * 8,
        "rlnBeamTiltY": ["-0.200000"] * 8, "rlnOriginXPrior": [f"{i}.500000" for i in range(8)],
        "rlnOriginYPrior": ["-1.250000"] * 8, "rlnHelicalTubeID": ["1"] * 8,
        "rlnHelicalTrackLength": [f"{10 * i}.000000" for i in range(8)],
    }  # fmt: skip
    del builder.columns["rlnSomethingUnknown"]  # RELION's converter stops at it
    for i in range(2):
        write_stack(tmp_path / f"Extract/job012/mic{i}.mrcs", 4)
    return builder.write(tmp_path / "a.star").parent


def test_relion_3_0_becomes_3_1(old_project: Path) -> None:
    particles = read_particles(old_project / "a.star", old_project)
    write_star(old_project / "b.star", as_relion31(particles))
    blocks = starfile.read(old_project / "b.star")
    before, after, optics = starfile.read(old_project / "a.star"), blocks["particles"], blocks["optics"]
    pixel_A = np.array([1.25, 1e4 * 1.25 / 10100] * 4)
    np.testing.assert_allclose(optics["rlnImagePixelSize"], pixel_A[:2], atol=1e-6)
    assert optics["rlnImageSize"].tolist() == [16, 16]
    np.testing.assert_allclose(optics["rlnBeamTiltY"], -0.2)
    assert after["rlnOpticsGroup"].tolist() == [1, 2] * 4
    for old, new in (("rlnOriginX", "rlnOriginXAngst"), ("rlnOriginYPrior", "rlnOriginYPriorAngst"),
                     ("rlnHelicalTrackLength", "rlnHelicalTrackLengthAngst")):  # fmt: skip
        np.testing.assert_allclose(after[new], before[old] * pixel_A, atol=1e-6)
        assert old not in after
    same = [label for label in after.columns if label in before.columns]
    assert before[same].equals(after[same])
    again = read_particles(old_project / "b.star", old_project)
    np.testing.assert_allclose(again.shift_A, particles.shift_A, atol=1e-6)
    np.testing.assert_array_equal(again.euler_deg, particles.euler_deg)


@pytest.mark.relion
def test_relion_converts_the_same_way(old_project: Path) -> None:
    subprocess.run(["relion_convert_star", "--i", "a.star", "--o", "relion.star"], cwd=old_project, check=True,
                   capture_output=True)  # fmt: skip
    write_star(old_project / "b.star", as_relion31(read_particles(old_project / "a.star", old_project)))
    ours, relions = (starfile.read(old_project / name) for name in ("b.star", "relion.star"))
    for label in ("rlnImagePixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImageSize",
                  "rlnBeamTiltX", "rlnBeamTiltY", "rlnImageDimensionality"):  # fmt: skip
        np.testing.assert_allclose(ours["optics"][label], relions["optics"][label], atol=2e-6, err_msg=label)
    assert set(relions["particles"].columns) - set(ours["particles"].columns) == set()
    for label in relions["particles"].columns:
        mine, theirs = (one["particles"][label].to_numpy() for one in (ours, relions))
        if mine.dtype.kind in "if":
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6, err_msg=label)  # it writes six digits
        else:
            assert mine.tolist() == theirs.tolist(), label


def test_relion_3_1_needs_the_size_of_the_images(tmp_path: Path) -> None:
    particles = read_particles(StarBuilder("3.0").write(tmp_path / "a.star"))
    with pytest.raises(InputError, match="the image size of opticsGroup1 is unknown"):
        as_relion31(particles)


# Tomography
def blocks(**tables: dict[str, str]) -> str:
    """Loops of one row each."""
    text = ""
    for name, columns in tables.items():
        labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(columns, 1))
        text += f"\n# version 30001\n\ndata_{name}\n\nloop_\n{labels}{' '.join(columns.values())}\n\n"
    return text


ANGLES = {"rlnAngleRot": "1.0", "rlnAngleTilt": "2.0", "rlnAnglePsi": "3.0"}
TOMOGRAPHY = {
    "RELION 5, Extract, 2D stacks": blocks(
        general={"rlnTomoSubTomosAre2DStacks": "1"}, optics={"rlnOpticsGroup": "1", "rlnVoltage": "300"},
        particles={"rlnTomoName": "TS_01", "rlnTomoParticleName": "TS_01/1", "rlnTomoVisibleFrames": "[1,1,0]",
                   "rlnImageName": "Extract/job012/Subtomograms/TS_01/1_stack2d.mrcs", **ANGLES}),
    "RELION 4, pseudo-subtomograms": blocks(
        optics={"rlnOpticsGroup": "1", "rlnTomoTiltSeriesPixelSize": "1.35", "rlnImageDimensionality": "3"},
        particles={"rlnTomoName": "TS_01", "rlnTomoParticleId": "1", "rlnCoordinateX": "100",
                   "rlnImageName": "PseudoSubtomo/job010/Subtomograms/TS_01/1_data.mrc", **ANGLES}),
    "RELION 3.1, Warp, Dynamo and TOM": blocks(
        optics={"rlnOpticsGroup": "1", "rlnVoltage": "300", "rlnImageDimensionality": "3"},
        particles={"rlnMicrographName": "TS_01.mrc", "rlnCoordinateZ": "100.0", "rlnCtfImage": "TS_01_ctf.mrc",
                   "rlnImageName": "subtomo/TS_01/TS_01_000001_2.62A.mrc", **ANGLES}),
    "RELION 3.0, Warp": blocks(**{"": {
        "rlnMicrographName": "TS_01.tomostar", "rlnCoordinateX": "1", "rlnCoordinateY": "2", "rlnCoordinateZ": "3",
        "rlnMagnification": "10000.0", "rlnDetectorPixelSize": "2.62", "rlnCtfImage": "subtomo/TS_01_1_ctf.mrc",
        "rlnImageName": "subtomo/TS_01_1_2.62A.mrc", **ANGLES}}),
    "RELION 5, optimisation set": blocks(**{"": {
        "rlnTomoTomogramsFile": "Tomograms/job007/tomograms.star", "rlnTomoParticlesFile": "Extract/job012/p.star"}}),
    "RELION 5, tilt series": blocks(**{"global": {
        "rlnTomoName": "TS_01", "rlnTomoTiltSeriesStarFile": "tilt_series/TS_01.star", "rlnVoltage": "300"}}),
    "WarpTools, 2D series": blocks(
        optics={"rlnOpticsGroup": "1", "rlnVoltage": "300", "rlnImageDimensionality": "2"},
        particles={"rlnTomoName": "TS_01.tomostar", "rlnTomoParticleId": "1", "rlnOriginXAngst": "0", **ANGLES,
                   "rlnImageName": "subtomo/TS_01/TS_01_000001_stack2d.mrcs"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(TOMOGRAPHY))
@pytest.mark.parametrize("require_poses", [True, False])
def test_tomography_is_named_before_anything_else(kind: str, require_poses: bool, tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(TOMOGRAPHY[kind])
    with pytest.raises(InputError, match=r"tomo(gram|graphy)|tilt series") as raised:
        read_particles(tmp_path / "a.star", require_poses=require_poses)
    assert "has no column" not in str(raised.value)
    assert "give a file of single-particle images" in str(raised.value)


def test_single_particles_with_a_third_coordinate_are_single_particles(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns |= {"rlnCoordinateZ": ["0.0"] * 8, "rlnCtfImage": ["some.ctf"] * 8}
    assert read_particles(builder.write(tmp_path / "a.star")).n == 8
