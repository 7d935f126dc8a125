"""The images at a band, in chunks: resident in memory where they fit, else made anew from the store in every pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.torch_form import Chunk, Operators
from cryodrgn_ext.fourier.block_sizes import in_blocks, tell
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages

#: Lower frequencies (cycles per box) do not count. A background that was subtracted with the error of an estimate, or
#: a ramp, moves them all together, which looks like heterogeneity; of what differs between particles they hold little.
BACKGROUND_RADIUS = 2.0
BAND_GROWTH = 1.4  # from one band to the next
CHUNK_COEFFICIENTS = 1 << 20
BYTES_PER_COEFFICIENT = 16  # complex64, float32, and a place in the order of cubes


class Band:
    """Images up to a frequency, with the operators of that band.

    Parameters
    ----------
    images : ParticleImages
    base : FourierVolume
        Consensus.
    radius : int
        Largest |k| in cycles per box.
    device : torch.device
    memory_bytes : float
        Coefficients are kept in memory up to this size.

    Attributes
    ----------
    grid : ComponentGrid
    operators : Operators
    n_bytes : int
        What the coefficients take.
    resident : bool
        Whether they are kept in memory.
    """

    def __init__(
        self, images: ParticleImages, base: FourierVolume, radius: int, device: torch.device, memory_bytes: float
    ) -> None:
        self.images, self.radius, self.device = images, radius, device
        self.count = min(images.plane.prefix(radius), images.source.n_coefficients)
        kxy = images.plane.kxy[: self.count]
        # Along rows of an image neighbours in the list are neighbours in the volume.
        self.order = torch.argsort(kxy[:, 1] * (2 * images.box_size) + kxy[:, 0], stable=True)
        self.grid = ComponentGrid(images.box_size, radius)
        kxy = kxy[self.order].float().contiguous()
        self._background = (kxy.norm(dim=1) < BACKGROUND_RADIUS).nonzero()[:, 0]
        self.operators = Operators(self.grid, base, kxy)
        self.chunk_size = max(1, CHUNK_COEFFICIENTS // self.count)
        self.n_bytes = BYTES_PER_COEFFICIENT * images.n * self.count
        self.resident = self.n_bytes <= memory_bytes
        self._kept: dict[int, Chunk] = {}

    def _make(self, rows: Tensor) -> Chunk:
        batch = self.images.batch(rows, self.count, self.device)
        order = self.order.to(self.device)
        planes = self.images.planes(rows).to(self.device)
        whitened_ctf = batch.ctf[:, order]
        whitened_ctf[:, self._background.to(self.device)] = 0
        return Chunk(rows, batch.coefficients[:, order], whitened_ctf, planes)

    def chunks(self, rows: Tensor) -> Iterator[Chunk]:
        """The images ``rows`` (int64, on the CPU), in that order, some at a time."""
        for part in rows.split(self.chunk_size):
            if not len(part):
                continue
            chunk = self._kept_chunk(part) if self.resident else None
            if chunk is None:
                yield from in_blocks(lambda here, part=part: self._make(part[here]), len(part), "images")  # type: ignore[misc]
            else:
                yield chunk

    def _kept_chunk(self, rows: Tensor) -> Chunk | None:
        """Images in memory; None, from the first on that finds no room, where they are read in every pass instead."""
        try:
            return self._chunk(rows)
        except torch.OutOfMemoryError:
            self._kept.clear()
            self.resident = False
        tell("The GPU had no memory to keep the images of this band: they are read from disk in every pass.")
        return None

    def _chunk(self, rows: Tensor) -> Chunk:
        pieces = []
        blocks = torch.div(rows, self.chunk_size, rounding_mode="floor")
        # Whole blocks are kept, so that any selection of rows is made of slices of them.
        for block in blocks.unique_consecutive().tolist():
            if block not in self._kept:
                end = min((block + 1) * self.chunk_size, self.images.n)
                self._kept[block] = self._make(torch.arange(block * self.chunk_size, end))
            kept = self._kept[block]
            if torch.equal(rows, kept.rows):
                return kept
            here = (rows[blocks == block] - block * self.chunk_size).to(self.device)
            pieces.append((kept.values[here], kept.whitened_ctf[here], kept.planes[here]))
        return Chunk(rows, *(torch.cat(part) for part in zip(*pieces, strict=True)))
