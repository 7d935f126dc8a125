"""Particle images on disk, read lazily through memory maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.mrc import MrcHeader, read_stack_header

#: Stacks held open at a time: an extraction job has one per micrograph, tens of thousands in all.
OPEN_STACKS = 64


class ImageStacks:
    """Images of a set of stacks, addressed by (stack number, section).

    Parameters
    ----------
    paths : sequence of Path
        The stacks. Headers are read when a stack is first needed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(Path(path) for path in paths)
        self._headers: dict[int, MrcHeader] = {}
        self._maps: OrderedDict[int, NDArray[np.generic]] = OrderedDict()

    def header(self, stack: int) -> MrcHeader:
        """Checked header of one stack; images must be square.

        Raises
        ------
        InputError
            See :func:`cryodrgn_ext.metadata.mrc.read_stack_header`.
        """
        if stack not in self._headers:
            self._headers[stack] = read_stack_header(self.paths[stack])
        return self._headers[stack]

    def _map(self, stack: int) -> NDArray[np.generic]:
        if stack in self._maps:
            self._maps.move_to_end(stack)
        else:
            self._maps[stack] = self.header(stack).memory_map()
            if len(self._maps) > OPEN_STACKS:
                self._maps.popitem(last=False)
        return self._maps[stack]

    def read(self, stack: NDArray[np.integer], section: NDArray[np.integer], box_size: int) -> NDArray[np.float32]:
        """Read images.

        Parameters
        ----------
        stack : ndarray
            (B,) stack numbers; runs of the same stack are read together, so sort by (stack, section).
        section : ndarray
            (B,) 0-based sections.
        box_size : int
            The box that the metadata promise.

        Returns
        -------
        ndarray
            (B, D, D) float32, axes y, x.

        Raises
        ------
        InputError
            When a stack is shorter than a section asked for, or has another box.
        """
        out = np.empty((len(stack), box_size, box_size), np.float32)
        starts = np.flatnonzero(np.diff(stack, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(stack)], strict=True):
            number = int(stack[start])
            header = self.header(number)
            wanted = section[start:stop]
            if header.nx != box_size:
                raise InputError(
                    f"{header.path} holds images of {header.nx} px, but the metadata say {box_size} px "
                    "for their optics group (rlnImageSize)"
                )
            if wanted.max() >= header.nz or wanted.min() < 0:
                raise InputError(
                    f"{header.path} holds {header.nz} images, but image {int(wanted.max()) + 1} is asked for: "
                    "the stack is not the one that the particles were written for"
                )
            first, last = int(wanted[0]), int(wanted[-1])
            if last - first == len(wanted) - 1 and (np.diff(wanted) == 1).all():
                out[start:stop] = self._map(number)[first : last + 1]  # a run: no index array, one sequential read
            else:
                out[start:stop] = self._map(number)[wanted]
        return out
