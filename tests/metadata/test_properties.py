"""Any particle file: a row that comes back is the row that was asked for, every column equal, or listed as lost.

300 random files of each suite; ``benchmarks/metadata_properties.py`` tries ten thousand.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.column_table import columns_of_changed_poses
from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from tests.metadata.random_files import ANGLES, RandomStar, cs_records, read_columns, star_files

EXAMPLES = int(os.environ.get("CDX_PROPERTY_EXAMPLES", "300"))
ordinary = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 300, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
TAG = "testTag"  # a column that tells a row, unseen by what is tested where it would help


def tagged(star: RandomStar) -> RandomStar:
    star.columns[TAG] = [str(i) for i in range(star.n)]
    return star


def a_choice(data: st.DataObject, n: int) -> NDArray[np.int64]:
    """Some rows in some order, at least one."""
    order = data.draw(st.permutations(range(n)))
    return np.array(order[: data.draw(st.integers(1, n))], np.int64)


def particles_block(path: Path) -> dict[str, list[str]]:
    blocks = read_columns(path)
    return blocks.get("particles", blocks.get("", {}))


def matrix(columns: dict[str, list[str]]) -> NDArray[np.float64]:
    euler = np.array([columns[label] for label in ANGLES], float).T
    return np.asarray(Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix())


@ordinary
@given(star=star_files(), data=st.data())
def test_a_subset_of_a_star_file(star: RandomStar, data: st.DataObject) -> None:
    rows = a_choice(data, star.n)
    with TemporaryDirectory() as name:
        folder = Path(name)
        particles = read_particles(tagged(star).write(folder / "a.star"))
        write_particles_star(particles.subset(rows), folder / "b.star")
        assert particles_block(folder / "b.star") == {
            label: [values[row] for row in rows.tolist()] for label, values in star.columns.items()
        }
        assert read_columns(folder / "b.star").get("optics", {}) == star.optics
        turned = Rotation.random(len(rows), 5).as_matrix()
        write_particles_star(particles.subset(rows).with_poses(turned, np.ones((len(rows), 2))), folder / "c.star")
        after = particles_block(folder / "c.star")
        changed = columns_of_changed_poses(star.columns)
        assert set(after) == set(star.columns) - set(changed.dropped)
        for label in set(after) - set(changed.renewed):
            assert after[label] == [star.columns[label][row] for row in rows.tolist()], label
        np.testing.assert_allclose(np.swapaxes(matrix(after), 1, 2), turned, atol=1e-6)
        unit_A = np.ones(len(rows)) if star.style != "3.0" else star.pixel_A()[rows]
        label = "rlnOriginX" if star.style == "3.0" else "rlnOriginXAngst"
        np.testing.assert_allclose(np.array(after[label], float) * unit_A, -1, atol=1e-5)


@ordinary
@given(star=star_files(), data=st.data())
def test_a_list_means_the_rows_that_it_lists_or_is_refused(star: RandomStar, data: st.DataObject) -> None:
    rows = a_choice(data, star.n)
    with TemporaryDirectory() as name:
        folder = Path(name)
        everything = read_particles(star.write(folder / "a.star"))
        star.write(folder / "b.star", rows=rows)
        listed = read_particles(folder / "b.star")
        assert_content(everything, star, rows, listed, as_list=False)
        assert_content(everything, star, rows, listed, as_list=True)
        # After a local refinement, with columns of its own only.
        small = Rotation.from_rotvec(np.full((len(rows), 3), 0.002)).as_matrix()
        moved = listed.with_poses(small @ listed.rotation, listed.shift_A + 0.05)
        write_particles_star(moved, folder / "c.star")
        match = matched(read_particles(folder / "c.star"), everything)
        if match is not None:
            assert same_particles(star, match, rows)


def matched(particles: ParticleSet, reference: ParticleSet, as_list: bool = False) -> NDArray[np.int64] | None:
    try:
        return match_rows(particles, reference, as_list=as_list).rows
    except InputError as error:
        if "may be any of the rows" in str(error):
            return None
        raise


def same_particles(star: RandomStar, found: NDArray[np.int64], rows: NDArray[np.int64]) -> bool:
    """Whether rows are those that were meant, or cannot be told from them by anybody."""
    return all(all(values[a] == values[b] for values in star.columns.values())
               for a, b in zip(found.tolist(), rows.tolist(), strict=True))  # fmt: skip


def assert_content(
    everything: ParticleSet, star: RandomStar, rows: NDArray[np.int64], listed: ParticleSet, *, as_list: bool
) -> None:
    match = matched(listed, everything, as_list)
    if len(set(star.columns["rlnImageName"])) == star.n:
        assert match is not None  # nothing is ambiguous
    if match is not None:
        assert same_particles(star, match, rows)
        assert len(set(match.tolist())) == len(rows)


@ordinary
@given(star=star_files(), data=st.data())
def test_a_star_file_through_cryosparc(star: RandomStar, data: st.DataObject) -> None:
    rows = a_choice(data, star.n)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if star.style == "3.0":  # the size of its images is in no column
            for stack in {one.split("@")[1] for one in star.columns["rlnImageName"]}:
                path = folder / stack.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(np.array([16, 16, 999, 2], "<i4").tobytes() + bytes(192) + b"MAP DD\0\0" + bytes(808))
            star.columns["rlnImageName"] = [one.replace("@/", "@") for one in star.columns["rlnImageName"]]
        particles = read_particles(star.write(folder / "a.star"), folder)
        conversion = cs_from_star(particles.subset(rows))
        write_cs(folder / "b.cs", conversion.table)
        assert_fields(np.load(folder / "b.cs", allow_pickle=False), star, rows)
        # Nothing is lost without a word: what is not listed comes back from the .cs alone.
        again = star_from_cs(read_particles(folder / "b.cs", folder), embed=False)
        write_star(folder / "c.star", again.star)
        assert_comes_back(read_columns(folder / "c.star"), star, rows, set(conversion.lost))
        # And all comes back from the reference.
        reference = read_particles(folder / "a.star", folder)
        try:
            restored = restore(read_particles(folder / "b.cs", folder), reference)
        except InputError as error:
            if "may be any of the rows" in str(error):
                return
            raise
        write_particles_star(restored.particles, folder / "d.star", restored.columns)
        back = particles_block(folder / "d.star")
        for label in ("rlnImageName", "rlnDefocusU", "rlnMicrographName", "rlnCoordinateX"):
            assert back[label] == [star.columns[label][row] for row in rows.tolist()], label
        chosen = {label: [star.columns[label][row] for row in rows.tolist()] for label in ANGLES}
        np.testing.assert_allclose(matrix(back), matrix(chosen), atol=2e-6)


def assert_fields(record: NDArray[Any], star: RandomStar, rows: NDArray[np.int64]) -> None:
    """Hold fields against the formulas of the suites."""

    def column(label: str) -> NDArray[np.float64]:
        return np.array(star.columns[label], float)[rows]

    pose = record["alignments3D/pose"].astype(np.float64)
    chosen = {label: [star.columns[label][row] for row in rows.tolist()] for label in ANGLES}
    np.testing.assert_allclose(Rotation.from_rotvec(pose).as_matrix(), matrix(chosen), atol=2e-6)
    np.testing.assert_allclose(record["ctf/df1_A"], column("rlnDefocusU"), rtol=1e-6)
    unit, unit_A = ("", star.pixel_A()[rows]) if star.style == "3.0" else ("Angst", 1.0)
    shift_A = record["alignments3D/shift"][:, 0].astype(np.float64) * record["alignments3D/psize_A"]
    np.testing.assert_allclose(shift_A, column(f"rlnOriginX{unit}") * unit_A, atol=2e-5)
    np.testing.assert_allclose(record["blob/psize_A"], star.pixel_A()[rows], rtol=1e-6)
    index = [int(star.columns["rlnImageName"][row].split("@")[0]) - 1 for row in rows.tolist()]
    assert record["blob/idx"].tolist() == index
    if star.style != "3.0":
        group = np.array(star.columns["rlnOpticsGroup"], int)[rows]
        _, mine = np.unique(record["ctf/exp_group_id"], return_inverse=True)
        assert np.array_equal(mine, np.unique(group, return_inverse=True)[1])  # groups stay apart, in their order


def assert_comes_back(
    blocks: dict[str, dict[str, list[str]]], star: RandomStar, rows: NDArray[np.int64], listed: set[str]
) -> None:
    """Every column that was not listed as lost is in the file that came from the .cs, with its values."""
    renamed = {"rlnOriginX": "rlnOriginXAngst", "rlnOriginY": "rlnOriginYAngst"}
    of_optics = {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnBeamTiltX", "rlnBeamTiltY"}
    particles = blocks["particles"]
    for label, values in star.columns.items():
        if label in listed or label in (*ANGLES, "rlnMagnification", "rlnDetectorPixelSize", "rlnOpticsGroup"):
            continue
        if label in of_optics:
            table = blocks["optics"]
            value = dict(zip(table["rlnOpticsGroup"], table[label], strict=True))
            back = [value[group] for group in particles["rlnOpticsGroup"]]
        else:
            assert renamed.get(label, label) in particles, label
            back = particles[renamed.get(label, label)]
        before = [values[row] for row in rows.tolist()]
        if label == "rlnImageName":
            assert [one.split("@")[0].lstrip("0") for one in back] == [one.split("@")[0].lstrip("0") for one in before]
        else:
            factor = star.pixel_A()[rows] if label in renamed else 1.0
            np.testing.assert_allclose(np.array(back, float), np.array(before, float) * factor, rtol=1e-6, atol=2e-4)
    for label, values in star.optics.items():
        if label in listed or label in ("rlnOpticsGroup", "rlnOpticsGroupName"):
            continue
        number = dict(zip(star.optics["rlnOpticsGroup"], values, strict=True))
        mine = [number[star.columns["rlnOpticsGroup"][row]] for row in rows.tolist()]
        table = blocks["optics"]
        if label in table:
            value = dict(zip(table["rlnOpticsGroup"], table[label], strict=True))
            back = [value[group] for group in particles["rlnOpticsGroup"]]
        else:
            back = ["1" if label in ("rlnMagMat00", "rlnMagMat11") else "0"] * len(mine)
        np.testing.assert_allclose(np.array(back, float), np.array(mine, float), rtol=1e-6, atol=2e-6, err_msg=label)


@ordinary
@given(record=cs_records(), data=st.data())
def test_a_dataset_through_relion(record: NDArray[Any], data: st.DataObject) -> None:
    rows = a_choice(data, len(record))
    with TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "a.cs", "wb") as handle:
            np.save(handle, record, allow_pickle=False)
        particles = read_particles(folder / "a.cs", require_poses=False)
        write_particles_cs(particles.subset(rows), folder / "s.cs")
        assert np.array_equal(np.load(folder / "s.cs", allow_pickle=False), record[rows])
        conversion = star_from_cs(particles.subset(rows))
        write_star(folder / "b.star", conversion.star)
        star = read_particles(folder / "b.star", require_poses=False)
        assert np.array_equal(match_rows(star, particles).rows, rows)
        write_particles_cs(star, folder / "c.cs")
        back = np.load(folder / "c.cs", allow_pickle=False)
        for field in record.dtype.names or ():
            if field in conversion.lost:
                continue
            mine, theirs = back[field], record[field][rows]
            if field == "blob/path":
                theirs = np.char.lstrip(theirs, b">")
            if mine.dtype.kind == "f":
                np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=2e-6, err_msg=field)
            else:
                assert np.array_equal(mine, theirs), field
