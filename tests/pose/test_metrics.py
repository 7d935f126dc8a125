"""Global alignment of poses: the frame change leaves every projection as it is, and is found again from the poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.pose.metrics import CoordinateTransform, align_poses, pose_errors
from cryodrgn_ext.simulate.projection import bead_volume, project_beads

BOX = 24
CHANGES = [
    CoordinateTransform(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix(), np.array([1.5, -2.0, 0.8]), mirrored)
    for mirrored in (False, True)
]


def some_poses(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return Rotation.random(n, random_state=seed).as_matrix(), rng.uniform(-4, 4, (n, 2))


def images(points: np.ndarray, rotation: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Exact projections (N, D, D) of beads."""
    places = points @ np.swapaxes(rotation[:, :2], 1, 2) + shift_px[:, None]
    weight = torch.linspace(0.5, 1.5, len(points)).expand(len(places), -1)
    spectra = project_beads(torch.from_numpy(places).float(), weight, 1.2, BOX)
    return torch.fft.irfft2(spectra, s=(BOX, BOX)).numpy()


@pytest.mark.parametrize("change", CHANGES, ids=["same hand", "mirrored"])
def test_images_of_the_changed_model_at_the_changed_poses_are_the_same(change: CoordinateTransform) -> None:
    points = np.random.default_rng(3).normal(0, 3, (12, 3))
    rotation, shift = some_poses(7)
    before = images(points, rotation, shift)
    after = images(change.points(points), *change.poses(rotation, shift))
    np.testing.assert_allclose(after, before, atol=2e-5 * before.max())
    unmoved = images(change.points(points), rotation, shift)
    assert np.corrcoef(unmoved.ravel(), before.ravel())[0, 1] < 0.8


def test_mirrored_voxels_are_the_mirrored_model() -> None:
    """The other hand is z inverted about voxel D // 2: what a flip of the map's first axis does, rolled by one."""
    points = np.random.default_rng(3).normal(0, 3, (12, 3))
    weight = np.linspace(0.5, 1.5, 12)
    flipped = CoordinateTransform.identity(mirrored=True).points(points)
    volumes = [bead_volume(torch.from_numpy(p), torch.from_numpy(weight), 1.2, BOX).numpy() for p in (points, flipped)]
    np.testing.assert_allclose(np.roll(volumes[0][::-1], 1, axis=0), volumes[1], atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_changes_compose_and_invert(mirrored: bool) -> None:
    rotation, shift = some_poses(5)
    first, second = CHANGES[mirrored], CHANGES[1]
    for found, expected in zip(
        first.then(second).poses(rotation, shift), second.poses(*first.poses(rotation, shift)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    for found, expected in zip(first.inverse().poses(*first.poses(rotation, shift)), (rotation, shift), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    points = np.eye(3)
    np.testing.assert_allclose(first.then(second).points(points), second.points(first.points(points)), atol=1e-12)


@pytest.mark.parametrize("change", CHANGES, ids=["same hand", "mirrored"])
def test_alignment_finds_the_change_among_lost_images(change: CoordinateTransform) -> None:
    """Sixty of a hundred images are lost; the others are off by about a degree and a tenth of a pixel."""
    rotation, shift = some_poses(500)
    rng = np.random.default_rng(5)
    noisy = Rotation.from_rotvec(np.radians(0.7) * rng.normal(size=(500, 3))).as_matrix() @ rotation
    noisy_shift = shift + 0.1 * rng.normal(size=(500, 2))
    lost = rng.permutation(500)[:300]
    noisy[lost] = Rotation.random(300, random_state=9).as_matrix()
    noisy_shift[lost] = rng.uniform(-4, 4, (300, 2))
    found = align_poses(noisy, noisy_shift, *change.poses(rotation, shift))
    assert found.change.mirrored is change.mirrored
    angle = Rotation.from_matrix(found.change.rotation @ change.rotation.T).magnitude()
    assert np.degrees(angle) < 0.2
    assert np.linalg.norm(found.change.shift_px - change.shift_px) < 0.05
    kept = np.setdiff1d(np.arange(500), lost)
    assert 0.8 < np.median(found.errors.degrees[kept]) < 1.5
    assert np.median(found.errors.shift_px[kept]) < 0.2
    assert np.median(found.errors.degrees[lost]) > 60


def test_only_the_same_hand_when_asked() -> None:
    rotation, shift = some_poses(300)
    reference = CHANGES[1].poses(rotation, shift)
    both, same = align_poses(rotation, shift, *reference), align_poses(rotation, shift, *reference, both_hands=False)
    assert np.median(both.errors.degrees) < 1e-5
    assert both.median_deg_other_hand is not None
    assert both.median_deg_other_hand > 30
    assert np.median(same.errors.degrees) > 30
    assert same.median_deg_other_hand is None


def test_errors_are_those_of_the_definition() -> None:
    """Against the definition in 5.6.4, by hand: a turn by θ has the squared Frobenius norm 4 (1 - cos θ)."""
    theta = np.radians([1e-4, 1.0, 90.0, 180.0])
    turned = Rotation.from_rotvec(theta[:, None] * np.array([[0.6, 0.0, 0.8]])).as_matrix()
    errors = pose_errors(turned, np.tile([3.0, 4.0], (4, 1)), np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 2)))
    np.testing.assert_allclose(errors.degrees, np.degrees(theta), rtol=1e-6)
    np.testing.assert_allclose(errors.frobenius_sq[1:], 4 * (1 - np.cos(theta[1:])), rtol=1e-9)
    np.testing.assert_allclose(errors.shift_sq_px2, 25)
    summary = errors.summary()
    assert summary["mean_rotation_deg"] == pytest.approx((1e-4 + 1 + 90 + 180) / 4)
    assert summary["median_rotation_deg"] == pytest.approx(45.5)
    assert summary["median_shift_px"] == 5


def test_wrong_shapes_are_refused() -> None:
    rotation, shift = some_poses(4)
    with pytest.raises(ValueError, match="reference_rotation must have the shape"):
        align_poses(rotation, shift, rotation[:3], shift)
