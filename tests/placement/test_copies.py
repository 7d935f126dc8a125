"""Copies between host and device, counted: a budget for each pass, whatever the number of images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cryodrgn_ext.engines.neural.engine import train as train_network
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.em import em_pass
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.posterior import infer
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction import backprojection
from tests.engines.contexts import context
from tests.engines.linear_set import make_linear_set
from tests.placement.pretended import NAME, PretendedGpu
from tests.pose.phantoms import phantom

#: Of a batch of images: coefficients, shifts, rotations, and the parameters of their CTFs, one by one.
OF_A_BATCH = 20


def copies(gpu: PretendedGpu) -> int:
    return sum(gpu.copies.values())


def test_images_that_are_kept_are_copied_once() -> None:
    data = make_linear_set(300, 0.07)
    of_pass = []
    with PretendedGpu() as gpu:
        band = Band(data.images, FourierVolume.from_map(torch.from_numpy(data.base_map).to(NAME)), 8,
                    torch.device(NAME), 1e9)  # fmt: skip
        band.chunk_size = 30
        values = torch.zeros(band.grid.n_voxels, 2, padded(3)).to(NAME)
        for _ in range(2):
            before = copies(gpu)
            em_pass(band, values, 2, torch.arange(300), lambda rows, *terms: infer(*terms), SilentMonitor())
            of_pass.append(copies(gpu) - before)
    chunks = 10
    assert of_pass[1] <= 3 * chunks + 10  # half-sets there, moments back; and the grid's once
    assert of_pass[0] <= of_pass[1] + OF_A_BATCH * chunks + 10


def test_a_search_copies_nothing_in_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = phantom(40, snr=0.5, shift_px=2.0)
    shifts = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    counted = []
    for memory in (100_000, 100_000_000):
        with PretendedGpu() as gpu:
            scorer = Scorer(made.images, radius=7, device=NAME)
            scorer.memory_bytes = memory
            model = FourierVolume.from_map(made.density.to(NAME))
            before = copies(gpu)
            scorer.top(model, made.images.rotation[:40], shifts, 3)
            counted.append(copies(gpu) - before)
    assert counted[0] == counted[1] <= 10


def test_half_maps_copy_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = phantom(40, snr=0.5, shift_px=2.0)
    monkeypatch.setattr(backprojection, "COEFFICIENTS_PER_BATCH", 10 * made.images.plane.n_coefficients)
    with PretendedGpu() as gpu:
        backprojection.backproject(made.images, device=NAME)
        assert copies(gpu) <= OF_A_BATCH * 4 + 10


@pytest.mark.parametrize("architecture", ["separable", "vae"])
def test_a_step_of_a_network_copies_its_noise_and_its_losses(architecture: str) -> None:
    data, batch = make_linear_set(96, 0.07), 16
    with PretendedGpu() as gpu:
        settings = NeuralSettings(
            zdim=2, epochs=1, batch=batch, precision="float32", architecture=architecture, enc_dim=16, dec_dim=16
        )
        train_network(data.images, data.base_map, settings, replace(context(), device=torch.device(NAME)))
    in_steps = {line: count for line, count in gpu.copies.items() if "trainer" in line}
    assert 0 < sum(in_steps.values()) <= 2 * data.images.n / batch + 4  # and latents
    # Images are made ready for several steps at once, for the latents at the end, and for the choice of the band.
    assert copies(gpu) <= 30 * data.images.n / 32 + 60
