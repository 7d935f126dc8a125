"""States and their populations against a known truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def adjusted_rand(label: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985) of two labellings (N,): 1 when alike, 0 in expectation by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(truth, label))


def population_error(label: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Share of the particles (0 to 1) by which populations differ, each true state matched with the best found one.

    States are matched one to one so that most particles agree; the populations of those without a partner count whole.
    """
    found, f = np.unique(label, return_inverse=True)
    true, t = np.unique(truth, return_inverse=True)
    table = np.zeros((len(true), len(found)))
    np.add.at(table, (t.reshape(-1), f.reshape(-1)), 1.0 / len(label))
    rows, columns = linear_sum_assignment(-table)
    populations, sizes = table.sum(axis=1), table.sum(axis=0)
    matched = np.abs(populations[rows] - sizes[columns]).sum()
    alone = np.delete(populations, rows).sum() + np.delete(sizes, columns).sum()
    return float((matched + alone) / 2)
