from __future__ import annotations

import numpy as np
import torch

from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.validation.differences import MAX_RADIUS, MIN_RADIUS, ConsensusComparison, comparison_radius
from cryodrgn_ext.validation.states import consensus_mask

from .conftest import Case


def halves_of(case: Case, members: np.ndarray, radius: int) -> tuple[BackprojectionSums, BackprojectionSums]:
    half_set = case.particles.half_set
    rows = [torch.from_numpy(np.flatnonzero(members & (half_set == half))) for half in (1, 2)]
    grid = FourierGrid(case.images.box_size, radius)
    first, second = (backproject(case.images, part, grid=grid) for part in rows)
    return first, second


def test_radius_follows_the_consensus_within_bounds() -> None:
    curve = np.where(np.arange(65) <= 20, 0.9, 0.1)
    assert comparison_radius(curve, 60) == 20
    assert comparison_radius(curve, 10) == 10
    assert comparison_radius(np.zeros(65), 60) == MIN_RADIUS
    assert comparison_radius(np.ones(65), 60) == MAX_RADIUS


def test_all_particles_do_not_differ_from_themselves(rigid: Case) -> None:
    everything = halves_of(rigid, np.ones(rigid.particles.n, bool), 10)
    comparison = ConsensusComparison(*everything, consensus_mask(rigid.consensus))
    assert float(comparison.difference(everything[0], 1).abs().max()) < 1e-5 * float(
        comparison.consensus_map(1).abs().max()
    )


def test_difference_map_is_the_true_difference(hinge: Case) -> None:
    particles = hinge.particles
    everything = halves_of(hinge, np.ones(particles.n, bool), 12)
    comparison = ConsensusComparison(*everything, consensus_mask(hinge.consensus))
    members = particles.state >= 14
    found = halves_of(hinge, members, 15)  # beyond the radius of the comparison: cut to it
    truth = particles.volumes()
    true_difference = truth[particles.state[members]].mean(0) - truth[particles.state].mean(0)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(true_difference)))[3:29, 3:29, 3:29]
    k = np.arange(-13, 13)
    spectrum[np.add.outer(np.add.outer(k**2, k**2), k**2) > 12**2] = 0
    low = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum))).real
    mask = comparison.mask.numpy()
    for half in (1, 2):
        difference = comparison.difference(found[half - 1], half).numpy()
        assert np.corrcoef((difference * mask).ravel(), (low * mask).ravel())[0, 1] > 0.8


def test_a_rare_set_filtered_as_a_larger_one_keeps_finer_detail(hinge: Case) -> None:
    members = hinge.particles.state >= 14
    everything = halves_of(hinge, np.ones(hinge.particles.n, bool), 12)
    comparison = ConsensusComparison(*everything, consensus_mask(hinge.consensus))
    few, _ = halves_of(hinge, members & (np.cumsum(members) <= 40), 12)
    shares = []
    for as_if in (1.0, 10.0):
        power = torch.fft.fftn(comparison.difference(few, 1, as_if).double()).abs().square()
        axis = torch.fft.fftfreq(len(power)).square()
        fine = axis[:, None, None] + axis[:, None] + axis > 0.2**2
        shares.append(float(power[fine].sum() / power.sum()))
    assert shares[1] > 1.3 * shares[0]


def test_random_subsets_have_uncorrelated_differences(rigid: Case) -> None:
    everything = halves_of(rigid, np.ones(rigid.particles.n, bool), 12)
    comparison = ConsensusComparison(*everything, consensus_mask(rigid.consensus))
    rng = np.random.default_rng(5)
    found = []
    for _ in range(10):
        subset = halves_of(rigid, rng.uniform(size=rigid.particles.n) < 0.3, 12)
        found.append(comparison.correlation(*(comparison.difference(s, h) for h, s in enumerate(subset, 1))))
    assert abs(np.mean(found)) < 3 * np.std(found, ddof=1) / np.sqrt(10) + 0.05
    assert np.std(found) < 0.3
