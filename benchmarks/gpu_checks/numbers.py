"""The same small work on the CPU and on the device: whether results agree, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.engine import train as train_network
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.engine import train as train_subspace
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.alignment import degrees_between
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles, write_relion_project

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Compared:
    """One result on both devices.

    Attributes
    ----------
    name : str
    value, limit : float
        What differs, and how much may.
    """

    name: str
    value: float
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than may be (a NaN does)."""
        return self.value <= self.limit


def context_on(device: torch.device) -> EngineContext:
    """Surroundings of an engine on a device, whatever its name."""
    made = EngineContext.of(ComputeSettings(device="cpu", memory_GB=4.0), None, SilentMonitor())
    return replace(made, device=device)


def simulated(folder: Path, images: int, box: int) -> ParticleImages:
    """Particles with a moving domain, through files as a user's come."""
    project = folder / f"box{box}_{images}"
    if not (project / "particles.star").exists():
        write_relion_project(project, simulate_particles(images, box_size=box, pixel_size_A=256 / box))
    return open_images(read_particles(project / "particles.star", project), project / "store")


def _relative(here: np.ndarray, there: np.ndarray) -> float:
    return float(np.linalg.norm(there - here) / np.linalg.norm(here))


def compare_devices(folder: Path, device: torch.device, images: int, box: int) -> Iterator[Compared]:
    """Yield every comparison of a small set of particles."""
    data = simulated(folder, images, box)
    maps = reconstruct_half_maps(data)

    def both(work: Callable[[torch.device], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return work(CPU), work(device)

    here, there = both(lambda where: reconstruct_half_maps(data, device=where).map)
    yield Compared("half-maps, difference over the norm", _relative(here, there), 1e-3)

    def found(where: torch.device) -> np.ndarray:
        looking = SearchSettings(refinements=2, k_max=None, shift_extent_px=3.0, device=str(where))
        volume = FourierVolume.from_map(torch.from_numpy(maps.map).to(where))
        return search(data, volume, looking).best.rotation.cpu().numpy()

    one, other = (torch.from_numpy(rotation) for rotation in both(found))
    yield Compared(
        "search, share of poses that differ by over 1°",
        float((degrees_between(one, other) > 1.0).double().mean()),
        0.01,
    )

    def subspace_volumes(where: torch.device) -> np.ndarray:
        settings = SubspaceSettings(zdim=2, curve_features=4)
        model = train_subspace(data, maps.map, settings, context_on(where))
        return np.stack(list(model.volumes(model.z[:: max(1, data.n // 4)])))

    here, there = both(subspace_volumes)
    yield Compared("subspace, volumes of some images, difference over the norm", _relative(here, there), 1e-2)

    def network_map(where: torch.device) -> np.ndarray:
        settings = NeuralSettings(zdim=2, epochs=1, batch=32, precision="float32", architecture="separable")
        model = train_network(data, maps.map, settings, context_on(where))
        return next(iter(model.volumes(np.zeros((1, 2), np.float32)))).ravel()

    here, there = both(network_map)
    yield Compared("network after a pass, a map, difference over the norm", _relative(here, there), 0.1)
