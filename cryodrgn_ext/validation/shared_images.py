"""Rows that may speak for their half-set: no particle is in both, where files have put copies of it there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.metadata.shared_density import IMAGE, PARTICLE, find_shared_density, joined_groups


def independent_rows(images: ParticleImages) -> NDArray[np.bool_]:
    """(N,) rows by which half-sets can be compared.

    Where rows of one image, copies of one particle, or boxes nearer to each other than a quarter of one (picked twice)
    are in both half-sets, only those in one of them are taken, from one such group in half-set 1, from the next in 2:
    the others have the same noise.
    """
    half_set = images.half_set.cpu().numpy()
    if images.particles is None:
        return np.ones(images.n, bool)
    shared = find_shared_density(images.particles)
    relations = [shared.certain[name] for name in (IMAGE, PARTICLE) if name in shared.certain]
    if shared.picked_twice is not None:
        relations.append(shared.picked_twice)
    return one_half_of_each(joined_groups(relations), half_set)


def one_half_of_each(groups: NDArray[np.int64], half_set: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(N,) all rows but, of each group that has rows in both half-sets, those in one of them, by turns."""
    count = int(groups.max(initial=-1)) + 1
    has = [np.bincount(groups[half_set == half], minlength=count) > 0 for half in (1, 2)]
    split = has[0] & has[1]
    kept = np.zeros(count, np.int64)
    kept[split] = 1 + np.arange(np.count_nonzero(split)) % 2
    return np.asarray(~split[groups] | (half_set == kept[groups]))
