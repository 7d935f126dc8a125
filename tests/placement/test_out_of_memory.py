"""What does not fit on a device is computed in smaller blocks, with the same result and a line in the log."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cryodrgn_ext.engines.neural.engine import train as train_network
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.neural.trainer import Trainer
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.em import em_pass
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.posterior import infer
from cryodrgn_ext.engines.subspace.torch_form import Chunk
from cryodrgn_ext.fourier.block_sizes import in_blocks, told
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from tests.engines.contexts import context
from tests.engines.linear_set import make_linear_set
from tests.placement.pretended import NAME, PretendedGpu
from tests.pose.phantoms import phantom

THERE = replace(context(), device=torch.device(NAME))


def test_what_does_not_fit_is_done_in_halves_from_then_on() -> None:
    tried: list[int] = []

    def work(here: slice) -> list[int]:
        tried.append(here.stop - here.start)
        if here.stop - here.start > 3:
            raise torch.OutOfMemoryError("no")
        return list(range(here.start, here.stop))

    said: list[str] = []
    with told(said.append):
        assert list(chain(*in_blocks(work, 10, "numbers"))) == list(range(10))
        assert tried == [10, 5, 2, 2, 2, 2, 2]
        tried.clear()
        assert list(chain(*in_blocks(work, 4, "numbers"))) == list(range(4))
        assert tried == [2, 2]
    assert len(said) == 2
    assert "numbers" in said[0]


def test_one_that_does_not_fit_is_an_error_that_is_not_tried_again() -> None:
    def work(here: slice) -> None:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(MemoryError):
        in_blocks(lambda here: in_blocks(work, 2, "single"), 4, "several")


def components(band: Band, zdim: int) -> Tensor:
    values = torch.zeros(band.grid.n_voxels, 2, padded(zdim + 1))
    values[..., 1 : zdim + 1] = 0.1 * torch.randn(
        band.grid.n_voxels, 2, zdim, generator=torch.Generator().manual_seed(0)
    )
    return values


def test_a_pass_of_the_subspace_engine() -> None:
    data = make_linear_set(300, 0.07)
    found: list[list[Tensor]] = []
    said: list[str] = []
    for largest in (float("inf"), 600e3):
        with PretendedGpu() as gpu, told(said.append):
            base = FourierVolume.from_map(torch.from_numpy(data.base_map).to(NAME))
            band = Band(data.images, base, 8, torch.device(NAME), 1e9)
            values = components(band, 2).to(NAME)
            gpu.largest_tensor = largest
            result = em_pass(band, values, 2, torch.arange(300), lambda rows, *terms: infer(*terms), SilentMonitor())
            steps = result.equations.solve(values, torch.ones(9, 3).double())
            gpu.largest_tensor = float("inf")
            found.append([one.cpu() for one in (result.second, result.equations.weight, result.equations.right, steps)])
    assert gpu.refused > 0
    assert said
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())


def test_images_that_cannot_be_kept_are_made_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_linear_set(100, 0.07)
    base = FourierVolume.from_map(torch.from_numpy(data.base_map))
    said: list[str] = []
    calls: list[int] = []
    make = Band._make

    def without_room(self: Band, rows: Tensor) -> Chunk:
        calls.append(len(rows))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no")
        return make(self, rows)

    monkeypatch.setattr(Band, "_make", without_room)
    band = Band(data.images, base, 8, torch.device("cpu"), 1e9)
    band.chunk_size = 40
    with told(said.append):
        read = torch.cat([chunk.rows for chunk in band.chunks(torch.arange(100))])
    assert torch.equal(read, torch.arange(100))
    assert not band.resident
    assert len(said) == 1


def test_maps_and_searches() -> None:
    made = phantom(160, snr=0.5, shift_px=2.0)
    maps, tops = [], []
    said: list[str] = []
    rotation, shifts = made.images.rotation[:16], torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    for largest in (float("inf"), 60e3):
        with PretendedGpu() as gpu, told(said.append):
            scorer = Scorer(made.images, radius=7, device=NAME)
            model = FourierVolume.from_map(made.density.to(NAME))
            gpu.largest_tensor = largest
            found = scorer.top(model, rotation, shifts, 3)
            tops.append([one.cpu() for one in (found.rotation, found.shift, found.log_likelihood)])
        with PretendedGpu(largest_tensor=1.3e6 if largest < 1e6 else largest) as gpu, told(said.append):
            maps.append(reconstruct_half_maps(made.images, device=NAME).map)
    assert any("search" in one or "orientations" in one for one in said)
    assert any("backprojected" in one or "reconstruction" in one for one in said)
    assert all(torch.equal(one, other) for one, other in zip(*tops, strict=True))
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.999999


def _in_less_room(gpu: PretendedGpu, largest: float, run: Any, trainer: Trainer) -> Any:
    gpu.largest_tensor = largest
    try:
        return run(trainer)
    finally:
        gpu.largest_tensor = float("inf")


@pytest.mark.parametrize("architecture", ["separable", "vae"])
def test_networks_take_the_steps_of_whole_batches(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, volumes = Trainer.run, list[Any]()
    data, models = make_linear_set(192, 0.07), []
    said: list[str] = []
    settings = NeuralSettings(
        zdim=2, epochs=1, batch=96, precision="float32", architecture=architecture, enc_dim=16, dec_dim=16
    )
    for largest in (float("inf"), 1.5e6):
        with PretendedGpu() as gpu, told(said.append):
            monkeypatch.setattr(Trainer, "run", lambda trainer: _in_less_room(gpu, largest, run, trainer))  # noqa: B023
            models.append(train_network(data.images, data.base_map, settings, THERE))
            gpu.largest_tensor = largest
            volumes.append(next(iter(models[-1].volumes(np.zeros((1, 2), np.float32)))))
    assert gpu.refused > 0
    assert any("training step" in one for one in said)
    one, other = models
    assert np.abs(one.z - other.z).max() < 1e-3 * np.abs(one.z).max()
    assert np.abs(volumes[0] - volumes[1]).max() < 1e-3 * np.abs(volumes[0]).max()
