"""Scores against a brute-force evaluation of the definition in double precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume, slice_torch
from cryodrgn_ext.images.particle_images import GroupOptics, ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.groups import GroupScorer, ImageGroups
from cryodrgn_ext.pose.model import LinearModel, SameSlices, points_on
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.shift_grid import shift_grid
from tests.devices import on_devices
from tests.pose.phantoms import Phantom, phantom


def brute_force(
    images: ParticleImages, volume: FourierVolume, rows: Tensor, rotation: Tensor, shift_px: Tensor, radius: float
) -> Tensor:
    """(B, G, T) log p(image | pose) - log p(image | no particle), term by term, in float64.

    Pixels' noise is white and of unit variance per complex coefficient, so that with the full plane's sum of squares
    the log-likelihood is -1/2 of it; the half plane's coefficients count twice, that at the origin once.
    """
    count = images.plane.prefix(radius)
    kxy = images.plane.kxy[:count].double()
    batch = images.with_poses(Poses.unknown(images.n)).batch(rows, count)
    times = torch.where((kxy == 0).all(1), 1.0, 2.0)
    out = torch.empty(len(rows), len(rotation), len(shift_px), dtype=torch.float64)
    y, c = batch.coefficients.to(torch.complex128), batch.ctf.double()
    nothing = (times * y.abs().square()).sum(1)
    for b in range(len(rows)):  # with R = 1, an image's points lie in the plane of kx and ky
        points = torch.einsum("kc,gcd->gkd", batch.points[b, :, :2].double(), rotation.double()[:, :2])
        slices = slice_torch(volume.data.to(torch.complex128), volume.grid, points)
        for t, shift in enumerate(shift_px.double()):
            model = slices * torch.exp(-2j * np.pi * (kxy @ shift) / images.box_size)
            residual = (times * (y[b] - c[b] * model).abs().square()).sum(1)
            out[b, :, t] = -0.5 * (residual - nothing[b])
    return out


@pytest.fixture(scope="module")
def noisy() -> Phantom:
    return phantom(60, box_size=32, snr=0.1, seed=3)


@on_devices
def test_base_grid_agrees_with_brute_force(noisy: Phantom, device: str) -> None:
    rows = torch.arange(5, 55)
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    shifts = shift_grid(4.0, 3)
    wanted = brute_force(noisy.images, noisy.volume, rows, rotation, shifts, 8)
    scorer = Scorer(noisy.images, rows, radius=10, device=device)
    there = FourierVolume.from_map(noisy.density.to(device)), rotation.to(device), shifts.to(device)
    value, shift = (found.cpu() for found in scorer.best_shift(*there, radius=8))
    assert value.flatten().double().numpy() == pytest.approx(wanted.amax(2).flatten().numpy(), rel=1e-4, abs=1e-2)
    top = scorer.top(*there, keep=8, radius=8)
    best, chosen, chosen_shift = wanted.flatten(1).argmax(1), top.rotation.cpu(), top.shift.cpu()
    assert torch.equal(chosen[:, 0] * len(shifts) + chosen_shift[:, 0], best)
    assert torch.equal(value.argmax(1), chosen[:, 0])
    assert torch.equal(shift.long().gather(1, chosen), chosen_shift)
    assert (top.log_likelihood.diff(dim=1) <= 0).all()


def test_own_candidates_agree_with_brute_force(noisy: Phantom) -> None:
    rng = np.random.default_rng(0)
    rows = torch.tensor([7, 3, 3, 59])
    rotation = torch.from_numpy(Rotation.random(4 * 5, random_state=1).as_matrix()).float().view(4, 5, 3, 3)
    centre = torch.from_numpy(rng.uniform(-3, 3, (4, 5, 2))).float()
    offsets = shift_grid(1.0, 3)
    found = Scorer(noisy.images, rows).own(noisy.volume, rotation, centre, offsets, radius=13)
    for b in range(4):
        for k in range(5):
            wanted = brute_force(
                noisy.images, noisy.volume, rows[b : b + 1], rotation[b, k : k + 1], centre[b, k] + offsets, 13
            )
            assert found[b, k].double().numpy() == pytest.approx(wanted[0, 0].numpy(), rel=1e-4, abs=1e-2)


def test_memory_does_not_change_results(noisy: Phantom) -> None:
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    shifts = shift_grid(4.0, 3)
    rows = torch.arange(20)
    results = []
    for memory in (1 << 30, 1 << 18):
        scorer = Scorer(noisy.images, rows, 10, memory_bytes=memory)
        top = scorer.top(noisy.volume, rotation, shifts, 4)
        own = scorer.own(noisy.volume, rotation[top.rotation], shifts[top.shift], shift_grid(1.0, 3))
        results.append((top, own))
    (a, own_a), (b, own_b) = results
    assert torch.equal(a.rotation, b.rotation)
    assert torch.equal(a.shift, b.shift)
    for x, y in ((a.log_likelihood, b.log_likelihood), (own_a, own_b)):
        assert x.flatten().numpy() == pytest.approx(y.flatten().numpy(), rel=1e-5, abs=1e-2)


@pytest.mark.parametrize("whole", [True, False])
def test_linear_model_is_each_images_own_volume(noisy: Phantom, whole: bool) -> None:
    other = FourierVolume.from_map(noisy.density.flip(0).roll(3, 1))
    z = torch.linspace(-1, 1, noisy.images.n)[:, None]
    model = LinearModel(noisy.volume, [other], z)
    rows = torch.tensor([2, 40, 11])
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    rotation = rotation if whole else rotation[::9]
    shifts = shift_grid(3.0, 3)
    scorer = Scorer(noisy.images, rows, 9)
    value, _ = scorer.best_shift(model, rotation, shifts)
    own = scorer.own(model, rotation.expand(3, -1, -1, -1), torch.zeros(3, len(rotation), 2), shifts)
    for b, row in enumerate(rows):
        mixed = FourierVolume(noisy.volume.grid, noisy.volume.data + z[row] * other.data)
        wanted = brute_force(noisy.images, mixed, row[None], rotation, shifts, 9)[0]
        assert value[b].double().numpy() == pytest.approx(wanted.amax(1).numpy(), rel=1e-4, abs=1e-2)
        assert own[b].double().numpy() == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-2)


@dataclass(frozen=True)
class Foreign:
    """A model of which nothing is known but its slices; the plain forms are used."""

    volume: FourierVolume
    per_image: bool = False

    def shared(self, planes: Tensor, kxy: Tensor) -> SameSlices:
        return SameSlices(self.volume.slice(points_on(planes, kxy)))

    def own(self, rows: Tensor, planes: Tensor, kxy: Tensor) -> Tensor:
        return self.volume.slice(points_on(planes, kxy))


@pytest.mark.parametrize("radius", [4, 9.5, 15])
def test_compiled_kernel_agrees_with_plain_form(noisy: Phantom, radius: float) -> None:
    rng = np.random.default_rng(1)
    rotation = torch.from_numpy(Rotation.random(60 * 16, random_state=3).as_matrix()).float().view(60, 16, 3, 3)
    rotation[:, 0] = torch.eye(3)  # points on the edges of voxels and of the half-volume
    rotation[:, 1] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    centre = torch.from_numpy(rng.uniform(-5, 5, (60, 2, 2))).float().repeat_interleave(8, dim=1)
    scorer = Scorer(noisy.images)
    found = scorer.own(noisy.volume, rotation, centre, shift_grid(2.0, 3), radius)
    plain = scorer.own(Foreign(noisy.volume), rotation, centre, shift_grid(2.0, 3), radius)
    assert found.flatten().numpy() == pytest.approx(plain.flatten().numpy(), rel=1e-5, abs=5e-3)


def test_volume_of_a_lower_band_has_nothing_beyond_it(noisy: Phantom) -> None:
    low = FourierVolume.from_map(noisy.density, radius=6)
    rotation = noisy.rotation[:, None]
    scorer = Scorer(noisy.images)
    for model in (low, Foreign(low)):
        inside, whole = (scorer.own(model, rotation, noisy.shift_px[:, None], None, r) for r in (6, 15))
        assert whole.flatten().numpy() == pytest.approx(inside.flatten().numpy(), rel=1e-4, abs=1e-2)


def two_groups(images: ParticleImages) -> ParticleImages:
    """Every third image with another magnification."""
    matrix = torch.tensor([[1.06, 0.02], [0.02, 0.97]])
    geometry = replace(images.geometry, groups=images.geometry.groups * 2)
    return replace(
        images, geometry=geometry, optics=(GroupOptics(), GroupOptics(mag_matrix=matrix)),
        optics_index=(torch.arange(images.n) % 3 == 0).long(), noise_sigma=images.noise_sigma.repeat(2, 1),
        window_power=images.window_power.repeat(2),
    )  # fmt: skip


@pytest.mark.parametrize("whole", [True, False])
def test_optics_groups_have_their_own_frequency_matrices(noisy: Phantom, whole: bool) -> None:
    images, rows = two_groups(noisy.images), torch.arange(10, 17)
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    rotation = rotation if whole else rotation[::9]
    shifts = shift_grid(3.0, 3)
    wanted = brute_force(images, noisy.volume, rows, rotation, shifts, 9)
    scorer = Scorer(images, rows, 9)
    value, shift = scorer.best_shift(noisy.volume, rotation, shifts)
    assert value.flatten().double().numpy() == pytest.approx(wanted.amax(2).flatten().numpy(), rel=1e-4, abs=1e-2)
    assert torch.equal(shift.long(), wanted.argmax(2))
    own = scorer.own(noisy.volume, rotation.expand(7, -1, -1, -1), torch.zeros(7, len(rotation), 2), shifts)
    assert own.flatten().double().numpy() == pytest.approx(wanted.flatten().numpy(), rel=1e-4, abs=1e-2)


def test_group_scores_as_the_sum_of_its_images(noisy: Phantom) -> None:
    """A tilt pair: one rotation, known relative rotation, shifts of their own."""
    tilt = torch.from_numpy(Rotation.from_euler("x", 45, degrees=True).as_matrix()).float()
    groups = ImageGroups(torch.tensor([[0, 1], [8, 4], [30, 31]]), torch.stack([torch.eye(3), tilt]))
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    shifts = shift_grid(3.0, 3)
    scorer = GroupScorer([Scorer(noisy.images, groups.rows[:, s], 8) for s in range(2)], groups)
    first = brute_force(noisy.images, noisy.volume, groups.rows[:, 0], rotation, shifts, 8)
    second = brute_force(noisy.images, noisy.volume, groups.rows[:, 1], tilt @ rotation, shifts, 8)
    total = first.amax(2) + second.amax(2)
    top = scorer.top(noisy.volume, rotation, shifts, 5, None)
    assert torch.equal(top.rotation, total.topk(5, dim=1).indices)
    assert top.log_likelihood.double().numpy() == pytest.approx(total.topk(5, dim=1).values.numpy(), rel=1e-4, abs=1e-2)
    for p in range(3):
        for k, r in enumerate(top.rotation[p]):
            assert top.shift[p, k].tolist() == [first[p, r].argmax(), second[p, r].argmax()]
    start = torch.zeros(3, 5, 2, 2)
    value, offset = scorer.own(noisy.volume, rotation[top.rotation], start, shifts, None)
    assert value.numpy() == pytest.approx(top.log_likelihood.numpy(), rel=1e-4, abs=1e-2)
    assert torch.equal(offset, top.shift)
