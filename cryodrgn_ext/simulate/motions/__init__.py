"""Simulated specimens, chosen by name. A new one is one file and one line in :data:`MOTIONS`."""

from __future__ import annotations

from collections.abc import Callable

from cryodrgn_ext.errors import InputError
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

HINGE_DEG = 60.0


def choose_motion(name: str, angle_deg: float, rare_fraction: float, seed: int) -> Motion:
    """Specimen by its name, of the hinge by its angle too, with a further rare state where its share is not zero.

    Raises
    ------
    InputError
        When an angle is given to a motion that has none to choose.
    """
    if name == "hinge":
        motion: Motion = two_domain_protein(seed, angle_deg)
    elif angle_deg != HINGE_DEG:
        raise InputError(f"--angle belongs to --motion hinge, not to {name}: leave it out.")
    else:
        motion = MOTIONS[name](seed)
    return RareStateMotion(motion, rare_fraction, seed) if rare_fraction > 0 else motion


__all__ = [
    "HINGE_DEG",
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
    "choose_motion",
    "two_domain_protein",
]
