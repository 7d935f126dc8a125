"""Two models that never met, one of each half-set: which states and which components both have.

States are matched in the space of volumes: each state's difference from the consensus of its own half, made of
original images, with each of the other half's; the pairs are those with the largest sum of correlations (Kuhn 1955). A
matched pair is then a state whose two half-maps come of two models: its FSC is one between maps that share neither
particles nor model nor choice. Both have it when it agrees better with its partner than with random subsets of the
other half. Components are compared by the principal angles between the spans of volumes that the two models show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import stdtr

from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.validation.differences import ConsensusComparison, comparison_radius
from cryodrgn_ext.validation.evidence import SIGNIFICANCE
from cryodrgn_ext.validation.states import Consensus, State, consensus_mask
from cryodrgn_ext.validation.verdict import LIKELY, PROVEN, Conclusion

#: Of each half, at least.
RANDOM_SUBSETS = 24
#: Components whose mean squared cosine with the other model's span is at least this are said to be shared.
SHARED = 0.5


@dataclass(frozen=True)
class MatchedState:
    """A state that both models may have.

    Attributes
    ----------
    first, second : int
        Its number in the model of either half.
    share_first, share_second : float
        Of the particles of either half.
    correlation : float
        Between the two differences from the consensus.
    resolution_A : float
        Where the FSC between the two maps falls below 0.143, in the mask of the consensus.
    shared : bool
        Whether the differences agree by more than those of random subsets, all pairs counted.
    """

    first: int
    second: int
    share_first: float
    share_second: float
    correlation: float
    resolution_A: float
    shared: bool


@dataclass(frozen=True)
class HalvesFinding:
    """States that both models have.

    Attributes
    ----------
    states : tuple of MatchedState
    agreement : tuple of float
        Of each component of the first model (the largest first), the share of it that lies in the span of the other's.
    """

    states: tuple[MatchedState, ...]
    agreement: tuple[float, ...]

    @property
    def n_shared(self) -> int:
        """Number of states that both models have."""
        return sum(state.shared for state in self.states)

    def plain(self) -> dict[str, Any]:
        """Values for files."""
        return {"states": [asdict(state) for state in self.states], "agreement": list(self.agreement)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> HalvesFinding:
        """Read what :meth:`plain` made."""
        return cls(tuple(MatchedState(**one) for one in plain["states"]), tuple(plain["agreement"]))

    def judge(self, conclusion: Conclusion) -> Conclusion:
        """Weaken a claim when the two models have no state in common."""
        if conclusion.claim != PROVEN or self.n_shared:
            return conclusion
        reason = "two models, each trained on one half-set alone, have none in common"
        return replace(conclusion, claim=LIKELY, of="", reason=reason)

    def sentence(self) -> str:
        """Say what two models that never met have in common."""
        apart = max((abs(one.share_first - one.share_second) for one in self.states if one.shared), default=0.0)
        within = f", with shares of the particles that differ by at most {100 * apart:.0f} %" if self.n_shared else ""
        components = sum(share >= SHARED for share in self.agreement)
        return (
            f"Two models, each trained on one half-set alone, have {self.n_shared} of {len(self.states)} states in "
            f"common{within}, and {components} of {len(self.agreement)} components."
        )


@dataclass(frozen=True)
class Matching:
    """States of two models, paired.

    Attributes
    ----------
    labels : ndarray
        (N,) number of the pair of each particle; -1 in states without a partner.
    pairs : list of (int, int)
        Numbers of the states in the first and in the second model.
    correlations : list of float
        Between the two differences of each pair.
    chances : list of float
        Chance that the state of either half agrees as well with a random subset of the other.
    """

    labels: NDArray[np.int64]
    pairs: list[tuple[int, int]]
    correlations: list[float]
    chances: list[float]


def match_states(
    images: ParticleImages, labels: NDArray[np.integer], consensus: Consensus, seed: int, monitor: Monitor
) -> Matching:
    """Pair the states of the first half with those of the second.

    Parameters
    ----------
    images : ParticleImages
    labels : ndarray
        (N,) state of each particle in the model of its own half; negative for none.
    consensus : Consensus
    seed : int
        Of random subsets.
    monitor : Monitor
    """
    half_set = images.half_set.cpu().numpy()
    own = [_HalfStates(images, np.where(half_set == half, labels, -1), half) for half in (1, 2)]
    radius = comparison_radius(consensus.fsc, images.plane.radius)
    grid = FourierGrid(images.box_size, radius)

    def sums(rows: NDArray[np.int64]) -> BackprojectionSums:
        return backproject(
            images, torch.from_numpy(rows), None, grid, consensus.symmetry, "cpu", monitor, "Matching states"
        )

    whole = [sums(np.flatnonzero(half_set == half)) for half in (1, 2)]
    comparison = ConsensusComparison(whole[0], whole[1], consensus_mask(consensus))
    states = [one.differences(comparison, sums, None) for one in own]
    rng = np.random.default_rng([seed, 12])
    random = [one.differences(comparison, sums, rng) for one in own]
    norms = [np.linalg.norm(one, axis=1) for one in states]
    alike = (states[0] @ states[1].T) / np.maximum(np.outer(norms[0], norms[1]), 1e-300)
    rows, columns = linear_sum_assignment(-alike)
    matched = np.full(len(labels), -1, np.int64)
    pairs = [(int(own[0].names[i]), int(own[1].names[j])) for i, j in zip(rows, columns, strict=True)]
    chances = []
    for number, (i, j) in enumerate(zip(rows, columns, strict=True)):
        matched[(own[0].labels == pairs[number][0]) | (own[1].labels == pairs[number][1])] = number
        found = float(states[0][i] @ states[1][j])
        chances.append(max(_chance(found, random[1] @ states[0][i]), _chance(found, random[0] @ states[1][j])))
    return Matching(matched, pairs, [float(alike[i, j]) for i, j in zip(rows, columns, strict=True)], chances)


class _HalfStates:
    """States of one half, by its own model."""

    def __init__(self, images: ParticleImages, labels: NDArray[np.integer], half: int) -> None:
        self.labels, self.half = labels, half
        self.names = np.unique(labels[labels >= 0])

    def differences(
        self, comparison: ConsensusComparison, sums: Callable[[NDArray[np.int64]], BackprojectionSums],
        rng: np.random.Generator | None,
    ) -> NDArray[np.float64]:  # fmt: skip
        """(m, V) differences from the consensus of the half, in the mask, in units of the noise of one particle.

        Of each state; or, with ``rng``, of random subsets of their sizes, at least :data:`RANDOM_SUBSETS`.
        """
        found = []
        rows = np.flatnonzero(self.labels >= 0)
        for _ in range(1 if rng is None else math.ceil(RANDOM_SUBSETS / len(self.names))):
            label = self.labels[rows] if rng is None else rng.permutation(self.labels[rows])
            for name in self.names:
                members = rows[label == name]
                map_ = comparison.difference(sums(members), self.half) * comparison.mask
                found.append(map_.double().numpy().ravel() * np.sqrt(len(members)))
        return np.stack(found)


def _chance(found: float, random: NDArray[np.float64]) -> float:
    """Chance of an inner product where the states of one half know nothing of the other, whose mean is then 0."""
    spread = float(np.sqrt((random**2).mean()))
    return float(stdtr(len(random), -found / max(spread, 1e-300)))


def matched_states(states: Iterable[State], matching: Matching, half_set: NDArray[np.integer]) -> list[MatchedState]:
    """Gather what is known of matched pairs, reconstructed as states by :func:`.states.iterate_states`.

    Since each pair was chosen among all, the allowed chance is shared by all of them.
    """
    sizes = [max(int((half_set == half).sum()), 1) for half in (1, 2)]
    found = []
    for state in states:
        members, number = half_set[state.indices], state.label
        share = [round(float((members == half).sum() / sizes[half - 1]), 4) for half in (1, 2)]
        first, second = matching.pairs[number]
        found.append(
            MatchedState(
                first=first, second=second, share_first=share[0], share_second=share[1],
                correlation=round(matching.correlations[number], 4),
                resolution_A=round(state.resolution_A, 3),
                shared=matching.chances[number] < SIGNIFICANCE / len(matching.pairs) ** 2,
            )
        )  # fmt: skip
    return found


def component_agreement(
    first: Iterable[NDArray[np.float32]], second: Iterable[NDArray[np.float32]], mask: NDArray[np.float32], box: int,
    n_components: int,
) -> list[float]:  # fmt: skip
    """Share of each principal component of some volumes that lies in the span of those of others.

    Parameters
    ----------
    first, second : iterable of ndarray
        (D, D, D) volumes that either model shows of its particles.
    mask : ndarray
        (D, D, D) where to compare them.
    box : int
        Even box in which they are compared, at most D: as fine as both can be trusted.
    n_components : int
        At most so many of either.

    Returns
    -------
    list of float
        Squared cosine between each component of the first, by decreasing variance, and the span of the second's.
    """
    spans = [_principal(volumes, mask, box, n_components) for volumes in (first, second)]
    cosines = spans[0] @ spans[1].T
    return [round(float(share), 4) for share in (cosines**2).sum(axis=1)]


def _principal(
    volumes: Iterable[NDArray[np.float32]], mask: NDArray[np.float32], box: int, n_components: int
) -> NDArray[np.float64]:
    """(m, V) orthonormal principal components of volumes in the mask."""
    inside = crop_map(torch.from_numpy(mask), box).clamp(0, 1).numpy().ravel()
    rows = np.stack([crop_map(torch.from_numpy(one), box).numpy().ravel() * inside for one in volumes]).astype(float)
    _, size, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    kept = min(n_components, int((size > 1e-6 * max(float(size[0]), 1e-300)).sum()))
    return np.asarray(axes[:kept])
