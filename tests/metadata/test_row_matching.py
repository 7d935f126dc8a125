"""Rows of one file found in another: whose row it is, or a refusal that names rows; numpy is the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.latent_files import match_latents, read_latent_file
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from cryodrgn_ext.metadata.row_matching import match_rows, shared_rows
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import Record, particles_record, save

N, COPIES = 6, 4
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def expanded(path: Path, *, copies: int = COPIES, marked: bool = False, seed: int = 0) -> ParticleSet:
    """N images as relion_particle_symmetry_expand --sym C4 leaves them: copies of one image follow each other."""
    rng = np.random.default_rng(seed)
    builder = StarBuilder(n=N * copies)
    image = np.arange(N * copies) // copies
    base = rng.uniform([-180, 10, -180], [180, 170, 180], (N, 3))
    euler = base[image] + np.outer(np.arange(N * copies) % copies, [360 / copies, 0, 0])
    builder.columns |= {
        "rlnImageName": [f"{i + 1:06d}@Extract/job012/mic.mrcs" for i in image],
        "rlnMicrographName": ["MotionCorr/job002/mic.mrc"] * len(image),
        **{label: [f"{value:.6f}" for value in euler[:, i]] for i, label in enumerate(ANGLES)},
        "rlnCoordinateX": [f"{100.0 * i:.6f}" for i in image], "rlnCoordinateY": [f"{70.0 * i:.6f}" for i in image],
        "rlnRandomSubset": [str(i % 2 + 1) for i in image], "rlnOpticsGroup": ["1"] * len(image),
    }  # fmt: skip
    for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnOriginXAngst", "rlnOriginYAngst",
                  "rlnSomethingUnknown"):  # fmt: skip
        builder.columns[label] = [builder.columns[label][i] for i in image]
    if marked:
        builder.columns["rlnBodyCopy"] = [str(i % copies) for i in range(len(image))]
    return read_particles(builder.write(path))


def shuffled_subset(particles: ParticleSet, n: int, seed: int) -> ParticleSet:
    return particles.subset(np.random.default_rng(seed).permutation(particles.n)[:n])


@pytest.mark.parametrize("seed", range(3))
def test_listed_copies_are_the_copies(seed: int, tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    some = shuffled_subset(everything, 9, seed)
    write_particles_star(some, tmp_path / "some.star")
    match = match_rows(read_particles(tmp_path / "some.star"), everything)
    np.testing.assert_array_equal(match.rows, some.row_id)
    assert match.joined_by == "image path and index, copies of one image by their other columns"


@pytest.mark.parametrize("seed", range(3))
def test_copies_refined_locally_are_told_by_the_nearest_pose(seed: int, tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    some = shuffled_subset(everything, 11, seed)
    small = Rotation.random(some.n, seed).as_rotvec() * 0.02
    moved = some.with_poses(Rotation.from_rotvec(small).as_matrix() @ some.rotation, some.shift_A + 0.5)
    write_particles_star(moved, tmp_path / "refined.star")
    match = match_rows(read_particles(tmp_path / "refined.star"), everything)
    np.testing.assert_array_equal(match.rows, some.row_id)
    assert match.joined_by.endswith("by their poses")


def test_sub_particles_with_one_orientation_are_told_by_their_shifts(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    same = everything.rotation[np.arange(everything.n) // COPIES * COPIES]
    shift_A = everything.shift_A + np.outer(np.arange(everything.n) % COPIES, [20.0, -15.0])
    placed = everything.with_poses(same, shift_A)
    write_particles_star(placed, tmp_path / "bodies.star")
    bodies = read_particles(tmp_path / "bodies.star")
    rows = np.array([7, 2, 21, 0])
    some = bodies.subset(rows)
    write_particles_star(some.with_poses(some.rotation, some.shift_A + 0.3), tmp_path / "moved.star")
    np.testing.assert_array_equal(match_rows(read_particles(tmp_path / "moved.star"), bodies).rows, rows)


def test_copies_without_anything_to_tell_them_are_refused_by_row(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    anywhere = everything.with_poses(Rotation.random(everything.n, 3).as_matrix(), everything.shift_A)
    write_particles_star(anywhere.subset([5, 1]), tmp_path / "b.star")
    with pytest.raises(InputError, match=r"row 1 of data_particles .* may be any of the rows 5, 6, 7, 8 of .*a\.star"):
        match_rows(read_particles(tmp_path / "b.star"), everything)
    # A list that has all copies of its images means all of them, whichever is which.
    write_particles_star(anywhere.subset([5, 7, 4, 6]), tmp_path / "c.star")
    listed = match_rows(read_particles(tmp_path / "c.star"), everything, as_list=True)
    assert sorted(listed.rows.tolist()) == [4, 5, 6, 7]


def test_identical_rows_go_together_or_not_at_all(tmp_path: Path) -> None:
    builder = StarBuilder(n=4)
    for label, values in builder.columns.items():
        builder.columns[label] = [values[0], values[0], values[2], values[3]]
    everything = read_particles(builder.write(tmp_path / "a.star"))
    match = match_rows(read_particles(tmp_path / "a.star"), everything)
    assert match.rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="may be any of the rows 1, 2 of"):
        match_rows(everything.subset([1, 3]), everything)


def test_expanded_particles_are_no_rows_of_the_unexpanded_file(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    one_each = everything.subset(np.arange(0, everything.n, COPIES))
    with pytest.raises(InputError, match=r"so is row 1 .* lacks copies"):
        match_rows(everything, one_each)
    with pytest.raises(InputError, match="lacks copies"):
        restore(everything, one_each)


def expanded_record(n: int = 5, copies: int = 3) -> Record:
    """Fields of CryoSPARC's Symmetry Expansion: new uids, and whose copies they are."""
    base = np.repeat(particles_record(n), copies)
    record = np.empty(len(base), [*base.dtype.descr, ("sym_expand/src_uid", "<u8"), ("sym_expand/idx", "<u4")])
    for name in base.dtype.names or ():
        record[name] = base[name]
    record["sym_expand/src_uid"], record["sym_expand/idx"] = base["uid"], np.tile(np.arange(copies), n)
    record["uid"] = np.random.default_rng(5).permutation(len(base)).astype(np.uint64) + np.uint64(7)
    record["alignments3D/pose"] = np.random.default_rng(6).normal(size=(len(base), 3))
    record["alignments3D/split"] = np.repeat(np.arange(n) % 2, copies)
    return record


