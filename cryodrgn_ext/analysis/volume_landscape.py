"""The landscape of a trained model's volumes, step by step: sketch, mask, inner products, particles, clusters, planes.

Each step takes what earlier ones gave; a job keeps that in files (:mod:`cryodrgn_ext.jobs.landscape`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.coefficient_mapping import choose_coefficients
from cryodrgn_ext.analysis.latents import umap_embedding
from cryodrgn_ext.analysis.scaling import multidimensional_scaling
from cryodrgn_ext.analysis.set_apart import groups_set_apart
from cryodrgn_ext.analysis.sketch import Sketch, nearest_points, sketch_particles
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
    VolumeClusters,
    cut_tree,
    default_min_particles,
    split_off,
    volume_tree,
)
from cryodrgn_ext.analysis.volume_mapping import learn_mapping, map_linear, map_rendered
from cryodrgn_ext.analysis.volume_pca import VolumePca, volume_distances, volume_pca
from cryodrgn_ext.engines.base import Heterogeneity, Linear, Spectral
from cryodrgn_ext.progress import Monitor

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
EXACT_SHARE = 0.9999  # of the variance, in which particles find their nearest sketched volume
EXACT_AT_MOST = 32
UMAP_NEIGHBORS = 15


@dataclass(frozen=True)
class VolumeGram:
    """Inner products within the mask of the maps that volumes are sums of; see :mod:`.volume_basis`.

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

    def distances(self, metric: str) -> FloatArray:
        """(K, K) between the sketched volumes."""
        return volume_distances(self.gram, self.voxel_sums, self.n_voxels, self.sketch_weights, metric)


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


def sketch_by_volumes(
    model: Heterogeneity,
    z: NDArray[np.float32],
    n_points: int,
    *,
    given_mask: NDArray[np.float32] | None,
    solvent_mask: NDArray[np.float32] | None,
    mask_level: float,
    seed: int,
) -> Sketch:
    """Choose particles that stand for all, by the distances of volumes where the engine is linear, else of latents.

    Parameters
    ----------
    model : Heterogeneity
    z : ndarray
        (n, q) latents.
    n_points : int
    given_mask, solvent_mask : ndarray or None
        (D, D, D) the user's region, and that of the particle, which serves where there is no other.
    mask_level : float
        See :func:`rare_region`.
    seed : int
    """
    coordinates: NDArray[np.floating] = z
    if isinstance(model, Linear):
        region = solvent_mask if given_mask is None else given_mask
        rare = rare_region(model, mask_level) if given_mask is None else None
        if region is not None and rare is not None:
            region = np.maximum(region, rare)
        coordinates = volume_coordinates(model, z, mask=region)
    return sketch_particles(coordinates, n_points, seed=seed)


def comparison_mask(
    model: Heterogeneity, sketch_z: NDArray[np.float32], level: float, monitor: Monitor
) -> NDArray[np.bool_]:
    """Voxels (D, D, D) to compare volumes in: those of Zhong 2022, 6.2.4, and those of rare states' own density.

    Parameters
    ----------
    model : Heterogeneity
    sketch_z : ndarray
        (K, q) latents of the sketched particles.
    level : float
        Share of each volume's maximum.
    monitor : Monitor
    """
    rendered = monitor.track(model.volumes(sketch_z), "Rendering volumes", len(sketch_z))
    mask = half_maximum_mask(rendered, level)
    rare = rare_region(model, level)
    return mask if rare is None else mask | rare


def compare_volumes(basis: VolumeBasis, mask: NDArray[np.bool_], rows_path: Path, monitor: Monitor) -> VolumeGram:
    """Collect the maps of the basis within the mask, and their inner products.

    Raises
    ------
    InputError
        When the mask is empty, or the volumes do not differ within it.
    """
    rows = masked_rows(basis, mask, rows_path, monitor)
    gram, voxel_sums = gram_matrix(rows)
    found = VolumeGram(gram, voxel_sums, rows.shape[1], basis.sketch_weights)
    found.pca()  # volumes without differences end here
    return found


