"""Time and memory of reading a large .cs, joining a passthrough, taking a subset and writing it.

Run ``python benchmarks/cs_throughput.py`` (a million particles). The goal is below 20 seconds and 3 GB.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from throughput import print_total, run, timed

from cryodrgn_ext.metadata.particle_writing import write_particles_cs
from cryodrgn_ext.metadata.particles import read_particles

MAIN = [
    ("uid", "<u8"), ("alignments3D/split", "<u4"), ("alignments3D/class", "<u4"), ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"),
    *((f"alignments3D/{name}", "<f4") for name in ("error", "error_min", "resid_pow", "slice_pow", "image_pow",
      "cross_cor", "alpha", "alpha_min", "weight", "pose_ess", "shift_ess", "class_posterior", "class_ess")),
    ("ctf/type", "S9"), ("ctf/exp_group_id", "<u4"), *((f"ctf/{name}", "<f4") for name in ("accel_kv", "cs_mm",
      "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad", "scale", "scale_const", "bfactor")),
    *((f"ctf/{name}", "<f4", (2,)) for name in ("shift_A", "tilt_A", "trefoil_A")),
    ("ctf/tetra_A", "<f4", (4,)), ("ctf/anisomag", "<f4", (4,)),
]  # fmt: skip
PASSTHROUGH = [
    ("uid", "<u8"), ("blob/path", "S110"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
    ("blob/sign", "<f4"), ("blob/import_sig", "<u8"), ("location/micrograph_uid", "<u8"),
    ("location/exp_group_id", "<u4"), ("location/micrograph_path", "S110"), ("location/micrograph_shape", "<u4", (2,)),
    ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
]  # fmt: skip


def generate(directory: Path, n: int) -> None:
    """Write main.cs and passthrough.cs, whose rows stand in another order; 150 particles a micrograph."""
    rng = np.random.default_rng(0)
    main = np.zeros(n, MAIN)
    main["uid"] = rng.permutation(n).astype(np.uint64) * np.uint64(9_223_372_036_854) + np.uint64(1)
    main["alignments3D/split"] = rng.integers(0, 2, n)
    for name in ("alignments3D/pose", "alignments3D/shift", "alignments3D/error"):
        main[name] = rng.normal(size=main[name].shape)
    main["alignments3D/psize_A"] = 1.06
    main["ctf/accel_kv"], main["ctf/cs_mm"], main["ctf/amp_contrast"] = 300, 2.7, 0.1
    main["ctf/df1_A"], main["ctf/df2_A"] = rng.uniform(10_000, 20_000, (2, n))
    micrograph = np.arange(n) // 150
    main["ctf/exp_group_id"] = micrograph % 9
    np.save(directory / "main.npy", main)
    other = np.zeros(n, PASSTHROUGH)
    other["uid"] = main["uid"]
    stem = np.char.mod("FoilHole_%08d_Data_10985376_10985377_20180810_2123-144102", micrograph[::150])
    other["blob/path"] = np.char.add(np.char.add("J133/extract/", stem), "_particles.mrc").astype("S")[micrograph]
    other["location/micrograph_path"] = np.char.add(np.char.add("J2/motion/", stem), ".mrc").astype("S")[micrograph]
    other["blob/idx"], other["blob/shape"], other["blob/psize_A"] = np.arange(n) % 150, 256, 1.06
    other["blob/sign"] = -1
    np.save(directory / "passthrough.npy", other[rng.permutation(n)])
    for name in ("main", "passthrough"):
        (directory / f"{name}.npy").rename(directory / f"{name}.cs")


def measure(directory: Path) -> None:
    """Read, join, subset and write, and print times and the peak of resident memory."""
    start = time.perf_counter()
    with timed("read, join with the passthrough, poses"):
        particles = read_particles(directory / "main.cs", passthroughs=[directory / "passthrough.cs"])
    half = np.sort(np.random.default_rng(1).permutation(particles.n)[: particles.n // 2])
    with timed("subset of half"):
        subset = particles.subset(half)
    with timed("write the subset"):
        write_particles_cs(subset, directory / "subset.cs")
    with timed("rotations"):
        rotation = subset.rotation
    with timed("write with other poses"):
        write_particles_cs(subset.with_poses(rotation, subset.shift_A), directory / "poses.cs")
    print_total(f"{particles.n} particles", start)


if __name__ == "__main__":
    run(__file__, __doc__, 1_000_000, generate, measure)
