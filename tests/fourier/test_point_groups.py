"""Point groups: RELION's own matrices, the group's axioms, and copies on the grid."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import C1, point_group, sum_over_lattice
from cryodrgn_ext.fourier.slices import FourierGrid, friedel_sum, map_to_grid

NAMES = ["C1", "C2", "C3", "C7", "D2", "D3", "D5", "T", "O", "I", "I1", "I2", "I3", "I4"]
ORDERS = {"T": 12, "O": 24, "I": 60, "C": 1, "D": 2}


def same_matrices(one: np.ndarray, two: np.ndarray, tolerance: float) -> bool:
    """Whether two sets of matrices are equal, in any order."""
    apart = np.abs(one[:, None] - two[None]).max(axis=(2, 3))
    return len(one) == len(two) and bool((apart.min(1) < tolerance).all() and (apart.min(0) < tolerance).all())


@pytest.mark.relion
@pytest.mark.parametrize("name", NAMES)
def test_rotations_are_those_of_relion(name: str) -> None:
    words = ["relion_refine", "--print_symmetry_ops", "--sym", name]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in printed.splitlines() if re.fullmatch(r"(\s*-?[\d.e+-]+){3}\s*", line)]
    theirs = np.array(rows, np.float64).reshape(-1, 3, 3)
    assert same_matrices(point_group(name).rotations, theirs, 1e-4)  # RELION prints five digits


@pytest.mark.parametrize("name", NAMES)
def test_rotations_are_a_group(name: str) -> None:
    found = point_group(name).rotations
    number = int(name[1:]) if name[0] in "CD" else 1
    assert len(found) == ORDERS[name[0]] * number
    assert np.array_equal(found[0], np.eye(3))
    assert np.allclose(found @ found.swapaxes(1, 2), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(found), 1, atol=1e-12)
    for rotation in found[:: max(1, len(found) // 7)]:
        assert same_matrices(rotation @ found, found, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_copies_on_the_grid_and_representatives_make_the_group(name: str) -> None:
    group = point_group(name)
    lattice, others = group.lattice(), group.representatives()
    assert np.array_equal(others[0], np.eye(3))
    assert len(lattice) * len(others) == group.order
    products = (lattice[:, None] @ others[None]).reshape(-1, 3, 3)
    assert same_matrices(products, group.rotations, 1e-9)


@pytest.mark.parametrize("name", ["C2", "C4", "D2", "O", "I"])
def test_copies_on_the_grid_are_those_of_the_turned_map(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    grid = FourierGrid(12, 5, 1)
    volume = torch.zeros(12, 12, 12)
    volume[1:, 1:, 1:] = torch.randn(11, 11, 11, generator=g)  # voxel 6 is the middle of what is not 0
    core, total = volume[1:, 1:, 1:], torch.zeros(12, 12, 12)
    where = torch.stack(torch.meshgrid(*[torch.arange(-5, 6)] * 3, indexing="ij"), -1).flip(-1)  # x, y, z
    for rotation in point_group(name).lattice():
        x, y, z = (where @ torch.from_numpy(rotation).T + 5).unbind(-1)
        total[1:, 1:, 1:] += core[z, y, x]
    found = sum_over_lattice(map_to_grid(volume, grid), point_group(name).lattice())
    assert torch.allclose(found, map_to_grid(total, grid), atol=1e-3)


def test_real_sums_keep_their_total() -> None:
    weight = friedel_sum(torch.rand(9, 9, 5, generator=torch.Generator().manual_seed(1)))
    found = sum_over_lattice(weight, point_group("O").lattice())
    whole = torch.cat([weight[..., 1:], weight], -1).sum() - weight[..., :1].sum() + weight[..., 0].sum()
    again = torch.cat([found[..., 1:], found], -1).sum()
    assert float(again / whole) == pytest.approx(24.0, rel=1e-5)


def test_without_symmetry_nothing_is_copied() -> None:
    weight = torch.rand(9, 9, 5)
    assert sum_over_lattice(weight, C1.lattice()) is weight


def test_names_are_read_in_either_case() -> None:
    assert point_group("d3").name == "D3"
    assert np.array_equal(point_group(" i ").rotations, point_group("I2").rotations)


@pytest.mark.parametrize("name", ["", "C", "C0", "C100", "X3", "I5", "O2", "CI", "TH", "C3V", "I 2"])
def test_other_names_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=r"symmetry .*is not the name of a point group") as caught:
        point_group(name)
    assert "\n" not in str(caught.value)
