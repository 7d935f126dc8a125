"""The distinct images of a particle set: which section of which stack each row of the metadata names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError


@dataclass(frozen=True)
class ImageTable:
    """The distinct images of a particle set, in the order in which they lie in the files.

    Attributes
    ----------
    stack_paths : tuple of Path
    stack, section : ndarray
        (U,) int64: number into ``stack_paths``; 0-based section. Sorted by both.
    group : ndarray
        (U,) int64 optics group index.
    row_of_particle : ndarray
        (N,) int64: the image of each particle.
    """

    stack_paths: tuple[Path, ...]
    stack: NDArray[np.int64]
    section: NDArray[np.int64]
    group: NDArray[np.int64]
    row_of_particle: NDArray[np.int64]

    @classmethod
    def make(
        cls,
        stack_paths: tuple[Path, ...],
        stack: NDArray[np.integer],
        section: NDArray[np.integer],
        group: NDArray[np.integer],
    ) -> ImageTable:
        """Gather the distinct images of particles given by (N,) stack, section and optics group."""
        triple = np.stack([stack, section, group], axis=1).astype(np.int64)
        code = image_code(triple[:, 0], triple[:, 1])
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        clash = np.flatnonzero(triple[first[inverse], 2] != triple[:, 2])
        if len(clash):
            row = int(clash[0])
            raise InputError(
                f"image {int(section[row]) + 1}@{stack_paths[int(stack[row])]} (row {row + 1}) belongs to different "
                "optics groups in different rows: give it one group"
            )
        columns = triple[first].T.copy()
        return cls(stack_paths, columns[0], columns[1], columns[2], inverse.reshape(-1).astype(np.int64))

    def __len__(self) -> int:
        """Number U of distinct images."""
        return len(self.stack)

    def fingerprints(self, known: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Path, size and modification time of every stack; of one that is gone, those that are known of it."""
        out, former = [], {one["path"]: dict(one) for one in known}
        for path in self.stack_paths:
            try:
                status = path.stat()
            except FileNotFoundError:
                if str(path.resolve()) in former:
                    out.append(former[str(path.resolve())])
                    continue
                raise InputError(
                    f"the image stack {path} does not exist: image references are relative to the project directory"
                ) from None
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}") from None
            out.append({"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns})
        return out


def image_code(stack: NDArray[np.integer], section: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return one number (n,) per image, in the order of stack and 0-based section."""
    return (stack.astype(np.int64) << 32) | section.astype(np.int64)


def hash_images(table: ImageTable) -> str:
    """Hash of which images a store holds, in order."""
    digest = hashlib.sha256()
    for array in (table.stack, table.section, table.group):
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()
