"""consensus/ of a result directory: one map of all particles in two independent halves, with mask and FSC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.fourier.point_groups import C1, PointGroup, point_group
from cryodrgn_ext.images.map_origin import masking, reconstructed
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.reconstruction.half_maps import HalfMaps
from cryodrgn_ext.results.fsc_tables import write_fsc_star

#: A particle fills about half of its box; a map that does not resolve half of the particle shows none.
LARGEST_SHARE_OF_BOX = 0.25
DESCRIPTION_NAME = "consensus.json"


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
    symmetry : PointGroup
        That was imposed.
    data_sign : int
        -1 when the particles are dark in their images, while this map is white.
    """

    map: NDArray[np.float32]
    mask: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    pixel_size_A: float
    symmetry: PointGroup = C1
    data_sign: int = 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """Resolution of the map, and a warning where it shows no particle."""
        extent_A = len(self.map) * self.pixel_size_A
        imposed = "" if self.symmetry.order == 1 else f", symmetry {self.symmetry.name} imposed"
        found = f"Consensus of all particles: {self.resolution_A:.2f} Å (half-maps, FSC 0.143, masked{imposed})."
        if self.resolution_A < LARGEST_SHARE_OF_BOX * extent_A:
            return (found,)
        return (
            found,
            f"Warning: the consensus shows no particle: its half-maps agree to {self.resolution_A:.0f} Å only, in a "
            f"box of {extent_A:.0f} Å, as those of noise do. Check that orientations, origins and CTF belong to these "
            "images before you believe anything that follows.",
        )

    @property
    def radius(self) -> int:
        """Shell (cycles per box) of the resolution: beyond it the consensus carries no signal."""
        box = len(self.map)
        return int(np.clip(round(box * self.pixel_size_A / self.resolution_A), 2, box // 2))


def write_consensus(
    directory: Path,
    halves: HalfMaps,
    mask: NDArray[np.float32],
    n: int,
    data_sign: int = 1,
    what: str = "the consensus",
) -> None:
    """Write map.mrc, half1.mrc, half2.mrc, mask.mrc and fsc.star, atomically.

    Parameters
    ----------
    directory : Path
    halves : HalfMaps
        With the FSC and resolution in the mask.
    mask : ndarray
        (D, D, D) float32.
    n : int
        Number of particles that are in the map.
    data_sign : int
        Of the particles in their images.
    what : str
        What the map is of them, for its header.
    """
    pixel_size_A, box = halves.pixel_size_A, len(halves.map)
    description = {
        "resolution_A": halves.resolution_A, "fsc": halves.fsc.tolist(), "symmetry": halves.symmetry.name,
        "data_sign": data_sign,
    }  # fmt: skip
    with atomic_directory(directory) as temporary:
        for name, data in (("map", halves.map), ("half1", halves.half1), ("half2", halves.half2), ("mask", mask)):
            origin = masking(f"of {what}") if name == "mask" else reconstructed(n, f"{what}, {name}")
            write_map(temporary / f"{name}.mrc", data, pixel_size_A, origin)
        write_fsc_star(temporary / "fsc.star", halves.fsc, pixel_size_A, box, masked=True)
        write_json(temporary / DESCRIPTION_NAME, description)


def read_consensus(directory: Path) -> Consensus:
    """Read what :func:`write_consensus` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    volume, mask = read_map(directory / "map.mrc"), read_map(directory / "mask.mrc")
    path = directory / DESCRIPTION_NAME
    with readable(path, f"delete {directory} and continue the job"):
        description = load_json(path)
        curve, resolution = np.array(description["fsc"], np.float64), float(description["resolution_A"])
        symmetry = point_group(description.get("symmetry", "C1"))
        sign = int(description.get("data_sign", 1))
    return Consensus(volume.data, mask.data, curve, resolution, volume.pixel_size_A, symmetry, sign)
