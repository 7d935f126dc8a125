"""With how many CPU threads a job computes."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Let torch use ``count`` threads; 0 leaves its own choice (the machine, or OMP_NUM_THREADS)."""
    if count > 0:
        torch.set_num_threads(count)
