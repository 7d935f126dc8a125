"""Global alignment of poses: a coordinate transform leaves every projection as it is, and is found from the poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.simulate.projection import bead_volume, project_beads

BOX = 24
TRANSFORMS = [
    CoordinateTransform(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix(), np.array([1.5, -2.0, 0.8]), mirrored)
    for mirrored in (False, True)
]


def some_poses(n: int, seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    return Poses.of(Rotation.random(n, random_state=seed).as_matrix(), rng.uniform(-4, 4, (n, 2)))


def images(points: np.ndarray, poses: Poses) -> np.ndarray:
    """Exact projections (N, D, D) of beads."""
    rotation, shift_px = poses.numpy()
    places = points @ np.swapaxes(rotation[:, :2], 1, 2) + shift_px[:, None]
    weight = torch.linspace(0.5, 1.5, len(points)).expand(len(places), -1)
    spectra = project_beads(torch.from_numpy(places).float(), weight, 1.2, BOX)
    return torch.fft.irfft2(spectra, s=(BOX, BOX)).numpy()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["same hand", "mirrored"])
def test_images_of_the_transformed_model_at_the_transformed_poses_are_the_same(transform: CoordinateTransform) -> None:
    points = np.random.default_rng(3).normal(0, 3, (12, 3))
    poses = some_poses(7)
    before = images(points, poses)
    after = images(transform.points(points), transform.poses(poses))
    np.testing.assert_allclose(after, before, atol=2e-5 * before.max())
    unmoved = images(transform.points(points), poses)
    assert np.corrcoef(unmoved.ravel(), before.ravel())[0, 1] < 0.8


def test_mirrored_voxels_are_the_mirrored_model() -> None:
    """The other hand is z inverted about voxel D // 2: what a flip of the map's first axis does, rolled by one."""
    points = np.random.default_rng(3).normal(0, 3, (12, 3))
    weight = np.linspace(0.5, 1.5, 12)
    flipped = CoordinateTransform.identity(mirrored=True).points(points)
    volumes = [bead_volume(torch.from_numpy(p), torch.from_numpy(weight), 1.2, BOX).numpy() for p in (points, flipped)]
    np.testing.assert_allclose(np.roll(volumes[0][::-1], 1, axis=0), volumes[1], atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_transforms_compose_and_invert(mirrored: bool) -> None:
    poses = some_poses(5)
    first, second = TRANSFORMS[mirrored], TRANSFORMS[1]
    pairs = (
        (first.then(second).poses(poses), second.poses(first.poses(poses))),
        (first.inverse().poses(first.poses(poses)), poses),
    )
    for found, expected in pairs:
        torch.testing.assert_close(found.rotation, expected.rotation, atol=1e-12, rtol=0.0)
        torch.testing.assert_close(found.shift_px, expected.shift_px, atol=1e-12, rtol=0.0)
    points = np.eye(3)
    np.testing.assert_allclose(first.then(second).points(points), second.points(first.points(points)), atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["same hand", "mirrored"])
def test_alignment_finds_the_transform_among_lost_images(transform: CoordinateTransform) -> None:
    """Sixty of a hundred images are lost; the others are off by about a degree and a tenth of a pixel."""
    poses = some_poses(500)
    rotation, shift = poses.numpy()
    rng = np.random.default_rng(5)
    noisy = Rotation.from_rotvec(np.radians(0.7) * rng.normal(size=(500, 3))).as_matrix() @ rotation
    noisy_shift = shift + 0.1 * rng.normal(size=(500, 2))
    lost = rng.permutation(500)[:300]
    noisy[lost] = Rotation.random(300, random_state=9).as_matrix()
    noisy_shift[lost] = rng.uniform(-4, 4, (300, 2))
    found = align_poses(Poses.of(noisy, noisy_shift), transform.poses(poses))
    assert found.transform.mirrored is transform.mirrored
    angle = Rotation.from_matrix(found.transform.rotation @ transform.rotation.T).magnitude()
    assert np.degrees(angle) < 0.2
    assert np.linalg.norm(found.transform.shift_px - transform.shift_px) < 0.05
    kept = np.setdiff1d(np.arange(500), lost)
    assert 0.8 < np.median(found.errors.degrees[kept]) < 1.5
    assert np.median(found.errors.shift_px[kept]) < 0.2
    assert np.median(found.errors.degrees[lost]) > 60


def test_only_the_same_hand_when_asked() -> None:
    poses = some_poses(300)
    reference = TRANSFORMS[1].poses(poses)
    both, same = align_poses(poses, reference), align_poses(poses, reference, both_hands=False)
    assert np.median(both.errors.degrees) < 1e-5
    assert np.median(same.errors.degrees) > 30


def test_errors_are_those_of_the_definition() -> None:
    """Against the definition in 5.6.4, by hand: a rotation by θ has the squared Frobenius norm 4 (1 - cos θ)."""
    theta = np.radians([1e-4, 1.0, 90.0, 180.0])
    rotation = Rotation.from_rotvec(theta[:, None] * np.array([[0.6, 0.0, 0.8]])).as_matrix()
    poses = Poses.of(rotation, np.tile([3.0, 4.0], (4, 1)))
    errors = pose_errors(poses, Poses.unknown(4, torch.float64))
    np.testing.assert_allclose(errors.degrees, np.degrees(theta), rtol=1e-6)
    np.testing.assert_allclose(errors.frobenius_sq[1:], 4 * (1 - np.cos(theta[1:])), rtol=1e-9)
    np.testing.assert_allclose(errors.shift_sq_px2, 25)
    summary = errors.summary()
    assert summary["mean_rotation_deg"] == pytest.approx((1e-4 + 1 + 90 + 180) / 4)
    assert summary["median_rotation_deg"] == pytest.approx(45.5)
    assert summary["median_shift_px"] == 5


def test_other_images_are_refused() -> None:
    poses = some_poses(4)
    with pytest.raises(ValueError, match="poses of the same images"):
        align_poses(poses, poses[:3])
