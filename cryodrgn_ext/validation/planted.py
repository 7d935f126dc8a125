"""Power: whether states' own differences would be found, had they been weaker or in fewer particles.

The difference map of each state, as the original images give it (what both half-sets share, by a Wiener filter), is
planted into images of one structure (:mod:`.null_images`) at a known strength, in the particles of the state or in some
of them. The whole training is then repeated, with states cut from the latents that it finds, and judged as always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.near_knots import region_and_precision
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.validation.verdict import LIKELY, PROVEN, Conclusion


@dataclass(frozen=True, order=True)
class Dose:
    """How much is planted: the strength of the differences, and the share of each state's particles that have them."""

    strength: float
    share: float = 1.0

    @property
    def words(self) -> str:
        """As in tables."""
        if self.share < 1:
            return f"full strength, {self.share:.0%} of the particles of each"
        return f"{self.strength:.0%} of the strength"


#: Beside nothing, which is the null. The same amount of power is spread over all particles, or kept to some.
DOSES = (Dose(0.25), Dose(0.5), Dose(1.0), Dose(1.0, 0.25), Dose(1.0, 0.5))


@dataclass(frozen=True)
class Planted:
    """Differences that images are made with.

    Attributes
    ----------
    differences : ndarray
        (K, D, D, D) of each state to the structure, at full strength.
    label : ndarray
        (N,) state of each particle, 0 to K - 1; below 0 where nothing is planted.
    strength : float
    """

    differences: NDArray[np.float32]
    label: NDArray[np.int64]
    strength: float

    @classmethod
    def at(cls, dose: Dose, differences: NDArray[np.float32], label: NDArray[np.integer], seed: int) -> Planted:
        """Give a dose: of particles with a state, those that keep their difference are drawn at random."""
        rng = np.random.default_rng([seed, 13])
        keeps = rng.random(len(label)) < dose.share
        return cls(differences, np.where(keeps, label, -1).astype(np.int64), dose.strength)

    def members(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Positions among ``rows`` (int64) of the particles of each state."""
        return [torch.from_numpy(np.flatnonzero(self.label[rows] == state)) for state in range(len(self.differences))]


def state_differences(
    images: ParticleImages, label: NDArray[np.integer], device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Difference maps (K, D, D, D) of states to all particles, as strong as both half-sets have them.

    Parameters
    ----------
    images : ParticleImages
    label : ndarray
        (N,) 0 to K - 1, each in both half-sets; below 0 for none.
    device : torch.device or str
    """
    half_set = images.half_set.cpu().numpy()

    def sums(chosen: NDArray[np.bool_]) -> Any:
        return backproject(images, torch.from_numpy(np.flatnonzero(chosen)), device=device)

    references = [sums(half_set == half).ratio() for half in (1, 2)]
    pairs, both = [], []
    for state in range(int(label.max()) + 1):
        left = [sums((label == state) & (half_set == half)).without(references[half - 1]) for half in (1, 2)]
        pairs.append((left[0].solve().cpu(), left[1].solve().cpu()))
        both.append(left[0] + left[1])
    region, precision = region_and_precision(pairs, images.plane.radius)
    return np.stack([(one.solve(precision).cpu() * region).numpy() for one in both])


@dataclass(frozen=True)
class DoseFinding:
    """What was found in sets of one dose.

    Attributes
    ----------
    strength, share : float
        See :class:`Dose`; a strength of 0 is one structure.
    runs, found : int
        Sets, and in how many of them at least one state was claimed (proven or likely).
    states, claimed : int
        In all of them.
    agreement : float
        Adjusted Rand index between the states that were planted and found, mean over the sets.
    """

    strength: float
    share: float
    runs: int
    found: int
    states: int
    claimed: int
    agreement: float


@dataclass(frozen=True)
class PowerFinding:
    """What was found at each dose."""

    doses: tuple[DoseFinding, ...]

    @classmethod
    def of(cls, runs: Mapping[Dose, Sequence[tuple[Sequence[Conclusion], float]]]) -> PowerFinding:
        """Sum up sets: the conclusions on the states of each, and their agreement with what was planted."""
        found = []
        for dose, sets in runs.items():
            claimed = [sum(one.claim in (PROVEN, LIKELY) for one in conclusions) for conclusions, _ in sets]
            found.append(DoseFinding(
                dose.strength, dose.share, len(sets), sum(count > 0 for count in claimed),
                sum(len(conclusions) for conclusions, _ in sets), sum(claimed),
                round(float(np.mean([agreement for _, agreement in sets])), 3),
            ))  # fmt: skip
        return cls(tuple(found))

    @classmethod
    def from_plain(cls, doses: Sequence[Mapping[str, Any]]) -> PowerFinding:
        """Read what :meth:`plain` made."""
        return cls(tuple(DoseFinding(**one) for one in doses))

    def plain(self) -> list[dict[str, Any]]:
        """Values for files, a mapping for each dose."""
        return [asdict(one) for one in self.doses]

    def sentence(self, claimed: bool = True) -> str:
        """Say what these data could have shown; ``claimed``: whether states are, so that differences are no noise."""
        planted = [one for one in self.doses if one.strength > 0]
        strength = self._least([(one.strength, one) for one in planted if one.share == 1])
        share = self._least([(one.share, one) for one in planted if one.strength == 1])
        if not claimed:
            return self._sentence_of_noise(strength)
        if strength is None and share is None:
            return (
                "Power: differences as large as those between these maps, planted into images of one structure, are "
                "not found in most sets: so many particles do not tell, and a difference may be there all the same."
            )
        parts = []
        if strength is not None:
            parts.append(f"down to {strength:.0%} of their strength")
        if share is not None and share < 1:
            parts.append(f"in as few as {share:.0%} of the particles")
        return (
            "Power: differences like those between these maps, planted into images of one structure, are found "
            f"{', and '.join(parts)} (the least that was tried and found in most sets)."
        )

    @staticmethod
    def _sentence_of_noise(strength: float | None) -> str:
        """Say it where no state is claimed: what the half-maps share is then mostly noise, and of its size only."""
        planted = (
            "Power: as no state is claimed, what was planted into images of one structure is what the half-maps of the "
            "states share, which is mostly noise, and no more than its size means anything: "
        )
        if strength is None:
            return f"{planted}it was not found in most sets, so a true difference of that size would be missed as well."
        return (
            f"{planted}it was found down to {strength:.0%} of its strength (the least that was tried and found in most "
            "sets), so a true difference of that size would not have been missed; a smaller one may be there."
        )

    @staticmethod
    def _least(doses: Sequence[tuple[float, DoseFinding]]) -> float | None:
        """Least dose from which on all are found in more than half of the sets."""
        least = None
        for amount, one in sorted(doses, key=lambda pair: -pair[0]):
            if 2 * one.found <= one.runs:
                break
            least = amount
        return least


def agreement_of_states(planted: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    """Adjusted Rand index of the states of particles (N,) that have both."""
    from sklearn.metrics import adjusted_rand_score

    both = (planted >= 0) & (found >= 0)
    return float(adjusted_rand_score(planted[both], found[both])) if both.any() else 0.0
