"""In which order a pass visits the images, and which of them each process works on.

The order follows from seed and pass alone, so that a continued pass goes on in it. It takes one image at a time from
each of ``STRETCHES`` contiguous stretches of the rows, each in random order: every batch is then spread over all of the
file, and processes that hold a stretch each (:meth:`cryodrgn_ext.engines.distributed.Workers.shard`) all have the
same share of every batch, while the order is the same for 1, 2, 4 or 8 of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

STRETCHES = 8


def visiting_order(n: int, seed: int, epoch: int, processes: int = 1) -> Int64[Tensor, " N"]:
    """Rows (N,) int64 in the order of a pass.

    Parameters
    ----------
    n : int
        Number of images.
    seed, epoch : int
    processes : int
        Number of processes; others than divisors of ``STRETCHES`` get as many stretches as they are, and another order.
    """
    stretches = STRETCHES if STRETCHES % processes == 0 else processes
    generator = random_generator(seed, epoch, 0, 0)
    place = torch.empty(n, dtype=torch.float64)
    for stretch in range(stretches):
        start, stop = n * stretch // stretches, n * (stretch + 1) // stretches
        order = torch.randperm(stop - start, generator=generator).double()
        place[start:stop] = (order + (stretch + 0.5) / stretches) / max(stop - start, 1)
    return place.argsort(stable=True)


def random_generator(seed: int, epoch: int, step: int, purpose: int) -> torch.Generator:
    """Random numbers that depend on the place in the schedule only, not on what was drawn before."""
    mixed = seed
    for part in (epoch, step, purpose):
        mixed = (mixed * 6_364_136_223_846_793_005 + part + 1_442_695_040_888_963_407) % 2**64
    return torch.Generator().manual_seed(mixed >> 1)
