"""Volumes as sums over a few maps, whatever the engine, and their inner products within a mask.

Where an engine has a linear form, its mean and components are the rows of the basis, and every volume of every particle
is a sum over them, exactly. Elsewhere the rows are the sketched volumes themselves. Distances, principal components and
averages then follow from the Gram matrix of the rows; no more than one rendered volume is in memory at a time, and the
masked rows lie in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import claim_room
from cryodrgn_ext.engines.base import Heterogeneity, Linear
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.progress import Monitor

FloatArray = NDArray[np.float64]
Map = NDArray[np.float32]
BYTES_PER_BLOCK = 1 << 26
BYTES_OF_SUMS = 1 << 29
PARTICLES_PER_BLOCK = 1 << 14


@dataclass(frozen=True)
class VolumeBasis:
    """R maps whose sums are volumes.

    Attributes
    ----------
    n_rows : int
        Number R of maps.
    maps : callable
        () -> iterator over the R maps (D, D, D) float32.
    sketch_weights : ndarray
        (K, R) float64; the sketched volumes are ``sketch_weights @ maps``.
    particle_weights : callable or None
        (P, q) latents -> (P, R) float64 for any latents; None where only the sketched volumes are such sums.
    """

    n_rows: int
    maps: Callable[[], Iterator[Map]]
    sketch_weights: FloatArray
    particle_weights: Callable[[NDArray[np.float32]], FloatArray] | None

    @property
    def is_linear(self) -> bool:
        """Whether the volumes of all particles are sums over the rows."""
        return self.particle_weights is not None


def volume_basis(model: Heterogeneity, sketch_z: NDArray[np.float32]) -> VolumeBasis:
    """Basis of a trained model's volumes for a sketch of latents (K, q)."""
    if not isinstance(model, Linear):
        return VolumeBasis(len(sketch_z), lambda: model.volumes(sketch_z), np.eye(len(sketch_z)), None)
    form = model.linear_form()

    def weights(z: NDArray[np.float32]) -> FloatArray:
        return np.hstack([np.ones((len(z), 1)), form.weights(z).astype(np.float64)])

    return VolumeBasis(form.n_components + 1, lambda: chain([form.mean], form.components()), weights(sketch_z), weights)


def half_maximum_mask(volumes: Iterable[Map], level: float = 0.5) -> NDArray[np.bool_]:
    """Union of the voxels above ``level`` times each volume's own maximum (Zhong 2022, 6.2.4), one volume at a time.

    Raises
    ------
    InputError
        When there is no volume, or one has no positive density.
    """
    mask: NDArray[np.bool_] | None = None
    for number, volume in enumerate(volumes):
        highest = float(volume.max())
        if not highest > 0:
            raise InputError(
                f"sketched volume {number} has no positive density (its maximum is {highest:.4g}): the model is not "
                "usable, or the mask must be given with --in_mask"
            )
        above = volume > level * highest
        mask = above if mask is None else mask | above
    if mask is None:
        raise InputError("a mask needs at least one volume")
    return mask


def rare_region(model: Heterogeneity, level: float = 0.5) -> NDArray[np.bool_] | None:
    """Voxels (D, D, D) in which what a rare state adds exceeds ``level`` times its own maximum; None without any.

    A few images show density of their own more weakly than all together show the rest: it may be below half of a
    volume's maximum, and nevertheless be all that distinguishes the volume.
    """
    if not isinstance(model, Linear):
        return None
    form = model.linear_form()
    region: NDArray[np.bool_] | None = None
    for number, component in enumerate(form.components() if form.rare else ()):
        size = np.abs(component)
        if number in form.rare and size.max() > 0:
            above = size > level * size.max()
            region = above if region is None else region | above
    return region


def masked_rows(basis: VolumeBasis, mask: NDArray[np.bool_], path: Path, monitor: Monitor) -> NDArray[np.float32]:
    """The rows of a basis within a mask, (R, n) float32 in a ``.npy`` file that is mapped into memory.

    Parameters
    ----------
    basis : VolumeBasis
    mask : ndarray
        (D, D, D) bool; n voxels are inside.
    path : Path
        Scratch file, overwritten; may be deleted when the array is no longer needed.
    monitor : Monitor
    """
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        raise InputError("the mask is empty: no voxel is inside")
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(basis.n_rows, len(inside)))
    claim_room(path)
    for number, volume in enumerate(monitor.track(basis.maps(), "Maps within the mask", basis.n_rows)):
        if not np.isfinite(volume).all():
            raise InputError(f"map {number} of the model has values that are not finite: train again")
        rows[number] = volume.reshape(-1)[inside]
    rows.flush()
    return rows


