"""What the stages of a landscape job hand on: arrays in .npz files, without pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.surfaces import Maximum, Surface
from cryodrgn_ext.analysis.volume_clusters import VolumeClusters
from cryodrgn_ext.analysis.volume_pca import VolumePca, volume_pca
from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a .npz file atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read a .npz file that a stage wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): delete it and continue.") from None


@dataclass(frozen=True)
class VolumeGram:
    """Inner products within the mask of the maps that volumes are sums of; see :mod:`..analysis.volume_basis`.

    Attributes
    ----------
    gram : ndarray
        (R, R).
    voxel_sums : ndarray
        (R,).
    n_voxels : int
    sketch_weights : ndarray
        (K, R).
    """

    gram: FloatArray
    voxel_sums: FloatArray
    n_voxels: int
    sketch_weights: FloatArray

    def pca(self) -> VolumePca:
        """All principal components of the sketched volumes."""
        return volume_pca(self.gram, self.sketch_weights)

    def write(self, path: Path) -> None:
        """Write a .npz file."""
        write_arrays(path, {"gram": self.gram, "voxel_sums": self.voxel_sums, "n_voxels": np.array(self.n_voxels),
                            "sketch_weights": self.sketch_weights})  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> VolumeGram:
        """Read what :meth:`write` wrote."""
        arrays = read_arrays(path)
        return cls(
            arrays["gram"].astype(np.float64),
            arrays["voxel_sums"].astype(np.float64),
            int(arrays["n_voxels"]),
            arrays["sketch_weights"].astype(np.float64),
        )


@dataclass(frozen=True)
class ParticleMapping:
    """All particles in the space of volume components.

    Attributes
    ----------
    v : ndarray
        (n, L) float32 volume components.
    nearest : ndarray
        (n,) int32 sketched volume that stands for each particle.
    train_loss, held_out_loss : ndarray
        Of the learned map, per epoch; empty when the mapping is exact.
    """

    v: NDArray[np.float32]
    nearest: NDArray[np.int32]
    train_loss: FloatArray
    held_out_loss: FloatArray

    @property
    def is_exact(self) -> bool:
        """Whether nothing was learned."""
        return len(self.held_out_loss) == 0

    def write(self, path: Path) -> None:
        """Write a .npz file."""
        write_arrays(path, {"v": self.v, "nearest": self.nearest, "train_loss": self.train_loss,
                            "held_out_loss": self.held_out_loss})  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> ParticleMapping:
        """Read what :meth:`write` wrote."""
        arrays = read_arrays(path)
        return cls(
            arrays["v"].astype(np.float32),
            arrays["nearest"].astype(np.int32),
            arrays["train_loss"].astype(np.float64),
            arrays["held_out_loss"].astype(np.float64),
        )


def write_clusters(path: Path, clusters: VolumeClusters) -> None:
    """Write the clusters of the sketched volumes."""
    names = ("label", "medoid", "n_volumes", "n_particles", "stray", "tree")
    write_arrays(path, {name: getattr(clusters, name) for name in names})


def read_clusters(path: Path) -> VolumeClusters:
    """Read what :func:`write_clusters` wrote."""
    arrays = read_arrays(path)
    return VolumeClusters(
        label=arrays["label"].astype(np.int32),
        medoid=arrays["medoid"].astype(np.int64),
        n_volumes=arrays["n_volumes"].astype(np.int64),
        n_particles=arrays["n_particles"].astype(np.int64),
        stray=arrays["stray"].astype(np.bool_),
        tree=arrays["tree"].astype(np.float64),
    )


def write_surface(path: Path, surface: Surface, components: tuple[int, ...]) -> None:
    """Write a density over the volume ``components`` (numbers from 1)."""
    arrays: dict[str, NDArray[np.generic]] = {
        f"axis_{number}": axis for number, axis in zip(components, surface.axes, strict=True)
    }
    arrays |= {
        "components": np.array(components), "density": surface.density, "density_sd": surface.density_sd,
        "free_energy_kT": surface.free_energy_kT, "free_energy_sd_kT": surface.free_energy_sd_kT,
        "bandwidth": np.array(surface.bandwidth),
        "maxima": np.array([m.position for m in surface.maxima]).reshape(-1, len(components)),
        "maxima_depth_kT": np.array([m.depth_kT for m in surface.maxima]),
        "maxima_depth_sd_kT": np.array([m.depth_sd_kT for m in surface.maxima]),
        "maxima_stability": np.array([m.stability for m in surface.maxima]),
    }  # fmt: skip
    write_arrays(path, arrays)


def read_surface(path: Path) -> tuple[Surface, tuple[int, ...]]:
    """Read what :func:`write_surface` wrote."""
    arrays = read_arrays(path)
    components = tuple(int(number) for number in arrays["components"])
    floats = {name: values.astype(np.float64) for name, values in arrays.items()}
    maxima = zip(
        floats["maxima"].tolist(), floats["maxima_depth_kT"].tolist(), floats["maxima_depth_sd_kT"].tolist(),
        floats["maxima_stability"].tolist(), strict=True,
    )  # fmt: skip
    surface = Surface(
        axes=tuple(floats[f"axis_{number}"] for number in components),
        density=floats["density"],
        density_sd=floats["density_sd"],
        free_energy_kT=floats["free_energy_kT"],
        free_energy_sd_kT=floats["free_energy_sd_kT"],
        bandwidth=tuple(floats["bandwidth"].tolist()),
        maxima=tuple(Maximum(tuple(at), depth, deviation, stability) for at, depth, deviation, stability in maxima),
    )
    return surface, components
