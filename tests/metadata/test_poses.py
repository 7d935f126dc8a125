from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cryodrgn_ext.metadata.poses import euler_from_rotation, rotation_faults, rotation_from_euler

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
