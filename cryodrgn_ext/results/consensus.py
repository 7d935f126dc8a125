"""The consensus of a train job: one map of all particles in two independent halves, with mask and FSC."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.masks import spherical_mask, threshold_mask
from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import VolumeMap, read_map, write_map
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.results.fsc_tables import write_fsc_star

DESCRIPTION_NAME = "consensus.json"
EXTENT_TOLERANCE = 0.01
# Below this FSC with the user's own map at twice the consensus resolution, something is wrong with the metadata.
SUSPICIOUS_FSC = 0.3


@dataclass(frozen=True)
class Consensus:
    """Map, mask and FSC at the working box.

    Attributes
    ----------
    map, mask : ndarray
        (D, D, D) float32.
    fsc : ndarray
        (D // 2 + 1,) between the half-maps, within the mask.
    resolution_A : float
    pixel_size_A : float
    """

    map: NDArray[np.float32]
    mask: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    pixel_size_A: float

    @property
    def radius(self) -> int:
        """Shell (cycles per box) of the resolution: beyond it the consensus carries no signal."""
        box = len(self.map)
        return int(np.clip(round(box * self.pixel_size_A / self.resolution_A), 2, box // 2))


def make_consensus(
    directory: Path, images: ParticleImages, user_mask: VolumeMap | None, device: torch.device, monitor: Monitor
) -> None:
    """Reconstruct all particles in two halves and write map.mrc, half1.mrc, half2.mrc, mask.mrc and fsc.star.

    Raises
    ------
    InputError
        When the mask does not fit the images, or there is nothing to see in the map.
    """
    box, pixel_size_A = images.box_size, images.pixel_size_A
    mask = None if user_mask is None else working_map(user_mask, box, pixel_size_A, "--in_mask").clamp(0, 1)
    halves = reconstruct_half_maps(images, mask=mask, device=device, monitor=monitor)
    if mask is None:
        mask = solvent_mask(halves.map, pixel_size_A)
    curve = fsc(torch.from_numpy(halves.half1), torch.from_numpy(halves.half2), mask)
    curve[np.flatnonzero(halves.fsc == 0.0)] = 0.0  # beyond the images' band
    description = {"resolution_A": resolution_A(curve, pixel_size_A, box), "fsc": curve.tolist()}
    with atomic_directory(directory) as temporary:
        for name, data in (("map", halves.map), ("half1", halves.half1), ("half2", halves.half2)):
            write_map(temporary / f"{name}.mrc", data, pixel_size_A)
        write_map(temporary / "mask.mrc", mask.numpy(), pixel_size_A)
        write_fsc_star(temporary / "fsc.star", curve, pixel_size_A, box, masked=True)
        (temporary / DESCRIPTION_NAME).write_text(json.dumps(description), encoding="utf-8")


def read_consensus(directory: Path) -> Consensus:
    """Read what :func:`make_consensus` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    volume, mask = read_map(directory / "map.mrc"), read_map(directory / "mask.mrc")
    path = directory / DESCRIPTION_NAME
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        curve, resolution = np.array(description["fsc"], np.float64), float(description["resolution_A"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete {directory} and continue the job.") from None
    return Consensus(volume.data, mask.data, curve, resolution, volume.pixel_size_A)


def working_map(given: VolumeMap, box: int, pixel_size_A: float, option: str) -> torch.Tensor:
    """Bring a map of the native images to the working box.

    Raises
    ------
    InputError
        When its extent in Å is another than that of the images, or its box is smaller than the working box.
    """
    check_extent(given, box * pixel_size_A, option)
    if given.box_size < box:
        raise InputError(f"the map of {option} has {given.box_size} voxels, fewer than the working box of {box}.")
    return crop_map(torch.from_numpy(given.data), box)


def check_extent(given: VolumeMap, extent_A: float, option: str) -> None:
    """Raise InputError when a map is not as wide as the images; one without a pixel size is taken to be."""
    extent = given.box_size * given.pixel_size_A
    if given.pixel_size_A > 0 and abs(extent - extent_A) > EXTENT_TOLERANCE * extent_A:
        raise InputError(
            f"the map of {option} is {extent:.1f} Å wide ({given.box_size} voxels of {given.pixel_size_A:.4f} Å), but "
            f"the images are {extent_A:.1f} Å wide: give one of the refinement of these particles, or correct the "
            "pixel size in its header."
        )


def solvent_mask(volume: NDArray[np.float32], pixel_size_A: float) -> torch.Tensor:
    """Soft mask around the density of a map, within the sphere that the images support."""
    box = len(volume)
    sphere = spherical_mask(box, 0.85 * box / 2, 0.14 * box / 2)
    return threshold_mask(torch.from_numpy(volume) * sphere, pixel_size_A) * sphere


def compare_with_reference(consensus: Consensus, reference: VolumeMap) -> str:
    """One sentence on how well the user's own map agrees with the consensus.

    Raises
    ------
    InputError
        When the map's extent is not that of the images.
    """
    box = len(consensus.map)
    theirs = working_map(reference, box, consensus.pixel_size_A, "--in_3dref")
    curve = fsc(torch.from_numpy(consensus.map), theirs, torch.from_numpy(consensus.mask))
    shell = max(2, consensus.radius // 2)
    mean = float(np.mean(curve[1 : shell + 1]))
    found = resolution_A(curve, consensus.pixel_size_A, box, 0.5)
    if mean < SUSPICIOUS_FSC:
        return (
            f"Warning: the map of --in_3dref does not agree with our consensus (mean FSC {mean:.2f} to "
            f"{box * consensus.pixel_size_A / shell:.1f} Å): check poses, pixel size and hand."
        )
    return f"The map of --in_3dref agrees with our consensus to {found:.1f} Å (FSC 0.5)."
