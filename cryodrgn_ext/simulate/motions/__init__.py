"""Simulated specimens, chosen by name. A new one is one file and one line in :data:`MOTIONS`."""

from __future__ import annotations

from collections.abc import Callable

from cryodrgn_ext.simulate.motions.base import Beads, Motion
from cryodrgn_ext.simulate.motions.hinge import HingeMotion, two_domain_protein

MOTIONS: dict[str, Callable[[int], Motion]] = {
    "hinge": lambda seed: HingeMotion(seed),
    "hinge-continuous": lambda seed: HingeMotion(seed, continuous=True),
}

__all__ = ["MOTIONS", "Beads", "HingeMotion", "Motion", "two_domain_protein"]
