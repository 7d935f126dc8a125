"""Scores against a brute-force evaluation of the definition in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.imaging import so3_grid
from cryodrgn_ext.imaging.slices import FourierVolume, slice_torch
from cryodrgn_ext.pose.model import LinearModel
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.shift_grid import shift_grid
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
    batch = images.with_poses(torch.eye(3).expand(images.n, 3, 3), torch.zeros(images.n, 2)).batch(rows, count)
    times = torch.where((kxy == 0).all(1), 1.0, 2.0)
    points = torch.einsum("kc,gcd->gkd", kxy, rotation.double()[:, :2])
    slices = slice_torch(volume.data.to(torch.complex128), volume.grid, points)
    out = torch.empty(len(rows), len(rotation), len(shift_px), dtype=torch.float64)
    y, c = batch.coefficients.to(torch.complex128), batch.ctf.double()
    nothing = (times * y.abs().square()).sum(1)
    for t, shift in enumerate(shift_px.double()):
        model = slices * torch.exp(-2j * np.pi * (kxy @ shift) / images.box_size)
        for b in range(len(rows)):
            residual = (times * (y[b] - c[b] * model).abs().square()).sum(1)
            out[b, :, t] = -0.5 * (residual - nothing[b])
    return out


@pytest.fixture(scope="module")
def noisy() -> Phantom:
    return phantom(60, box_size=32, snr=0.1, seed=3)


def test_base_grid_agrees_with_brute_force(noisy: Phantom) -> None:
    rows = torch.arange(5, 55)
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    shifts = shift_grid(4.0, 3)
    wanted = brute_force(noisy.images, noisy.volume, rows, rotation, shifts, 8)
    scorer = Scorer(noisy.images, rows, radius=10)
    value, shift = scorer.best_shift(noisy.volume, rotation, shifts, radius=8)
    assert value.flatten().double().numpy() == pytest.approx(wanted.amax(2).flatten().numpy(), rel=1e-4, abs=1e-2)
    top = scorer.top(noisy.volume, rotation, shifts, keep=8, radius=8)
    best = wanted.flatten(1).argmax(1)
    assert torch.equal(top.rotation[:, 0] * len(shifts) + top.shift[:, 0], best)
    assert torch.equal(value.argmax(1), top.rotation[:, 0])
    assert torch.equal(shift.long().gather(1, top.rotation), top.shift)
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


def test_posterior_weights_are_those_of_all_candidates(noisy: Phantom) -> None:
    rows = torch.arange(6)
    rotation = torch.from_numpy(so3_grid.grid(0)).float()[::5]
    shifts = shift_grid(3.0, 2)
    wanted = brute_force(noisy.images, noisy.volume, rows, rotation, shifts, 6)
    soft = Scorer(noisy.images, rows, radius=6).soft(noisy.volume, rotation, shifts, keep=10)
    posterior = wanted.flatten(1).softmax(1).view_as(wanted)
    order = posterior.sum(2).argsort(dim=1, descending=True)[:, :10]
    assert torch.equal(soft.rotation, order)
    expected = posterior.gather(1, order[..., None].expand(-1, -1, len(shifts)))
    assert soft.weight.double().numpy() == pytest.approx(expected.numpy(), abs=2e-3)
    evidence = wanted.flatten(1).logsumexp(1) - np.log(wanted[0].numel())
    assert soft.evidence.double().numpy() == pytest.approx(evidence.numpy(), abs=1e-2)


def test_memory_does_not_change_results(noisy: Phantom) -> None:
    rotation = torch.from_numpy(so3_grid.grid(0)).float()
    shifts = shift_grid(4.0, 3)
    rows = torch.arange(20)
    results = []
    for memory in (1 << 30, 1 << 18):
        scorer = Scorer(noisy.images, rows, 10, memory_bytes=memory)
        top = scorer.top(noisy.volume, rotation, shifts, 4)
        own = scorer.own(noisy.volume, rotation[top.rotation], shifts[top.shift], shift_grid(1.0, 3))
        soft = scorer.soft(noisy.volume, rotation, shifts, 4)
        results.append((top, own, soft))
    (a, own_a, soft_a), (b, own_b, soft_b) = results
    assert torch.equal(a.rotation, b.rotation)
    assert torch.equal(a.shift, b.shift)
    assert torch.equal(soft_a.rotation, soft_b.rotation)
    for x, y in ((a.log_likelihood, b.log_likelihood), (own_a, own_b), (soft_a.evidence, soft_b.evidence)):
        assert x.flatten().numpy() == pytest.approx(y.flatten().numpy(), rel=1e-5, abs=1e-2)


def test_linear_model_is_each_images_own_volume(noisy: Phantom) -> None:
    other = FourierVolume.from_map(noisy.density.flip(0).roll(3, 1))
    z = torch.linspace(-1, 1, noisy.images.n)[:, None]
    model = LinearModel(noisy.volume, [other], z)
    rows = torch.tensor([2, 40, 11])
    rotation = torch.from_numpy(so3_grid.grid(0)).float()[::9]
    shifts = shift_grid(3.0, 3)
    scorer = Scorer(noisy.images, rows, 9)
    value, _ = scorer.best_shift(model, rotation, shifts)
    own = scorer.own(model, rotation.expand(3, -1, -1, -1), torch.zeros(3, len(rotation), 2), shifts)
    for b, row in enumerate(rows):
        mixed = FourierVolume(noisy.volume.grid, noisy.volume.data + z[row] * other.data)
        wanted = brute_force(noisy.images, mixed, row[None], rotation, shifts, 9)[0]
        assert value[b].double().numpy() == pytest.approx(wanted.amax(1).numpy(), rel=1e-4, abs=1e-2)
        assert own[b].double().numpy() == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-2)
