"""Latents of other programs, and the particles that they belong to."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.latent_files import latents_of_particles, match_latents, read_latent_file, read_positions
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record

Z = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


@pytest.fixture
def particles(star_builder: type[StarBuilder], tmp_path: Path) -> ParticleSet:
    return read_particles(star_builder().write(tmp_path / "in.star"))


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


def test_every_form(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", Z.astype(np.float64))
    np.savetxt(tmp_path / "z.txt", Z)
    np.savetxt(tmp_path / "z.csv", Z, delimiter=",", header="z1,z2,z3")
    save_npz(tmp_path / "z.npz", z=Z, other=np.zeros(3))
    save_npz(tmp_path / "only.npz", anything=Z)
    with open(tmp_path / "z.9.pkl", "wb") as handle:
        pickle.dump(Z, handle)
        pickle.dump(np.log(Z**2), handle)
    for name in ("z.npy", "z.txt", "z.csv", "z.npz", "only.npz", "z.9.pkl"):
        np.testing.assert_allclose(read_latent_file(tmp_path / name).z, Z, rtol=1e-6, err_msg=name)
    covariance = read_latent_file(tmp_path / "z.9.pkl").z_cov
    assert covariance is not None
    np.testing.assert_allclose(covariance[2], np.diag(Z[2] ** 2), rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_counts_rows_is_no_latent(first: int, tmp_path: Path) -> None:
    """A table written with its index (pandas: to_csv(header=False))."""
    table = np.column_stack([np.arange(len(Z)) + first, Z])
    np.savetxt(tmp_path / "z.csv", table, delimiter=",")
    with pytest.raises(InputError, match=r"z\.csv: the first column counts the rows"):
        read_latent_file(tmp_path / "z.csv")
    table[3, 0] += 0.5
    np.savetxt(tmp_path / "z.csv", table, delimiter=",")
    assert read_latent_file(tmp_path / "z.csv").z.shape == (8, 4)


def test_identifiers_are_no_latents(tmp_path: Path) -> None:
    uid = particles_record(8)["uid"]
    lines = [f"{one} {' '.join(map(str, row))}" for one, row in zip(uid.tolist(), Z.tolist(), strict=True)]
    (tmp_path / "z.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"z\.txt: column 1 has values up to 9.*, as identifiers have"):
        read_latent_file(tmp_path / "z.txt")


def test_one_column_is_one_dimension(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", Z[:, 0])
    assert read_latent_file(tmp_path / "z.npy").z.shape == (8, 1)


def test_components_of_cryosparc(tmp_path: Path) -> None:
    """Fields in an order that is not that of their numbers, and more than ten of them."""
    record = particles_record(12)
    values = np.random.default_rng(1).normal(size=(12, 11)).astype(np.float32)
    order = [10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9]
    fields = [("uid", "<u8")] + [(f"components_mode_{number}/value", "<f4") for number in order]
    table = np.zeros(12, fields)
    table["uid"] = record["uid"]
    for number in order:
        table[f"components_mode_{number}/value"] = values[:, number]
    with open(tmp_path / "components.cs", "wb") as handle:
        np.save(handle, table)
    found = read_latent_file(tmp_path / "components.cs")
    np.testing.assert_array_equal(found.z, values)
    np.testing.assert_array_equal(found.uid, record["uid"])
    with open(tmp_path / "plain.cs", "wb") as handle:
        np.save(handle, record)
    with pytest.raises(InputError, match=r"no fields components_mode_\*/value"):
        read_latent_file(tmp_path / "plain.cs")


def test_matched_by_uid_in_any_order_and_number(particles: ParticleSet, tmp_path: Path) -> None:
    rows = np.array([6, 1, 3])
    path = save_npz(tmp_path / "z.npz", z=Z[rows], uid=particles.uid[rows])
    found = match_latents(read_latent_file(path), particles)
    assert found.joined_by == "uid"
    assert found.rows.tolist() == [1, 3, 6]
    np.testing.assert_array_equal(found.z, Z[[1, 3, 6]])


def test_matched_by_image(particles: ParticleSet, tmp_path: Path) -> None:
    rows = np.random.default_rng(3).permutation(8)
    cov = np.arange(8.0)[:, None, None] * np.eye(3)
    path = save_npz(tmp_path / "z.npz", z=Z[rows], image_name=particles.image_name[rows], z_cov=cov[rows])
    found = match_latents(read_latent_file(path), particles)
    assert found.joined_by == "image name"
    np.testing.assert_array_equal(found.z, Z)
    np.testing.assert_array_equal(found.z_cov, cov)


def test_matched_in_order_only_when_as_many(particles: ParticleSet, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", Z)
    found = match_latents(read_latent_file(tmp_path / "z.npy"), particles)
    assert found.joined_by == "order"
    np.testing.assert_array_equal(found.rows, np.arange(8))
    np.save(tmp_path / "z.npy", Z[:5])
    with pytest.raises(InputError, match=r"has 5 latents without names, but .* has 8 particles"):
        match_latents(read_latent_file(tmp_path / "z.npy"), particles)


def test_strangers_and_twins_are_refused(particles: ParticleSet, tmp_path: Path) -> None:
    uid = particles.uid.copy()
    uid[2] = 5
    with pytest.raises(InputError, match=r"1 of 8 latents .* uid 5 \(row 3\)"):
        match_latents(read_latent_file(save_npz(tmp_path / "a.npz", z=Z, uid=uid)), particles)
    uid[2] = uid[3]
    with pytest.raises(InputError, match="two rows have the same uid"):
        match_latents(read_latent_file(save_npz(tmp_path / "a.npz", z=Z, uid=uid)), particles)
    names = particles.image_name.copy()
    names[0] = names[1]
    with pytest.raises(InputError, match="an image occurs twice"):
        match_latents(read_latent_file(save_npz(tmp_path / "a.npz", z=Z, image_name=names)), particles)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"a": Z, "b": Z}, "has no array 'z', only a, b"),
        ({"z": Z[None]}, r"the shape \(1, 8, 3\)"),
        ({"z": np.where(Z[4, 0] == Z, np.nan, Z)}, "the latent of row 5 is not finite"),
        ({"z": Z, "uid": np.arange(5)}, r"uid has the shape \(5,\)"),
        ({"z": Z, "uid": np.array(["a"] * 8)}, "uid holds <U1"),
        ({"z": Z, "z_cov": Z}, "z_cov has the shape"),
        ({"z": Z.astype(str)}, "instead of numbers"),
        ({"z": np.zeros((0, 3))}, r"\(0, 3\)"),
    ],
)
def test_wrong_contents(arrays: dict[str, np.ndarray], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read_latent_file(save_npz(tmp_path / "z.npz", **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("z.npy", b"hello", "cannot be read .*a table of numbers is expected"),
        ("z.npz", b"PK\x03\x04junk", "cannot be read .*a table of numbers is expected"),
        ("z.txt", b"a b c\n", "cannot be read .*a table of numbers is expected"),
        ("z.txt", b"# nothing\n", "it holds no numbers"),
        ("z.txt", b"\xff\xfe", "cannot be read .*a table of numbers is expected"),
        ("z.pkl", b"cos\nsystem\n(S'touch x'\ntR.", "nothing of it was run"),
        ("z.h5", b"1 2\n", "not from '.h5'"),
        ("absent.npy", None, "does not exist"),
        ("absent.npz", None, "does not exist"),
    ],
)
def test_unreadable_files(name: str, content: bytes | None, complaint: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        read_latent_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_positions(tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", Z[0])
    assert read_positions(tmp_path / "row.npy", 3).shape == (1, 3)
    assert read_positions(tmp_path / "row.npy", 1).shape == (3, 1)
    save_npz(tmp_path / "z.npz", z=Z)
    assert read_positions(tmp_path / "z.npz", 3).shape == (8, 3)
    with pytest.raises(InputError, match=r"\(8, 3\), but one row of 2 latents"):
        read_positions(tmp_path / "z.npz", 2)


def test_latents_that_particles_carry(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    for number in (2, 10, 1):
        builder.columns[f"cdxLatent{number}"] = [f"{number}.{row}" for row in range(8)]
    particles = read_particles(builder.write(tmp_path / "with.star")).subset([5, 2])
    found = latents_of_particles(particles)
    np.testing.assert_allclose(found.z, [[1.5, 2.5, 10.5], [1.2, 2.2, 10.2]])
    np.testing.assert_array_equal(found.uid, particles.uid)
    with pytest.raises(InputError, match="carries no latents"):
        latents_of_particles(read_particles(star_builder().write(tmp_path / "without.star")))


def test_components_that_a_cs_carries(tmp_path: Path) -> None:
    record = particles_record(6)
    table = np.zeros(6, [*record.dtype.descr, ("components_mode_1/value", "<f4"), ("components_mode_0/value", "<f4")])
    for name in record.dtype.names or ():
        table[name] = record[name]
    table["components_mode_0/value"], table["components_mode_1/value"] = np.arange(6), 10 + np.arange(6)
    with open(tmp_path / "variability.cs", "wb") as handle:
        np.save(handle, table)
    particles = read_particles(tmp_path / "variability.cs", tmp_path)
    np.testing.assert_array_equal(latents_of_particles(particles).z, np.stack([np.arange(6), 10 + np.arange(6)], 1))
