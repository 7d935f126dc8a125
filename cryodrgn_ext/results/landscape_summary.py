"""Findings of a landscape: sentences for the user, and the results in job.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cryodrgn_ext.analysis.loops import Closure
from cryodrgn_ext.analysis.surfaces import Surface
from cryodrgn_ext.analysis.volume_landscape import Landscape


def landscape_sentences(found: Landscape, wanted: int, closure: Closure | None) -> list[str]:
    """Say what is unusual about the states of a landscape.

    Parameters
    ----------
    found : Landscape
    wanted : int
        Number of clusters that was asked for.
    closure : Closure or None
        Of the particles in the space of volume components, where it was tested.
    """
    clusters, mapping, said = found.clusters, found.mapping, []
    if closure is not None and closure.is_closed:
        said.append(
            f"The volumes lie on a closed curve (its loop is {closure.persistence:.1f} times farther across than "
            "along): the motion comes back to where it began, so that states follow one another in a circle."
        )
    if clusters.n_clusters != wanted:
        said.append(
            f"{clusters.n_clusters} states instead of {wanted}: small groups that are set apart are states of their "
            "own, and groups of too few particles are none."
        )
    if clusters.reassigned.any():
        count = int(np.isin(mapping.nearest, np.flatnonzero(clusters.reassigned)).sum())
        said.append(
            f"{np.count_nonzero(clusters.reassigned)} volumes ({count} particles) lie in groups too small to be "
            "states and were put with the nearest one; --min_particles 0 shows them."
        )
    if not mapping.is_exact:
        said.append(
            f"Volume components of particles are predicted by a map learned from volumes: of those held out it "
            f"misses {100 * mapping.held_out_loss.min():.1f} % of the variance."
        )
    return said


def landscape_results(
    found: Landscape,
    n_components: int,
    surfaces: Sequence[tuple[Surface, tuple[int, ...]]],
    closure: Closure | None,
) -> dict[str, Any]:
    """Results for job.yaml, as plain values.

    Parameters
    ----------
    found : Landscape
    n_components : int
        How many volume components are listed.
    surfaces : sequence
        Densities of the particles, each with the components that it is over.
    closure : Closure or None
    """
    clusters, mapping, shares = found.clusters, found.mapping, found.pca.explained_variance_ratio
    return {
        "particles": len(found.rows),
        "sketch": len(clusters.label),
        "explained_variance": [round(float(share), 5) for share in shares[:n_components]],
        "mapping": "exact" if mapping.is_exact else "learned",
        "held_out_loss": None if mapping.is_exact else round(float(mapping.held_out_loss.min()), 6),
        "states": [
            {"state": number, "volumes": int(clusters.n_volumes[number]),
             "particles": int(clusters.n_particles[number]),
             "on_data_particle": int(row)}
            for number, row in enumerate(found.rows[found.center_index])
        ],
        "closed_curve": None if closure is None else {
            "closed": closure.is_closed, "persistence": round(closure.persistence, 3), "gap": round(closure.gap, 3),
        },
        "density_maxima": [
            {"components": list(components), "position": [round(float(p), 5) for p in maximum.position],
             "depth_kT": round(float(maximum.depth_kT), 3) if np.isfinite(maximum.depth_kT) else "highest",
             "depth_sd_kT": round(float(maximum.depth_sd_kT), 3), "stability": round(maximum.stability, 3)}
            for surface, components in surfaces for maximum in surface.maxima if maximum.is_stable
        ],
    }  # fmt: skip