def test_source_uid_and_number_of_the_copy_join_expanded_datasets(tmp_path: Path) -> None:
    record = expanded_record()
    reference = read_particles(save(tmp_path / "a.cs", record))
    order = np.random.default_rng(1).permutation(len(record))[:8]
    other = record[order].copy()
    other["uid"] += np.uint64(1 << 40)  # expanded a second time: other uids, the same copies
    other["alignments3D/pose"] = np.random.default_rng(2).normal(size=(8, 3))
    match = match_rows(read_particles(save(tmp_path / "b.cs", other)), reference)
    np.testing.assert_array_equal(match.rows, order)
    assert match.joined_by == "source uid and number of the copy"


def test_expansion_goes_through_a_star_file(tmp_path: Path) -> None:
    record = expanded_record()
    reference = read_particles(save(tmp_path / "a.cs", record))
    write_particles_star(reference.subset([4, 9, 3]), tmp_path / "b.star")
    text = (tmp_path / "b.star").read_text().replace("_cdxUid ", "_otherUid ")
    (tmp_path / "b.star").write_text(text)
    match = match_rows(read_particles(tmp_path / "b.star"), reference)
    assert (match.rows.tolist(), match.joined_by) == ([4, 9, 3], "source uid and number of the copy")


def extracted(
    path: Path, rows: np.ndarray, folder: str, change: Callable[[StarBuilder], None] = lambda _: None
) -> Path:
    """Particles of one micrograph, extracted in this order: numbers count anew."""
    rng = np.random.default_rng(8)
    x, y = rng.uniform(200, 3500, (2, 40)).round(2)
    euler = rng.uniform(0, 170, (40, 3))
    builder = StarBuilder(n=len(rows))
    builder.columns |= {
        "rlnImageName": [f"{i + 1:06d}@Extract/{folder}/Movies/mic1.mrcs" for i in range(len(rows))],
        "rlnMicrographName": ["MotionCorr/job002/Movies/mic1.mrc"] * len(rows),
        "rlnCoordinateX": [f"{one:.6f}" for one in x[rows]], "rlnCoordinateY": [f"{one:.6f}" for one in y[rows]],
        **{label: [f"{one:.6f}" for one in euler[rows, i]] for i, label in enumerate(ANGLES)},
    }  # fmt: skip
    change(builder)
    return builder.write(path)


