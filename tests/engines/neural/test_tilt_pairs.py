"""Axis and sign of the tilt, by RELION's projections and by a sum over beads in float64.

The witness knows nothing of our tilt: every bead is carried along as the stage carries it, with sines and cosines of
its coordinates, and RELION projects the result straight down, where no Euler angle has a say. The same images must
come from the specimen that was not moved, in the poses that pairs return.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.neural.tilt_pairs import hand_by_tilts, join_pairs, tilt_rotation
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.search import SearchSettings, search
from tests.fourier.specimens import Blobs, blobs
from tests.patience import HANGS_S
from tests.pose.phantoms import angles_deg

BOX, COUNT = 64, 3
TILT_DEG, AXIS_DEG = 45.0, 30.0
STRAIGHT = np.zeros((1, 3))
OPTICS = (
    "OpticsGroupName", "OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize",
    "ImageSize", "ImageDimensionality",
)  # fmt: skip
COLUMNS = ("ImageName", "OpticsGroup", "AngleRot", "AngleTilt", "AnglePsi")


def tilted_by_hand(points: NDArray[np.float64], tilt_deg: float, axis_deg: float) -> NDArray[np.float64]:
    """Points (K, 3) after the stage has turned about an axis in the plane of the image, right-handed."""
    x, y, z = points.T
    axis, tilt = np.deg2rad(axis_deg), np.deg2rad(tilt_deg)
    along = x * np.cos(axis) + y * np.sin(axis)  # stays
    across = -x * np.sin(axis) + y * np.cos(axis)  # turns towards z
    across, z = across * np.cos(tilt) - z * np.sin(tilt), across * np.sin(tilt) + z * np.cos(tilt)
    x, y = along * np.cos(axis) - across * np.sin(axis), along * np.sin(axis) + across * np.cos(axis)
    return np.stack([x, y, z], axis=1)


def projected(directory: Path, name: str, specimen: Blobs, euler_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """RELION's noiseless projections (n, D, D) of a specimen."""
    with mrcfile.new(directory / f"{name}.mrc", overwrite=True) as handle:
        handle.set_data(specimen.density(BOX).numpy().astype(np.float32))
        handle.voxel_size = 2.0
    optics = "data_optics\n\nloop_\n" + "".join(f"_rln{label}\n" for label in OPTICS) + "g 1 300 2.7 0.1 2.0 64 2\n\n"
    rows = [f"{i + 1:06d}@none.mrcs 1 {rot:.6f} {tilt:.6f} {psi:.6f}" for i, (rot, tilt, psi) in enumerate(euler_deg)]
    table = "data_particles\n\nloop_\n" + "".join(f"_rln{label}\n" for label in COLUMNS) + "\n".join(rows)
    (directory / f"{name}.star").write_text(f"\n# version 30001\n\n{optics}\n# version 30001\n\n{table}\n\n")
    command = f"relion_project --i {name}.mrc --ang {name}.star --o {name} --angpix 2"
    done = subprocess.run(command.split(), cwd=directory, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    return mrcfile.read(directory / f"{name}.mrcs").astype(np.float64).reshape(-1, BOX, BOX)


def euler_of(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """RELION's angles (n, 3) of rotations (n, 3, 3)."""
    return Rotation.from_matrix(rotation.transpose(0, 2, 1)).as_euler("ZYZ", degrees=True)


def differing(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - correlation of each image."""
    a, b = (images.reshape(len(images), -1) - images.mean((1, 2))[:, None] for images in (a, b))
    return 1 - (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.relion
def test_relion_projects_a_tilted_specimen_as_ours_is_posed(tmp_path: Path) -> None:
    specimen = blobs(11, count=30, spread_px=7.0)
    rotation = Rotation.random(COUNT, random_state=4).as_matrix()
    physical = []
    for number, one in enumerate(rotation):
        centres = tilted_by_hand(specimen.centres @ one.T, TILT_DEG, AXIS_DEG)
        physical.append(projected(tmp_path, f"moved{number}", replace(specimen, centres=centres), STRAIGHT)[0])
    turn = tilt_rotation(TILT_DEG, AXIS_DEG).numpy().astype(np.float64)
    posed = projected(tmp_path, "posed", specimen, euler_of(turn @ rotation))
    assert differing(posed, np.stack(physical)).max() < 1e-3
    wrong = {
        "sign": tilt_rotation(-TILT_DEG, AXIS_DEG), "axis": tilt_rotation(TILT_DEG, -AXIS_DEG),
        "axis across": tilt_rotation(TILT_DEG, AXIS_DEG + 90.0),
    }  # fmt: skip
    for other in wrong.values():
        images = projected(tmp_path, "other", specimen, euler_of(other.numpy().astype(np.float64) @ rotation))
        assert differing(images, np.stack(physical)).min() > 1e-2
    before_rotation = projected(tmp_path, "before", specimen, euler_of(rotation @ turn))
    assert differing(before_rotation, np.stack(physical)).min() > 1e-2


@dataclass(frozen=True)
class ByHand:
    """Pairs whose images are sums over beads that were moved one by one."""

    first: ParticleImages
    second: ParticleImages
    density: torch.Tensor
    rotation: torch.Tensor


@pytest.fixture(scope="module")
def by_hand() -> ByHand:
    n, box, width, noise = 60, 32, 1.6, 1.0
    rng = np.random.default_rng(8)
    specimen = Blobs(rng.normal(0, 4.0, (25, 3)).clip(-9, 9), np.full(25, width), rng.uniform(0.5, 1.5, 25))
    rotation = Rotation.random(n, random_state=3).as_matrix()
    grid = np.arange(box) - box // 2

    def pictures(places: NDArray[np.float64]) -> ParticleImages:
        gx, gy = (np.exp(-((grid - places[..., axis, None]) ** 2) / (2 * width**2)) for axis in (0, 1))
        clean = np.einsum("k,nky,nkx->nyx", specimen.weights, gy, gx) * width * np.sqrt(2 * np.pi)
        noisy = torch.from_numpy(clean + rng.normal(0, noise, clean.shape)).float()
        eye = torch.eye(3).expand(n, 3, 3)
        return ParticleImages.from_tensors(noisy, eye, torch.zeros(n, 2), 4.0, None, pixel_noise_sd=noise)

    first = np.stack([specimen.centres @ one.T for one in rotation])
    second = np.stack([tilted_by_hand(points, TILT_DEG, AXIS_DEG) for points in first])
    density = specimen.density(box).float()
    return ByHand(pictures(first), pictures(second), density, torch.from_numpy(rotation).float())


def test_hand_follows_the_tilt_of_the_stage(by_hand: ByHand) -> None:
    turn = tilt_rotation(TILT_DEG, AXIS_DEG)
    right, wrong = hand_by_tilts(by_hand.first, by_hand.second, turn, by_hand.density, 0.0, 0)
    assert right > wrong + 10.0
    back = tilt_rotation(-TILT_DEG, AXIS_DEG)
    as_is, mirrored = hand_by_tilts(by_hand.first, by_hand.second, back, by_hand.density, 0.0, 0)
    assert mirrored > as_is + 10.0  # the other sign tells the other hand, as well as the right one does
    assert mirrored == pytest.approx(right, rel=0.02)


def test_second_image_makes_poses_better(by_hand: ByHand) -> None:
    """Both images together: less error, and fewer particles far off."""
    n = by_hand.first.n
    turn = tilt_rotation(TILT_DEG, AXIS_DEG)
    settings = SearchSettings(refinements=4, k_min=8.0, k_max=14.0, shift_extent_px=0.0)
    volume = FourierVolume.from_map(by_hand.density)
    alone = search(by_hand.first, volume, settings).best.rotation
    rows = torch.stack([torch.arange(n), torch.arange(n) + n], 1)
    groups = ImageGroups(rows, torch.stack([torch.eye(3), turn]))
    together = search(join_pairs(by_hand.first, by_hand.second), volume, settings, groups=groups).best.rotation
    errors = [angles_deg(found, by_hand.rotation) for found in (alone, together[::2])]
    assert errors[1].mean() < 0.8 * errors[0].mean()
    assert (errors[1] < 5.0).float().mean() > 0.97
    torch.testing.assert_close(together[1::2], turn @ together[::2])
