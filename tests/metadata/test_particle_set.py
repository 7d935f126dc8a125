from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.poses import rotation_from_euler
from cryodrgn_ext.metadata.star import read_star
from tests.metadata.conftest import StarBuilder


@pytest.fixture
def particles(star_builder: type[StarBuilder], tmp_path: Path) -> ParticleSet:
    return read_particles(star_builder("3.1").write(tmp_path / "in.star"))


def random_poses(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rotation_from_euler(rng.uniform([-180, 0, -180], [180, 180, 180], (n, 3))), rng.uniform(-20, 20, (n, 2))


def test_is_frozen(particles: ParticleSet) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        particles.row_id = np.arange(3)  # type: ignore[misc]


@pytest.mark.parametrize("indices", [[5, 0, 3], np.array([5, 0, 3], np.uint8)])
def test_subset_takes_every_array(particles: ParticleSet, indices: list[int]) -> None:
    chosen = particles.subset(indices)
    rows = [5, 0, 3]
    per_particle = ("stack_id", "stack_index", "euler_deg", "shift_A", "optics_index", "half_set", "row_id", "uid")
    for name in (*per_particle, "image_hash", "image_name", "rotation", "pixel_size_A"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(particles, name)[rows], err_msg=name)
    for field in dataclasses.fields(particles.ctf):
        np.testing.assert_array_equal(getattr(chosen.ctf, field.name), getattr(particles.ctf, field.name)[rows])
    again = chosen.subset([2, 1])
    assert again.row_id.tolist() == [3, 0]
    assert chosen.source is particles.source
    # Every field is either shared on purpose or was compared above: a new one must not be forgotten.
    shared = {"source", "project_dir", "stack_names", "stack_paths", "ctf", "optics", "has_poses"}
    fields = {field.name for field in dataclasses.fields(ParticleSet)}
    assert fields == shared | {*per_particle, "image_hash", "poses_changed", "optics_changed"}


def test_subset_by_mask_and_empty(particles: ParticleSet) -> None:
    assert particles.subset(np.arange(8) % 3 == 0).row_id.tolist() == [0, 3, 6]
    assert particles.subset([]).n == 0
    assert particles.subset(np.zeros(8, bool)).n == 0


@pytest.mark.parametrize(
    ("indices", "complaint"),
    [
        ([0, 8], r"index 8 is outside 0\.\.7"),
        ([-1], "index -1 is outside"),
        ([1, 2, 1], "index 1 is given 2 times"),
        ([0.5], "whole numbers, got float64"),
        ([[0, 1]], "the shape"),
        (np.ones(7, bool), "got bool of the shape"),
    ],
)
def test_impossible_subsets(particles: ParticleSet, indices: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        particles.subset(indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["3.0", "3.1", "5.0"])
def test_subset_is_written_with_the_users_text(style: str, star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder(style)
    particles = read_particles(builder.write(tmp_path / "in.star"))
    rows = [6, 1, 2]
    extra: dict[str, Any] = {
        "cdxLatent1": np.array([0.1, -2.5e-9, 123456.789], np.float32),
        "cdxState": np.array([3, 1, 2]),
        "cdxLabel": ["a b", "c", "d"],
    }
    write_particles_star(particles.subset(rows), tmp_path / "out.star", extra)
    star = read_star(tmp_path / "out.star")
    table = star.blocks[particles.table.name]
    expected = {label: [values[row] for row in rows] for label, values in builder.columns.items()}
    expected |= {
        "cdxLatent1": ["0.1", "-2.5e-09", "123457"],
        "cdxState": ["3", "1", "2"],
        "cdxLabel": ["a b", "c", "d"],
    }
    assert {label: table.text(label).tolist() for label in table.columns} == expected
    assert list(table.columns) == list(expected)
    assert star.version == style
    head = builder.text().split("loop_")[0]
    assert (tmp_path / "out.star").read_text().startswith(head)
    if style != "3.0":
        optics = star.blocks["optics"]
        assert {label: optics.text(label).tolist() for label in optics.columns} == builder.optics
    again = read_particles(tmp_path / "out.star")
    np.testing.assert_array_equal(again.uid, particles.uid[rows])


def test_whole_set_is_written_byte_for_byte(particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(particles, tmp_path / "out.star")
    assert (tmp_path / "out.star").read_bytes() == (tmp_path / "in.star").read_bytes()


def test_a_set_without_particles_is_not_written(particles: ParticleSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.star: there are no particles to write"):
        write_particles_star(particles.subset([]), tmp_path / "out.star")
    assert not (tmp_path / "out.star").exists()


def test_column_that_exists_is_replaced_in_its_place(particles: ParticleSet, tmp_path: Path) -> None:
    write_particles_star(particles, tmp_path / "first.star", {"cdxState": np.arange(8), "cdxLatent1": np.zeros(8)})
    second = read_particles(tmp_path / "first.star").subset([1, 0])
    write_particles_star(second, tmp_path / "second.star", {"cdxState": [7, 9]})
    table = read_star(tmp_path / "second.star").blocks["particles"]
    assert table.columns[-2:] == ("cdxState", "cdxLatent1")
    assert table.text("cdxState").tolist() == ["7", "9"]


@pytest.mark.parametrize("style", ["3.0", "3.1"])
def test_new_poses_are_written_in_the_files_convention(
    style: str, star_builder: type[StarBuilder], tmp_path: Path
) -> None:
    builder = star_builder(style)
    particles = read_particles(builder.write(tmp_path / "in.star"))
    rotation, shift_A = random_poses(particles.n)
    rotation[2:4] = rotation_from_euler(np.array([[30.0, 0.0, 40.0], [30.0, 180.0, 40.0]]))
    moved = particles.with_poses(rotation, shift_A)
    write_particles_star(moved, tmp_path / "out.star")
    again = read_particles(tmp_path / "out.star")
    np.testing.assert_allclose(again.rotation, rotation, atol=1e-7)
    np.testing.assert_allclose(again.shift_A, shift_A, atol=1e-6)
    changed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"}
    changed |= {"rlnOriginX", "rlnOriginY"} if style == "3.0" else {"rlnOriginXAngst", "rlnOriginYAngst"}
    table = again.table
    assert table.columns == tuple(builder.columns)
    for label in set(builder.columns) - changed:
        assert table.text(label).tolist() == builder.columns[label]
    origin = table.floats("rlnOriginX" if style == "3.0" else "rlnOriginXAngst")
    np.testing.assert_allclose(origin, -shift_A[:, 0] / (1.25 if style == "3.0" else 1.0), atol=1e-6)
    write_particles_star(moved, tmp_path / "kept.star", keep_original_poses=True)
    assert (tmp_path / "kept.star").read_bytes() == (tmp_path / "in.star").read_bytes()
    # The set that it was made from has its poses still, and a subset of the moved set has the new ones.
    np.testing.assert_array_equal(particles.shift_A, read_particles(tmp_path / "in.star").shift_A)
    write_particles_star(moved.subset([4]), tmp_path / "one.star")
    np.testing.assert_allclose(read_particles(tmp_path / "one.star").rotation[0], rotation[4], atol=1e-7)


def test_poses_for_a_file_that_has_none(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"):
        del builder.columns[label]
    particles = read_particles(builder.write(tmp_path / "in.star"), require_poses=False)
    rotation, shift_A = random_poses(particles.n)
    write_particles_star(particles.with_poses(rotation, shift_A), tmp_path / "out.star")
    np.testing.assert_allclose(read_particles(tmp_path / "out.star").rotation, rotation, atol=1e-7)


def test_impossible_poses(particles: ParticleSet) -> None:
    rotation, shift_A = random_poses(8)
    with pytest.raises(InputError, match=r"must have the shapes \(8, 3, 3\) and \(8, 2\)"):
        particles.with_poses(rotation[:7], shift_A)
    with pytest.raises(InputError, match="the shift of particle 3 is not finite"):
        particles.with_poses(rotation, np.where(np.arange(8)[:, None] == 2, np.nan, shift_A))
    rotation[5] *= 2
    with pytest.raises(InputError, match="the rotation of particle 6 is no rotation matrix"):
        particles.with_poses(rotation, shift_A)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"cdxState": [1, 2]}, "cdxState has 2 values for 8 particles"),
        ({"cdxLatent1": np.full(8, np.nan)}, "_cdxLatent1: value 1 is nan"),
        ({"cdx Latent": np.zeros(8)}, "'cdx Latent' cannot be a column name"),
        ({"": np.zeros(8)}, "cannot be a column name"),
        ({"cdxLatent1": np.zeros((8, 2))}, "one-dimensional"),
    ],
)
def test_impossible_extra_columns(
    particles: ParticleSet, columns: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=complaint):
        write_particles_star(particles, tmp_path / "out.star", columns)  # type: ignore[arg-type]
    assert not (tmp_path / "out.star").exists()


def without_half_sets(star_builder: type[StarBuilder], path: Path, repeats: int, n: int = 240) -> ParticleSet:
    builder = star_builder(n=n)
    del builder.columns["rlnRandomSubset"]
    builder.columns["rlnImageName"] = [f"{i // repeats + 1}@a.mrcs" for i in range(n)]
    return read_particles(builder.write(path))


def test_relions_half_sets_are_kept(particles: ParticleSet) -> None:
    assert choose_half_sets(particles, 3).half_set.tolist() == [1, 2] * 4


@pytest.mark.parametrize("repeats", [1, 3])
def test_random_half_sets_never_split_an_image(repeats: int, star_builder: type[StarBuilder], tmp_path: Path) -> None:
    particles = without_half_sets(star_builder, tmp_path / "in.star", repeats)
    half_set = choose_half_sets(particles, 0).half_set
    per_image = half_set.reshape(-1, repeats)
    assert (per_image == per_image[:, :1]).all()
    assert np.bincount(half_set).tolist() == [0, 120, 120]
    assert (choose_half_sets(particles, 0).half_set == half_set).all()
    assert (choose_half_sets(particles, 1).half_set != half_set).any()
    order = np.random.default_rng(0).permutation(240)
    assert (choose_half_sets(particles.subset(order), 0).half_set == half_set[order]).all()


def test_random_half_sets_do_not_follow_the_order_of_the_rows(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    half_set = choose_half_sets(without_half_sets(star_builder, tmp_path / "in.star", 1, n=2000), 0).half_set
    runs = np.count_nonzero(half_set[1:] != half_set[:-1])  # 1000 expected, with a standard deviation of 22
    assert 880 < runs < 1120


@pytest.fixture
def with_images(
    star_builder: type[StarBuilder], write_stack: Callable[..., Path], tmp_path: Path
) -> Callable[[], ParticleSet]:
    for number in (0, 1):
        write_stack(tmp_path / f"Extract/job012/mic{number}.mrcs", 4)
    path = star_builder().write(tmp_path / "in.star")
    return lambda: read_particles(path)


def test_images_that_are_there(with_images: Callable[[], ParticleSet]) -> None:
    particles = with_images()
    check_images(particles)
    assert all(path.is_file() for path in particles.stack_paths)
    check_images(particles.subset([]))


def test_headers_are_read_once_per_stack(
    with_images: Callable[[], ParticleSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def counted(path: Path) -> object:
        seen.append(path)
        return read_stack_header(path)

    monkeypatch.setattr("cryodrgn_ext.metadata.image_checks.read_stack_header", counted)
    particles = with_images()
    check_images(particles)
    assert seen == list(particles.stack_paths)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda write, path: path.unlink(), "row 5 * mic1.mrcs does not exist (1 of 2 stacks are missing)"),
        (lambda write, path: write(path, 3), "row 8 * asks for image 4, but * mic1.mrcs holds 3 images"),
        (lambda write, path: write(path, 4, cut=10), "row 8 * is truncated: its header promises 4 images * after 3"),
        (lambda write, path: write(path, 4, box=18), "row 5 * images of 18 pixels, but * opticsGroup1 has 16"),
        (lambda write, path: write(path, 4, height=20), "images of 16 x 20 px: they must be square"),
        (lambda write, path: write(path, 4, mode=4), "mode 4 (complex float32), which is not supported"),
        (lambda write, path: path.write_bytes(b"x" * 10), "is not an MRC file"),
    ],
)
def test_images_that_cannot_be_right(
    spoil: Callable[[Callable[..., Path], Path], object],
    complaint: str,
    with_images: Callable[[], ParticleSet],
    write_stack: Callable[..., Path],
    tmp_path: Path,
) -> None:
    spoil(write_stack, tmp_path / "Extract/job012/mic1.mrcs")
    particles = with_images()
    with pytest.raises(InputError) as caught:
        check_images(particles)
    message = rest = str(caught.value)
    assert "\n" not in message
    for part in complaint.split(" * "):
        assert part in rest, message
        rest = rest[rest.index(part) :]
    check_images(particles.subset([0, 1, 2, 3]))  # the other stack is sound


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_dropped_columns_leave_the_others_as_they_were(
    star_builder: type[StarBuilder], tmp_path: Path, version: str
) -> None:
    particles = read_particles(star_builder(version).write(tmp_path / "in.star"))
    columns = particles.table.columns
    dropped = [columns[0], columns[3], columns[-1], "notThere"]
    write_particles_star(particles, tmp_path / "out.star", {"cdxState": np.arange(8), columns[3]: np.ones(8)},
                         dropped_columns=dropped)  # fmt: skip
    table = read_star(tmp_path / "out.star").blocks[particles.table.name]
    assert table.columns == (*columns[1:-1], "cdxState")
    for name in columns[1:-1]:
        if name != columns[3]:
            assert table.text(name).tolist() == particles.table.text(name).tolist()
    assert table.integers("cdxState").tolist() == list(range(8))
    numbers = re.findall(r"#(\d+)", table.head.decode())
    assert numbers == [str(i + 1) for i in range(len(numbers))]
