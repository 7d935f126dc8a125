"""Deformations of a chain by rigid frames along it: from the whole down to a few residues, each level upon the last.

A frame turns and shifts the stretch of residues about its anchor; between anchors neighbouring frames blend. Large
rotations of domains stay rotations, which sums of displacement modes cannot express: adenylate kinase's closed to open
path (6.8 Å) leaves 2.4 Å of 150 elastic-network modes, and 0.8 Å of as many numbers in frames. Every turn and shift is
a smooth function of the latents, a sum of features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

#: Rise of a residue in a stretch of chain, Å: between that of a helix (1.5) and that of a strand (3.4).
RISE_A = 2.5
#: Residues between anchors; the first level moves everything as one, the second every chain.
SPACINGS = (16, 8, 4, 2)


@dataclass(frozen=True)
class FrameLevel:
    """Frames of one spacing.

    Attributes
    ----------
    frame : Tensor
        (C, 2) int64: the two frames that a centre lies between.
    share : Tensor
        (C, 2) float32: how much of each; adds up to 1.
    count : int
        Number K of frames.
    reach_A : float
        Distance from an anchor at which its turn counts as much as its shift.
    """

    frame: Int64[Tensor, "C 2"]
    share: Float[Tensor, "C 2"]
    count: int
    reach_A: float

    def moved(self, positions: Float[Tensor, "B C 3"], motion: Float[Tensor, "B K 6"]) -> Float[Tensor, "B C 3"]:
        """Positions (B, C, 3) in Å after the frames' turns and shifts, both in Å: a turn in radians times the reach."""
        batch = len(positions)
        flat, weight = self.frame.flatten(), self.share.flatten()
        mass = torch.zeros(self.count).index_add_(0, flat, weight).clamp_min(1e-6)
        each = (positions[:, :, None] * self.share[..., None]).flatten(1, 2)
        anchor = torch.zeros(batch, self.count, 3).index_add(1, flat, each) / mass[:, None]
        turned = rotations(motion[..., :3] / self.reach_A)
        offset = positions[:, :, None] - anchor[:, self.frame]
        moved = (turned[:, self.frame] * offset[..., None, :]).sum(-1) + (anchor + motion[..., 3:])[:, self.frame]
        result: Tensor = (moved * self.share[..., None]).sum(2)
        return result


def rotations(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices (..., 3, 3) about vectors (..., 3) by their length in radians; smooth at 0."""
    squared = vector.square().sum(-1)[..., None, None] + 1e-12
    angle = squared.sqrt()
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    turned: Tensor = (
        torch.eye(3) + torch.sin(angle) / angle * cross + (1 - torch.cos(angle)) / squared * (cross @ cross)
    )
    return turned


def frame_levels(chain: NDArray[np.int64], residue: NDArray[np.int64]) -> list[FrameLevel]:
    """Levels of frames, coarse ones first: one for all, one for each chain, then ever shorter stretches.

    Parameters
    ----------
    chain : ndarray
        (R,) chain of each residue.
    residue : ndarray
        (C,) residue of each centre.
    """
    count = len(residue)
    whole = np.zeros((count, 2), np.int64)
    alone = np.tile(np.array([1, 0], np.float32), (count, 1))
    reach_A = 10.0 + RISE_A * np.cbrt(len(chain))
    levels = [_level(whole, alone, 1, reach_A)]
    if chain.max() > 0:
        per_chain = np.repeat(chain[residue][:, None], 2, axis=1)
        levels.append(_level(per_chain, alone, int(chain.max()) + 1, reach_A))
    return levels + [_along_chains(chain, residue, spacing) for spacing in SPACINGS]


def _along_chains(chain: NDArray[np.int64], residue: NDArray[np.int64], spacing: int) -> FrameLevel:
    """Anchors every ``spacing`` residues from end to end of each chain."""
    place = np.zeros(len(chain))
    first = 0
    for one in np.unique(chain):
        members = np.flatnonzero(chain == one)
        steps = max(1, round((len(members) - 1) / spacing))
        place[members] = first + np.linspace(0, steps, len(members)) * (len(members) > 1)
        first += steps + 1
    at = place[residue]
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32)
    high = np.minimum(low + 1, first - 1)
    return _level(np.stack([low, high], 1), np.stack([1 - share, share], 1), first, 0.5 * RISE_A * spacing + 2.0)


def _level(frame: NDArray[np.int64], share: NDArray[np.float32], count: int, reach_A: float) -> FrameLevel:
    return FrameLevel(torch.from_numpy(frame), torch.from_numpy(share), count, float(reach_A))


def deformed(
    base: Float[Tensor, "C 3"], levels: Sequence[FrameLevel], motions: Sequence[Float[Tensor, "B _ 6"]]
) -> Float[Tensor, "B C 3"]:
    """Positions (B, C, 3) of centres (C, 3), in Å, after all levels in turn."""
    positions = base.expand(len(motions[0]), *base.shape)
    for level, motion in zip(levels, motions, strict=False):
        positions = level.moved(positions, motion)
    return positions
