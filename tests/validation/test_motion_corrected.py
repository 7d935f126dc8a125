"""One map of all particles at one latent: nearer to the truth than the average and a state's own map, and honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cryodrgn_ext.analysis.agreement import fsc_area, moving_region
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, reconstruct_half_maps
from cryodrgn_ext.simulate.truth import ground_truth
from cryodrgn_ext.validation.motion_corrected import MotionCorrection
from cryodrgn_ext.validation.states import consensus_mask

from .conftest import Case, N


def corrected(case: Case, z: np.ndarray, target: float) -> HalfMaps:
    places = np.quantile(z, np.linspace(0.04, 0.96, 12))[:, None]
    work = MotionCorrection(case.images, z, places, np.array([[target]]), monitor=SilentMonitor())
    found = work.maps(consensus_mask(case.consensus))[0]
    assert found.moving_resolution_A >= found.maps.resolution_A - 1.0
    return found.maps


def area(volume: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    return fsc_area(fsc(*(torch.from_numpy(one).double() for one in (volume, truth, mask))))


def test_it_is_nearer_to_the_truth_than_the_average_and_than_the_map_of_the_particles_there(hinge: Case) -> None:
    truth = ground_truth(hinge.particles)
    volumes = truth.volumes(32)
    angle = truth.coordinates[:, :1].astype(np.float32)
    mask, moving = consensus_mask(hinge.consensus), moving_region(volumes)
    for state in (0, 10):
        at = truth.state_coordinates[state, 0]
        found = corrected(hinge, angle, float(at))
        near = np.argsort(np.abs(angle[:, 0] - at))[: N // 4]
        own = reconstruct_half_maps(hinge.images, torch.from_numpy(near), mask=mask)
        for where, gain in ((moving, 0.1), (mask.numpy(), 0.05)):
            ours, average, alone = (area(one.map, volumes[state], where) for one in (found, hinge.consensus, own))
            assert ours > average + gain
            assert ours > alone


def test_of_one_structure_it_is_the_average(rigid: Case) -> None:
    z = np.random.default_rng(0).normal(size=(N, 1)).astype(np.float32)
    found = corrected(rigid, z, -1.0)
    truth, mask = ground_truth(rigid.particles).volumes(32)[0], consensus_mask(rigid.consensus).numpy()
    assert area(found.map, truth, mask) > area(rigid.consensus.map, truth, mask) - 0.02


def test_differences_of_noise_do_not_make_the_halves_agree(rigid: Case) -> None:
    """Images without a particle, at random latents: the halves' maps stay as unrelated as noise is."""
    batch = rigid.images.batch(torch.arange(N))
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(*batch.coefficients.shape, 2)) / np.sqrt(2))
    empty = replace(rigid.images, source=ResidentCoefficients(noise.float(), torch.arange(N)))
    z = np.random.default_rng(2).normal(size=(N, 1)).astype(np.float32)
    found = corrected(Case(rigid.particles, empty, rigid.consensus), z, 0.5)
    assert abs(found.fsc[3:]).mean() < 0.2
    assert found.fsc[3:].mean() < 0.08
