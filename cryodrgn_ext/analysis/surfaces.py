"""Density and apparent free energy of the particles over volume components, with bootstrap uncertainty.

The density is that of the estimated positions, which noise in the images blurs: barriers come out too low. It is an
energy landscape only as far as the particles are an equilibrium sample and each is where it seems to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
CELLS = 96
IQR_TO_SD = 1.349  # of a normal distribution
REPLICATES = 60
NARROWER = 0.7  # than Scott's rule, which is for one round cloud and blurs bands and several states
EMPTY_COUNT = 1.0  # expected particles within a kernel below which a place counts as empty
PEAK_COUNT = 5.0  # and below which a maximum is a few single particles
STABLE_SHARE = 0.8  # of the replicates that must show a maximum


@dataclass(frozen=True)
class Maximum:
    """A local maximum of the density, a candidate state.

    Attributes
    ----------
    position : tuple of float
        Along each component.
    depth_kT : float
        How much higher the density is than at the pass to a higher maximum, as free energy; infinite for the highest.
    depth_sd_kT : float
        Its standard deviation over the replicates; 0 for the highest.
    stability : float
        Share of the replicates in which the density has a maximum within two kernel widths.
    """

    position: tuple[float, ...]
    depth_kT: float
    depth_sd_kT: float
    stability: float

    @property
    def is_stable(self) -> bool:
        """Whether resampling the particles leaves it there, and its depth is more than twice its deviation."""
        return self.stability >= STABLE_SHARE and self.depth_kT > 2 * self.depth_sd_kT


@dataclass(frozen=True)
class Surface:
    """Density of particles over one or two components.

    Attributes
    ----------
    axes : tuple of ndarray
        Centres of the cells along each component.
    density : ndarray
        Particles per unit of area, (cells, ...) over all components in order.
    density_sd : ndarray
        Standard deviation over bootstrap replicates.
    free_energy_kT : ndarray
        -ln(density / highest density); infinite where no particles are.
    free_energy_sd_kT : ndarray
        Standard deviation over the replicates; nan where no particles are.
    bandwidth : tuple of float
        Standard deviation of the Gaussian kernel along each component.
    maxima : tuple of Maximum
        Highest first.
    """

    axes: tuple[FloatArray, ...]
    density: FloatArray
    density_sd: FloatArray
    free_energy_kT: FloatArray
    free_energy_sd_kT: FloatArray
    bandwidth: tuple[float, ...]
    maxima: tuple[Maximum, ...]


def density_surface(
    v: NDArray[np.floating], *, cells: int = CELLS, replicates: int = REPLICATES, seed: int = 0
) -> Surface:
    """Kernel density of particles over one or two components, and what resampling them makes of it.

    Counts on a grid, smoothed by a Gaussian of 0.7 times the width of Scott's rule (robust spread). Drawing particles
    with replacement is drawing multinomial counts, so that a replicate costs no more than a grid, whatever N is.

    Parameters
    ----------
    v : ndarray
        (N, 1) or (N, 2) coordinates.
    cells : int
        Grid cells along each component, over the particles and three kernel widths around.
    replicates : int
        Bootstrap replicates, at least 2.
    seed : int

    Raises
    ------
    InputError
        When there are fewer than ten particles, or they do not differ.
    """
    n, d = v.shape
    if d not in (1, 2):
        raise InputError(f"a density surface is over one or two components, not {d}")
    if n < 10:
        raise InputError(f"a density needs at least 10 particles, got {n}")
    values = v.astype(np.float64)
    width = np.array([_bandwidth(column, n, d) for column in values.T])
    low, high = values.min(axis=0) - 3 * width, values.max(axis=0) + 3 * width
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
    counts, _ = np.histogramdd(values, edges)
    step = (high - low) / cells
    sigma = width / step
    area = float(np.prod(step))

    def smooth(numbers: NDArray[np.generic]) -> FloatArray:
        smoothed: FloatArray = gaussian_filter(numbers.astype(np.float64), sigma, mode="constant", truncate=5.0) / area
        return smoothed

    density = smooth(counts)
    rng = np.random.default_rng(seed)
    share = counts.ravel() / n
    samples = np.stack([smooth(np.reshape(rng.multinomial(n, share), counts.shape)) for _ in range(replicates)])
    # Effective number of particles under the kernel.
    effective = density * np.prod(np.sqrt(4 * np.pi) * width)
    populated = effective >= EMPTY_COUNT
    energy = np.where(populated, -np.log(np.maximum(density, 1e-300) / density.max()), np.inf)
    energies = -np.log(np.maximum(samples, 1e-300) / samples.reshape(replicates, -1).max(1).reshape(-1, *[1] * d))
    axes = tuple((edge[1:] + edge[:-1]) / 2 for edge in edges)
    return Surface(
        axes=axes,
        density=density,
        density_sd=samples.std(axis=0, ddof=1),
        free_energy_kT=energy,
        free_energy_sd_kT=np.where(populated, energies.std(axis=0, ddof=1), np.nan),
        bandwidth=tuple(float(w) for w in width),
        maxima=_maxima(axes, density, samples, effective >= PEAK_COUNT, 2 * sigma),
    )


def _bandwidth(column: FloatArray, n: int, d: int) -> float:
    low, high = np.percentile(column, [25, 75])
    deviation = float(column.std())
    spread = min(deviation, float(high - low) / IQR_TO_SD) or deviation
    if not spread > 0:
        raise InputError("all particles have the same position along a volume component: there is no density to show")
    width: float = NARROWER * spread * float(n) ** (-1 / (d + 4))
    return width


def _maxima(
    axes: tuple[FloatArray, ...],
    density: FloatArray,
    samples: FloatArray,
    populated: NDArray[np.bool_],
    reach_cells: FloatArray,
) -> tuple[Maximum, ...]:
    found = [peak for peak in peaks(density) if populated[peak[0]]]
    in_samples = [peaks(sample) for sample in samples]
    result = []
    for place, depth in found:
        depths = []
        for sample_peaks in in_samples:
            near = [
                sample_depth
                for sample_place, sample_depth in sample_peaks
                if np.sum(((np.array(sample_place) - place) / reach_cells) ** 2) <= 1
            ]
            if near:
                depths.append(max(near))
        finite = np.array([value for value in depths if np.isfinite(value)])
        result.append(
            Maximum(
                position=tuple(float(axis[i]) for axis, i in zip(axes, place, strict=True)),
                depth_kT=depth,
                depth_sd_kT=float(finite.std(ddof=1)) if np.isfinite(depth) and len(finite) > 1 else 0.0,
                stability=len(depths) / len(samples),
            )
        )
    return tuple(result)


def peaks(density: FloatArray) -> list[tuple[tuple[int, ...], float]]:
    """Local maxima of a grid (highest first) and their depths in kT, by flooding from the top.

    A maximum's depth is the logarithm of its density over that of the highest pass to a higher maximum: the
    persistence of its component of the superlevel sets (Edelsbrunner et al. 2002). Cells are neighbours along axes and
    diagonals.
    """
    # A margin of empty cells, so that every neighbour of a cell is a fixed step away in the flat array.
    padded = np.pad(density, 1)
    flat = padded.ravel()
    strides = np.array(padded.strides) // padded.itemsize
    steps = [int((np.array(o) - 1) @ strides) for o in np.ndindex(*[3] * density.ndim)]
    steps.remove(0)
    order = np.argsort(-flat, kind="stable")
    height: list[float] = flat.tolist()
    root = [-1] * len(height)
    depth: dict[int, float] = {}

    def find(cell: int) -> int:
        while root[cell] != cell:
            root[cell] = root[root[cell]]
            cell = root[cell]
        return cell

    for cell in order[: np.count_nonzero(flat > 0)].tolist():
        around = {find(cell + step) for step in steps if root[cell + step] >= 0}
        if not around:
            root[cell], depth[cell] = cell, np.inf
            continue
        highest, *lower = sorted(around, key=lambda peak: (-height[peak], peak))
        root[cell] = highest
        for peak in lower:
            root[peak] = highest
            depth[peak] = float(np.log(height[peak] / height[cell]))
    top = sorted((peak for peak, value in depth.items() if value > 1e-9), key=lambda peak: (-height[peak], peak))
    return [(tuple(int(i) - 1 for i in np.unravel_index(peak, padded.shape)), depth[peak]) for peak in top]
