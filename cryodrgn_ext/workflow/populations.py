"""Populations of a job's states, from the half-maps that it has written and its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.population_table import write_populations
from cryodrgn_ext.validation.differences import comparison_radius
from cryodrgn_ext.validation.state_weights import filtered_differences, in_small_box, state_weights

HALVES = ("half1.mrc", "half2.mrc")


def find_populations(
    layout: Layout,
    numbers: Sequence[int],
    images: ParticleImages,
    label: NDArray[np.integer],
    consensus: Consensus,
    seed: int,
    device: torch.device | str,
) -> None:
    """Find and write them.

    Parameters
    ----------
    layout : Layout
        With the half-maps of the consensus and of the states.
    numbers : sequence of int
        Of the states, increasing.
    images : ParticleImages
    label : ndarray
        (N,) state of each particle, negative for none.
    consensus : Consensus
    seed : int
    device : torch.device or str
    """
    found = None
    if len(numbers) > 1:
        radius = comparison_radius(consensus.fsc, images.plane.radius)
        halves = [read_map(layout.consensus / name).data for name in HALVES]
        states = ([read_map(layout.state(number) / name).data for name in HALVES] for number in numbers)
        differences = filtered_differences(states, halves, consensus.mask, radius)
        among = np.isin(label, numbers)
        place = np.where(among, np.searchsorted(numbers, np.where(among, label, numbers[0])), -1)
        small = [in_small_box(one, radius) for one in halves]
        found = state_weights(images, place, differences, small, radius, seed, device)
    write_populations(layout, numbers, found)
