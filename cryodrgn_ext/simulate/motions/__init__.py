"""Simulated specimens, chosen by name. A new one is one file and one line in :data:`MOTIONS`."""

from __future__ import annotations

from collections.abc import Callable

from cryodrgn_ext.simulate.motions.base import Beads, Motion
from cryodrgn_ext.simulate.motions.circular import CircularMotion
from cryodrgn_ext.simulate.motions.compositional import CompositionalMotion
from cryodrgn_ext.simulate.motions.discrete import DiscreteMotion
from cryodrgn_ext.simulate.motions.hinge import HingeMotion, two_domain_protein
from cryodrgn_ext.simulate.motions.mixtures import COOPERATIVE_RAD, NONCONTIGUOUS_RAD, HingeMixture
from cryodrgn_ext.simulate.motions.rare import RareStateMotion
from cryodrgn_ext.simulate.motions.ribosome import RibosomeMotion
from cryodrgn_ext.simulate.motions.two_hinges import TwoHingesMotion

MOTIONS: dict[str, Callable[[int], Motion]] = {
    "hinge": lambda seed: HingeMotion(seed),
    "hinge-continuous": lambda seed: HingeMotion(seed, continuous=True),
    "rigid": lambda seed: HingeMotion(seed, n_states=1),
    "discrete": lambda seed: DiscreteMotion(seed),
    "compositional": lambda seed: CompositionalMotion(seed),
    "linear-2d": lambda seed: TwoHingesMotion(seed),
    "circular": lambda seed: CircularMotion(seed),
    "uniform": lambda seed: HingeMixture(seed),
    "cooperative": lambda seed: HingeMixture(seed, COOPERATIVE_RAD),
    "noncontiguous": lambda seed: HingeMixture(seed, NONCONTIGUOUS_RAD),
    "ribosome": lambda seed: RibosomeMotion(seed),
}

__all__ = [
    "MOTIONS",
    "Beads",
    "CircularMotion",
    "CompositionalMotion",
    "DiscreteMotion",
    "HingeMixture",
    "HingeMotion",
    "Motion",
    "RareStateMotion",
    "RibosomeMotion",
    "TwoHingesMotion",
    "two_domain_protein",
]
