"""The prior of latents: shares of the particles at the nodes, as sharp as images of the other half-set call for."""

from __future__ import annotations

import torch
from torch import Tensor

from cryodrgn_ext.engines.distributed import current

MOST_SHARE_STEPS = 100  # of the prior per pass, where it goes on to gain
LEAST_SHARE = 1e-7
LEAST_SCORE = 1e-4  # nats per image: likelihoods are rounded by a tenth of that
ROWS = 4096


def _images_at_nodes(node: Tensor, logit: Tensor, share: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Expected number (K,) of images at each node under ``share``, and their log likelihood under ``other``."""
    total, score = torch.zeros_like(share), torch.zeros(1, dtype=torch.float64)
    for here in torch.arange(len(node)).split(ROWS):
        index, own = node[here].long(), logit[here].double()
        probability = torch.softmax(own + share.log()[index], dim=1)
        total.index_add_(0, index.flatten(), probability.flatten())
        score += (own + other.log()[index]).logsumexp(1).sum()
    current().sum(total, score)
    return total, score


def prior_shares(
    found: list[tuple[Tensor, Tensor]], shares: list[Tensor], steps: int = MOST_SHARE_STEPS
) -> list[Tensor]:
    """Share (K,) of each half-set's images at each node, by expectation maximisation from ``shares``.

    It stops when images of one half-set are no longer predicted better by the shares of the other: the prior becomes
    as sharp as particles, not noise, call for.

    Parameters
    ----------
    found : list of tuple of Tensor
        Of each half-set's images of this process: likeliest nodes (n, T), and log likelihoods (n, T) there.
    shares : list of Tensor
        (K,) float64.
    steps : int
        At most; the last is not taken.
    """
    best, kept = -float("inf"), shares
    for _ in range(steps):
        results = [_images_at_nodes(*found[h], shares[h], shares[1 - h]) for h in (0, 1)]
        score = float(results[0][1] + results[1][1])
        if score <= best + LEAST_SCORE * float(results[0][0].sum() + results[1][0].sum()):
            break
        best, kept = score, shares
        totals = [(total / total.sum().clamp_min(1e-300)).clamp_min(LEAST_SHARE) for total, _ in results]
        shares = [total / total.sum() for total in totals]
    return kept
