"""Refinements from several random initialisations: which one images prefer, and whether another one found the same.

In the low band in which initialisations are made, wrong maps can be likelier than the right one, and can agree with
each other. Where the band has grown they cannot: so several are refined, first those that differ, until the likeliest
has been found twice or there is none left. Two count as the same when they give the same poses, up to rotation and
hand, within what noise leaves uncertain, to nearly all images that tell their pose best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.found_symmetry import FoundSymmetry, differences, find_symmetry, smallest_deg
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.random_initialisations import Initialisation, distinct_initialisations
from cryodrgn_ext.pose.refinement import Refined
from cryodrgn_ext.progress import Monitor

#: Distinct initialisations that are refined whatever the first one gives.
DISTINCT = 3
#: Poses agree within so many standard deviations along each of three axes; never less than LEAST_DEG, for the curvature
#: of the likelihood tells least of what noise does.
DEVIATIONS, LEAST_DEG = 3.0, 5.0
#: Share of the better half of the images (by likelihood) that agrees when two refinements found the same. Poses of
#: empty images and of junk agree with nothing, and are not in that half unless they are more than half.
SAME_SHARE = 0.8


@dataclass(frozen=True)
class Attempt:
    """A refined initialisation.

    Attributes
    ----------
    seed : int
        Of its initialisation.
    estimates : PoseEstimates
        Of the images that it was refined on.
    moved_share : float
        Share of the images that its last search over all orientations moved.
    """

    seed: int
    estimates: PoseEstimates
    moved_share: float

    @property
    def log_likelihood(self) -> float:
        """Mean nats per image."""
        return float(self.estimates.log_likelihood.mean())


@dataclass(frozen=True)
class Contest:
    """Outcome of several attempts.

    Attributes
    ----------
    best : Refined
        The likeliest.
    seed : int
        Of its initialisation.
    attempts : tuple of Attempt
        All, in the order in which they were made.
    shares : tuple of float
        Share of the images that tell their pose best on which each attempt agrees with the likeliest; 1 for itself.
    symmetries : tuple of FoundSymmetry or None
        Up to which each of them agrees: in the coordinates of the likeliest.
    """

    best: Refined
    seed: int
    attempts: tuple[Attempt, ...]
    shares: tuple[float, ...]
    symmetries: tuple[FoundSymmetry | None, ...]

    @property
    def agreement(self) -> float | None:
        """Largest share of another attempt; None when there is no other."""
        return _largest_of_others(self.attempts, self.shares, self.seed)

    @property
    def symmetry(self) -> FoundSymmetry | None:
        """Symmetry up to which the attempt that agrees best does; None when there is none."""
        others = [
            (share, number)
            for number, (one, share) in enumerate(zip(self.attempts, self.shares, strict=True))
            if one.seed != self.seed
        ]
        return self.symmetries[max(others)[1]] if others else None

    @property
    def is_confirmed(self) -> bool:
        """Whether another attempt found the same."""
        return self.agreement is not None and self.agreement >= SAME_SHARE


def contest(
    made: Sequence[Initialisation],
    most: int,
    refine: Callable[[int, Initialisation], Refined],
    make: Callable[[], Initialisation],
    has_symmetry: Callable[[Refined, FoundSymmetry], bool],
    monitor: Monitor,
) -> Contest:
    """Refine initialisations until the likeliest refinement has been found twice.

    Parameters
    ----------
    made : sequence of Initialisation
    most : int
        Initialisations that are refined at most, those among them that are still to be made; 1 takes the likeliest
        one as it is.
    refine : callable
        Refines an initialisation; gets its number, from 0, besides.
    make : callable
        Makes another initialisation.
    has_symmetry : callable
        Whether the map of a refinement has a symmetry, see :mod:`.map_symmetry`.
    monitor : Monitor
    """
    distinct = distinct_initialisations(made)[:DISTINCT]
    known = [one.seed for one in distinct]
    waiting = [*distinct, *sorted((one for one in made if one.seed not in known), key=lambda one: -one.log_likelihood)]
    attempts: list[Attempt] = []
    best: Refined | None = None
    winner, shares = None, tuple[float, ...]()
    symmetries = tuple[FoundSymmetry | None, ...]()
    while len(attempts) < most:
        monitor.poll()
        one = waiting.pop(0) if waiting else make()
        if best is not None:
            monitor.message(f"Another random initialisation is refined (seed {one.seed}).")
        refined = refine(len(attempts), one)
        attempt = Attempt(one.seed, refined.state.estimates, refined.state.moved_share)
        attempts.append(attempt)
        if best is None or winner is None or attempt.log_likelihood > winner.log_likelihood:
            best, winner = refined, attempt
        agreements = [
            (1.0, None) if other is winner else agreement(winner, other, partial(has_symmetry, best))
            for other in attempts
        ]
        shares, symmetries = tuple(one[0] for one in agreements), tuple(one[1] for one in agreements)
        largest = _largest_of_others(attempts, shares, winner.seed)
        if len(attempts) >= len(distinct) and largest is not None and largest >= SAME_SHARE:
            break
    if best is None or winner is None:
        raise ValueError("there are no random initialisations to refine")
    return Contest(best, winner.seed, tuple(attempts), shares, symmetries)


def _largest_of_others(attempts: Sequence[Attempt], shares: Sequence[float], seed: int) -> float | None:
    return max((share for one, share in zip(attempts, shares, strict=True) if one.seed != seed), default=None)


def agreement(
    one: Attempt, other: Attempt, has_symmetry: Callable[[FoundSymmetry], bool]
) -> tuple[float, FoundSymmetry | None]:
    """Share of the better half of the images, by ``one``, whose rotations agree with the other's, in either hand.

    Where few agree, they are compared up to the symmetry by which they differ, if there is one and the map of ``one``
    has it (else a part of the images lies turned over): it is returned beside the share, in the coordinates of ``one``.
    """
    fit = one.estimates.log_likelihood.numpy()
    better = np.flatnonzero(fit >= np.median(fit))
    mine, theirs = (_some(attempt.estimates.poses, better) for attempt in (one, other))
    aligned = align_poses(theirs, mine)
    noise = one.estimates.error_deg.numpy()[better]
    allowed = np.maximum(LEAST_DEG, DEVIATIONS * math.sqrt(3.0) * noise)
    share = float(np.mean(aligned.errors.degrees <= allowed))
    if share >= SAME_SHARE:
        return share, None
    moved, ours = aligned.transform.poses(theirs).numpy()[0], mine.numpy()[0]
    difference = differences(ours.astype(np.float64), moved.astype(np.float64))
    symmetry = find_symmetry(difference)
    if symmetry is None or not has_symmetry(symmetry):
        return share, None
    return float(np.mean(smallest_deg(difference, symmetry.equivalents()) <= allowed)), symmetry


def _some(poses: Poses, rows: NDArray[np.int64]) -> Poses:
    return Poses(poses.rotation[rows], poses.shift_px[rows])


def judge(found: Contest, monitor: Monitor) -> None:
    """Say what came of the attempts, and warn when none found what the likeliest one found."""
    for one, same, symmetry in zip(found.attempts, found.shares, found.symmetries, strict=True):
        share = "" if one.seed == found.seed else f", {100 * same:.0f} % of its poses agree"
        share += "" if symmetry is None else f" up to rotations of {symmetry.group.name}"
        monitor.message(f"Refined from seed {one.seed}: {one.log_likelihood:.2f} nats per particle{share}.")
    if found.agreement is not None and not found.is_confirmed:
        monitor.warn(
            f"None of the other {len(found.attempts) - 1} random initialisations that were refined found the poses "
            f"that the likeliest one found (they agree on {100 * found.agreement:.0f} % of the particles at most): the "
            "map may be wrong, whatever its resolution. Look at it, and try more --starts, or particles that were "
            "cleaned by 2D classes."
        )
