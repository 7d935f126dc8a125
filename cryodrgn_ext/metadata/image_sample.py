"""A fingerprint of the images themselves: names and sizes of stacks are alike in every project."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cryodrgn_ext.metadata.mrc import MrcHeader, read_stack_header

if TYPE_CHECKING:
    from cryodrgn_ext.metadata.particle_set import ParticleSet

#: How many images, evenly spaced over the rows, a fingerprint reads.
SAMPLED_IMAGES = 24


def fingerprint_images(particles: ParticleSet) -> dict[str, Any]:
    """Return where the images were found, and a digest of headers and pixels of some of them.

    The digest does not depend on where the stacks lie, their byte order or pixel type, only on the rows.

    Parameters
    ----------
    particles : ParticleSet
        Whose stacks have been checked (:func:`cryodrgn_ext.metadata.image_checks.check_images`).

    Returns
    -------
    dict
        ``directory``, absolute; ``stacks``, how many; ``rows``, how many were read; ``sha256``.

    Raises
    ------
    InputError
        When a stack cannot be read.
    """
    rows = np.unique(np.linspace(0, max(0, particles.n - 1), SAMPLED_IMAGES).astype(np.int64))[: particles.n]
    digest = hashlib.sha256()
    headers: dict[int, MrcHeader] = {}
    for row in rows.tolist():
        stack = int(particles.stack_id[row])
        if stack not in headers:
            headers[stack] = read_stack_header(particles.stack_paths[stack])
        header = headers[stack]
        image = header.memory_map()[int(particles.stack_index[row])]
        digest.update(f"{header.nx},{header.ny};".encode())
        digest.update(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return {
        "directory": str(particles.project_dir.absolute()),
        "stacks": len(particles.stack_names),
        "rows": len(rows),
        "sha256": digest.hexdigest(),
    }
