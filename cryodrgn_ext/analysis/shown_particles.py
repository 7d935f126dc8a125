"""Which particles a report draws one by one, and what is known of each.

Up to some ten thousand all are drawn. Of more, a sample is: within every group by chance, and of small groups all, so
that a state of 0.3 % stays in sight; counts are then estimated with a weight for each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]
MOST_SHOWN = 40_000
FEWEST_OF_A_GROUP = 400


@dataclass(frozen=True)
class ShownParticles:
    """``n`` of ``N`` particles, with what a reader may want to see of them.

    Attributes
    ----------
    index : ndarray
        (n,) int64 which particles, increasing.
    row : ndarray
        (n,) int64 their rows in the user's file, counted from 1.
    columns : mapping
        Name to (n,) float64, NaN where there is no value.
    stacks : tuple of str
        Names of stacks of images.
    stack, image : ndarray or None
        (n,) int64 which stack, and which image of it, from 1.
    """

    index: IndexArray
    row: IndexArray
    columns: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    stacks: tuple[str, ...] = ()
    stack: IndexArray | None = None
    image: IndexArray | None = None


def choose_shown(
    n: int,
    label: NDArray[np.integer] | None = None,
    always: NDArray[np.integer] | None = None,
    prefer: NDArray[np.integer] | None = None,
    most: int = MOST_SHOWN,
) -> IndexArray:
    """Choose the particles to draw.

    Parameters
    ----------
    n : int
        Number N of particles.
    label : ndarray, optional
        (N,) group of each particle, from 0.
    always : ndarray, optional
        Particles that must be among them, such as the centres of groups.
    prefer : ndarray, optional
        A random sample of the particles of which more is known, such as their place in a UMAP.
    most : int
        About how many to choose; a few more when groups are small and many.

    Returns
    -------
    ndarray
        (n',) int64, increasing; the same for the same arguments.
    """
    if n <= most:
        return np.arange(n, dtype=np.int64)
    # A random rank for every particle; the first of each group are taken.
    rank = np.random.default_rng(0).permutation(n).astype(np.int64)
    if prefer is not None:
        rank[prefer] -= n
    if always is not None:
        rank[always] -= 2 * n
    groups = np.zeros(n, np.int64) if label is None else np.asarray(label, np.int64)
    size = np.bincount(groups)
    quota = np.minimum(size, np.maximum(FEWEST_OF_A_GROUP, np.floor(size * (most / n)).astype(np.int64)))
    order = np.lexsort((rank, groups))
    place = np.arange(n) - np.repeat(np.cumsum(size) - size, size)
    return np.sort(order[place < quota[groups[order]]])


def group_weights(n: int, label: NDArray[np.integer] | None, shown: IndexArray) -> NDArray[np.float64]:
    """(K,) how many particles each shown one stands for, by group; one value without groups."""
    if label is None:
        return np.array([n / max(len(shown), 1)])
    size = np.bincount(label)
    return size / np.maximum(np.bincount(label[shown], minlength=len(size)), 1)
