"""Coefficients from disk, read in the background while the networks work on the images before them.

One request is read ahead, so memory stays bounded by two blocks of images. Only the reading is done in the
background; what is computed, and in which order, does not depend on it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cryodrgn_ext.images.particle_images import CoefficientSource


class ReadAhead:
    """A :class:`~cryodrgn_ext.images.particle_images.CoefficientSource` that can be told what is wanted next.

    Parameters
    ----------
    source : CoefficientSource
        On disk.
    """

    def __init__(self, source: CoefficientSource) -> None:
        self._source = source
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
        self._pending = self._reader.submit(self._source.gather, *self._wanted)

    def gather(self, rows: Tensor, n_coefficients: int) -> Tensor:
        """(B, n_coefficients) complex64 of particles ``rows``: what was read ahead, or read now."""
        pending, wanted = self._pending, self._wanted
        if pending is not None and wanted is not None:
            same = wanted[1] == n_coefficients and torch.equal(wanted[0], rows.cpu())
            if same:
                self._pending = self._wanted = None
                return pending.result()
        return self._source.gather(rows, n_coefficients)

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(cancel_futures=True)
