"""Whole runs on a device that is not the CPU: no operation of two devices, few waits, and the results of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.neural.engine import train as train_network
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.subspace.engine import train as train_subspace
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.pose.alignment import degrees_between
from cryodrgn_ext.pose.initial import Schedule, random_initial_map, signal_power
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.refinement import first_state, refine
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.validation.states import iterate_states
from tests.engines.contexts import context
from tests.engines.linear_set import make_linear_set
from tests.placement.pretended import GPU, NAME, DeviceMismatch, PretendedGpu
from tests.pose.phantoms import phantom

THERE = replace(context(), device=torch.device(NAME))


def test_the_device_is_held_to() -> None:
    with PretendedGpu() as gpu:
        values = torch.arange(6.0).to(NAME).view(2, 3)
        values[:, 1] += 10
        assert values.device == GPU
        assert (values @ torch.ones(3, 1, device=NAME)).cpu().tolist() == [[13.0], [22.0]]
        assert (values * torch.tensor(2.0)).device == GPU  # a number may come from the host
        with pytest.raises(DeviceMismatch):
            values + torch.ones(2, 3)
        with pytest.raises(RuntimeError):
            values.numpy()
        before = sum(gpu.waits.values())
        assert float(values.sum()) == 35.0
        assert sum(gpu.waits.values()) == before + 1


@pytest.mark.slow
def test_subspace_trains_and_decodes() -> None:
    data = make_linear_set(200, 0.07)
    settings = SubspaceSettings(zdim=1, curve_features=4)
    with PretendedGpu() as gpu:
        model = train_subspace(data.images, data.base_map, settings, THERE)
        assert np.isfinite(np.stack(list(model.volumes(model.z[:1])))).all()
    here = train_subspace(data.images, data.base_map, settings, context())
    assert abs(np.corrcoef(model.z[:, 0], here.z[:, 0])[0, 1]) > 0.999
    # The host waits once for each time that components are masked, some hundred times in all, not for each image.
    assert sum(gpu.waits.values()) < 2 * data.images.n


@pytest.mark.parametrize("architecture", ["residual", "separable", "vae"])
def test_network_trains_and_decodes_with_a_wait_for_each_batch_at_most(architecture: str) -> None:
    data, batch = make_linear_set(96, 0.07), 16
    with PretendedGpu() as gpu:
        settings = NeuralSettings(
            zdim=2, epochs=1, batch=batch, precision="float32", architecture=architecture, enc_dim=16, dec_dim=16
        )
        model = train_network(data.images, data.base_map, settings, THERE)
        assert np.isfinite(np.stack(list(model.volumes(model.z[:1])))).all()
    trained = {line: count for line, count in gpu.waits.items() if "trainer" in line}
    assert 0 < sum(trained.values()) <= 2 * data.images.n / batch


def test_initial_maps_are_annealed_and_poses_refined_as_on_the_cpu() -> None:
    made = phantom(20, snr=0.5, shift_px=2.0)
    settings = ReconstructSettings(initialisations=1, max_shift_px=2.5, rounds=2)
    maps, found = {}, {}
    for device in ("cpu", NAME):
        with PretendedGpu():
            scorer = Scorer(made.images, radius=7, device=device)
            power = signal_power(made.images, scorer)
            schedule = Schedule(batch=10, most_steps=2)
            maps[device] = random_initial_map(scorer, power, schedule, 2.5, 13.0, 0, SilentMonitor()).cpu()
            density = made.density.to(device)
            start = first_state(made.images, 6.0)
            refined = refine(made.images, (density, density), replace(settings, device=device), start, SilentMonitor())
            found[device] = refined.state.estimates.poses.rotation
    assert np.corrcoef(maps["cpu"].ravel(), maps[NAME].ravel())[0, 1] > 0.999
    assert float(degrees_between(found["cpu"], found[NAME]).median()) < 0.5


def test_states_are_reconstructed_and_judged_as_on_the_cpu() -> None:
    made = phantom(120, snr=0.5, shift_px=2.0)
    labels = np.arange(120) // 2 % 2
    consensus = reconstruct_half_maps(made.images)
    with PretendedGpu():
        there = list(iterate_states(made.images, labels, reconstruct_half_maps(made.images, device=NAME), device=NAME))
    here = list(iterate_states(made.images, labels, consensus))
    for one, other in zip(there, here, strict=True):
        assert one.verdict == other.verdict
        assert np.corrcoef(one.map.ravel(), other.map.ravel())[0, 1] > 0.999999
