"""A point group imposed on what was found without it: coordinates turned to its axes, then refined with symmetric maps.

Searches from nothing impose no symmetry: maps that have it from the first step on are drawn to what every particle has
around an axis. Two of them show the group and its axes by how their poses differ (:mod:`.found_symmetry`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cryodrgn_ext.fourier.point_groups import PointGroup
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.found_symmetry import FoundSymmetry, smallest_deg
from cryodrgn_ext.pose.refinement import RefinementState
from cryodrgn_ext.progress import Monitor

#: Rotations of one group that are those of another up to rounding.
SAME_DEG = 0.01


def axes_of(wanted: PointGroup, found: FoundSymmetry | None, monitor: Monitor) -> CoordinateTransform | None:
    """Return the coordinates in which a wanted group has RELION's axes; None, and a warning, where nothing shows it.

    Parameters
    ----------
    wanted : PointGroup
    found : FoundSymmetry or None
        What two searches differ by.
    monitor : Monitor
    """
    if found is not None and _is_part(wanted, found.group):
        return CoordinateTransform(found.frame, np.zeros(3))
    shown = "no symmetry" if found is None else f"the symmetry {found.group.name}"
    monitor.warn(
        f"--symmetry {wanted.name} is not imposed: independent searches differ by {shown}. Look at the map; a symmetry "
        "is seen by how two of them differ, so that it takes at least two --starts."
    )
    return None


def _is_part(wanted: PointGroup, group: PointGroup) -> bool:
    """Whether the rotations of one group, about RELION's axes, are among those of the other."""
    return bool(smallest_deg(wanted.rotations, group.rotations).max() < SAME_DEG)


def advice(found: FoundSymmetry) -> str:
    """Sentence for those who did not ask for the symmetry that two searches show."""
    name = found.group.name
    return (
        f"Poses of independent searches differ by rotations of {name}: the particle has this symmetry, or nearly. "
        f"--symmetry {name} imposes it; as it is, maps and poses have none."
    )


def in_coordinates(state: RefinementState, transform: CoordinateTransform) -> RefinementState:
    """State of a refinement in other coordinates of its model, with local rounds to come before it has converged."""
    poses = transform.poses(state.estimates.poses)
    poses = replace(poses, rotation=poses.rotation.to(torch.float64), shift_px=poses.shift_px.to(torch.float64))
    estimates = replace(state.estimates, poses=poses)
    return replace(state, estimates=estimates, local_rounds=0, converged=False)
