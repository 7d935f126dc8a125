"""Half-sets never part what shares density: against brute force over all pairs, and on the columns of many programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.half_sets import (
    choose_half_sets,
    neighbour_notes,
    own_half_set_warnings,
    random_half_sets,
)
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.shared_density import (
    SharedDensity,
    find_shared_density,
    joined_groups,
)
from cryodrgn_ext.metadata.tilt_series import (
    find_tilt_series,
    refuse_tilt_series,
    suspected_tilts,
    tilt_series_warnings,
)
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save

N = 120
Related = Callable[[int, int], bool]


def star_of(tmp_path: Path, style: str = "3.1", n: int = N, **columns: list[str]) -> ParticleSet:
    """Particles of a STAR file with these columns, without half-sets unless given; None drops a column."""
    builder = StarBuilder(style=style, n=n)
    del builder.columns["rlnRandomSubset"], builder.columns["rlnCoordinateX"]
    builder.columns["rlnImageName"] = [f"{i + 1:06d}@Extract/job012/all.mrcs" for i in range(n)]
    if style != "3.0":
        builder.columns["rlnOpticsGroup"] = ["1"] * n
    builder.columns |= columns
    return read_particles(builder.write(tmp_path / "particles.star"))


def cs_of(tmp_path: Path, n: int = N, **fields: npt.ArrayLike) -> ParticleSet:
    """Particles of a .cs with further fields, whose names have two underscores for the slash; without positions."""
    record = particles_record(n)
    kept = [name for name in record.dtype.names or () if not name.startswith(("location/", "alignments3D/split"))]
    wide = {name.replace("__", "/"): np.asarray(values) for name, values in fields.items()}
    dtype: list[Any] = [(name, record.dtype[name]) for name in kept if name not in wide]
    dtype += [(name, values.dtype, values.shape[1:]) for name, values in wide.items()]
    out = np.zeros(n, dtype)
    for name in kept:
        out[name] = record[name]
    for name, values in wide.items():
        out[name] = values
    return read_particles(save(tmp_path / "particles.cs", out))


def components(n: int, related: Related) -> npt.NDArray[np.int64]:
    """Connected components of a relation between rows, pair by pair."""
    label = list(range(n))
    for i in range(n):
        for j in range(i):
            if related(i, j) and label[i] != label[j]:
                old, new = label[i], label[j]
                label = [new if one == old else one for one in label]
    return np.unique(label, return_inverse=True)[1]


def assert_never_split(particles: ParticleSet, groups: npt.NDArray[np.int64], share: float = 0.4) -> None:
    for seed in range(4):
        half_set = choose_half_sets(particles, seed).half_set
        for group in np.unique(groups):
            assert len(set(half_set[groups == group].tolist())) == 1
        assert share * particles.n <= np.count_nonzero(half_set == 1) <= (1 - share) * particles.n


def same_partition(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    pairs = len(set(zip(one.tolist(), other.tolist(), strict=True)))
    return pairs == len(np.unique(one)) == len(np.unique(other))


MICROGRAPHS = [f"MotionCorr/job002/mic{i // 24}.mrc" for i in range(N)]
TUBES = [str(i % 24 // 6 + 1) for i in range(N)]


@pytest.mark.parametrize("style", ["3.0", "3.1", "5.0"])
def test_boxes_of_a_filament_stay_together(tmp_path: Path, style: str) -> None:
    particles = star_of(tmp_path, style, rlnMicrographName=MICROGRAPHS, rlnHelicalTubeID=TUBES)
    groups = np.arange(N) // 6
    assert_never_split(particles, groups)
    assert same_partition(find_shared_density(particles).certain["filament"], groups)
    assert len(np.unique(choose_half_sets(particles, 0).half_set.reshape(-1, 6)[:, 0])) == 2


def test_filaments_of_a_file_without_micrographs_are_told_by_the_stack(tmp_path: Path) -> None:
    builder = StarBuilder(n=N)
    del builder.columns["rlnMicrographName"], builder.columns["rlnRandomSubset"]
    builder.columns["rlnImageName"] = [f"{i % 24 + 1:06d}@Extract/job1/mic{i // 24}.mrcs" for i in range(N)]
    builder.columns["rlnHelicalTubeID"] = TUBES
    assert_never_split(read_particles(builder.write(tmp_path / "a.star")), np.arange(N) // 6)


@pytest.mark.parametrize("unnamed", [N, 48])
def test_filaments_of_micrographs_without_a_name_are_told_by_the_stack(unnamed: int, tmp_path: Path) -> None:
    builder = StarBuilder(n=N)
    del builder.columns["rlnRandomSubset"]
    names = [f"mic{i // 24}.mrc" for i in range(N)]
    builder.columns["rlnMicrographName"] = ["None"] * unnamed + names[unnamed:]
    builder.columns["rlnImageName"] = [f"{i % 24 + 1:06d}@Extract/job1/mic{i // 24}.mrcs" for i in range(N)]
    builder.columns["rlnHelicalTubeID"] = TUBES
    assert_never_split(read_particles(builder.write(tmp_path / "a.star")), np.arange(N) // 6)


def test_filaments_of_cryosparc_stay_together(tmp_path: Path) -> None:
    uid = np.random.default_rng(0).integers(1, 1 << 63, N // 6).astype(np.uint64)
    particles = cs_of(tmp_path, filament__filament_uid=np.repeat(uid, 6))
    assert_never_split(particles, np.arange(N) // 6)
    # 0 says nothing: particles that were not traced are each their own.
    loose = cs_of(tmp_path, filament__filament_uid=np.zeros(N, np.uint64))
    assert "filament" not in find_shared_density(loose).certain or same_partition(
        find_shared_density(loose).certain["filament"], np.arange(N)
    )


def test_symmetry_copies_stay_together_also_with_images_of_their_own(tmp_path: Path) -> None:
    source = np.repeat(np.random.default_rng(0).integers(1, 1 << 63, N // 4).astype(np.uint64), 4)
    particles = cs_of(tmp_path, sym_expand__src_uid=source, sym_expand__idx=np.tile(np.arange(4, dtype="<u4"), N // 4))
    assert_never_split(particles, np.arange(N) // 4)


@pytest.mark.parametrize("label", ["rlnImageOriginalName", "rlnOriginalParticleName"])
def test_subtracted_copies_of_relion_stay_together(tmp_path: Path, label: str) -> None:
    names = [f"{i // 5 + 1:06d}@Extract/job012/mic.mrcs" for i in range(N)]
    assert_never_split(star_of(tmp_path, "3.1", N, **{label: names}), np.arange(N) // 5)


def test_a_column_of_originals_that_names_no_images_is_no_relation(tmp_path: Path) -> None:
    particles = star_of(tmp_path, rlnImageOriginalName=["Extract/job012/mic.mrcs"] * N)
    assert same_partition(find_shared_density(particles).certain["particle"], np.arange(N))


def test_relations_connect_through_each_other(tmp_path: Path) -> None:
    """Two filaments that cross at a particle of which both have a copy are one group."""
    names = [f"{i + 1:06d}@Extract/job012/mic.mrcs" for i in range(N)]
    names[6] = names[0]
    particles = star_of(tmp_path, rlnMicrographName=MICROGRAPHS, rlnHelicalTubeID=TUBES, rlnImageOriginalName=names)

    def related(i: int, j: int) -> bool:
        return i // 6 == j // 6 or names[i] == names[j]

    assert_never_split(particles, components(N, related))


def positions(n: int, per_micrograph: int, step: float, seed: int = 0) -> tuple[npt.NDArray[np.float64], list[str]]:
    rng = np.random.default_rng(seed)
    micrographs = [f"mic{i // per_micrograph}.mrc" for i in range(n)]
    return rng.uniform(0, step * per_micrograph**0.5, (n, 2)), micrographs


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_boxes_stay_together(tmp_path: Path, seed: int) -> None:
    at, micrographs = positions(N, 6, 60.0, seed)
    builder = StarBuilder(n=N)
    del builder.columns["rlnRandomSubset"]
    builder.columns |= {
        "rlnImageName": [f"{i + 1}@a.mrcs" for i in range(N)],
        "rlnMicrographName": micrographs,
        "rlnOpticsGroup": ["1"] * N,
        "rlnCoordinateX": [f"{x:.6f}" for x in at[:, 0]],
        "rlnCoordinateY": [f"{y:.6f}" for y in at[:, 1]],
    }
    builder.optics["rlnImageSize"] = ["16", "16"]
    builder.optics["rlnMicrographPixelSize"] = ["0.625"] * 2  # images are binned by 2: a box covers 32 of these
    particles = read_particles(builder.write(tmp_path / "a.star"))

    def related(i: int, j: int) -> bool:
        return micrographs[i] == micrographs[j] and bool((np.abs(at[i] - at[j]) < 32).all())

    groups = components(N, related)
    assert 20 < len(np.unique(groups)) < N - 10  # the test has something to show
    found = find_shared_density(particles).overlapping
    assert found is not None
    assert same_partition(found, groups)
    assert_never_split(particles, groups)


def test_neighbours_of_cryosparc_use_the_micrographs_pixel(tmp_path: Path) -> None:
    at, micrographs = positions(N, 6, 300.0)
    shape = np.tile(np.array([3000, 4000], np.uint32), (N, 1))
    particles = cs_of(
        tmp_path,
        location__micrograph_path=np.array(micrographs, "S8"),
        location__micrograph_shape=shape,
        location__micrograph_psize_A=np.full(N, 0.55, "<f4"),
        location__center_x_frac=(at[:, 0] / 4000).astype("<f4"),
        location__center_y_frac=(at[:, 1] / 3000).astype("<f4"),
    )

    def related(i: int, j: int) -> bool:
        return micrographs[i] == micrographs[j] and bool((np.abs(at[i] - at[j]) * 0.55 < 64 * 1.1).all())

    assert_never_split(particles, components(N, related))


def test_a_crowded_micrograph_is_still_split(tmp_path: Path) -> None:
    """All boxes overlap through others: then only those nearer than a quarter of the box stay together."""
    x = np.repeat(np.arange(N // 2) * 12.0, 2) + np.tile([0.0, 1.0], N // 2)
    particles = star_of(tmp_path, rlnMicrographName=["mic.mrc"] * N, rlnCoordinateX=[f"{v}" for v in x + 1],
                        rlnCoordinateY=["5"] * N)  # fmt: skip
    overlapping = find_shared_density(particles).overlapping
    assert overlapping is not None
    assert len(np.unique(overlapping)) == 1
    assert_never_split(particles, np.arange(N) // 2)


def test_positions_of_zero_say_nothing(tmp_path: Path) -> None:
    zero = ["0.000000"] * N
    particles = star_of(tmp_path, rlnMicrographName=["mic.mrc"] * N, rlnCoordinateX=zero, rlnCoordinateY=zero)
    overlapping = find_shared_density(particles).overlapping
    assert overlapping is not None
    assert len(np.unique(overlapping)) == N


def test_one_filament_alone_is_split_and_said(tmp_path: Path) -> None:
    particles = star_of(tmp_path, rlnMicrographName=["mic.mrc"] * N, rlnHelicalTubeID=["1"] * N)
    choice = choose_half_sets(particles, 0)
    assert np.bincount(choice.half_set).tolist() == [0, N // 2, N // 2]
    assert any("part 1 of 1 filament" in note and "Warning" in note for note in choice.notes)


# What the user's own half-sets part


def test_halves_of_the_file_that_part_filaments_are_not_used_and_named(tmp_path: Path) -> None:
    halves = [str(i % 2 + 1) for i in range(N)]
    particles = star_of(tmp_path, rlnMicrographName=MICROGRAPHS, rlnHelicalTubeID=TUBES, rlnRandomSubset=halves)
    choice = choose_half_sets(particles, 0)
    assert not choice.from_file
    assert "half-sets that part 20 of 20 filaments" in choice.notes[0]
    assert_never_split(particles, np.arange(N) // 6)
    assert "part 20 of 20 filaments" in own_half_set_warnings(particles)[0]


def test_halves_by_filament_are_kept(tmp_path: Path) -> None:
    halves = [str(i // 6 % 2 + 1) for i in range(N)]
    particles = star_of(tmp_path, rlnMicrographName=MICROGRAPHS, rlnHelicalTubeID=TUBES, rlnRandomSubset=halves)
    choice = choose_half_sets(particles, 0)
    assert choice.from_file
    assert choice.notes == ()
    assert own_half_set_warnings(particles) == ()
    assert choice.half_set.tolist() == [int(half) for half in halves]


@pytest.mark.parametrize("suffix", ["star", "cs"])
def test_copies_of_an_image_in_both_halves_are_read_but_not_used(tmp_path: Path, suffix: str) -> None:
    if suffix == "star":
        names = [f"{i // 2 + 1:06d}@Extract/job012/all.mrcs" for i in range(N)]
        particles = star_of(tmp_path, rlnImageName=names, rlnRandomSubset=[str(i % 2 + 1) for i in range(N)])
    else:
        particles = cs_of(tmp_path, blob__path=np.full(N, b"a.mrc"), blob__idx=np.arange(N, dtype="<u4") // 2,
                          alignments3D__split=(np.arange(N) % 2).astype("<u4"))  # fmt: skip
    assert particles.half_set.tolist() == [1, 2] * (N // 2)  # what the file says stays what it says
    assert f"part {N // 2} of {N // 2} images" in choose_half_sets(particles, 0).notes[0]
    assert f"part {N // 2} of {N // 2} images" in own_half_set_warnings(particles)[0]
    assert_never_split(particles, np.arange(N) // 2)


def test_all_in_one_half_is_drawn_anew_and_said(tmp_path: Path) -> None:
    choice = choose_half_sets(star_of(tmp_path, rlnRandomSubset=["1"] * N), 0)
    assert np.bincount(choice.half_set).tolist() == [0, N // 2, N // 2]
    assert "are all in half-set 1" in choice.notes[0]


def test_duplicates_in_both_halves_are_said_but_the_halves_kept(tmp_path: Path) -> None:
    """Few duplicates spoil the resolution less than leaving the halves that the poses were refined in."""
    x = np.arange(N) * 500.0 + 100
    x[1] = x[0] + 1
    particles = star_of(tmp_path, rlnMicrographName=["mic.mrc"] * N, rlnCoordinateX=[f"{v}" for v in x],
                        rlnCoordinateY=["5"] * N, rlnRandomSubset=[str(i % 2 + 1) for i in range(N)])  # fmt: skip
    choice = choose_half_sets(particles, 0)
    assert choice.from_file
    assert "1 of 1 groups of particles" in choice.notes[0]
    assert "duplicates" in choice.notes[0]
    assert neighbour_notes(particles, np.where(np.arange(N) == 1, 1, choice.half_set)) == (), "other halves, as used"


# Tilt series


def tilted(tmp_path: Path, particles: int = 12, tilts: int = 10, style: str = "3.0", **columns: object) -> ParticleSet:
    """Rows as M and Warp write them: B-factor -4 times the dose, scale the cosine of the tilt."""
    angle = np.tile(np.radians(np.linspace(-57, 60, tilts)), particles)
    dose = np.tile(3.0 * (1 + np.random.default_rng(0).permutation(tilts)), particles)
    given: dict[str, list[str]] = {
        "rlnGroupName": [f"{i // tilts:03d}_TS_01" for i in range(particles * tilts)],
        "rlnCtfBfactor": [f"{-4 * value:.6f}" for value in dose],
        "rlnCtfScalefactor": [f"{value:.6f}" for value in np.cos(angle)],
    }
    for name, values in columns.items():
        if values is None:
            del given[name]
        else:
            given[name] = values  # type: ignore[assignment]
    return star_of(tmp_path, style, particles * tilts, **given)


VARIATIONS: dict[str, dict[str, object]] = {
    "M and Warp, RELION 3.0": {},
    "nextPYP, RELION 3.1": {
        "style": "3.1", "rlnGroupName": None, "rlnGroupNumber": [str(i // 10 + 1) for i in range(120)],
        "rlnTiltIndex": [str(i % 10) for i in range(120)],
    },
    "without doses": {"rlnCtfBfactor": ["0.000000"] * 120},
    "one particle": {"particles": 1, "tilts": 41},
    "two tilts": {"particles": 60, "tilts": 2},
    "B-factors alone": {"rlnCtfScalefactor": None},
    "cosines alone": {"rlnCtfBfactor": None},
    "scales that M has refined": {"rlnCtfScalefactor": [f"{0.7 + 0.1 * (i % 10)}" for i in range(120)]},
    "nothing names the particle": {"rlnGroupName": None, "rlnCtfScalefactor": None},
    "groups are tilt series": {"rlnGroupName": ["TS_01"] * 120},
    "groups are tilt series, B-factors alone": {"rlnGroupName": ["TS_01"] * 120, "rlnCtfScalefactor": None},
    "dose before each tilt": {
        "style": "3.1", "rlnGroupName": None, "rlnCtfBfactor": None, "rlnCtfScalefactor": None,
        "rlnMicrographPreExposure": [f"{3.0 * (i % 10)}" for i in range(120)],
    },
    "positions in a tilt series": {
        "rlnGroupName": None, "rlnCtfBfactor": None, "rlnMicrographName": ["TS_01.mrc"] * 120,
        "rlnCoordinateX": [f"{i // 10 * 91.5}" for i in range(120)], "rlnCoordinateY": ["7.0"] * 120,
    },
    "positions in a tomogram, no weights": {
        "style": "3.1", "rlnGroupName": None, "rlnCtfBfactor": None, "rlnCtfScalefactor": None,
        "rlnTomoName": ["TS_01"] * 120, "rlnCoordinateX": [f"{i // 10 * 91.5}" for i in range(120)],
        "rlnCoordinateY": ["7.0"] * 120, "rlnCoordinateZ": ["70.0"] * 120,
    },
    "a stack for every particle": {
        "rlnGroupName": None, "rlnCtfScalefactor": None,
        "rlnImageName": [f"{i % 10 + 1}@Particles/TS_01_{i // 10}.mrcs" for i in range(120)],
    },
    "incomplete series": {
        "rlnCtfScalefactor": None, "rlnCtfBfactor": [f"{-12.0 * (i % 10 + (i // 10) % 3)}" for i in range(120)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VARIATIONS)
def test_tilt_images_are_refused_and_never_split(tmp_path: Path, name: str) -> None:
    particles = tilted(tmp_path, **VARIATIONS[name])  # type: ignore[arg-type]
    tilts = int(VARIATIONS[name].get("tilts", 10))  # type: ignore[call-overload]
    found = find_tilt_series(particles)
    assert found is not None
    groups = found.group
    assert same_partition(groups, np.arange(particles.n) // tilts)
    with pytest.raises(InputError, match=rf"{particles.n} rows are tilt images of {particles.n // tilts} particles"):
        refuse_tilt_series(particles)
    (warning,) = tilt_series_warnings(particles)  # what convert and export-cryodrgn say
    assert f"tilt images of {particles.n // tilts} particles" in warning
    if particles.n // tilts > 1:
        assert_never_split(particles, groups)


ORDINARY: dict[str, dict[str, object]] = {
    "groups of RELION": {"rlnCtfBfactor": ["0.000000"] * 120, "rlnCtfScalefactor": ["1.000000"] * 120},
    "B-factors by micrograph": {
        "rlnCtfBfactor": [f"{10.0 + i // 10}" for i in range(120)],
        "rlnCtfScalefactor": [f"{0.9 + 0.001 * (i // 10)}" for i in range(120)],
    },
    "B-factors by particle": {
        "rlnCtfBfactor": [f"{10.0 + 0.37 * i}" for i in range(120)],
        "rlnCtfScalefactor": [f"{0.5 + 0.001 * i}" for i in range(120)],
    },
    "scales of random particles": {
        "rlnCtfScalefactor": [f"{v:.2f}" for v in np.random.default_rng(0).uniform(0.5, 1.5, 120)],
        "rlnCtfBfactor": None,
    },
    "B-factors of a few sizes": {
        "rlnCtfBfactor": [f"{v}" for v in np.random.default_rng(0).integers(0, 9, 120)],
        "rlnCtfScalefactor": None,
    },
    "dose before each movie": {
        "style": "3.1",
        "rlnCtfBfactor": None,
        "rlnCtfScalefactor": None,
        "rlnMicrographPreExposure": [f"{0.5 * (i // 10 % 2)}" for i in range(120)],
    },
    "one tilt of each": {"rlnGroupName": [f"{i:03d}_TS_01" for i in range(120)]},
    "one tilt of each, in a tomogram": {
        "style": "3.1",
        "rlnGroupName": None,
        "rlnCtfBfactor": None,
        "rlnCtfScalefactor": None,
        "rlnTomoName": ["TS_01"] * 120,
        "rlnCoordinateX": [f"{i * 91.5}" for i in range(120)],
        "rlnCoordinateY": ["7.0"] * 120,
        "rlnCoordinateZ": ["70.0"] * 120,
    },
    "no groups, in any order": {
        "rlnGroupName": None,
        "rlnCtfScalefactor": None,
        "rlnCtfBfactor": [f"{-12.0 * (v % 10)}" for v in np.random.default_rng(0).permutation(120)],
    },
}


@pytest.mark.parametrize("name", ORDINARY)
def test_single_particles_with_groups_and_factors_are_no_tilt_series(tmp_path: Path, name: str) -> None:
    particles = tilted(tmp_path, **ORDINARY[name])  # type: ignore[arg-type]
    assert find_tilt_series(particles) is None
    refuse_tilt_series(particles)
    said = suspected_tilts(particles)  # by jobs that go on, where columns look like tilts but nothing tells particles
    assert bool(said) == (name in ("no groups, in any order", "one tilt of each, in a tomogram"))


@pytest.mark.parametrize("sets", [1, 3])
def test_tilt_images_that_went_through_cryosparc_are_refused(tmp_path: Path, sets: int) -> None:
    dose = np.tile(np.arange(10), 12) + np.repeat(np.arange(12) // (12 // sets), 10)
    with pytest.raises(InputError, match=r"120 rows are tilt images of 12 particles .*ctf/bfactor"):
        refuse_tilt_series(cs_of(tmp_path, ctf__bfactor=(-12.0 * dose).astype("<f4")))


# The random split itself


@pytest.mark.parametrize("seed", range(5))
def test_random_split_of_groups_of_any_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(0.2, 40)
    groups = rng.permutation(np.repeat(np.arange(40), sizes))
    images = rng.integers(0, 1 << 63, len(groups)).astype(np.uint64)
    half_set = random_half_sets(groups, images, seed)
    for group in range(40):
        assert len(set(half_set[groups == group].tolist())) == 1
    assert abs(np.count_nonzero(half_set == 1) - np.count_nonzero(half_set == 2)) <= 1  # there are groups of one
    order = rng.permutation(len(groups))
    renamed = rng.permutation(40)[groups]
    assert np.array_equal(random_half_sets(renamed[order], images[order], seed), half_set[order])


@pytest.mark.parametrize("seed", range(3))
def test_joined_groups_are_the_components(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groupings = [np.unique(rng.integers(0, size, 60), return_inverse=True)[1] for size in (50, 40, 45)]
    found = joined_groups([one.astype(np.int64) for one in groupings])

    def related(i: int, j: int) -> bool:
        return any(one[i] == one[j] for one in groupings)

    assert same_partition(found, components(60, related))


def test_a_million_rows_take_bounded_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neighbours are sought part by part: the parts are whole micrographs, and the result does not depend on them."""
    at, micrographs = positions(N, 6, 10.0)
    columns = {"rlnMicrographName": micrographs, "rlnCoordinateX": [f"{v:.4f}" for v in at[:, 0] + 1],
               "rlnCoordinateY": [f"{v:.4f}" for v in at[:, 1] + 1]}  # fmt: skip
    whole = find_shared_density(star_of(tmp_path, "3.1", N, **columns))
    monkeypatch.setattr("cryodrgn_ext.metadata.shared_density.ROWS_AT_A_TIME", 13)
    parts = find_shared_density(star_of(tmp_path, "3.1", N, **columns))
    assert isinstance(whole, SharedDensity)
    assert whole.overlapping is not None
    assert parts.overlapping is not None
    assert same_partition(whole.overlapping, parts.overlapping)


