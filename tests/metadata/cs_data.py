"""Datasets of CryoSPARC made by numpy alone: no reader or writer of the package is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = NDArray[Any]

LOCATION = [
    ("location/micrograph_uid", "<u8"), ("location/exp_group_id", "<u4"), ("location/micrograph_path", "S24"),
    ("location/micrograph_shape", "<u4", (2,)), ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
]  # fmt: skip
DTYPE = [
    ("uid", "<u8"), ("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
    ("blob/sign", "<f4"), ("blob/import_sig", "<u8"), ("ctf/type", "S9"), ("ctf/exp_group_id", "<u4"),
    ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"),
    ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"), ("ctf/phase_shift_rad", "<f4"), ("ctf/scale", "<f4"),
    ("ctf/scale_const", "<f4"), ("ctf/shift_A", "<f4", (2,)), ("ctf/tilt_A", "<f4", (2,)),
    ("ctf/trefoil_A", "<f4", (2,)), ("ctf/tetra_A", "<f4", (4,)), ("ctf/anisomag", "<f4", (4,)),
    ("ctf/bfactor", "<f4"), *LOCATION, ("alignments3D/split", "<u4"), ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"), ("alignments3D/error", "<f4"),
    ("alignments3D/alpha", "<f4"), ("alignments3D/class", "<u4"), ("alignments3D/class_posterior", "<f4"),
]  # fmt: skip


def particles_record(n: int = 40, seed: int = 3) -> Record:
    """N particles of three stacks and two exposure groups, aligned at twice the pixel size of the images."""
    rng = np.random.default_rng(seed)
    record = np.zeros(n, DTYPE)
    record["uid"] = rng.permutation(n).astype(np.uint64) + np.uint64(1 << 63)
    stack = np.arange(n) // 16
    record["blob/path"] = [f"J7/extract/mic{one}_particles.mrc".encode() for one in stack]
    record["blob/idx"] = np.arange(n) % 16
    record["blob/shape"], record["blob/psize_A"], record["blob/sign"] = 64, 1.1, -1
    record["blob/import_sig"] = rng.integers(0, 1 << 63, n, dtype=np.uint64) * 2 + 1
    record["ctf/type"] = b"ctffind4"
    record["ctf/exp_group_id"] = stack % 2 + 3
    record["ctf/accel_kv"], record["ctf/cs_mm"], record["ctf/amp_contrast"] = 300, 2.7, 0.1
    record["ctf/df1_A"], record["ctf/df2_A"] = rng.uniform(10_000, 20_000, (2, n))
    record["ctf/df_angle_rad"] = rng.uniform(-1.5, 1.5, n)
    record["ctf/phase_shift_rad"] = rng.uniform(0, 3, n)
    record["ctf/scale"] = 1
    record["ctf/scale_const"] = 1
    record["ctf/tilt_A"] = np.where(stack[:, None] % 2, [5400.0, -2700.0], [0.0, 0.0])
    record["ctf/anisomag"] = np.where(stack[:, None] % 2, [0.01, -0.002, -0.002, -0.01], 0.0)
    record["location/micrograph_uid"] = stack + 1
    record["location/exp_group_id"] = record["ctf/exp_group_id"]
    record["location/micrograph_path"] = [f"J2/motion/mic{one}.mrc".encode() for one in stack]
    record["location/micrograph_shape"] = (3000, 4000)
    record["location/center_x_frac"], record["location/center_y_frac"] = rng.uniform(0, 1, (2, n))
    record["alignments3D/split"] = np.arange(n) % 2
    record["alignments3D/shift"] = rng.uniform(-4, 4, (n, 2))
    record["alignments3D/pose"] = rng.normal(size=(n, 3)) * 1.5
    record["alignments3D/psize_A"] = 2.2
    record["alignments3D/error"] = rng.uniform(0, 1000, n)
    record["alignments3D/alpha"] = rng.uniform(0.5, 1.5, n)
    record["alignments3D/class"] = np.arange(n) % 3
    record["alignments3D/class_posterior"] = 1
    return record


def only(record: Record, *prefixes: str) -> Record:
    """The uid and the fields of some slots."""
    assert record.dtype.names is not None
    names = ["uid", *(name for name in record.dtype.names if name.split("/")[0] in prefixes)]
    out = np.empty(len(record), [(name, record.dtype[name]) for name in names])
    for name in names:
        out[name] = record[name]
    return out


def save(path: Path, record: Record) -> Path:
    """Write the numpy form."""
    with open(path, "wb") as handle:
        np.save(handle, record, allow_pickle=False)
    return path
