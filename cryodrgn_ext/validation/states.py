"""States with evidence: maps of original images in two halves, their FSC, and a comparison with random subsets."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import threshold_mask
from cryodrgn_ext.fourier.point_groups import PointGroup
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.reconstruction.half_maps import combine_halves, with_mask
from cryodrgn_ext.validation.differences import ConsensusComparison, comparison_radius
from cryodrgn_ext.validation.evidence import Evidence, RandomSubsets, Verdict, judge, not_tested
from cryodrgn_ext.validation.held_out import HeldOutCoordinates
from cryodrgn_ext.validation.shared_images import independent_rows

MIN_RANDOM_SUBSETS = 12
MIN_PARTICLES_PER_HALF = 10
#: Share of the particles that a state needs when latents are cut into states: rarer ones are for landscape to find.
SMALLEST_STATE = 0.001
MaskMaker = Callable[[NDArray[np.float32], Tensor], Tensor]


@dataclass(frozen=True)
class StateMasks:
    """Where states are looked at.

    Attributes
    ----------
    common : ndarray, optional
        (D, D, D) soft mask for FSC and comparison; from the consensus when omitted (Zhong 2022, 4.4.4).
    own : callable, optional
        Makes the mask of a state from its map (D, D, D), filtered with the FSC in the common mask, and that mask: for
        the state's FSC, map and ``mask``. The comparison uses the common mask for all states.
    """

    common: NDArray[np.floating] | None = None
    own: MaskMaker | None = None


@dataclass(frozen=True)
class SubsetDraws:
    """How many random subsets of the states' sizes to compare with, at least, and the seed that they come from."""

    count: int = MIN_RANDOM_SUBSETS
    seed: int = 0


class Consensus(Protocol):
    """Properties of the reconstruction of all particles that states need."""

    @property
    def map(self) -> NDArray[np.float32]:
        """(D, D, D)."""
        ...

    @property
    def fsc(self) -> NDArray[np.float64]:
        """(D // 2 + 1,) between its halves."""
        ...

    @property
    def pixel_size_A(self) -> float:
        """Of the map, Å."""
        ...

    @property
    def symmetry(self) -> PointGroup:
        """Imposed on the map, and on the states."""
        ...


@dataclass(frozen=True)
class State:
    """A named set of particles with its own map and the evidence for it.

    Attributes
    ----------
    label : int
    indices : ndarray
        (n,) int64 particle rows, increasing.
    map : ndarray
        (D, D, D) float32, Wiener-filtered with the FSC.
    half1, half2 : ndarray
        (D, D, D) float32 unfiltered.
    mask : ndarray
        (D, D, D) float32, in which the FSC was computed.
    fsc : ndarray
        (D // 2 + 1,) between the halves.
    resolution_A : float
        Where the FSC falls below 0.143.
    pixel_size_A : float
    evidence : Evidence
    """

    label: int
    indices: NDArray[np.int64]
    map: NDArray[np.float32]
    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    mask: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    pixel_size_A: float
    evidence: Evidence

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.indices)

    @property
    def verdict(self) -> str:
        """The verdict as words: "distinct", "not distinguishable" or "not tested"."""
        return self.evidence.verdict.value


