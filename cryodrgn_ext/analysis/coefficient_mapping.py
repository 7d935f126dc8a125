"""Volume components from a few Fourier coefficients of each volume, for engines that give them one by one.

A coordinate along an eigenvolume E is a sum over voxels of E V, and so (Parseval) a sum over Fourier coefficients of
conj(E^) V^. Both E within its mask and the differences of volumes are smooth: nearly all of the sum comes from few
coefficients, so that neither the others nor any map have to be computed. Which ones, and how many, is measured on some
particles whose coefficients are all computed; what the others add on average is kept as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.volume_basis import combined_rows
from cryodrgn_ext.analysis.volume_pca import VolumePca
from cryodrgn_ext.engines.base import SpectralForm
from cryodrgn_ext.fourier.slices import FourierGrid, map_to_grid
from cryodrgn_ext.progress import Monitor, SilentMonitor

FloatArray = NDArray[np.float64]
RELATIVE_ERROR = 0.005  # of the coordinates, in units of their spread
MEASURED = (8, 48)  # particles that it is measured on
BYTES_OF_MEASURED = 1 << 28
VALUES_AT_ONCE = 1 << 22
STEPS = 60  # numbers of coefficients that are tried, in a geometric series


@dataclass(frozen=True)
class CoefficientMapping:
    """Coordinates as sums over some coefficients.

    Attributes
    ----------
    points : ndarray
        (P, 3) float32 frequencies x, y, z.
    weights : ndarray
        (P, L) complex128: coordinates are the real part of coefficients times these, plus ``constant``.
    constant : ndarray
        (L,).
    n_all : int
        Coefficients that a whole volume has.
    error : float
        Root mean square error over the spread, on particles that were not used to choose the coefficients.
    """

    points: NDArray[np.float32]
    weights: NDArray[np.complex128]
    constant: FloatArray
    n_all: int
    error: float

    def __call__(
        self, form: SpectralForm, z: NDArray[np.float32], monitor: Monitor | None = None
    ) -> NDArray[np.float32]:
        """(N, q) latents -> (N, L) coordinates."""
        monitor = SilentMonitor() if monitor is None else monitor
        at_once = max(1, VALUES_AT_ONCE // max(1, len(self.points)))
        result = np.empty((len(z), len(self.constant)), np.float32)
        for start in monitor.track(range(0, len(z), at_once), "Mapping particles", len(z), at_once):
            values = form.spectrum(z[start : start + at_once], self.points)
            result[start : start + at_once] = (values @ self.weights).real + self.constant
        return result


def choose_coefficients(
    form: SpectralForm,
    rows: NDArray[np.float32],
    mask: NDArray[np.bool_],
    pca: VolumePca,
    z: NDArray[np.float32],
    *,
    error: float = RELATIVE_ERROR,
    seed: int = 0,
) -> CoefficientMapping:
    """The fewest coefficients that give coordinates to a relative error.

    Parameters
    ----------
    form : SpectralForm
    rows : ndarray
        (R, n) masked maps of the basis of ``pca``.
    mask : ndarray
        (D, D, D) bool.
    pca : VolumePca
    z : ndarray
        (N, q) latents; a random choice of them is what errors are measured on.
    error : float
        Root mean square over the spread of the coordinates, all together.
    seed : int
    """
    points, weights, constant = _whole_sum(form, rows, mask, pca)
    fitting = int(np.clip(BYTES_OF_MEASURED // (8 * len(points)), *MEASURED))
    chosen = np.random.default_rng(seed).choice(len(z), min(fitting, len(z)), replace=False)
    values = np.concatenate([form.spectrum(z[[row]], points) for row in chosen])
    fitted, held_out = values[::2], values[1::2] if len(values) > 1 else values
    mean = fitted.mean(axis=0)
    importance = (np.abs(weights) ** 2).sum(axis=1) * (np.abs(fitted - mean) ** 2).mean(axis=0)
    order = np.argsort(-importance, kind="stable")
    exact = (held_out @ weights).real
    spread = np.sqrt(np.square(exact - exact.mean(axis=0)).sum()) or 1.0
    average = (mean @ weights).real
    terms = held_out - mean
    found, reached = len(order), 0.0
    for count in np.unique(np.geomspace(1, len(order), STEPS).round().astype(int)).tolist():
        part = order[:count]
        missed = np.sqrt(np.square((terms[:, part] @ weights[part]).real + average - exact).sum()) / spread
        if missed <= error:
            found, reached = count, float(missed)
            break
    part = np.sort(order[:found])
    others = average - (mean[part] @ weights[part]).real
    return CoefficientMapping(points[part], weights[part], constant + others, len(points), reached)


def _whole_sum(
    form: SpectralForm, rows: NDArray[np.float32], mask: NDArray[np.bool_], pca: VolumePca
) -> tuple[NDArray[np.float32], NDArray[np.complex128], FloatArray]:
    """All frequencies (P, 3), their weights (P, L) in the coordinates, and what the coordinates are without them."""
    box = len(mask)
    grid = FourierGrid(box, form.radius, 1)
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = np.stack([x, y - grid.half, z - grid.half], axis=-1).reshape(-1, 3)
    inside = np.flatnonzero((points**2).sum(axis=1) <= form.radius**2)
    points = points[inside].astype(np.float32)
    # A coefficient stands for its Friedel partner as well, except on the plane x = 0, which holds both.
    twice = np.where(points[:, 0] > 0, 2.0, 1.0) / box**3
    voxels = np.flatnonzero(mask)
    eigenvolumes = combined_rows(rows, pca.axes)
    apart = form.mean.reshape(-1)[voxels] - combined_rows(rows, pca.mean_weights[None])[0]
    constant = eigenvolumes.astype(np.float64) @ apart
    weights = np.empty((len(points), pca.n_components), np.complex128)
    for number, eigenvolume in enumerate(eigenvolumes):
        whole = torch.zeros(box, box, box)
        whole.view(-1)[torch.from_numpy(voxels)] = torch.from_numpy(eigenvolume)
        weights[:, number] = map_to_grid(whole, grid).reshape(-1).numpy()[inside].conj() * twice
    return points, weights, constant
