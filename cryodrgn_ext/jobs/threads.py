"""Where and with how many CPU threads a job computes."""

from __future__ import annotations

import torch

from cryodrgn_ext.errors import InputError


def use_threads(count: int) -> None:
    """Let torch use ``count`` threads; 0 leaves its own choice (the machine, or OMP_NUM_THREADS)."""
    if count > 0:
        torch.set_num_threads(count)


def choose_device(name: str) -> torch.device:
    """Device for "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises
    ------
    InputError
        When a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device is cuda, but no GPU is visible here: use --device cpu, or auto.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
