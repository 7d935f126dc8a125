"""Reconstructions that jobs share, from images to the result directory: the consensus, and states with evidence."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import torch

from cryodrgn_ext.fourier.point_groups import C1, PointGroup, point_group
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import write_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.states import read_state
from cryodrgn_ext.validation.consensus import cut_by_mask, reconstruct_consensus
from cryodrgn_ext.validation.imposed_symmetry import symmetry_fault
from cryodrgn_ext.validation.states import State


def make_consensus(
    directory: Path,
    images: ParticleImages,
    user_mask: VolumeMap | None,
    device: torch.device,
    monitor: Monitor,
    symmetry: PointGroup = C1,
    mask_diameter_A: float | None = None,
) -> None:
    """Reconstruct all particles in two halves, and write map, half-maps, mask and FSC.

    Warnings say where the particles do not have the symmetry, and where they are larger than the disc of diameter
    ``mask_diameter_A`` that the images were cut to.

    Raises
    ------
    InputError
        When the mask does not fit the images, or there is nothing to see in the map.
    """
    mask = None
    if user_mask is not None:
        mask = working_map(user_mask, images.box_size, images.pixel_size_A, "--in_mask").clamp(0, 1)
    halves, mask = reconstruct_consensus(images, mask, device, monitor, symmetry)
    fault = symmetry_fault(images, halves, mask, device, monitor)
    cut = None if mask_diameter_A is None else cut_by_mask(halves, mask_diameter_A)
    for sentence in (fault, cut):
        if sentence is not None:
            monitor.warn(sentence)
    write_consensus(directory, halves, mask.numpy(), images.n_usable, images.data_sign)


def symmetry_key(name: str) -> tuple[str, ...]:
    """Part of a fingerprint that a point group is; nothing for C1, as before there was a choice.

    Raises
    ------
    InputError
        When no point group has that name.
    """
    group = point_group(name)
    return () if group.order == 1 else (group.name,)


def make_missing_states(
    layout: Layout,
    numbers: Collection[int],
    key: str,
    reconstruct: Callable[[list[int]], Iterable[State]],
    write: Callable[[State], None],
    monitor: Monitor,
) -> None:
    """Write states/stateNN for every number; those that were finished with this key stay as they are.

    Parameters
    ----------
    layout : Layout
    numbers : collection of int
        Folders of other numbers are those of an earlier run with other states, and are removed.
    key : str
        Fingerprint of what the states are made of.
    reconstruct : callable
        Makes the states of a list of numbers, one after the other.
    write : callable
    monitor : Monitor
    """
    layout.states.mkdir(parents=True, exist_ok=True)
    wanted = {layout.state(number).name for number in numbers}
    for folder in layout.states.glob("state[0-9]*"):
        if folder.name not in wanted:
            shutil.rmtree(folder)
    found = {number: read_state(layout.state(number)) for number in numbers}
    missing = [number for number, state in found.items() if state is None or state.key != key]
    for state in reconstruct(missing) if missing else ():
        monitor.poll()
        write(state)
