"""States of a train job: reconstructions from original images in two halves, and what they prove."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.atomic import atomic_directory
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.imaging.fsc import fsc, resolution_A
from cryodrgn_ext.jobs.consensus import Consensus, solvent_mask
from cryodrgn_ext.jobs.fsc import write_fsc_star
from cryodrgn_ext.jobs.layout import Layout
from cryodrgn_ext.jobs.result_tables import StateTable
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps

DESCRIPTION_NAME = "state.json"


@dataclass(frozen=True)
class StateResult:
    """One state as the report and job.yaml show it.

    Attributes
    ----------
    number : int
        From 0.
    particles : int
    resolution_A : float or None
        None when there are too few particles for two half-maps.
    fsc : list of float
        Of shells 0 .. D // 2; empty without half-maps.
    verdict : str
        What the comparison with random subsets says.
    key : str
        Fingerprint of what it was made of.
    """

    number: int
    particles: int
    resolution_A: float | None
    fsc: list[float]
    verdict: str
    key: str

    def summary(self) -> dict[str, Any]:
        """What job.yaml keeps."""
        resolution = None if self.resolution_A is None else round(self.resolution_A, 3)
        return {"state": self.number, "particles": self.particles, "resolution_A": resolution, "verdict": self.verdict}


def make_states(
    layout: Layout,
    images: ParticleImages,
    table: StateTable,
    consensus: Consensus,
    key: str,
    device: torch.device,
    monitor: Monitor,
) -> None:
    """Write states/stateNN for every state; those that were finished with this key stay as they are."""
    layout.states.mkdir(parents=True, exist_ok=True)
    wanted = {layout.state(number).name for number in range(len(table.center_index))}
    for folder in layout.states.glob("state[0-9]*"):
        if folder.name not in wanted:  # of an earlier cut into more states
            shutil.rmtree(folder)
    for number in range(len(table.center_index)):
        found = _read_state(layout.state(number))
        if found is None or found.key != key:
            indices = np.flatnonzero(table.label == number)
            _make_state(layout.state(number), number, indices, images, consensus, key, device, monitor)


def _make_state(
    directory: Path,
    number: int,
    indices: NDArray[np.int64],
    images: ParticleImages,
    consensus: Consensus,
    key: str,
    device: torch.device,
    monitor: Monitor,
) -> None:
    rows = torch.from_numpy(indices)
    halves = images.half_set[rows]
    with atomic_directory(directory) as temporary:
        if not bool((halves == 1).any()) or not bool((halves == 2).any()):
            result = StateResult(number, len(indices), None, [], "too few particles for two half-maps", key)
        else:
            made = reconstruct_half_maps(
                images, rows, mask=torch.from_numpy(consensus.mask), device=device, monitor=monitor
            )
            pixel_size_A = images.pixel_size_A
            mask = _state_mask(made.map, consensus, pixel_size_A)
            curve = fsc(torch.from_numpy(made.half1), torch.from_numpy(made.half2), torch.from_numpy(mask))
            for name, data in (("map", made.map), ("half1", made.half1), ("half2", made.half2), ("mask", mask)):
                write_map(temporary / f"{name}.mrc", data, pixel_size_A)
            write_fsc_star(temporary / "fsc.star", curve, pixel_size_A, images.box_size)
            found = resolution_A(curve, pixel_size_A, images.box_size)
            result = StateResult(number, len(indices), found, curve.tolist(), "", key)
        (temporary / DESCRIPTION_NAME).write_text(json.dumps(asdict(result)), encoding="utf-8")


def _state_mask(volume: NDArray[np.float32], consensus: Consensus, pixel_size_A: float) -> NDArray[np.float32]:
    """Mask around the state's own density; the consensus' where the state shows none."""
    try:
        return solvent_mask(volume, pixel_size_A).numpy()
    except InputError:
        return consensus.mask


def _read_state(directory: Path) -> StateResult | None:
    try:
        return StateResult(**json.loads((directory / DESCRIPTION_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_states(layout: Layout, table: StateTable) -> list[StateResult]:
    """Read what :func:`make_states` wrote.

    Raises
    ------
    InputError
        When a state is missing.
    """
    states = []
    for number in range(len(table.center_index)):
        state = _read_state(layout.state(number))
        if state is None:
            raise InputError(f"{layout.state(number)} is missing or damaged: delete {layout.states} and continue.")
        states.append(state)
    return states