# Half-sets of very different sizes


def of_halves(tmp_path: Path, first: int, suffix: str) -> ParticleSet:
    halves = np.where(np.arange(N) < first, 1, 2)
    if suffix == "star":
        return star_of(tmp_path, rlnRandomSubset=[str(half) for half in halves])
    return cs_of(tmp_path, alignments3D__split=(halves - 1).astype("<u4"))


@pytest.mark.parametrize("suffix", ["star", "cs"])
@pytest.mark.parametrize(("first", "from_file", "said", "handed_on"), [
    (60, True, "", ""),
    (50, True, "", ""),  # whole filaments make halves of 42 and 58 %
    (90, True, "have 90 and 30 particles", "have 90 and 30 particles"),
    (115, False, "half-sets of 115 and 5 particles, too few", "have 115 and 5 particles"),
    (0, False, "are all in half-set 2", "all 120 particles are in half-set 2"),
])  # fmt: skip
def test_unequal_half_sets_are_used_drawn_anew_or_said(
    first: int, from_file: bool, said: str, handed_on: str, suffix: str, tmp_path: Path
) -> None:
    particles = of_halves(tmp_path, first, suffix)
    choice = choose_half_sets(particles, 0)
    assert choice.from_file == from_file
    assert said in " ".join(choice.notes)
    assert bool(said) == bool(choice.notes)
    assert handed_on in " ".join(own_half_set_warnings(particles))
    assert bool(handed_on) == bool(own_half_set_warnings(particles))
    assert np.bincount(choice.half_set).tolist() == ([0, first, N - first] if from_file else [0, 60, 60])


@pytest.mark.parametrize(("label", "complaint"), [
    ("A", "_rlnRandomSubset is 'A', but a number is expected .half-sets are 1 and 2; take the column out"),
    ("1.5", "_rlnRandomSubset is 1.5, but a whole number is expected .half-sets are 1 and 2"),
    ("nan", "_rlnRandomSubset is nan, but"), ("-1", "is -1, but 1 or 2 is expected"),
])  # fmt: skip
def test_half_sets_that_are_no_numbers_are_refused(label: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        star_of(tmp_path, rlnRandomSubset=["1", "2"] * 59 + [label, "1"])
