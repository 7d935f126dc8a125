"""Coefficients from disk, read in the background while the networks work on the images before them.

One request is read ahead, so memory stays bounded by two blocks of images; pages of the store that were read do not
stay mapped, so that they do not count as memory of the process. Only the reading is done in the
background; what is computed, and in which order, does not depend on it.
"""

from __future__ import annotations

import mmap
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.images.coefficient_source import CoefficientSource, SubsetCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages

MOST_MAPPED_BYTES = 1 << 28
FAULT_AROUND_BYTES = 1 << 16  # Linux maps so much of the neighbourhood of a page that is touched


class ReadAhead:
    """A ``CoefficientSource`` to which one can announce what is wanted next.

    Parameters
    ----------
    source : CoefficientSource
        On disk.
    """

    def __init__(self, source: CoefficientSource) -> None:
        self._source = source
        self._mapping = _mapping_of(source)
        self._mapped = 0
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coefficients")
        self._wanted: tuple[Tensor, int] | None = None
        self._pending: Future[Tensor] | None = None

    @property
    def n_coefficients(self) -> int:
        """How many coefficients of each image are available."""
        return self._source.n_coefficients

    def expect(self, rows: Tensor, n_coefficients: int) -> None:
        """Begin to read what the next :meth:`gather` will ask for."""
        self._wanted = rows.cpu(), n_coefficients
        self._pending = self._reader.submit(self._read, *self._wanted)

    def gather(self, rows: Tensor, n_coefficients: int) -> Tensor:
        """(B, n_coefficients) complex64 of particles ``rows``: what was read ahead, or read now."""
        pending, wanted = self._pending, self._wanted
        if pending is not None and wanted is not None:
            same = wanted[1] == n_coefficients and torch.equal(wanted[0], rows.cpu())
            if same:
                self._pending = self._wanted = None
                return pending.result()
        return self._read(rows, n_coefficients)

    def _read(self, rows: Tensor, n_coefficients: int) -> Tensor:
        """Read, and now and then let go of the pages that the kernel has mapped for it (they stay in its cache)."""
        values = self._source.gather(rows, n_coefficients)
        self._mapped += max(values.numel() * values.element_size(), len(rows) * FAULT_AROUND_BYTES)
        if self._mapping is not None and self._mapped > MOST_MAPPED_BYTES:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        return values

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(cancel_futures=True)


def within_reach(images: ParticleImages, radius: int, context: EngineContext) -> ParticleImages:
    """Load coefficients with |k| up to ``radius`` into memory if they fit the limit; else batches are read ahead."""
    count = images.plane.prefix(radius)
    if 8.0 * images.n * count <= context.memory_bytes:
        return images.load(context.device, count)
    return replace(images, source=ReadAhead(images.source))


def _mapping_of(source: CoefficientSource) -> mmap.mmap | None:
    """The memory map behind a source (or behind the source that it is a subset of); None when there is none."""
    inner: object = source
    while isinstance(inner, SubsetCoefficients):
        inner = inner.source
    mapping = getattr(getattr(inner, "data", None), "_mmap", None)
    return mapping if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise") else None
