"""A stack with pickles of poses and CTF becomes a STAR file; conventions by arithmetic of their own."""

from __future__ import annotations

import pickle
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_particles import read_stack, star_of_stack, with_pickled_poses
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.star import write_star
from tests.metadata.conftest import StarBuilder

N, BOX, TRUE_BOX, TRUE_PIXEL_A = 7, 16, 64, 1.1
EULER = np.random.default_rng(5).uniform([-180, 0, -180], [180, 180, 180], (N, 3))
ORIGIN_A = np.random.default_rng(6).uniform(-8, 8, (N, 2))


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's Euler_angles2matrix, written out from its source."""
    a, b, g = np.radians([rot, tilt, psi])
    ca, sa, cb, sb, cg, sg = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(g), np.sin(g)
    return np.array([
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ])  # fmt: skip


def dump(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def write_stack(path: Path, n: int, box: int = BOX) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((n, box, box), np.float32))
    return path


@pytest.fixture
def pickles(tmp_path: Path) -> tuple[Path, Path]:
    """As the public parsers write them: RELION's matrix, RELION's origin over the box."""
    rotation = np.array([relion_matrix(*angles) for angles in EULER])
    poses = dump(tmp_path / "poses.pkl", (rotation, ORIGIN_A / (TRUE_BOX * TRUE_PIXEL_A)))
    ctf = np.zeros((N, 9), np.float32)
    ctf[:, :2] = TRUE_BOX, TRUE_PIXEL_A
    ctf[:, 2], ctf[:, 3], ctf[:, 4] = 12000 + np.arange(N), 11000, 33.0
    ctf[:, 5:8] = [300, 2.7, 0.1]
    ctf[4:, 5] = 200  # another microscope
    ctf[:, 8] = 90
    return poses, dump(tmp_path / "ctf.pkl", ctf)


def test_star_of_a_downsampled_stack(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    stack = write_stack(tmp_path / "particles.16.mrcs", N)
    write_star(tmp_path / "out.star", star_of_stack(stack, *pickles))
    tables = starfile.read(tmp_path / "out.star")
    optics, rows = tables["optics"], tables["particles"]
    assert len(optics) == 2
    np.testing.assert_allclose(optics["rlnImagePixelSize"], TRUE_BOX * TRUE_PIXEL_A / BOX)
    assert set(optics["rlnImageSize"]) == {BOX}
    assert (
        rows["rlnOpticsGroup"].map(optics.set_index("rlnOpticsGroup")["rlnVoltage"]).tolist() == [300] * 4 + [200] * 3
    )
    for angles, expected in zip(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(), EULER, strict=True):
        np.testing.assert_allclose(relion_matrix(*angles), relion_matrix(*expected), atol=1e-6)
    np.testing.assert_allclose(rows[["rlnOriginXAngst", "rlnOriginYAngst"]], ORIGIN_A, atol=1e-5)
    np.testing.assert_allclose(rows["rlnDefocusU"], 12000 + np.arange(N))
    np.testing.assert_allclose(rows["rlnPhaseShift"], 90)
    assert rows["rlnImageName"][2] == f"000003@{stack}"
    particles = read_particles(tmp_path / "out.star")
    np.testing.assert_allclose(particles.rotation, [relion_matrix(*angles) for angles in EULER], atol=1e-6)


def test_list_of_stacks(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_stack(tmp_path / "data" / "a.mrcs", 3)
    write_stack(tmp_path / "data" / "b.mrcs", 4)
    (tmp_path / "list.txt").write_text("a.mrcs\nb.mrcs\n")
    write_star(tmp_path / "out.star", star_of_stack(tmp_path / "list.txt", *pickles, datadir=tmp_path / "data"))
    particles = read_particles(tmp_path / "out.star")
    assert particles.stack_index.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert [path.name for path in particles.stack_paths] == ["a.mrcs", "b.mrcs"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="lists no stacks"):
        star_of_stack(tmp_path / "empty.txt", *pickles)


def test_a_stack_is_read_as_its_star_file(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    stack = write_stack(tmp_path / "p.mrcs", N)
    write_star(tmp_path / "out.star", star_of_stack(stack, *pickles))
    direct, through = read_stack(stack, *pickles), read_particles(tmp_path / "out.star")
    np.testing.assert_array_equal(direct.uid, through.uid)
    np.testing.assert_array_equal(direct.rotation, through.rotation)
    assert direct.stack_paths == through.stack_paths == (stack,)
    check_images(direct)
    write_particles_star(direct.subset([4, 2]), tmp_path / "some.star")
    np.testing.assert_array_equal(read_particles(tmp_path / "some.star").uid, direct.uid[[4, 2]])


def test_entries_must_be_as_many_as_images(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    stack = write_stack(tmp_path / "p.mrcs", N + 1)
    with pytest.raises(InputError, match=rf"poses\.pkl has {N} entries, but .* has {N + 1} images"):
        star_of_stack(stack, *pickles)


def test_poses_in_the_place_of_those_of_a_file(
    pickles: tuple[Path, Path], star_builder: type[StarBuilder], tmp_path: Path
) -> None:
    builder = star_builder(n=N)
    particles = read_particles(builder.write(tmp_path / "in.star"))
    replaced = with_pickled_poses(particles, pickles[0])
    np.testing.assert_allclose(replaced.rotation, [relion_matrix(*angles) for angles in EULER], atol=1e-6)
    box_A = builder.box * particles.pixel_size_A[:, None]
    np.testing.assert_allclose(replaced.shift_A, -ORIGIN_A / (TRUE_BOX * TRUE_PIXEL_A) * box_A, atol=1e-6)
    with pytest.raises(InputError, match=f"has {N} poses, but .* has {N - 1} particles"):
        with_pickled_poses(particles.subset(np.arange(N - 1)), pickles[0])


def test_rotations_alone(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    poses = dump(tmp_path / "rotations.pkl", Rotation.random(N, rng=0).as_matrix())
    write_star(tmp_path / "out.star", star_of_stack(write_stack(tmp_path / "p.mrcs", N), poses, pickles[1]))
    assert not read_particles(tmp_path / "out.star").shift_A.any()
