"""Images that share a particle, such as tilt pairs: one unknown rotation for all of them (Zhong 2022, 3.7.2).

Image s of a particle with rotation R is seen under Q_s R, where the relative rotations Q_s are known from the tilting
of the stage. Its displacement in the box is its own, since every image was boxed by itself. Log-likelihoods add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.model import SliceModel
from cryodrgn_ext.pose.scoring import Scorer, Top


@dataclass(frozen=True)
class ImageGroups:
    """Which images share particles.

    Attributes
    ----------
    rows : Tensor
        (P, S) int64: the S particle rows of each of P groups.
    relative : Tensor
        (S, 3, 3): image s is seen under ``relative[s] @ R`` when the group's rotation is R.
    """

    rows: Tensor
    relative: Tensor

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.relative.shape != (self.rows.shape[1], 3, 3):
            raise ValueError(
                f"groups need rows (P, S) and relative rotations (S, 3, 3), "
                f"got {tuple(self.rows.shape)} and {tuple(self.relative.shape)}"
            )

    @classmethod
    def single(cls, rows: Int[Tensor, " N"]) -> ImageGroups:
        """Each of the images ``rows`` (N,) by itself."""
        return cls(rows.cpu()[:, None], torch.eye(3)[None])

    @property
    def size(self) -> int:
        """Images in each group, S."""
        return self.rows.shape[1]

    def part(self, which: slice) -> ImageGroups:
        """Some of the groups."""
        return ImageGroups(self.rows[which], self.relative)

    def rotations(self, rotation: Float[Tensor, "*batch 3 3"], member: int) -> Float[Tensor, "*batch 3 3"]:
        """Rotations (..., 3, 3) of image ``member`` from those of the groups."""
        if self.size == 1 and torch.equal(self.relative[0], torch.eye(3).to(self.relative)):
            return rotation
        return self.relative[member].to(rotation) @ rotation


class GroupScorer:
    """Scores of groups: those of their images, each with its best shift, added up.

    Parameters
    ----------
    scorers : sequence of Scorer
        One for each place s in the groups, of images ``groups.rows[:, s]``.
    groups : ImageGroups
    """

    def __init__(self, scorers: Sequence[Scorer], groups: ImageGroups) -> None:
        if len(scorers) != groups.size or any(len(scorer) != len(groups.rows) for scorer in scorers):
            raise ValueError(f"{groups.size} scorers of {len(groups.rows)} images each are needed for these groups")
        self.scorers, self.groups = tuple(scorers), groups

    def top(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "G 3 3"],
        shift_px: Float[Tensor, "T 2"],
        keep: int,
        radius: float | None,
    ) -> Top:
        """The ``keep`` best of rotations (G, 3, 3); as :meth:`Scorer.top`, with shifts (P, K, S)."""
        if self.groups.size == 1:
            best = self.scorers[0].top(model, self.groups.rotations(rotation, 0), shift_px, keep, radius)
            return Top(best.rotation, best.shift[..., None], best.log_likelihood)
        total, shifts = torch.zeros(()), []
        for member, scorer in enumerate(self.scorers):
            value, shift = scorer.best_shift(model, self.groups.rotations(rotation, member), shift_px, radius)
            total = total.to(value.device) + value
            shifts.append(shift)
        here = total.topk(min(keep, total.shape[1]), dim=1)
        chosen = torch.stack([shift.long().gather(1, here.indices) for shift in shifts], dim=2)
        return Top(here.indices, chosen, here.values)

    def own(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "P K 3 3"],
        shift_px: Float[Tensor, "P K S 2"],
        offset_px: Float[Tensor, "T 2"],
        radius: float | None,
    ) -> tuple[Float[Tensor, "P K"], Int[Tensor, "P K S"]]:
        """Scores of candidates, each image with its best offset.

        Parameters
        ----------
        model : SliceModel or FourierVolume
        rotation : Tensor
            (P, K, 3, 3) of the groups.
        shift_px : Tensor
            (P, K, S, 2).
        offset_px : Tensor
            (T, 2).
        radius : float, optional

        Returns
        -------
        Tensor, Tensor
            (P, K) log-likelihoods and (P, K, S) offsets.
        """
        total, offsets = torch.zeros(()), []
        for member, scorer in enumerate(self.scorers):
            seen = self.groups.rotations(rotation, member)
            best = scorer.own(model, seen, shift_px[:, :, member], offset_px, radius).max(2)
            total = total.to(best.values.device) + best.values
            offsets.append(best.indices)
        return total, torch.stack(offsets, dim=2)
