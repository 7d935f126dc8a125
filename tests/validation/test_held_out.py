from __future__ import annotations

import numpy as np
import torch

from cryodrgn_ext.imaging.half_plane import HalfPlane
from cryodrgn_ext.validation.held_out import GUARD, disjoint_sets


def test_sets_of_coefficients_are_disjoint_balanced_and_apart() -> None:
    kxy = HalfPlane(64, 30).kxy
    even, odd = disjoint_sets(kxy)
    assert not set(even.tolist()) & set(odd.tolist())
    assert abs(len(even) - len(odd)) < 0.1 * len(even)
    assert len(even) + len(odd) > 0.7 * len(kxy)
    a, b = kxy[even].double(), kxy[odd].double()
    apart = torch.cdist(torch.cat([a, -a]), b).min()  # Friedel partners carry the same noise
    assert float(apart) >= 2 * GUARD * np.cos(np.pi / 8)