@dataclass(frozen=True)
class ComparedVolumes:
    """A model's volumes for a sketch of its particles, compared within a mask.

    Attributes
    ----------
    model : Heterogeneity
    z : ndarray
        (n, q) latents of all particles.
    sketch : Sketch
        Of them, by any distances.
    mask : ndarray
        (D, D, D) bool.
    rows : ndarray
        (R, n_voxels) masked maps of the basis.
    gram : VolumeGram
    """

    model: Heterogeneity
    z: NDArray[np.float32]
    sketch: Sketch
    mask: NDArray[np.bool_]
    rows: NDArray[np.float32]
    gram: VolumeGram

    def map_particles(
        self, n_components: int, mapping: str, n_learned: int, seed: int, monitor: Monitor
    ) -> ParticleMapping:
        """Give all particles volume components, and the sketched volume that stands for each.

        Parameters
        ----------
        n_components : int
        mapping : str
            ``auto``, ``direct`` or ``learned``.
        n_learned : int
            Volumes that a learned mapping is trained on, besides the sketched ones.
        seed : int
        monitor : Monitor
        """
        everything, index = self.gram.pca(), self.sketch.index
        pca = everything.first(n_components)
        basis = volume_basis(self.model, self.z[index])
        none = np.empty(0)
        if basis.is_linear and mapping != "learned":
            share = np.cumsum(everything.explained_variance_ratio)
            exact = everything.first(
                max(pca.n_components, min(int(np.searchsorted(share, EXACT_SHARE)) + 1, EXACT_AT_MOST))
            )
            mapped = map_linear(basis, self.gram.gram, exact, self.z, monitor)
            v = np.ascontiguousarray(mapped[:, : pca.n_components])
            return ParticleMapping(v, nearest_points(mapped, mapped[index]), none, none)
        if mapping == "direct" or len(self.z) <= n_learned + len(index):
            return ParticleMapping(self._map_directly(pca, self.z, seed, monitor), self.sketch.label, none, none)
        rest = np.setdiff1d(np.arange(len(self.z)), index)
        chosen = np.random.default_rng(seed).choice(rest, n_learned, replace=False)
        rendered = self._map_directly(pca, self.z[chosen], seed, monitor)
        phi = learn_mapping(
            np.concatenate([self.z[chosen], self.z[index]]), np.concatenate([rendered, pca.coordinates]),
            seed=seed, monitor=monitor,
        )  # fmt: skip
        return ParticleMapping(phi(self.z), self.sketch.label, np.array(phi.train_loss), np.array(phi.held_out_loss))

    def _map_directly(self, pca: VolumePca, z: NDArray[np.float32], seed: int, monitor: Monitor) -> NDArray[np.float32]:
        """(m, L) volume components of latents (m, q), from no more of each volume than they need."""
        if not isinstance(self.model, Spectral):
            return map_rendered(self.model, self.rows, self.mask, pca, z, monitor)
        form = self.model.spectral_form()
        found = choose_coefficients(form, self.rows, self.mask, pca, z, seed=seed)
        monitor.message(
            f"{len(found.points)} of {found.n_all} Fourier coefficients of each volume give its components to "
            f"{100 * found.error:.2g} %"
        )
        return found(form, z, monitor)


@dataclass(frozen=True)
class ClusterOptions:
    """How volumes are clustered.

    Attributes
    ----------
    clusters : int
    linkage, metric : str
    min_particles : int or None
        Fewest particles of a cluster; by the number of particles when None.
    set_apart : bool
        Whether small groups that are set apart from all others become clusters beyond ``clusters``.
    seed, workers : int
    """

    clusters: int
    linkage: str
    metric: str
    min_particles: int | None
    set_apart: bool
    seed: int
    workers: int = 1


def cluster_volumes(gram: VolumeGram, mapping: ParticleMapping, options: ClusterOptions) -> VolumeClusters:
    """Cluster the sketched volumes, each with the particles that it stands for."""
    distances = gram.distances(options.metric)
    size = np.bincount(mapping.nearest, minlength=len(distances))
    fewest = default_min_particles(len(mapping.v)) if options.min_particles is None else options.min_particles
    tree = volume_tree(distances, options.linkage, options.metric)
    clusters = cut_tree(tree, distances, options.clusters, size, fewest)
    if not options.set_apart:
        return clusters
    groups = groups_set_apart(
        mapping.v, mapping.nearest, tree, distances, fewest, seed=options.seed, workers=options.workers
    )
    return split_off(clusters, groups, distances, size)


def density_components(n: int) -> list[tuple[int, ...]]:
    """Volume components (from 1) that densities are made over, when there are ``n``: the first pairs."""
    pairs: list[tuple[int, ...]] = [(1, 2), (2, 3)]
    return pairs[: n - 1] if n > 1 else [(1,)]


def volume_planes(pca: VolumePca, distances: FloatArray, seed: int) -> dict[str, NDArray[np.floating]]:
    """Sketched volumes in planes, each (K, 2): multidimensional scaling, and UMAP where there are enough."""
    start = np.zeros((len(distances), 2))
    start[:, : min(2, pca.n_components)] = pca.coordinates[:, :2]
    planes: dict[str, NDArray[np.floating]] = {"mds": multidimensional_scaling(distances, start)}
    if len(distances) >= UMAP_NEIGHBORS:
        planes["umap"] = umap_embedding(pca.coordinates, seed=seed).xy
    return planes


@dataclass(frozen=True)
class Landscape:
    """A finished landscape of n particles.

    Attributes
    ----------
    model : Heterogeneity
    z : ndarray
        (n, q) latents.
    rows : ndarray
        (n,) int64 rows of the particles in the input.
    sketch_index : ndarray
        (K,) int64 sketched particles, as positions among the n.
    pca : VolumePca
        All components of the sketched volumes.
    mapping : ParticleMapping
    clusters : VolumeClusters
    """

    model: Heterogeneity
    z: NDArray[np.float32]
    rows: IndexArray
    sketch_index: IndexArray
    pca: VolumePca
    mapping: ParticleMapping
    clusters: VolumeClusters

    @property
    def label(self) -> NDArray[np.int32]:
        """(n,) cluster of each particle."""
        label: NDArray[np.int32] = self.clusters.label[self.mapping.nearest]
        return label

    @property
    def center_index(self) -> IndexArray:
        """(C,) particle, among the n, whose volume stands for each cluster."""
        return self.sketch_index[self.clusters.medoid]