def gram_matrix(rows: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Inner products (R, R) of masked rows (R, n), and their sums over voxels (R,), in blocks of voxels and float64."""
    n_rows, n_voxels = rows.shape
    gram, total = np.zeros((n_rows, n_rows)), np.zeros(n_rows)
    step = max(1, BYTES_PER_BLOCK // (8 * n_rows))
    for start in range(0, n_voxels, step):
        block = np.asarray(rows[:, start : start + step], np.float64)
        gram += block @ block.T
        total += block.sum(axis=1)
    return gram, total


def combined_rows(rows: NDArray[np.float32], weights: FloatArray) -> NDArray[np.float32]:
    """Masked sums over rows, (S, R) weights -> (S, n) float32, in blocks of voxels."""
    n_rows, n_voxels = rows.shape
    result = np.empty((len(weights), n_voxels), np.float32)
    step = max(1, BYTES_PER_BLOCK // (8 * n_rows))
    for start in range(0, n_voxels, step):
        result[:, start : start + step] = weights @ np.asarray(rows[:, start : start + step], np.float64)
    return result


def combined_maps(basis: VolumeBasis, weights: FloatArray, box_size: int, monitor: Monitor) -> Iterator[Map]:
    """Whole maps (D, D, D) of sums over the rows, one for each row of ``weights`` (S, R).

    So many are summed in one pass through the basis as fit into half a GiB.
    """
    at_once = max(1, BYTES_OF_SUMS // (4 * box_size**3))
    for start in range(0, len(weights), at_once):
        part = weights[start : start + at_once]
        sums = np.zeros((len(part), box_size, box_size, box_size), np.float32)
        for volume, factors in zip(monitor.track(basis.maps(), "Averaging maps", basis.n_rows), part.T, strict=True):
            for total, factor in zip(sums, factors, strict=True):
                if factor != 0:
                    total += np.float32(factor) * volume
        yield from sums


def volume_coordinates(
    model: Linear, z: NDArray[np.float32], *, box_size: int = 48, mask: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """Latents in coordinates whose Euclidean distances are those of the volumes, for engines with a linear form.

    At reduced resolution: it is for choosing a sketch, not for measuring. Directions beyond 99.9 % of the variance of
    the particles are left out.

    Parameters
    ----------
    model : Linear
    z : ndarray
        (N, q).
    box_size : int
        Components are Fourier-cropped to at most this box.
    mask : ndarray, optional
        (D, D, D) weights of the voxels, at the model's box.

    Returns
    -------
    ndarray
        (N, d) float32.
    """
    form = model.linear_form()
    small = min(len(form.mean) - len(form.mean) % 2, box_size)
    rows = np.empty((form.n_components, small**3), np.float32)
    for number, volume in enumerate(form.components()):
        weighted = volume if mask is None else volume * mask
        rows[number] = crop_map(torch.from_numpy(np.ascontiguousarray(weighted)), small).numpy().ravel()
    gram, _ = gram_matrix(rows)
    blocks = [slice(start, start + PARTICLES_PER_BLOCK) for start in range(0, len(z), PARTICLES_PER_BLOCK)]
    mean, moment = np.zeros(form.n_components), np.zeros((form.n_components, form.n_components))
    for block in blocks:
        mean += form.weights(z[block]).sum(axis=0, dtype=np.float64) / len(z)
    for block in blocks:
        centred = form.weights(z[block]).astype(np.float64) - mean
        moment += centred.T @ centred / len(z)
    # Principal axes of the volumes of all particles, in the metric of the Gram matrix.
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    variance, axes = np.linalg.eigh(root.T @ moment @ root)
    variance, axes = np.clip(variance[::-1], 0, None), axes[:, ::-1]
    total = variance.sum()
    if not total > 0:
        raise InputError("all particles have the same volume: there is no landscape to analyse")
    kept = int(np.searchsorted(np.cumsum(variance) / total, 0.999)) + 1
    projection = root @ axes[:, :kept]
    return np.concatenate([(form.weights(z[b]).astype(np.float64) - mean) @ projection for b in blocks]).astype(
        np.float32
    )
