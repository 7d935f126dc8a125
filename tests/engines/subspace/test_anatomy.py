"""What the consensus says before components are known: regions, and deformations that are found in much noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.beginnings import leading_deformations
from cryodrgn_ext.engines.subspace.em import SubspaceFit
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.linear_set import BOX, LinearSet, bead_map, correlation, make_bent_set
from tests.engines.subspace.test_em import band_of
from tests.engines.subspace.test_halves import homogeneous


@pytest.fixture(scope="module")
def bent_set() -> LinearSet:
    return make_bent_set(500, 0.5)


def share_spanned(anatomy: Anatomy, change: np.ndarray, radius: int = 8) -> float:
    """Share of the power of a change of the map that deformations can make, in a band."""
    grid = ComponentGrid(BOX, radius)
    found = anatomy.deformations(grid)
    weight = grid.multiplicity.double()[:, None]
    wanted = grid.from_map(torch.from_numpy(change.astype(np.float32))).double()
    along = torch.einsum("vs,vsk->k", weight * wanted, found.modes[..., 1 : found.smooth + 1].double())
    return float(along.square().sum() / (weight * wanted.square()).sum())


def test_deformations_are_orthonormal(bent_set: LinearSet) -> None:
    grid = ComponentGrid(BOX, 8)
    found = Anatomy(bent_set.base_map).deformations(grid)
    assert 20 < found.smooth < 40
    assert found.rigid == 6
    assert not found.modes[..., 0].any()
    count = found.count
    columns = found.modes[..., 1 : count + 1].double()
    gram = torch.einsum("vsi,vsj->ij", grid.multiplicity.double()[:, None, None] * columns, columns)
    torch.testing.assert_close(gram, torch.eye(count).double(), atol=1e-4, rtol=0)


def test_a_bend_is_a_deformation(bent_set: LinearSet) -> None:
    assert share_spanned(Anatomy(bent_set.base_map), bent_set.mode_map) > 0.6


def turned(volume: np.ndarray) -> np.ndarray:
    matrix = Rotation.from_rotvec([0.02, -0.03, 0.02]).as_matrix()
    middle = np.full(3, BOX // 2)
    return np.asarray(ndimage.affine_transform(volume, matrix, middle - matrix @ middle, order=3))


@pytest.mark.parametrize("change", [
    lambda v: turned(v) - v, lambda v: ndimage.shift(v, (0.1, -0.2, 0.1)) - v, lambda v: 0.1 * v,
])  # fmt: skip
def test_what_errors_of_poses_and_scales_make_is_none(
    bent_set: LinearSet, change: Callable[[np.ndarray], np.ndarray]
) -> None:  # fmt: skip
    assert share_spanned(Anatomy(bent_set.base_map), change(bent_set.base_map)) < 0.05


def test_components_are_free_or_held_to_the_particle(bent_set: LinearSet) -> None:
    anatomy = Anatomy(bent_set.base_map)
    assert anatomy.masks(None, 8, held=False) is None
    masks = anatomy.masks(None, 11, held=True)
    assert masks is not None
    assert torch.equal(*masks)
    density = np.square(bent_set.base_map)
    assert (masks[0].numpy() * density).sum() > 0.99 * density.sum()
    assert masks[0].mean() < 0.3
    beyond = bead_map(torch.tensor([[13.0, 0.0, 0.0]]), torch.ones(1))
    assert (masks[0].numpy() * beyond).sum() < 0.1 * beyond.sum()


def test_given_masks_are_kept(bent_set: LinearSet) -> None:
    axis = torch.arange(BOX).float() - BOX // 2
    particle = torch.sigmoid(6 - axis.abs())[:, None, None].expand(BOX, BOX, BOX).contiguous()
    focus = torch.sigmoid(axis)[None, :, None].expand(BOX, BOX, BOX).contiguous()
    anatomy = Anatomy(bent_set.base_map, particle, focus)
    first = anatomy.masks(None, 8, held=False)
    assert first is not None
    assert torch.equal(first[1], focus)
    further = anatomy.masks(None, 11, held=True)
    assert further is not None
    assert torch.equal(further[0], particle)
    assert torch.equal(further[1], particle * focus)


def test_a_bend_leads(bent_set: LinearSet) -> None:
    band = band_of(bent_set, 10)
    values = torch.zeros(band.grid.n_voxels, 2, padded(4))
    values[..., 0] = 1e-3
    found = leading_deformations(band, torch.arange(500), Anatomy(bent_set.base_map), values, 3)
    assert torch.equal(found[..., 0], values[..., 0])
    assert not found[..., 3:].any()
    leading = band.grid.to_map(found[..., 1].contiguous()).numpy()
    truth = band.grid.to_map(band.grid.from_map(torch.from_numpy(bent_set.mode_map))).numpy()
    assert abs(correlation(leading, truth)) > 0.7


def test_where_nothing_is_found_components_begin_anew_at_each_band(
    linear_set: LinearSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryodrgn_ext.engines.subspace.em.FIRST_RADIUS", 4)
    data, seen = homogeneous(linear_set), []

    def make(radius: int):  # type: ignore[no-untyped-def]
        seen.append(radius)
        return band_of(data, radius)

    fit = SubspaceFit(data.images, make, 3, 15, 0.0, Anatomy(data.base_map), 0, SilentMonitor())
    assert fit.run().n_real == 0
    assert seen[:3] == [4, 6, 8]
    assert fit.deformed is None
    assert fit.fresh
