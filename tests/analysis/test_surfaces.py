from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.analysis.surfaces import density_surface, peaks
from cryodrgn_ext.errors import InputError


def two_states(n: int, seed: int = 0, share: float = 0.25) -> np.ndarray:
    rng = np.random.default_rng(seed)
    second = rng.random(n) < share
    return rng.normal(size=(n, 2)) * [1.0, 0.6] + np.where(second[:, None], [6.0, 1.0], [0.0, 0.0])


def test_density_is_a_kernel_density_that_counts_all_particles() -> None:
    v = two_states(2000)
    surface = density_surface(v)
    area = np.prod([axis[1] - axis[0] for axis in surface.axes])
    assert surface.density.sum() * area == pytest.approx(2000, rel=1e-3)
    grid = np.stack(np.meshgrid(*surface.axes, indexing="ij"), -1).reshape(-1, 2)
    exact = np.zeros(len(grid))
    for row in v:
        exact += np.exp(-0.5 * (((grid - row) / surface.bandwidth) ** 2).sum(axis=1))
    exact /= 2 * np.pi * np.prod(surface.bandwidth)
    np.testing.assert_allclose(surface.density.ravel(), exact, atol=0.03 * exact.max())


def test_free_energy_between_states_of_known_population() -> None:
    surface = density_surface(two_states(40_000))
    first, second = surface.maxima[:2]
    np.testing.assert_allclose(first.position, [0, 0], atol=0.3)
    np.testing.assert_allclose(second.position, [6, 1], atol=0.3)
    place = tuple(int(np.abs(a - p).argmin()) for a, p in zip(surface.axes, second.position, strict=True))
    assert surface.free_energy_kT[place] == pytest.approx(np.log(0.75 / 0.25), abs=0.15)
    assert first.is_stable
    assert second.is_stable
    assert first.depth_kT == np.inf
    assert 1 < second.depth_kT < 10
    assert np.isinf(surface.free_energy_kT[0, 0])
    assert np.isnan(surface.free_energy_sd_kT[0, 0])


def test_bootstrap_deviation_is_that_of_repeated_experiments() -> None:
    def experiment(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(3000, 1))

    once = density_surface(experiment(0), replicates=200)
    values = [
        np.interp(0.5, again.axes[0], again.density) for again in map(density_surface, map(experiment, range(1, 61)))
    ]
    assert np.interp(0.5, once.axes[0], once.density_sd) == pytest.approx(np.std(values), rel=0.35)


def test_a_single_state_has_one_stable_maximum() -> None:
    for seed in range(2):
        surface = density_surface(np.random.default_rng(seed).normal(size=(5000, 2)), seed=seed)
        deep = [m for m in surface.maxima if m.is_stable and m.depth_kT > 0.3]
        assert len(deep) == 1


def test_one_component() -> None:
    surface = density_surface(two_states(5000)[:, :1])
    assert surface.density.shape == (96,)
    assert [round(m.position[0]) for m in surface.maxima if m.is_stable] == [0, 6]


def test_peaks_by_hand() -> None:
    assert peaks(np.array([0.0, 4, 2, 8, 1, 1, 3])) == [
        ((3,), np.inf), ((1,), pytest.approx(np.log(2))), ((6,), pytest.approx(np.log(3))),
    ]  # fmt: skip
    grid = np.zeros((5, 6))
    grid[1, 1], grid[2, 2], grid[3, 3], grid[0, 5] = 5, 2, 4, 1
    assert peaks(grid) == [((1, 1), np.inf), ((3, 3), pytest.approx(np.log(2))), ((0, 5), np.inf)]
    assert peaks(np.full((3, 3), 2.0)) == [((0, 0), np.inf)]


@pytest.mark.parametrize(
    ("v", "says"),
    [
        (np.zeros((50, 3)), "one or two components"),
        (np.zeros((5, 2)), "at least 10 particles"),
        (np.zeros((50, 2)), "the same position"),
    ],
)
def test_what_has_no_density(v: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        density_surface(v)
