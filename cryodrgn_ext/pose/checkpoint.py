"""Key of the checkpoints of an ab initio run: it must be that of the run that goes on from them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from cryodrgn_ext.images.particle_images import ParticleImages

#: Images whose coefficients are part of a key.
SAMPLE = 16


def images_key(images: ParticleImages, *settings: Any) -> str:
    """Fingerprint of images (their number, box, half-sets and a few coefficients) and of plain settings."""
    rows = torch.linspace(0, images.n - 1, min(images.n, SAMPLE)).long()
    count = min(images.source.n_coefficients, 256)
    content = hashlib.sha256(torch.view_as_real(images.source.gather(rows, count)).cpu().numpy().tobytes())
    content.update(images.half_set.cpu().numpy().tobytes())
    description = [images.n, images.box_size, images.plane.radius, content.hexdigest(), *settings]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()
