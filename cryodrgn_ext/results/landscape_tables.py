"""Tables of a landscape job, which its stages hand on: arrays in .npz files, without pickles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.surfaces import Maximum, Surface
from cryodrgn_ext.analysis.volume_clusters import VolumeClusters
from cryodrgn_ext.analysis.volume_landscape import ParticleMapping, VolumeGram
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays
from cryodrgn_ext.results.layout import Layout


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read a .npz file that a stage wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    with readable(path, "delete it and continue"):
        return load_arrays(path)


def write_gram(path: Path, found: VolumeGram) -> None:
    """Write the inner products of the volumes."""
    write_arrays(path, {"gram": found.gram, "voxel_sums": found.voxel_sums, "n_voxels": np.array(found.n_voxels),
                        "sketch_weights": found.sketch_weights})  # fmt: skip


def read_gram(path: Path) -> VolumeGram:
    """Read what :func:`write_gram` wrote."""
    arrays = read_arrays(path)
    return VolumeGram(
        arrays["gram"].astype(np.float64),
        arrays["voxel_sums"].astype(np.float64),
        int(arrays["n_voxels"]),
        arrays["sketch_weights"].astype(np.float64),
    )


def write_mapping(path: Path, mapping: ParticleMapping) -> None:
    """Write the particles in the space of volume components."""
    write_arrays(path, {"v": mapping.v, "nearest": mapping.nearest, "train_loss": mapping.train_loss,
                        "held_out_loss": mapping.held_out_loss})  # fmt: skip


def read_mapping(path: Path) -> ParticleMapping:
    """Read what :func:`write_mapping` wrote."""
    arrays = read_arrays(path)
    return ParticleMapping(
        arrays["v"].astype(np.float32),
        arrays["nearest"].astype(np.int32),
        arrays["train_loss"].astype(np.float64),
        arrays["held_out_loss"].astype(np.float64),
    )


def write_clusters(path: Path, clusters: VolumeClusters) -> None:
    """Write the clusters of the sketched volumes."""
    names = ("label", "medoid", "n_volumes", "n_particles", "tree")
    write_arrays(path, {"stray": clusters.reassigned, **{name: getattr(clusters, name) for name in names}})


def read_clusters(path: Path) -> VolumeClusters:
    """Read what :func:`write_clusters` wrote."""
    arrays = read_arrays(path)
    return VolumeClusters(
        label=arrays["label"].astype(np.int32),
        medoid=arrays["medoid"].astype(np.int64),
        n_volumes=arrays["n_volumes"].astype(np.int64),
        n_particles=arrays["n_particles"].astype(np.int64),
        reassigned=arrays["stray"].astype(np.bool_),
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


@dataclass(frozen=True)
class LandscapeFiles:
    """Where the stages of a landscape job keep what they hand on."""

    layout: Layout

    @property
    def sketch(self) -> Path:
        """The sketched particles."""
        return self.layout.checkpoint / "sketch.npz"

    @property
    def mask(self) -> Path:
        """Where volumes are compared."""
        return self.layout.root / "mask.mrc"

    @property
    def rows(self) -> Path:
        """Masked maps of the basis, a scratch file."""
        return self.layout.checkpoint / "rows.npy"

    @property
    def gram(self) -> Path:
        """Their inner products."""
        return self.layout.checkpoint / "gram.npz"

    @property
    def mapping(self) -> Path:
        """All particles in the space of volume components."""
        return self.layout.checkpoint / "mapping.npz"

    @property
    def clusters(self) -> Path:
        """Clusters of the sketched volumes."""
        return self.layout.checkpoint / "clusters.npz"

    @property
    def components(self) -> Path:
        """Maps along the principal components."""
        return self.layout.root / "components"

    @property
    def particle_table(self) -> Path:
        """Volume components and cluster of each particle."""
        return self.layout.root / "landscape.npz"

    @property
    def sketch_table(self) -> Path:
        """The sketched particles, and their volumes in several planes."""
        return self.layout.root / "sketch.npz"

    def density(self, components: tuple[int, ...]) -> Path:
        """The density over some volume components, numbered from 1."""
        return self.layout.root / f"density_pc{'_pc'.join(map(str, components))}.npz"