def test_the_same_numbers_of_another_extraction_are_other_particles(tmp_path: Path) -> None:
    keep = np.sort(np.random.default_rng(0).permutation(40)[:20])
    worked_on = read_particles(extracted(tmp_path / "job007.star", np.arange(18), "job007"))
    reference = read_particles(extracted(tmp_path / "job012.star", keep, "job012"))
    with pytest.raises(InputError, match=r"positions say that they are different particles \(\d+ of 18 such rows"):
        match_rows(worked_on, reference)


def test_a_particle_extracted_anew_is_found_by_its_position(tmp_path: Path) -> None:
    keep = np.random.default_rng(0).permutation(40)[:20]
    reference = read_particles(extracted(tmp_path / "job012.star", keep, "job012"))
    some = keep[[11, 3, 17]]
    worked_on = read_particles(extracted(tmp_path / "job007.star", some, "job007"))
    match = match_rows(worked_on, reference)
    assert (match.rows.tolist(), match.joined_by) == ([11, 3, 17], "micrograph and position")
    assert "its images are not those of" in match.notes[0]


def test_y_counted_from_the_other_edge_is_said(tmp_path: Path) -> None:
    def flip(builder: StarBuilder) -> None:
        builder.columns["rlnCoordinateY"] = [f"{4092 - float(one):.6f}" for one in builder.columns["rlnCoordinateY"]]

    reference = read_particles(extracted(tmp_path / "a.star", np.arange(20), "job007"))
    match = match_rows(read_particles(extracted(tmp_path / "b.star", np.arange(20), "job007", flip)), reference)
    assert match.rows.tolist() == list(range(20))
    assert "count y from the other edge (mirror line at 2046 px)" in match.notes[0]


def test_positions_on_binned_micrographs_are_said(tmp_path: Path) -> None:
    def halve(builder: StarBuilder) -> None:
        for label in ("rlnCoordinateX", "rlnCoordinateY"):
            builder.columns[label] = [f"{float(one) / 2:.6f}" for one in builder.columns[label]]

    reference = read_particles(extracted(tmp_path / "a.star", np.arange(20), "job007"))
    match = match_rows(read_particles(extracted(tmp_path / "b.star", np.arange(20), "job007", halve)), reference)
    assert match.rows.tolist() == list(range(20))
    assert "count pixels 2 times as large" in match.notes[0]


@pytest.mark.parametrize(
    "name",
    [  # as cryosparc, csparc2star, Scipion and Warp call the micrograph MotionCorr/job002/Movies/mic1.mrc
        "J4/imported/001806243878409217281_mic1.mrc",
        "J3/motioncorrected/001806243878409217281_mic1_patch_aligned_doseweighted.mrc",
        "Runs/000102_ProtMotionCorr/extra/mic1_aligned_mic_DW.mrc", "average/mic1.mrc",
        ">J4/imported/001806243878409217281_mic1.tif",
    ],
)  # fmt: skip
def test_micrographs_are_known_by_what_their_names_share(name: str, tmp_path: Path) -> None:
    def rename(builder: StarBuilder) -> None:
        builder.columns["rlnMicrographName"] = [name] * builder.n
        builder.columns["rlnImageName"] = [f"{i + 1:06d}@elsewhere/stack.mrcs" for i in range(builder.n)]

    reference = read_particles(extracted(tmp_path / "a.star", np.arange(20), "job007"))
    given = extracted(tmp_path / "b.star", np.array([4, 2, 9]), "x", rename)
    assert match_rows(read_particles(given), reference).rows.tolist() == [4, 2, 9]


