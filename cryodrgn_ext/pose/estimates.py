"""Poses with what is known of them: how likely they are, and how far noise may have put them off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cryodrgn_ext.images.poses import Poses, join_poses


@dataclass(frozen=True)
class ScoredPoses:
    """Candidates for the pose of each of N images, best first.

    Attributes
    ----------
    poses : Poses
        (N, K) float32.
    log_likelihood : Tensor
        (N, K) float32 nats, relative to an image without particle.
    """

    poses: Poses
    log_likelihood: Tensor

    @property
    def best(self) -> Poses:
        """(N,) the best candidate of each image."""
        return self.poses[:, 0]


@dataclass(frozen=True)
class PoseEstimates:
    """Poses of N images after refinement.

    Attributes
    ----------
    poses : Poses
        (N,) float64.
    log_likelihood : Tensor
        (N,) float64, nats relative to an image without particle.
    error_deg, error_px : Tensor
        (N,) float64 standard deviations of the rotation (root of the mean over axes) and of the shift that noise
        leaves.
    scale, scale_error : Tensor
        (N,) float64 of the particle, and its standard deviation; 1 and 0 where it was not asked for.
    """

    poses: Poses
    log_likelihood: Tensor
    error_deg: Tensor
    error_px: Tensor
    scale: Tensor
    scale_error: Tensor

    @classmethod
    def unknown(cls, n: int) -> PoseEstimates:
        """Estimates before anything is known."""
        none = torch.zeros(n, dtype=torch.float64)
        return cls(Poses.unknown(n, torch.float64), none, none, none, none + 1, none)

    @classmethod
    def of_scale_one(cls, poses: Poses, log_likelihood: Tensor, error_deg: Tensor, error_px: Tensor) -> PoseEstimates:
        """Estimates in which the scale had no part."""
        none = torch.zeros_like(log_likelihood)
        return cls(poses, log_likelihood, error_deg, error_px, none + 1, none)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PoseEstimates:
        """Undo :meth:`tensors`; further entries are left alone."""
        poses = Poses(tensors["rotation"], tensors["shift_px"])
        fit = tensors["log_likelihood"]
        # Checkpoints of earlier versions have no scales.
        scale, error = tensors.get("scale", torch.ones_like(fit)), tensors.get("scale_error", torch.zeros_like(fit))
        return cls(poses, fit, tensors["error_deg"], tensors["error_px"], scale, error)

    def tensors(self) -> dict[str, Tensor]:
        """Every column by its name, as checkpoints hold them."""
        return {
            "rotation": self.poses.rotation, "shift_px": self.poses.shift_px, "log_likelihood": self.log_likelihood,
            "error_deg": self.error_deg, "error_px": self.error_px, "scale": self.scale,
            "scale_error": self.scale_error,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def __getitem__(self, rows: Any) -> PoseEstimates:
        """Those of some rows."""
        return PoseEstimates(*(getattr(self, field.name)[rows] for field in fields(self)))

    def cpu(self) -> PoseEstimates:
        """The same in the memory of the host."""
        return PoseEstimates.from_tensors({name: column.cpu() for name, column in self.tensors().items()})

    def updated(self, rows: Tensor, others: PoseEstimates) -> PoseEstimates:
        """The same with other estimates in some rows; a copy."""
        columns = {name: column.clone() for name, column in self.tensors().items()}
        for name, column in others.tensors().items():
            columns[name][rows] = column
        return PoseEstimates.from_tensors(columns)


def join_estimates(parts: Sequence[PoseEstimates]) -> PoseEstimates:
    """Estimates of several sets of images after each other, in the memory of the host."""
    there = [part.cpu() for part in parts]
    names = ("log_likelihood", "error_deg", "error_px", "scale", "scale_error")
    columns = (torch.cat([getattr(part, name) for part in there]) for name in names)
    return PoseEstimates(join_poses([part.poses for part in there]), *columns)
