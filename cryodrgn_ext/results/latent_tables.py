"""latents.npz and states.npz of a train job: written without pickles, read with one-sentence errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays


@dataclass(frozen=True)
class LatentTable:
    """Latents in the order of the input rows.

    Attributes
    ----------
    z : ndarray
        (N, q) float32.
    uid : ndarray
        (N,) uint64 identifiers of the particles.
    z_cov : ndarray or None
        (N, q, q) float32 posterior covariances.
    """

    z: NDArray[np.float32]
    uid: NDArray[np.uint64]
    z_cov: NDArray[np.float32] | None = None

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.z)

    def log_variance(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """(n, q) logarithms of the variances of some latents, where an engine defined them."""
        if self.z_cov is None:
            return None
        variance = np.diagonal(self.z_cov[rows], axis1=1, axis2=2)
        return np.log(np.maximum(variance, np.finfo(np.float32).tiny)).astype(np.float32)


@dataclass(frozen=True)
class StateTable:
    """State of each particle.

    Attributes
    ----------
    label : ndarray
        (N,) int32, from 0.
    center_index : ndarray
        (K,) int64, the particle at the centre of each state.
    """

    label: NDArray[np.int32]
    center_index: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.label)

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.center_index)


def write_latent_table(path: Path, table: LatentTable, image_name: NDArray[np.str_], row_id: NDArray[np.int64]) -> None:
    """Write latents.npz atomically, with the image names (N,) and rows (N,) of the particles."""
    arrays = {"z": table.z, "image_name": image_name, "uid": table.uid, "row_id": row_id}
    if table.z_cov is not None:
        arrays["z_cov"] = table.z_cov
    write_arrays(path, arrays)


def write_state_table(path: Path, table: StateTable) -> None:
    """Write states.npz atomically."""
    write_arrays(path, {"label": table.label, "center_index": table.center_index})


def _read(path: Path, *names: str, optional: tuple[str, ...] = ()) -> dict[str, NDArray[np.generic]]:
    with readable(path, "restore it or run the job again", missing="the job has not come so far, or was moved"):
        return load_arrays(path, *names, optional=optional)


def read_latent_table(path: Path) -> LatentTable:
    """Read latents.npz.

    Raises
    ------
    InputError
        When it is missing, damaged or of other contents.
    """
    arrays = _read(path, "z", "uid", optional=("z_cov",))
    z, uid = arrays["z"], arrays["uid"]
    if z.ndim != 2 or uid.shape != (len(z),) or z.dtype.kind != "f":
        raise InputError(f"{path}: z has the shape {z.shape} and uid {uid.shape}; (N, q) and (N,) were expected.")
    covariance = arrays.get("z_cov")
    return LatentTable(
        z.astype(np.float32), uid.astype(np.uint64), None if covariance is None else covariance.astype(np.float32)
    )


def read_state_table(path: Path) -> StateTable:
    """Read states.npz.

    Raises
    ------
    InputError
        When it is missing, damaged or of other contents.
    """
    arrays = _read(path, "label", "center_index")
    label = arrays["label"]
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise InputError(f"{path}: label has the shape {label.shape} and type {label.dtype}; (N,) integers expected.")
    return StateTable(label.astype(np.int32), arrays["center_index"].astype(np.int64))
