"""ParticleSet from CryoSPARC's files: conventions of the contract, bad values, subsets, new poses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.cs_data import DTYPE, Record, only, particles_record, save


def test_canonical_columns(tmp_path: Path) -> None:
    record = particles_record()
    particles = read_particles(save(tmp_path / "a.cs", record))
    assert np.array_equal(particles.uid, record["uid"])
    assert particles.image_name[17] == "000002@J7/extract/mic1_particles.mrc"
    assert particles.stack_names == tuple(f"J7/extract/mic{i}_particles.mrc" for i in range(3))
    # Å per pixel of the alignment, not of the images; the shift is the displacement, so minus RELION's origin.
    np.testing.assert_allclose(particles.shift_A, -record["alignments3D/shift"] * np.float64(np.float32(2.2)))
    np.testing.assert_allclose(particles.pixel_size_A, 1.1)
    assert np.array_equal(particles.half_set, record["alignments3D/split"] + 1)
    fields = {"defocus_u_A": "df1_A", "defocus_v_A": "df2_A", "b_factor_A2": "bfactor", "scale": "scale"}
    fields |= {"defocus_angle_rad": "df_angle_rad", "phase_shift_rad": "phase_shift_rad"}
    for ours, field in fields.items():
        assert np.array_equal(getattr(particles.ctf, ours), record[f"ctf/{field}"].astype(np.float64))
    active = Rotation.from_rotvec(record["alignments3D/pose"].astype(np.float64)).as_matrix()
    np.testing.assert_allclose(particles.rotation, np.swapaxes(active, 1, 2), atol=1e-12)


def test_exposure_groups_become_optics_groups(tmp_path: Path) -> None:
    particles = read_particles(save(tmp_path / "a.cs", particles_record()))
    assert [group.number for group in particles.optics] == [4, 5]
    assert np.array_equal(particles.optics_index, np.arange(40) // 16 % 2)
    plain, tilted = particles.optics
    assert (plain.voltage_kV, plain.cs_mm, plain.amplitude_contrast, plain.box_size) == (300.0, 2.7, 0.1, 64)
    assert plain.beam_tilt_mrad == (0.0, 0.0)
    assert plain.mag_matrix == ((1.0, 0.0), (0.0, 1.0))
    # 2.7 mm are 2.7e7 Å: 5400 Å are 0.2 mrad.
    np.testing.assert_allclose(tilted.beam_tilt_mrad, (0.2, -0.1), rtol=1e-6)
    np.testing.assert_allclose(tilted.mag_matrix, ((1.01, -0.002), (-0.002, 0.99)), rtol=1e-6)


def test_exposure_group_with_two_optics_is_split(tmp_path: Path) -> None:
    record = particles_record()
    record["blob/shape"][20] = 32
    particles = read_particles(save(tmp_path / "a.cs", record))
    assert [group.number for group in particles.optics] == [1, 2, 3]
    assert sorted(group.box_size or 0 for group in particles.optics) == [32, 64, 64]
    assert particles.optics[particles.optics_index[20]].box_size == 32


def _pose_of_nothing(record: Record) -> None:
    record["alignments3D/pose"][5, 1] = np.nan


def _defocus(record: Record) -> None:
    record["ctf/df1_A"][2] = np.inf


def _split(record: Record) -> None:
    record["alignments3D/split"][3] = 2


def _oblong(record: Record) -> None:
    record["blob/shape"][4, 1] = 65


def _tilt(record: Record) -> None:
    record["ctf/cs_mm"] = 0


def _pixel(record: Record) -> None:
    record["alignments3D/psize_A"][6] = 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_pose_of_nothing, r"row 6 \(uid \d+\): alignments3D/pose is .*nan.*finite"),
        (_defocus, r"row 3 \(uid \d+\): ctf/df1_A is inf"),
        (_split, r"row 4 .*alignments3D/split is 2, but 0 or 1"),
        (_oblong, r"row 5 .*must be square"),
        (_tilt, r"no beam tilt at a spherical aberration of 0 mm"),
        (_pixel, r"row 7 .*psize_A is 0, but must be above 0"),
    ],
)
def test_bad_values_are_named(spoil: Callable[[Record], None], complaint: str, tmp_path: Path) -> None:
    record = particles_record()
    spoil(record)
    with pytest.raises(InputError, match=complaint):
        read_particles(save(tmp_path / "a.cs", record))


def test_negative_index(tmp_path: Path) -> None:
    record = particles_record()
    types: list[Any] = [("blob/idx", "<i4") if one[0] == "blob/idx" else one for one in DTYPE]
    signed = record.astype(types)
    signed["blob/idx"][8] = -1
    with pytest.raises(InputError, match=r"row 9 .*blob/idx is -1, but must not be negative"):
        read_particles(save(tmp_path / "a.cs", signed))


def test_missing_fields(tmp_path: Path) -> None:
    record = particles_record()
    path = save(tmp_path / "a.cs", only(record, "blob", "ctf"))
    with pytest.raises(InputError, match=r"no orientations \(alignments3D/pose\)"):
        read_particles(path)
    without = read_particles(path, require_poses=False)
    assert not without.has_poses
    with pytest.raises(InputError, match="no orientations"):
        without.rotation  # noqa: B018
    alone = save(tmp_path / "b.cs", only(record, "alignments3D"))
    with pytest.raises(
        InputError, match=r"no field blob/path, ctf/df1_A \(but alignments3D\); .* the passthrough file"
    ):
        read_particles(alone)
    other = save(tmp_path / "other.cs", only(record, "blob", "ctf"))
    assert read_particles(alone, passthroughs=[other]).n == 40


def test_images_that_do_not_exist(tmp_path: Path, write_stack: Callable[..., Path]) -> None:
    particles = read_particles(save(tmp_path / "J9.cs", particles_record()), tmp_path)
    with pytest.raises(InputError, match=r"row 1 \(uid \d+\), image 1@J7/extract/mic0.* does not exist \(3 of 3"):
        check_images(particles)
    for i in range(3):
        write_stack(tmp_path / f"J7/extract/mic{i}_particles.mrc", 16 if i < 2 else 7, 64)
    with pytest.raises(InputError, match=r"row 40 .*asks for image 8, but .* holds 7 images"):
        check_images(particles)
    write_stack(tmp_path / "J7/extract/mic2_particles.mrc", 8, 64)
    check_images(particles)
    found = read_particles(tmp_path / "J9.cs")  # the project is found upward from the file
    assert found.project_dir == tmp_path


def test_subset_is_written_with_every_field(tmp_path: Path) -> None:
    record = particles_record()
    particles = read_particles(save(tmp_path / "a.cs", record))
    rows = np.array([30, 2, 17])
    write_particles_cs(particles.subset(rows), tmp_path / "b.cs")
    written = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert written.dtype == record.dtype
    assert np.array_equal(written, record[rows])


def test_new_poses_change_poses_alone(tmp_path: Path) -> None:
    record = particles_record()
    particles = read_particles(save(tmp_path / "a.cs", record))
    new = Rotation.random(40, random_state=1).as_matrix()
    shift_A = np.random.default_rng(2).uniform(-9, 9, (40, 2))
    new[0], shift_A[0] = particles.rotation[0], particles.shift_A[0]
    changed = particles.with_poses(new, shift_A)
    write_particles_cs(changed, tmp_path / "b.cs")
    written = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert written.dtype == record.dtype
    again = read_particles(tmp_path / "b.cs")
    np.testing.assert_allclose(again.rotation, new, atol=1e-6)
    np.testing.assert_allclose(again.shift_A, shift_A, atol=1e-5)
    # A rotation has many vectors; CryoSPARC's own is kept where it still holds.
    assert np.array_equal(written["alignments3D/pose"][0], record["alignments3D/pose"][0])
    # What describes an alignment goes with its pose.
    neutral = {"alignments3D/error": 0, "alignments3D/class_posterior": 1}
    for name in record.dtype.names or ():
        if name in neutral:
            assert written[name][0] == record[name][0], name
            assert (written[name][1:] == neutral[name]).all(), name
        elif name not in ("alignments3D/pose", "alignments3D/shift"):
            assert np.array_equal(written[name], record[name]), name
    write_particles_cs(changed, tmp_path / "c.cs", keep_original_poses=True)
    assert np.array_equal(np.load(tmp_path / "c.cs", allow_pickle=False), record)


def test_poses_of_several_classes(tmp_path: Path) -> None:
    record = particles_record()
    rng = np.random.default_rng(0)
    multi = [("alignments3D_multi/pose", "<f4", (3, 3)), ("alignments3D_multi/shift", "<f4", (3, 2)),
             ("alignments3D_multi/class_posterior", "<f4", (3,)), ("alignments3D_multi/psize_A", "<f4")]  # fmt: skip
    base = only(record, "blob", "ctf")
    wide = np.empty(40, base.dtype.descr + multi)
    for name in base.dtype.names or ():
        wide[name] = base[name]
    wide["alignments3D_multi/pose"] = rng.normal(size=(40, 3, 3))
    wide["alignments3D_multi/shift"] = rng.normal(size=(40, 3, 2))
    wide["alignments3D_multi/class_posterior"] = rng.dirichlet(np.ones(3), 40)
    wide["alignments3D_multi/psize_A"] = 4
    particles = read_particles(save(tmp_path / "a.cs", wide))
    best = wide["alignments3D_multi/class_posterior"].argmax(axis=1)
    pose = wide["alignments3D_multi/pose"][np.arange(40), best].astype(np.float64)
    expected = np.swapaxes(Rotation.from_rotvec(pose).as_matrix(), 1, 2)
    np.testing.assert_allclose(particles.rotation, expected, atol=1e-12)
    shift = wide["alignments3D_multi/shift"][np.arange(40), best]
    np.testing.assert_allclose(particles.shift_A, -4.0 * shift, rtol=1e-6)
    counts = ", ".join(map(str, np.bincount(best, minlength=3)))
    assert any("3 classes" in note and f"({counts} particles)" in note for note in particles.notes)
    without = np.empty(40, [one for one in wide.dtype.descr if "posterior" not in one[0]])
    for name in without.dtype.names or ():
        without[name] = wide[name]
    with pytest.raises(InputError, match=r"several classes .* without class_posterior"):
        read_particles(save(tmp_path / "b.cs", without))


def test_what_is_not_understood_is_said(tmp_path: Path) -> None:
    record = particles_record()
    record["ctf/trefoil_A"][3] = 10
    notes = read_particles(save(tmp_path / "a.cs", record)).notes
    assert any("ctf/trefoil_A is not 0" in note and "tetra" not in note for note in notes)
    assert any("blob/sign is -1 in 40 rows" in note for note in notes)
    record["ctf/trefoil_A"], record["ctf/tilt_A"], record["blob/sign"] = 0, 0, 1
    assert read_particles(save(tmp_path / "b.cs", record)).notes == ()


def test_source_is_shared_by_subsets(tmp_path: Path) -> None:
    particles = read_particles(save(tmp_path / "a.cs", particles_record()))
    subset = particles.subset(np.arange(3))
    assert subset.source is particles.source
    with pytest.raises(InputError, match="is no STAR file"):
        particles.table  # noqa: B018


def test_float32_poses_of_every_kind_keep_their_rotation(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    record = particles_record(6000)
    record["blob/idx"] = np.arange(6000)
    vectors = rng.normal(size=(6000, 3))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:1000] = 0
    vectors[1000:2000] *= 1e-7
    vectors[2000:3000] *= np.pi / length[2000:3000]
    vectors[3000:4000] = [0, 0, 1] * vectors[3000:4000]  # tilt 0
    azimuth = rng.uniform(-np.pi, np.pi, 1000)
    vectors[4000:5000] = np.pi * np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], axis=1)  # tilt 180
    record["alignments3D/pose"] = vectors
    write_particles_star(read_particles(save(tmp_path / "a.cs", record)), tmp_path / "a.star")
    rotation = read_particles(tmp_path / "a.star").rotation
    expected = Rotation.from_rotvec(record["alignments3D/pose"].astype(np.float64)).as_matrix()
    np.testing.assert_allclose(np.swapaxes(rotation, 1, 2), expected, atol=5e-8)


def test_particle_without_image(tmp_path: Path) -> None:
    record = particles_record()
    record["blob/path"][3] = b""
    with pytest.raises(InputError, match=r"row 4 \(uid \d+\): blob/path is empty"):
        read_particles(save(tmp_path / "a.cs", record))


def test_paths_with_blanks_and_a_moved_project(tmp_path: Path, write_stack: Callable[..., Path]) -> None:
    record = particles_record()
    record["blob/path"] = [b">" + one.replace(b"extract", b"ex tract") for one in record["blob/path"].tolist()]
    record["location/micrograph_path"] = b"J2/my mic.mrc"
    project = tmp_path / "moved here" / "P1"
    (project / "J9").mkdir(parents=True)
    for i in range(3):
        write_stack(project / f"J7/ex tract/mic{i}_particles.mrc", 16, 64)
    particles = read_particles(save(project / "J9/J9_005_particles.cs", record))
    check_images(particles)
    write_particles_star(particles, project / "a.star")
    star = read_particles(project / "a.star")
    check_images(star)
    assert star.table.text("rlnMicrographName")[0] == "J2/my mic.mrc"
    write_particles_cs(star, project / "b.cs")
    back = np.load(project / "b.cs", allow_pickle=False)
    assert back["blob/path"][0] == b"J7/ex tract/mic0_particles.mrc"
    assert np.array_equal(back["uid"], record["uid"])


def test_downsampled_images_keep_the_pixels_of_the_alignment(tmp_path: Path) -> None:
    record = particles_record()
    record["blob/psize_A"], record["blob/shape"] = 4.4, 16  # Downsample Particles leaves the alignment as it was
    particles = read_particles(save(tmp_path / "a.cs", record))
    np.testing.assert_allclose(particles.shift_A, -record["alignments3D/shift"] * np.float64(np.float32(2.2)))
    write_particles_star(particles, tmp_path / "a.star")
    star = read_particles(tmp_path / "a.star")
    assert (star.optics[0].pixel_size_A, star.optics[0].box_size) == (4.4, 16)
    write_particles_cs(star, tmp_path / "b.cs")
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    for name in ("alignments3D/shift", "alignments3D/psize_A", "blob/psize_A", "blob/shape"):
        np.testing.assert_allclose(back[name], record[name], atol=2e-6, err_msg=name)


def test_symmetry_expanded_rows_keep_their_own_uids(tmp_path: Path) -> None:
    record = np.concatenate([particles_record(), particles_record()])
    record["uid"] = np.arange(80) + 7
    save(tmp_path / "a.cs", record)
    write_particles_star(read_particles(tmp_path / "a.cs"), tmp_path / "a.star")
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    assert np.array_equal(np.load(tmp_path / "b.cs", allow_pickle=False)["uid"], record["uid"])


def test_slots_that_tell_kinship_come_from_the_passthrough_beside(tmp_path: Path) -> None:
    """A refinement writes blob, ctf and alignments3D; filaments and positions pass through in a file of their own."""
    record = particles_record()
    passed = only(record, "location")
    wide = np.zeros(len(record), [*passed.dtype.descr, ("filament/filament_uid", "<u8"), ("alignments2D/class", "<u4")])
    for name in passed.dtype.names or ():
        wide[name] = passed[name]
    wide["filament/filament_uid"] = np.arange(40) // 4 + 7
    own = save(tmp_path / "J24_005_particles.cs", only(record, "blob", "ctf", "alignments3D"))
    save(tmp_path / "J24_passthrough_particles.cs", wide[::-1])
    particles = read_particles(own)
    assert np.array_equal(particles.cs.columns["filament/filament_uid"], wide["filament/filament_uid"])
    assert np.array_equal(particles.cs.columns["location/center_x_frac"], record["location/center_x_frac"])
    assert "alignments2D/class" not in particles.cs
    assert "joined with J24_passthrough_particles.cs by uid for location, filament" in " ".join(particles.notes)
    assert [path.name for path in particles.files] == ["J24_005_particles.cs", "J24_passthrough_particles.cs"]
    assert not choose_half_sets(particles, 0).from_file  # those of the file part the filaments
    save(tmp_path / "J24_passthrough_particles.cs", wide[3:])
    particles = read_particles(own)
    assert "location/center_x_frac" not in particles.cs
    assert "not joined for location, filament, as it lacks 3 of 40 particles" in " ".join(particles.notes)


@pytest.mark.parametrize("slot", ["alignments3D", "alignments3D_multi", "alignments_class_1"])
def test_orientations_come_from_the_passthrough_beside(tmp_path: Path, slot: str) -> None:
    """A job that changes images or CTF passes the orientations of an earlier refinement through."""
    record = particles_record()
    classes = (1,) if slot == "alignments3D_multi" else ()
    columns = {name: record[name] for name in record.dtype.names or () if name.startswith("alignments3D/")}
    renamed = {name.replace("alignments3D", slot): one.reshape(40, *classes, *one.shape[1:])
               for name, one in columns.items()}  # fmt: skip
    passed = np.zeros(40, [("uid", "<u8"), *((name, one.dtype, one.shape[1:]) for name, one in renamed.items())])
    passed["uid"] = record["uid"]
    for name, one in renamed.items():
        passed[name] = one
    own = save(tmp_path / "J30_particles.cs", only(record, "blob", "ctf"))
    save(tmp_path / "J30_passthrough_particles.cs", passed[::-1])
    particles = read_particles(own)
    expected = read_particles(save(tmp_path / "whole.cs", record))
    np.testing.assert_allclose(particles.rotation, expected.rotation, atol=1e-6)
    np.testing.assert_allclose(particles.shift_A, expected.shift_A, atol=1e-5)
    assert f"joined with J30_passthrough_particles.cs by uid for {slot}" in " ".join(particles.notes)
    later = only(record, "blob", "ctf", "alignments3D")
    later["alignments3D/pose"] = 0.25
    save(own, later)  # what the job found itself is not mixed with what passed through
    assert np.allclose(read_particles(own).cs.columns["alignments3D/pose"], 0.25)


def test_of_several_outputs_the_passthrough_is_the_one_with_the_particles(tmp_path: Path) -> None:
    """A selection leaves selected and excluded particles, a classification those of each class and of all."""
    record = particles_record()
    parts = {"selected": record[:30], "excluded": record[30:], "all_classes": record}
    for name, part in parts.items():
        save(tmp_path / f"J6_passthrough_particles_{name}.cs", only(part[::-1], "ctf", "location"))
    for name, part in parts.items():
        own = save(tmp_path / f"particles_{name}.cs", only(part, "blob", "alignments3D"))
        particles = read_particles(own)
        assert np.array_equal(particles.cs.columns["ctf/df1_A"], part["ctf/df1_A"])
        assert f"joined with J6_passthrough_particles_{name}.cs by uid" in " ".join(particles.notes)
    other = record.copy()
    other["uid"] += np.uint64(1000)
    with pytest.raises(InputError, match=r"of the 3 beside it none has them for all particles: give the \.csg"):
        read_particles(save(tmp_path / "other.cs", only(other, "blob", "alignments3D")))


def test_files_of_other_things_say_what_they_hold(tmp_path: Path) -> None:
    """Exposures, templates and maps are .cs files, too."""
    record = np.zeros(3, [("uid", "<u8"), ("micrograph_blob/path", "S8"), ("ctf/df1_A", "<f4")])
    record["uid"] = np.arange(3)
    with pytest.raises(InputError, match=r"no field blob/path \(but micrograph_blob, ctf\); if these are particles"):
        read_particles(save(tmp_path / "exposures_accepted.cs", record))


def test_a_slot_is_of_one_file(tmp_path: Path) -> None:
    """A pixel size of an older alignment, in the passthrough, is not that of the shifts in the job's own file."""
    record = particles_record()
    own = np.zeros(
        len(record), [one for one in only(record, "alignments3D", "ctf").dtype.descr if "psize" not in one[0]]
    )
    for name in own.dtype.names or ():
        own[name] = record[name]
    save(tmp_path / "J5_003_particles.cs", own)
    older = only(record, "blob", "alignments3D")
    older["alignments3D/psize_A"] = 8.0
    save(tmp_path / "J5_passthrough_particles.cs", older)
    particles = read_particles(tmp_path / "J5_003_particles.cs")
    np.testing.assert_allclose(particles.shift_A, -1.1 * record["alignments3D/shift"], rtol=1e-6)
    assert any("left out, as they belong to other values: alignments3D/psize_A" in note for note in particles.notes)
