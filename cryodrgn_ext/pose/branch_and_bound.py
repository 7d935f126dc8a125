"""Branch and bound over rotations and shifts: Algorithm 1 of Zhong 2022 (3.4.1), the older search.

Every pose (a rotation with a shift) of a base grid is scored at a low band. The residual there bounds that of the whole
band from below, because every further coefficient can only add to it; the residual over the whole band of the best
candidate bounds the least one from above. Poses whose lower bound exceeds the upper one are dropped, all others are
divided: the rotation into eight, the shift into four. And so on, while the band grows.

In noise the bounds exclude little. As in the published results, at most K poses of an image go on, the best ones.
Several shifts of one rotation are poses of their own here, and neighbours of the best pose are many; candidates that
are returned can be asked to lie apart.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.estimates import ScoredPoses
from cryodrgn_ext.pose.groups import GroupScorer
from cryodrgn_ext.pose.model import SliceModel, as_model
from cryodrgn_ext.pose.search import SearchSettings, apart_places, sweep
from cryodrgn_ext.pose.shift_grid import shift_grid
from cryodrgn_ext.progress import Monitor


def branch_and_bound(
    images: ParticleImages,
    model: SliceModel | FourierVolume,
    settings: SearchSettings,
    rows: Int[Tensor, " N"] | None = None,
    monitor: Monitor | None = None,
) -> ScoredPoses:
    """Find the pose of every image by Algorithm 1.

    Parameters, result and errors are those of :func:`cryodrgn_ext.pose.search.search`; here ``settings.keep`` counts
    poses, several shifts of one rotation among them, ``settings.refinements`` subdivisions, and ``settings.apart`` is
    heeded when candidates are returned.
    """
    some = as_model(model, settings.where(images))
    return sweep(images, settings, rows, None, monitor, lambda scorer: _search_some(scorer, some, settings, images))


def _search_some(
    scorer: GroupScorer, model: SliceModel, settings: SearchSettings, images: ParticleImages
) -> tuple[Tensor, Tensor, Tensor]:
    """Best poses of some images: (B, k, 3, 3), (B, k, 1, 2), (B, k), best first."""
    single = scorer.scorers[0]
    largest = images.plane.radius
    bands = [settings.band(step, largest) for step in range(settings.refinements + 1)]
    half_power = 0.5 * _image_power(images, single.rows, [single.count(band) for band in bands])
    count = settings.shift_count if settings.shift_extent_px > 0 else 1
    shifts = shift_grid(settings.shift_extent_px, count)
    base = torch.from_numpy(so3_grid.grid(settings.base_level)).float()
    top = single.top_poses(model, base, shifts, settings.keep, bands[0])
    index, shift, value = top.rotation.cpu().numpy(), shifts[top.shift.cpu()], top.log_likelihood.cpu()
    for step in range(1, settings.refinements + 1):
        level = settings.base_level + step
        best = torch.from_numpy(so3_grid.rotations(level - 1, index[:, :1])).float()
        whole = single.own(model, best, shift[:, :1], None, bands[-1])[:, 0].cpu()
        # With L the log-likelihood, the residual in a band is half the image's power there, less L.
        lower, upper = half_power[:, step - 1, None] - value, half_power[:, -1, None] - whole
        dropped = lower > upper
        alive = max(1, int((~dropped).sum(1).max()))
        index, shift, dropped = index[:, :alive], shift[:, :alive], dropped[:, :alive]
        index = so3_grid.children(level - 1, index).reshape(len(index), -1)
        rotation = torch.from_numpy(so3_grid.rotations(level, index)).float()
        quarters = shift_grid(settings.shift_extent_px / count / 2 ** (step - 1), 2)
        scores = single.own(model, rotation, shift.repeat_interleave(8, dim=1), quarters, bands[step]).cpu()
        scores.masked_fill_(dropped.repeat_interleave(8, dim=1)[..., None], -torch.inf)
        here = scores.flatten(1).topk(min(settings.keep, scores[0].numel()), dim=1)
        order = here.indices // len(quarters)
        index = np.take_along_axis(index, order.numpy(), axis=1)
        shift = shift.gather(1, (order // 8)[..., None].expand(-1, -1, 2)) + quarters[here.indices % len(quarters)]
        value = here.values
    level = settings.base_level + settings.refinements
    if settings.apart:
        order = apart_places(index, level, min(settings.keep_final, settings.keep), settings.apart)
        index = np.take_along_axis(index, order.numpy(), axis=1)
        shift, value = shift.take_along_dim(order[..., None], dim=1), value.take_along_dim(order, dim=1)
    return torch.from_numpy(so3_grid.rotations(level, index)).float(), shift[:, :, None], value


def _image_power(images: ParticleImages, rows: Tensor, counts: list[int]) -> Tensor:
    """(B, len(counts)) float32: sum over the first coefficients (and their partners) of |image|²."""
    multiplicity = images.plane.multiplicity[: counts[-1]]
    values = images.batch(rows, counts[-1], "cpu").coefficients
    total = (torch.view_as_real(values).square().sum(-1) * multiplicity).double().cumsum(1)
    return total[:, [count - 1 for count in counts]].float()