def test_uid_decides_but_another_position_is_said(tmp_path: Path) -> None:
    record = particles_record()
    reference = read_particles(save(tmp_path / "a.cs", record))
    moved = record[[3, 1]].copy()
    moved["location/center_x_frac"] += 0.01
    match = match_rows(read_particles(save(tmp_path / "b.cs", moved)), reference)
    assert (match.rows.tolist(), match.joined_by) == ([3, 1], "uid")
    assert "but lie up to" in match.notes[0]


def test_passthrough_that_disagrees_is_said(tmp_path: Path) -> None:
    record = particles_record()
    other = record.copy()
    other["ctf/df1_A"] += 10
    particles = read_particles(save(tmp_path / "a.cs", record), passthroughs=[save(tmp_path / "b.cs", other)])
    assert any("has other values of ctf/df1_A; those of" in note for note in particles.notes)


def test_restoring_an_expanded_set_gives_every_copy_its_own_row(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star", marked=True)
    write_particles_cs(everything, tmp_path / "b.cs")
    record = np.load(tmp_path / "b.cs", allow_pickle=False)
    order = np.random.default_rng(4).permutation(len(record))[:10]
    restored = restore(read_particles(save(tmp_path / "c.cs", record[order])), everything)
    np.testing.assert_array_equal(restored.particles.row_id, order)
    np.testing.assert_allclose(restored.particles.rotation, everything.rotation[order], atol=1e-6)


def test_what_two_files_share(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    write_particles_star(everything.subset([9, 2, 20, 5]), tmp_path / "b.star")
    text = (tmp_path / "b.star").read_text().replace("000006@Extract", "000999@Extract")
    (tmp_path / "c.star").write_text(text)
    match = shared_rows(read_particles(tmp_path / "c.star"), everything)
    assert match.rows.tolist() == [2, 5, 9]
    other = everything.subset([0, 1])
    write_particles_star(other, tmp_path / "d.star")
    (tmp_path / "d.star").write_text((tmp_path / "d.star").read_text().replace("mic.mrc", "other.mrc"))
    assert len(shared_rows(read_particles(tmp_path / "d.star"), everything).rows) == 0


def test_latents_of_copies_need_their_own_file(tmp_path: Path) -> None:
    everything = expanded(tmp_path / "a.star")
    np.savez(tmp_path / "z.npz", z=np.arange(everything.n, dtype=np.float32)[:, None], uid=everything.uid)
    latents = read_latent_file(tmp_path / "z.npz")
    np.testing.assert_array_equal(match_latents(latents, everything).z[:, 0], np.arange(everything.n))
    write_particles_star(everything.subset(np.arange(everything.n)[::-1]), tmp_path / "b.star")
    with pytest.raises(InputError, match="do not tell which row a latent is of"):
        match_latents(latents, read_particles(tmp_path / "b.star"))


def restacked(tmp_path: Path, drop: tuple[str, ...], **more: list[str]) -> tuple[ParticleSet, ParticleSet]:
    """Rows 5 to 16 of A/particles.mrcs in a new stack that has the same name in another folder; and all rows."""
    builder = StarBuilder(n=24)
    for label in drop:
        del builder.columns[label]
    builder.columns["rlnImageName"] = [f"{i + 1:06d}@A/particles.mrcs" for i in range(24)]
    reference = read_particles(builder.write(tmp_path / "all.star"))
    builder.n, builder.columns = 12, {label: values[5:17] for label, values in builder.columns.items()} | more
    builder.columns["rlnImageName"] = [f"{i + 1:06d}@B/particles.mrcs" for i in range(12)]
    return read_particles(builder.write(tmp_path / "some.star")), reference


NO_PLACE = ("rlnMicrographName", "rlnCoordinateX")


@pytest.mark.parametrize(("drop", "changed", "evidence"), [
    (NO_PLACE, "rlnAngleRot", "defocus is that of another row"),
    (NO_PLACE, "rlnDefocusU", "pose is that of another row"),
    (("rlnCoordinateX",), "rlnDefocusU", "micrographs are others"),
])  # fmt: skip
def test_a_stack_of_the_same_name_that_was_made_anew_is_another(
    drop: tuple[str, ...], changed: str, evidence: str, tmp_path: Path
) -> None:
    """Names of files and numbers agree in both, but not one of the rows is the same particle."""
    some, reference = restacked(tmp_path, drop, **{changed: [f"{100 + i}.5" for i in range(12)]})
    with pytest.raises(InputError, match=rf"but their {evidence} \(\d+ of 12 such rows\)"):
        match_rows(some, reference)


def test_a_restacked_set_is_found_by_the_names_of_its_original_images(tmp_path: Path) -> None:
    some, reference = restacked(
        tmp_path, NO_PLACE, rlnImageOriginalName=[f"{i + 1:06d}@A/particles.mrcs" for i in range(5, 17)]
    )
    match = match_rows(some, reference)
    assert match.rows.tolist() == list(range(5, 17))
    assert match.joined_by == "path and index of the original image"
    assert "where they were recentred" in match.notes[0]
    assert match_rows(reference.subset(match.rows), some).rows.tolist() == list(range(12))


def test_a_set_of_which_ctf_and_poses_were_refined_is_joined_by_names(tmp_path: Path) -> None:
    builder = StarBuilder(n=24)
    for label in NO_PLACE:
        del builder.columns[label]
    reference = read_particles(builder.write(tmp_path / "a.star"))
    rng = np.random.default_rng(4)
    for label in ("rlnDefocusU", "rlnDefocusV", *ANGLES):
        builder.columns[label] = [f"{float(one) + rng.normal():.6f}" for one in builder.columns[label]]
    builder.columns["rlnImageName"] = [name.replace("job012", "job020") for name in builder.columns["rlnImageName"]]
    match = match_rows(read_particles(builder.write(tmp_path / "b.star")).subset([9, 2, 5]), reference)
    assert (match.rows.tolist(), match.joined_by) == ([9, 2, 5], "image file name and index")


@pytest.mark.parametrize("related", [True, False])
def test_a_defocus_of_other_images_is_said(related: bool, tmp_path: Path) -> None:
    """Two projects with the same names: without positions only the defocus tells, which may have been refined."""
    builder = StarBuilder(n=60)
    for label in NO_PLACE:
        del builder.columns[label]
    reference = read_particles(builder.write(tmp_path / "a.star"))
    rng = np.random.default_rng(5)
    for label in ("rlnDefocusU", "rlnDefocusV"):
        new = [float(one) + rng.normal(scale=500) for one in builder.columns[label]]
        builder.columns[label] = [f"{one:.2f}" for one in (new if related else rng.uniform(1e4, 2e4, 60))]
    match = match_rows(read_particles(builder.write(tmp_path / "b.star")), reference)
    assert match.rows.tolist() == list(range(60))
    assert any("has nothing in common" in note for note in match.notes) == (not related)


def test_coordinates_that_are_all_zero_are_no_positions(tmp_path: Path) -> None:
    """As converters write them that know no size of micrographs: every particle would lie in one place."""

    def at_nowhere(builder: StarBuilder) -> None:
        nothing = ["0"] * builder.n
        places = ("rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst")
        builder.columns |= dict.fromkeys(places, nothing)

    reference = read_particles(extracted(tmp_path / "job012.star", np.arange(20), "job012", at_nowhere))
    other = read_particles(extracted(tmp_path / "job007.star", np.arange(5, 15), "job007", at_nowhere))
    with pytest.raises(InputError, match="that of another row"):
        match_rows(other, reference)
