"""The numerical stages of a landscape job; each reads what earlier ones left in checkpoint/, and adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.coefficient_mapping import choose_coefficients
from cryodrgn_ext.analysis.latents import umap_embedding
from cryodrgn_ext.analysis.scaling import multidimensional_scaling
from cryodrgn_ext.analysis.set_apart import groups_set_apart
from cryodrgn_ext.analysis.sketch import nearest_points, sketch_particles
from cryodrgn_ext.analysis.surfaces import density_surface
from cryodrgn_ext.analysis.volume_basis import (
    VolumeBasis,
    gram_matrix,
    half_maximum_mask,
    masked_rows,
    rare_region,
    volume_basis,
    volume_coordinates,
)
from cryodrgn_ext.analysis.volume_clusters import (
    cut_tree,
    default_min_particles,
    split_off,
    volume_tree,
)
from cryodrgn_ext.analysis.volume_mapping import learn_mapping, map_linear, map_rendered
from cryodrgn_ext.analysis.volume_pca import VolumePca, volume_distances
from cryodrgn_ext.engines.base import Heterogeneity, Linear, Spectral
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.options.landscape import LandscapeSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.landscape_tables import (
    ParticleMapping,
    VolumeGram,
    read_arrays,
    read_clusters,
    write_arrays,
    write_clusters,
    write_surface,
)
from cryodrgn_ext.results.layout import Layout

IndexArray = NDArray[np.int64]
EXACT_SHARE = 0.9999  # of the variance, in which particles find their nearest sketched volume
EXACT_AT_MOST = 32
UMAP_NEIGHBORS = 15


@dataclass(frozen=True)
class LandscapeStages:
    """What the stages work on.

    Attributes
    ----------
    settings : LandscapeSettings
    layout : Layout
        Of the result directory.
    model : Heterogeneity
    z : ndarray
        (n, q) float32 latents of the particles that are looked at.
    rows : ndarray
        (n,) their rows of the input.
    given_mask : ndarray or None
        (D, D, D) the user's region.
    solvent_mask : ndarray or None
        (D, D, D) of the train job.
    monitor : Monitor
    """

    settings: LandscapeSettings
    layout: Layout
    model: Heterogeneity
    z: NDArray[np.float32]
    rows: IndexArray
    given_mask: NDArray[np.float32] | None
    solvent_mask: NDArray[np.float32] | None
    monitor: Monitor

    @property
    def sketch_path(self) -> Path:
        """The sketched particles."""
        return self.layout.checkpoint / "sketch.npz"

    @property
    def mask_path(self) -> Path:
        """Where volumes are compared."""
        return self.layout.root / "mask.mrc"

    @property
    def rows_path(self) -> Path:
        """Masked maps of the basis, a scratch file."""
        return self.layout.checkpoint / "rows.npy"

    @property
    def gram_path(self) -> Path:
        """Their inner products."""
        return self.layout.checkpoint / "gram.npz"

    @property
    def mapping_path(self) -> Path:
        """All particles in the space of volume components."""
        return self.layout.checkpoint / "mapping.npz"

    @property
    def clusters_path(self) -> Path:
        """Clusters of the sketched volumes."""
        return self.layout.checkpoint / "clusters.npz"

    @property
    def sketch_index(self) -> IndexArray:
        """(K,) sketched particles, as positions among those looked at."""
        return read_arrays(self.sketch_path)["index"].astype(np.int64)

    def basis(self) -> VolumeBasis:
        """The maps that volumes are sums of."""
        return volume_basis(self.model, self.z[self.sketch_index])

    def read_mask(self) -> NDArray[np.bool_]:
        """(D, D, D) bool, where volumes are compared."""
        mask: NDArray[np.bool_] = read_map(self.mask_path).data > 0.5
        return mask

    def volumes(self) -> tuple[VolumeGram, VolumePca]:
        """Inner products of the volumes, and all their principal components."""
        found = VolumeGram.read(self.gram_path)
        return found, found.pca()

    def distances(self) -> NDArray[np.float64]:
        """(K, K) between the sketched volumes."""
        found = VolumeGram.read(self.gram_path)
        return volume_distances(
            found.gram, found.voxel_sums, found.n_voxels, found.sketch_weights, self.settings.metric
        )

    def choose_sketch(self) -> None:
        """Choose the sketched particles, by the distances of volumes where the engine is linear, else of latents."""
        coordinates: NDArray[np.floating] = self.z
        if isinstance(self.model, Linear):
            region = self.solvent_mask if self.given_mask is None else self.given_mask
            rare = rare_region(self.model, self.settings.mask_level) if self.given_mask is None else None
            if region is not None and rare is not None:
                region = np.maximum(region, rare)
            coordinates = volume_coordinates(self.model, self.z, mask=region)
        sketch = sketch_particles(coordinates, self.settings.sketch, seed=self.settings.seed)
        if len(sketch.index) < max(2, self.settings.clusters):
            raise InputError(
                f"the particles have only {len(sketch.index)} different volumes, too few for {self.settings.clusters} "
                "clusters."
            )
        write_arrays(self.sketch_path, {"index": sketch.index, "nearest": sketch.label})

    def make_mask(self) -> None:
        """Write the mask: the user's, or that of thesis 6.2.4, and where rare states have density of their own."""
        if self.given_mask is not None:
            mask = self.given_mask > 0.5
        else:
            z = self.z[self.sketch_index]
            rendered = self.monitor.track(self.model.volumes(z), "Rendering volumes", len(z))
            mask = half_maximum_mask(rendered, self.settings.mask_level)
            rare = rare_region(self.model, self.settings.mask_level)
            mask = mask if rare is None else mask | rare
        write_map(self.mask_path, mask.astype(np.float32), self.model.pixel_size_A)
        self.monitor.message(f"{np.count_nonzero(mask)} of {mask.size} voxels are in the mask")

    def compare(self) -> None:
        """Collect the maps within the mask, and their inner products."""
        basis = self.basis()
        rows = masked_rows(basis, self.read_mask(), self.rows_path, self.monitor)
        gram, voxel_sums = gram_matrix(rows)
        found = VolumeGram(gram, voxel_sums, rows.shape[1], basis.sketch_weights)
        found.pca()  # so that volumes without differences end here
        found.write(self.gram_path)

    def map_particles(self) -> None:
        """Give all particles volume components, and the sketched volume that stands for each."""
        settings, index = self.settings, self.sketch_index
        volumes, everything = self.volumes()
        pca = everything.first(settings.components)
        basis = self.basis()
        train_loss: list[float] = []
        held_out_loss: list[float] = []
        nearest = read_arrays(self.sketch_path)["nearest"].astype(np.int32)
        if basis.is_linear and settings.mapping != "learned":
            share = np.cumsum(everything.explained_variance_ratio)
            exact = everything.first(
                max(pca.n_components, min(int(np.searchsorted(share, EXACT_SHARE)) + 1, EXACT_AT_MOST))
            )
            mapped = map_linear(basis, volumes.gram, exact, self.z, self.monitor)
            nearest = nearest_points(mapped, mapped[index])
            v = np.ascontiguousarray(mapped[:, : pca.n_components])
        else:
            rows = np.load(self.rows_path, mmap_mode="r")
            mask = self.read_mask()
            if settings.mapping == "direct" or len(self.z) <= settings.mapping_volumes + len(index):
                v = self._map_directly(rows, mask, pca, self.z)
            else:
                rest = np.setdiff1d(np.arange(len(self.z)), index)
                chosen = np.random.default_rng(settings.seed).choice(rest, settings.mapping_volumes, replace=False)
                rendered = self._map_directly(rows, mask, pca, self.z[chosen])
                phi = learn_mapping(
                    np.concatenate([self.z[chosen], self.z[index]]), np.concatenate([rendered, pca.coordinates]),
                    seed=settings.seed, monitor=self.monitor,
                )  # fmt: skip
                v, train_loss, held_out_loss = phi(self.z), phi.train_loss, phi.held_out_loss
        ParticleMapping(v, nearest, np.array(train_loss), np.array(held_out_loss)).write(self.mapping_path)

    def _map_directly(
        self, rows: NDArray[np.float32], mask: NDArray[np.bool_], pca: VolumePca, z: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(n, L) volume components of latents (n, q), from no more of each volume than they need."""
        if not isinstance(self.model, Spectral):
            return map_rendered(self.model, rows, mask, pca, z, self.monitor)
        form = self.model.spectral_form()
        found = choose_coefficients(form, rows, mask, pca, z, seed=self.settings.seed)
        self.monitor.message(
            f"{len(found.points)} of {found.n_all} Fourier coefficients of each volume give its components to "
            f"{100 * found.error:.2g} %"
        )
        return found(form, z, self.monitor)

    def cluster(self) -> None:
        """Cluster the sketched volumes."""
        settings = self.settings
        mapping = ParticleMapping.read(self.mapping_path)
        distances = self.distances()
        size = np.bincount(mapping.nearest, minlength=len(distances))
        fewest = default_min_particles(len(self.z)) if settings.min_particles is None else settings.min_particles
        tree = volume_tree(distances, settings.linkage, settings.metric)
        clusters = cut_tree(tree, distances, settings.clusters, size, fewest)
        if settings.set_apart:
            groups = groups_set_apart(
                mapping.v, mapping.nearest, tree, distances, fewest, seed=settings.seed, workers=settings.j or 1
            )
            clusters = split_off(clusters, groups, distances, size)
        write_clusters(self.clusters_path, clusters)

    def surface_components(self) -> list[tuple[int, ...]]:
        """Volume components (from 1) that densities are made over."""
        n = ParticleMapping.read(self.mapping_path).v.shape[1]
        pairs: list[tuple[int, ...]] = [(1, 2), (2, 3)]
        return pairs[: n - 1] if n > 1 else [(1,)]

    def surface_paths(self) -> list[Path]:
        """Their files; none before the particles are mapped."""
        if not self.mapping_path.exists():
            return []
        return [self.layout.root / f"density_pc{'_pc'.join(map(str, c))}.npz" for c in self.surface_components()]

    def densities(self) -> None:
        """Write the densities and free energies."""
        v = ParticleMapping.read(self.mapping_path).v
        for components, path in zip(self.surface_components(), self.surface_paths(), strict=True):
            self.monitor.poll()
            columns = v[:, [number - 1 for number in components]]
            surface = density_surface(columns, replicates=self.settings.bootstrap, seed=self.settings.seed)
            write_surface(path, surface, components)

    def layouts(self) -> None:
        """Write sketch.npz: the sketched particles, and their volumes in several planes."""
        _, pca = self.volumes()
        clusters = read_clusters(self.clusters_path)
        mapping = ParticleMapping.read(self.mapping_path)
        index = self.sketch_index
        plane = np.zeros((len(index), 2))
        plane[:, : min(2, pca.n_components)] = pca.coordinates[:, :2]
        arrays: dict[str, NDArray[np.generic]] = {
            "row": self.rows[index], "z": self.z[index], "cluster": clusters.label, "stray": clusters.stray,
            "particles": np.bincount(mapping.nearest, minlength=len(index)), "tree": clusters.tree,
            "v": pca.coordinates[:, : self.settings.components], "variance": pca.variance,
            "explained_variance_ratio": pca.explained_variance_ratio,
            "mds": multidimensional_scaling(self.distances(), plane),
        }  # fmt: skip
        if len(index) >= UMAP_NEIGHBORS:
            arrays["umap"] = umap_embedding(pca.coordinates, seed=self.settings.seed).xy
        write_arrays(self.layout.root / "sketch.npz", arrays)