def iterate_states(
    images: ParticleImages,
    labels: NDArray[np.integer],
    consensus: Consensus,
    masks: StateMasks = StateMasks(),
    *,
    only: Collection[int] | None = None,
    draws: SubsetDraws = SubsetDraws(),
    device: torch.device | str = "cpu",
    monitor: Monitor | None = None,
) -> Iterator[State]:
    """Reconstruct each state from its original images in two halves and weigh the evidence for it.

    Every image is inserted once for its state and, in a low band, once for the whole and about once for the random
    subsets: these come from shuffling the labels among all particles of the same half, so that they have the sizes of
    the states.

    Two measures are compared: whether the state's difference from the consensus is the same in both halves
    (:mod:`.differences`), and whether single images show it in coefficients that had no part in finding it
    (:mod:`.held_out`), which a choice of particles by their noise does not pass. Images of which the other half-set has
    a copy count in the maps and not in the comparison (:mod:`.shared_images`).

    Parameters
    ----------
    images : ParticleImages
    labels : ndarray
        (N,) state of each particle; negative for particles without one.
    consensus : Consensus
        Map and FSC of all particles, such as :class:`cryodrgn_ext.reconstruction.half_maps.HalfMaps`. Its symmetry is
        imposed on the states and random subsets, too.
    masks : StateMasks
    only : collection of int, optional
        Yield these states only (a job that continues); the comparison is the same as for all.
    draws : SubsetDraws
    device : torch.device or str
    monitor : Monitor, optional

    Yields
    ------
    State
        In the order of the labels.

    Raises
    ------
    InputError
        When there are not as many labels as particles, or no particle has a label.
    """
    monitor = SilentMonitor() if monitor is None else monitor
    labels = np.asarray(labels)
    if labels.shape != (images.n,):
        raise InputError(f"{images.n} labels expected, one for each particle, got an array of shape {labels.shape}")
    names = np.unique(labels[labels >= 0])
    if len(names) == 0:
        raise InputError("no particle has a state: there is nothing to reconstruct")
    given = masks.common
    around = consensus_mask(consensus) if given is None else torch.from_numpy(np.asarray(given, np.float32))
    half_set = images.half_set.cpu().numpy()
    sums_of = _Backprojection(images, consensus.symmetry, device, monitor)
    independent = independent_rows(images)
    tester = _Tester.of(sums_of, labels, consensus, around, draws, independent)
    everything = tester if independent.all() else _Tester.of(sums_of, labels, consensus, around, draws)
    for name in names:
        if only is not None and int(name) not in only:
            continue
        members = np.flatnonzero(labels == name)
        alone = [
            sums_of(members[(half_set[members] == half) & independent[members]], f"State {name}, half {half}")
            for half in (1, 2)
        ]
        sums, rest = alone, members[~independent[members]]
        if len(rest):
            sums = [one + sums_of(rest[half_set[rest] == half], f"State {name}, shared images")
                    for half, one in enumerate(alone, 1)]  # fmt: skip
        maps = combine_halves(sums[0], sums[1], images.pixel_size_A, around)
        own = around
        if masks.own is not None:
            own = masks.own(maps.map, around)
            maps = with_mask(maps, sums[0], sums[1], own)
        evidence = tester.evidence(alone, len(names), len(members) == images.n)
        if everything is not tester and evidence.verdict is Verdict.NOT_DISTINGUISHABLE:
            told = everything.evidence(sums, len(names), False)
            evidence = replace(evidence, duplicates=told.verdict is Verdict.DISTINCT)
        yield State(
            label=int(name),
            indices=members,
            map=maps.map,
            half1=maps.half1,
            half2=maps.half2,
            mask=own.numpy(),
            fsc=maps.fsc,
            resolution_A=maps.resolution_A,
            pixel_size_A=images.pixel_size_A,
            evidence=evidence,
        )


