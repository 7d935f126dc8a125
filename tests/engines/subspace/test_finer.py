"""More functions of the latents: taken where images of an arm that turns fully tell of them, and not otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.subspace import engine, finer
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.curved import CurvedFit
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.finer import FinerFeatures, _carried, equation_bytes
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.fourier.slices import FourierVolume
from tests.engines.contexts import context
from tests.engines.linear_set import LinearSet, StateSet, correlation, make_composed_set, make_turning_set

SETTINGS = SubspaceSettings(zdim=4, curve_features=7, rare_states=0)
Kept = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def turning() -> StateSet:
    return make_turning_set(300, 0.1, 30)


def learned(data: StateSet) -> SubspaceHeterogeneity:
    return engine.train(data.images, data.average_map, SETTINGS, context())


@pytest.fixture(scope="module")
def coarse(turning: StateSet) -> SubspaceHeterogeneity:
    """What is learned where memory does not hold more functions."""
    return engine.train(turning.images, turning.average_map, SETTINGS, replace(context(), work_bytes=1e6))


@pytest.fixture(scope="module")
def fine(turning: StateSet) -> SubspaceHeterogeneity:
    return learned(turning)


def likeness(data: StateSet, model: SubspaceHeterogeneity) -> float:
    """Mean correlation of what volumes of images have beside the average with the truth."""
    rows = np.arange(0, 300, 15)
    found = zip(rows, model.volumes(model.z[rows]), strict=True)
    return float(np.mean([
        correlation(volume - data.average_map, data.state_maps[data.state[row]] - data.average_map)
        for row, volume in found
    ]))  # fmt: skip


def test_a_full_turn_takes_more_functions_and_volumes_gain(
    turning: StateSet, coarse: SubspaceHeterogeneity, fine: SubspaceHeterogeneity
) -> None:
    assert isinstance(fine.features, Features)
    assert fine.features.count > coarse.features.count
    assert fine.held_out["gain_nats"] > 1.02 * coarse.held_out["gain_nats"]
    assert likeness(turning, fine) > likeness(turning, coarse) + 0.02


def test_a_straight_line_takes_no_more(linear_set: LinearSet) -> None:
    model = engine.train(linear_set.images, linear_set.base_map, replace(SETTINGS, zdim=2), context())
    assert model.features.count <= SETTINGS.curve_features


def test_a_small_domain_is_not_lost_to_curves_along_large_ones() -> None:
    """Domains that are there or not need straight functions alone, and each its own."""
    data = make_composed_set(600, 0.1, (24, 20, 16, 12, 5))
    model = engine.train(data.images, data.average_map, replace(SETTINGS, zdim=6), context())
    table = np.column_stack([np.ones(600), model.z])
    left = data.present - table @ np.linalg.lstsq(table, data.present, rcond=None)[0]
    assert (left.var(0) < 0.4 * data.present.var(0)).all()


def test_bytes_of_equations_are_those_of_their_tensors(linear_set: LinearSet) -> None:
    base = FourierVolume.from_map(torch.from_numpy(linear_set.base_map), radius=13)
    band = Band(linear_set.images, base, 12, torch.device("cpu"), 1e9)
    for columns in (16, 32, 64):
        sums = Equations.empty(band, columns)
        taken = sum(tensor.numel() * tensor.element_size() for tensor in (sums.weight, sums.right))
        assert equation_bytes(columns, band.grid.n_voxels) == taken


@pytest.fixture
def tried() -> Iterator[list[tuple[Kept, Kept]]]:
    """Model and latents before and after functions that are taken back."""
    found = []

    def everything(curve: CurvedFit) -> Kept:
        numbers, tensors = curve.state(300)
        plain = {name: torch.tensor(float(value)) for name, value in numbers.items()}
        return {name: tensor.clone() for name, tensor in {**plain, **tensors, "told": curve.told}.items()}

    class Watched(FinerFeatures):
        def __call__(self, curve: CurvedFit) -> bool:
            before = everything(curve)
            kept = super().__call__(curve)
            found.append((before, everything(curve)))
            return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finer, "SURE", float("inf"))
        patch.setattr(engine, "FinerFeatures", Watched)
        yield found


def test_functions_that_are_taken_back_leave_all_as_it_was(turning: StateSet, tried: list[tuple[Kept, Kept]]) -> None:
    learned(turning)
    assert tried
    for before, after in tried:
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), name


def test_volumes_of_former_functions_are_carried_over() -> None:
    """On nodes of their own, a curve of few functions is one of more functions."""
    x = torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None]
    nodes = Nodes(x, torch.full((60,), 1 / 60, dtype=torch.float64))
    few, many = Features.build(nodes, 0.8, 5), Features.build(nodes, 0.4, 12)
    volumes = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = few.at_nodes() @ volumes, many.at_nodes() @ (_carried(few, many).T @ volumes)
    assert float((before - after).norm() / before.norm()) < 0.01
