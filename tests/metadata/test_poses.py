from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cryodrgn_ext.metadata.poses import (
    euler_from_rotation,
    pose_from_rotation,
    rotation_faults,
    rotation_from_euler,
    rotation_from_pose,
)

N = 100_000


def relion_matrix(euler_deg: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RELION's A(rot, tilt, psi), the nine elements written out as in Euler_angles2matrix."""
    alpha, beta, gamma = np.radians(euler_deg).T
    ca, cb, cg = np.cos(alpha), np.cos(beta), np.cos(gamma)
    sa, sb, sg = np.sin(alpha), np.sin(beta), np.sin(gamma)
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def random_euler() -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).uniform([-180, 0, -180], [180, 180, 180], (N, 3))


def test_rotation_is_relions_matrix() -> None:
    euler_deg = random_euler()
    np.testing.assert_allclose(rotation_from_euler(euler_deg), relion_matrix(euler_deg), atol=1e-14)


def test_angles_come_back() -> None:
    euler_deg = random_euler()
    euler_deg = euler_deg[(euler_deg[:, 1] > 0.1) & (euler_deg[:, 1] < 179.9)]
    np.testing.assert_allclose(euler_from_rotation(relion_matrix(euler_deg)), euler_deg, atol=1e-9)


@pytest.mark.parametrize(
    "tilt", [0.0, 180.0, -180.0, 1e-12, 1e-9, 1e-7, 1e-5, 180 - 1e-7, 180 - 1e-12, 90.0, -35.0, 215.0, 360.0]
)
def test_rotation_comes_back_at_every_tilt(tilt: float) -> None:
    euler_deg = random_euler()
    euler_deg[:, 1] = tilt
    rotation = relion_matrix(euler_deg)
    found = euler_from_rotation(rotation)
    assert found[:, 1].min() >= 0
    assert found[:, 1].max() <= 180
    assert np.abs(found[:, [0, 2]]).max() <= 180
    np.testing.assert_allclose(relion_matrix(found), rotation, atol=1e-9)


def test_angles_with_six_decimals_give_the_rotation_to_a_millionth() -> None:
    euler_deg = random_euler()
    euler_deg[::3, 1], euler_deg[1::3, 1] = 0.0, 180.0
    written = np.round(euler_from_rotation(relion_matrix(euler_deg)), 6)
    np.testing.assert_allclose(relion_matrix(written), relion_matrix(euler_deg), atol=1e-7)


def test_model_point_on_the_axis_lands_where_tilt_and_psi_put_it() -> None:
    # Tilting by 90 degrees puts the z axis of the model on -x of the image; psi turns the image clockwise.
    z_axis = rotation_from_euler(np.array([[0.0, 90.0, 0.0], [123.0, 90.0, 0.0], [0.0, 90.0, 90.0]])) @ [0, 0, 1]
    np.testing.assert_allclose(z_axis[:, :2], [[-1, 0], [-1, 0], [0, 1]], atol=1e-12)


def test_faulty_matrices_are_found() -> None:
    rotation = relion_matrix(random_euler()[:6])
    rotation[1] *= 1.01
    rotation[2, 0, 0] = np.nan
    rotation[4] *= -1  # a mirror
    np.testing.assert_array_equal(rotation_faults(rotation), [1, 2, 4])


def exponential(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp([v]x) by Rodrigues' formula, written out."""
    angle = np.linalg.norm(vector, axis=1)
    x, y, z = (vector / np.where(angle > 0, angle, 1.0)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.moveaxis(np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]), -1, 0)
    sine, versine = np.sin(angle)[:, None, None], (1 - np.cos(angle))[:, None, None]
    return np.asarray(np.eye(3) + sine * cross + versine * (cross @ cross))


def poses() -> npt.NDArray[np.float64]:
    """10^5 rotation vectors, some longer than pi as CryoSPARC's, and the degenerate ones."""
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(N, 3))
    vectors *= (rng.uniform(0, 1.2 * np.pi, N) / np.linalg.norm(vectors, axis=1))[:, None]
    vectors[:4] = 0
    vectors[4:1000] *= 1e-9
    vectors[1000:2000] *= (np.pi / np.linalg.norm(vectors[1000:2000], axis=1))[:, None]  # turns by pi
    vectors[2000:3000] = [0, 0, 1] * vectors[2000:3000]  # about z: tilt 0
    flip = rng.uniform(-np.pi, np.pi, 1000)
    vectors[3000:4000] = np.pi * np.stack([np.cos(flip), np.sin(flip), 0 * flip], axis=1)  # tilt 180
    return vectors


def test_cryosparc_pose_is_the_transposed_exponential() -> None:
    vectors = poses()
    np.testing.assert_allclose(rotation_from_pose(vectors), np.swapaxes(exponential(vectors), 1, 2), atol=1e-13)


def test_pose_to_angles_and_back_is_the_same_rotation() -> None:
    vectors = poses()
    expected = np.swapaxes(exponential(vectors), 1, 2)
    euler_deg = euler_from_rotation(rotation_from_pose(vectors))
    np.testing.assert_allclose(relion_matrix(euler_deg), expected, atol=1e-8)  # as RELION will see it
    assert np.abs(euler_deg[2000:3000, 1]).max() < 1e-6
    assert np.abs(euler_deg[3000:4000, 1] - 180).max() < 1e-5
    back = pose_from_rotation(rotation_from_euler(euler_deg))
    assert np.linalg.norm(back, axis=1).max() <= np.pi + 1e-12
    np.testing.assert_allclose(np.swapaxes(exponential(back), 1, 2), expected, atol=1e-8)


def test_angles_to_pose_as_the_formula_says() -> None:
    euler_deg = random_euler()
    euler_deg[:1000, 1] = 0
    euler_deg[1000:2000, 1] = 180
    pose = pose_from_rotation(rotation_from_euler(euler_deg))
    np.testing.assert_allclose(np.swapaxes(exponential(pose), 1, 2), relion_matrix(euler_deg), atol=1e-12)