def fewest_of_a_state(n: int, n_states: int) -> int:
    """Particles that a state needs among ``n`` to be told from others: fewer are outliers."""
    needed = max(2 * MIN_PARTICLES_PER_HALF, math.ceil(SMALLEST_STATE * n))
    return max(1, min(needed, n // (4 * n_states)))


def consensus_mask(consensus: Consensus) -> Tensor:
    """(D, D, D) float32 soft mask around the density of the consensus (Zhong 2022, 4.4.4)."""
    return threshold_mask(torch.from_numpy(consensus.map), consensus.pixel_size_A)


class _Tester:
    """Measures random subsets first, then judges the states."""

    def __init__(self, comparison: ConsensusComparison, held_out: HeldOutCoordinates) -> None:
        self.comparison, self.held_out = comparison, held_out
        self.random = RandomSubsets()

    @classmethod
    def of(
        cls, sums_of: _Backprojection, labels: NDArray[np.integer], consensus: Consensus, around: Tensor,
        draws: SubsetDraws, used: NDArray[np.bool_] | None = None,
    ) -> _Tester:  # fmt: skip
        """Compare with all particles of either half, or with those of them that are ``used`` (N,)."""
        images = sums_of.images
        half_set, radius = images.half_set.cpu().numpy(), comparison_radius(consensus.fsc, images.plane.radius)
        halves = [np.flatnonzero((half_set == half) if used is None else (half_set == half) & used) for half in (1, 2)]
        whole = [sums_of(rows, f"All particles, half {half}", radius) for half, rows in enumerate(halves, 1)]
        comparison = ConsensusComparison(whole[0], whole[1], around)
        held_out = HeldOutCoordinates(images, comparison, draws.seed, sums_of.device, consensus.symmetry, used=used)
        tester = cls(comparison, held_out)
        if len(np.unique(labels[labels >= 0])) > 1 or (labels < 0).any():
            tester.measure_random_subsets(sums_of, labels, draws, halves)
        return tester

    def _differences(self, sums: list[BackprojectionSums], as_if: float = 1.0) -> list[Tensor]:
        return [self.comparison.difference(part, half, as_if) for half, part in enumerate(sums, 1)]

    def measure_random_subsets(
        self, sums_of: _Backprojection, labels: NDArray[np.integer], draws: SubsetDraws, halves: list[NDArray[np.int64]]
    ) -> None:
        """Random subsets of the states' sizes among rows of either half, by as many shuffles of labels as it takes."""
        names = np.unique(labels[labels >= 0])
        rng = np.random.default_rng([draws.seed, 5])
        for _ in range(math.ceil(draws.count / len(names))):
            shuffled = [labels[rng.permutation(rows)] for rows in halves]
            for name in names:
                subset = [rows[label == name] for rows, label in zip(halves, shuffled, strict=True)]
                if min(len(part) for part in subset) < MIN_PARTICLES_PER_HALF:
                    continue
                what = f"Random subset {len(self.random) + 1}"
                radius = self.comparison.grid.radius
                sums = [sums_of(part, what, radius) for part in subset]
                self.random.add(self.comparison.products(*self._differences(sums)), *(len(part) for part in subset))

    def evidence(self, sums: list[BackprojectionSums], n_states: int, is_everything: bool) -> Evidence:
        """Evidence of the state with these sums of its two halves."""
        fewest = min(part.n_particles for part in sums)
        if is_everything:
            return not_tested("it holds all particles")
        if fewest < MIN_PARTICLES_PER_HALF:
            return not_tested(f"only {fewest} particles in one half-set")
        if len(self.random) < 2:
            return not_tested("the states are too small for random subsets of their sizes")
        sizes = (sums[0].n_particles, sums[1].n_particles)
        share = sum(sizes) / self.held_out.n_images
        # Of few particles a filter leaves low frequencies only, of which contrast and poses can make most: what is
        # looked for in single images is filtered as the difference of a state that is no rarer than the others.
        patterns = self._differences(sums, max(1.0, 1 / (n_states * share)))
        single = self.held_out.agreement(patterns[0], patterns[1], share)
        return judge(self.comparison.products(*self._differences(sums)), sizes, self.random, single, n_states)


@dataclass(frozen=True)
class _Backprojection:
    """Backprojection of any rows of some images."""

    images: ParticleImages
    symmetry: PointGroup
    device: torch.device | str
    monitor: Monitor

    def __call__(self, rows: NDArray[np.int64], what: str, radius: int | None = None) -> BackprojectionSums:
        """Sums over ``rows`` up to ``radius`` cycles per box, the images' whole band when None."""
        grid = None if radius is None else FourierGrid(self.images.box_size, radius)
        return backproject(
            self.images, torch.from_numpy(rows), None, grid, self.symmetry, self.device, self.monitor, what
        )
