"""Maps reconstructed from original particles of a finished result, in two halves: of those near a latent, or of any.

No model is needed, and none is asked: what comes out is a weighted mean of so many images, prepared as the job that
learned had prepared them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.engines.near_knots import weighted_neighbors
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import PointGroup, point_group
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.map_origin import reconstructed
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.images.store import StoreHeader
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, reconstruct_half_maps
from cryodrgn_ext.results.decoded_volumes import VALUES_NAME
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.record import require_record

FEWEST = 2  # one for each half-map


class NearbyMaps:
    """Reconstructs maps of particles of a result.

    Parameters
    ----------
    result : LearnedResult
    rows : ndarray
        (n,) int64 particles that are looked at.
    aside : Path
        Directory for preprocessed images where that of the result may not be written to.
    device : torch.device
    monitor : Monitor
    """

    def __init__(
        self, result: LearnedResult, rows: NDArray[np.int64], aside: Path, device: torch.device, monitor: Monitor
    ) -> None:
        self.result, self.rows, self.aside, self.device, self.monitor = result, rows, aside, device, monitor

    def near(self, point: NDArray[np.float32], count: int) -> tuple[HalfMaps, int]:
        """Map of the particles nearest to a latent (q,), half of them from each half-set, weighted by the distance.

        Returns
        -------
        HalfMaps
        int
            Of how many particles; a half-set may have fewer than were asked for.

        Raises
        ------
        InputError
            When there are not so many particles, or the images are gone.
        """
        if not FEWEST <= count <= len(self.rows):
            raise InputError(f"{FEWEST} to {len(self.rows)} particles can be reconstructed from, not {count}.")
        if not all(map(len, self._members)):
            raise InputError(f"one half-set has none of the {len(self.rows)} particles: two half-maps need both.")
        halves = [weighted_neighbors(tree, point, max(1, count // 2)) for tree in self._trees]
        rows = np.concatenate([of[index] for of, (index, _) in zip(self._members, halves, strict=True)])
        return self.of(rows, np.concatenate([weight for _, weight in halves])), len(rows)

    def of(
        self, rows: NDArray[np.int64], weights: NDArray[np.float64] | None = None, monitor: Monitor | None = None
    ) -> HalfMaps:
        """Map of the particles in these rows (m,), with weights (m,) or all alike; a monitor may abort it.

        Raises
        ------
        InputError
            When one half-set has none of them, or the images are gone.
        """
        chosen = None if weights is None else torch.from_numpy(weights)
        return reconstruct_half_maps(
            self.images, torch.from_numpy(rows), chosen, self._mask, self.symmetry, self.device, monitor
        )

    @property
    def are_prepared(self) -> bool:
        """Whether the images are prepared, so that a map takes no longer than its reconstruction."""
        store = Layout(self.result.directory).checkpoint / "images"
        try:
            header = None if "images" in self.__dict__ else StoreHeader.read(store)
        except InputError:
            return False
        return "images" in self.__dict__ or (header is not None and header.complete)

    @cached_property
    def _record(self) -> dict[str, Any]:
        return require_record(self.result.directory, self.result.job)

    @cached_property
    def box(self) -> int:
        """Working box of the job, as its record says: particles are reconstructed where the model is gone, too."""
        found = self._record["results"].get("box")
        return load_heterogeneity(Layout(self.result.directory).model).box_size if found is None else int(found)

    @cached_property
    def images(self) -> ParticleImages:
        """All images, as the job prepared them: from its own store where that is still there."""
        settings = self._record["settings"]
        how = PreprocessSettings(
            box_size=self.box, mask_diameter_A=settings.get("mask_diameter_A"),
            data_sign=settings.get("contrast") or "auto",
        )  # fmt: skip
        checkpoint = Layout(self.result.directory).checkpoint
        if not os.access(checkpoint if checkpoint.exists() else checkpoint.parent, os.W_OK):
            # Somebody else's result: a store that is whole is read where it is, else one of this session is made.
            checkpoint = checkpoint if (checkpoint / "images").exists() else self.aside
        particles = self.result.particles
        try:
            return open_images(particles, checkpoint / "images", how, self.monitor, without_stacks=True)
        except InputError as error:
            if not (checkpoint / "images").exists() or "coefficient store" not in str(error):
                raise
            checkpoint = checkpoint if os.access(checkpoint, os.W_OK) else self.aside
        self.monitor.message("The images are preprocessed again for maps of particles.")
        return open_images(particles, checkpoint / "explorer_images", how, self.monitor, rebuild=True)

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        """Particles of each half-set, by row."""
        half_set = self.images.half_set.cpu().numpy()[self.rows]
        return [self.rows[half_set == half] for half in (1, 2)]

    @cached_property
    def _trees(self) -> list[KDTree]:
        z = self.result.require_latents().z
        return [KDTree(z[rows]) for rows in self._members]

    @cached_property
    def _mask(self) -> torch.Tensor | None:
        """Solvent mask of the job at its working box, for the FSC."""
        path = self.result.solvent_mask
        if path is None:
            return None
        return working_map(read_map(path), self.box, self.images.pixel_size_A, str(path)).clamp(0, 1)

    @cached_property
    def symmetry(self) -> PointGroup:
        """Point group that the job imposed."""
        return point_group(self._record["settings"].get("symmetry") or "C1")


def model_if_asked(result: LearnedResult, reconstruct_from: int | None, n: int) -> Heterogeneity | None:
    """The model of a result; None where maps are reconstructed from so many of ``n`` particles.

    Raises
    ------
    InputError
        When the model is gone, or there are not as many particles.
    """
    folder = Layout(result.directory).model
    if reconstruct_from is not None:
        if reconstruct_from > n:
            raise InputError(f"--reconstruct_from is {reconstruct_from}, but {n} particles are looked at: give less.")
        return None
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not there any more: give --reconstruct_from with a number of particles, for maps of those "
            "nearest to each place, which need no model."
        )
    return load_heterogeneity(folder)


def point_words(point: NDArray[np.float32]) -> str:
    """Latent (q,) as titles of maps have it."""
    return " ".join(f"{value:.3g}" for value in point)


def nearest_words(point: NDArray[np.float32]) -> str:
    """Which particles a map near a latent (q,) is made of."""
    return f"nearest to z = {point_words(point)}"


def reconstructed_name(number: int) -> str:
    """File name of map ``number`` of a row of them, reconstructed_000.mrc."""
    return f"reconstructed_{number:03d}.mrc"


def reconstruct_along(
    maps: NearbyMaps, z: NDArray[np.float32], count: int, directory: Path
) -> Iterator[tuple[NDArray[np.float32], int, float]]:
    """Reconstruct maps near latents (P, q) into an existing directory.

    Yields each (D, D, D) after it is written, with the number of its particles and its resolution in Å by the FSC of
    the half-maps.
    """
    for number, point in enumerate(maps.monitor.track(z, "Reconstructing maps", len(z))):
        found, n = maps.near(point, count)
        origin = reconstructed(n, nearest_words(point))
        write_map(directory / reconstructed_name(number), found.map, found.pixel_size_A, origin)
        yield found.map, n, found.resolution_A
    with atomic_path(directory / VALUES_NAME) as temporary:
        np.savetxt(temporary, z, fmt="%.8g")
