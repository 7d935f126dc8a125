"""Simulated specimens, chosen by name. A new one is one file and one line in :data:`MOTIONS`."""

from __future__ import annotations

from collections.abc import Callable

from cryodrgn_ext.simulate.motions.base import Beads, Motion
from cryodrgn_ext.simulate.motions.compositional import CompositionalMotion
from cryodrgn_ext.simulate.motions.discrete import DiscreteMotion
from cryodrgn_ext.simulate.motions.hinge import HingeMotion, two_domain_protein

MOTIONS: dict[str, Callable[[int], Motion]] = {
    "hinge": lambda seed: HingeMotion(seed),
    "hinge-continuous": lambda seed: HingeMotion(seed, continuous=True),
    "rigid": lambda seed: HingeMotion(seed, n_states=1),
    "discrete": lambda seed: DiscreteMotion(seed),
    "compositional": lambda seed: CompositionalMotion(seed),
}

__all__ = ["MOTIONS", "Beads", "CompositionalMotion", "DiscreteMotion", "HingeMotion", "Motion", "two_domain_protein"]
