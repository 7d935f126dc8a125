"""Which passes of an ab initio reconstruction search for poses, and which only train at the last ones.

Zhong 2022, 5.3.3 and 5.6.3. First some images are learned at random orientations, so that the network finds the extent
of the particle. Then comes the first stage: passes of which every n-th searches for poses, as a search costs about ten
times as much as an update, while the band of the search grows from k_min to k_max. The network has by then learned that
its high frequencies are constant, and unlearns it badly: it starts anew at the poses found (cryoDRGN2+r), and goes on
searching with what it learns then (+r+ps). Poses from elsewhere take the place of the first stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cryodrgn_ext.engines.neural.pose_search_settings import LARGEST_BLOCK, AbinitPlan

RAMP = 5 / 6  # of the first stage, in which the band of the search grows: 25 of 30 passes
BEYOND = 1.25  # the network learns so much more than the search asks for, so that the next search can ask for more


@dataclass(frozen=True)
class Pass:
    """One pass over the images.

    Attributes
    ----------
    stage : str
        ``random``: at random orientations; ``joint``: poses and network together; ``retrain``: a new network at fixed
        poses; ``again``: poses and network together from there; ``final``: poses by the final network.
    images : int
        Number of images that are visited, at most all.
    search : bool
        Whether the poses are searched for, else they are the last ones.
    train : bool
        Whether the network learns.
    reset : bool
        Whether the network starts anew before the pass.
    k_max : float
        Band of the search's last refinement, cycles per box.
    radius : int
        Largest |k| that the network learns, cycles per box.
    block : int
        Images that are searched for with the network as it is, before it learns from them.
    local_refinement : bool
        Whether poses that are found are improved between the points of the grid.
    decay : float
        Place in the decay of the learning rate, 0 (full) to 1.
    """

    stage: str
    images: int
    search: bool
    train: bool
    reset: bool
    k_max: float
    radius: int
    block: int
    local_refinement: bool = False
    decay: float = 0.0


def make_schedule(plan: AbinitPlan, n: int, started: bool) -> tuple[Pass, ...]:
    """All passes of a run.

    Parameters
    ----------
    plan : AbinitPlan
    n : int
        Number of images.
    started : bool
        Whether there are poses to start from.
    """
    epochs = plan.recipe.epochs
    passes: list[Pass] = []
    if not started:
        low = plan.k_min
        left = plan.random_images
        while left > 0:
            passes.append(Pass("random", min(n, left), False, True, False, low, _band(plan, low), plan.block))
            left -= n
        ramp = max(1, math.floor(RAMP * epochs))
        for epoch in range(epochs):
            k = low + (plan.k_max - low) * min(1.0, epoch / ramp)
            passes.append(Pass("joint", n, epoch % plan.search_every == 0, True, False, k, _band(plan, k), plan.block))
    if plan.retrain != "none" or started:
        for epoch in range(epochs):
            reset = epoch == 0 and not started
            passes.append(Pass("retrain", n, False, True, reset, plan.k_max, plan.radius, LARGEST_BLOCK))
    if plan.retrain == "r+ps":
        for epoch in range(epochs):
            search = epoch % plan.search_every == 0
            passes.append(
                Pass("again", n, search, True, False, plan.k_max, plan.radius, LARGEST_BLOCK, local_refinement=True)
            )
    last = passes[-1].stage
    cooled = [p for p in passes if p.stage == last]
    for place, step in enumerate(cooled):
        index = len(passes) - len(cooled) + place
        passes[index] = replace(step, decay=place / len(cooled))
    passes.append(Pass("final", n, True, False, False, plan.k_max, plan.radius, LARGEST_BLOCK, local_refinement=True))
    return tuple(passes)


def _band(plan: AbinitPlan, k_max: float) -> int:
    """Band that the network learns while the search looks up to ``k_max``."""
    return min(plan.radius, math.ceil(BEYOND * k_max))
