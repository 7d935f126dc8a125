#!/usr/bin/env python
"""Training of the subspace engine at box 128 from files on disk: time of each stage, memory, and what bounds it.

    python benchmarks/box128.py [--particles 20000] [--box 128] [--components 16] [--directory DIR] [--threads N]
                                [--quick]

Simulates a RELION project (or uses the one that DIR holds), trains on it in a process of its own, and prints the
seconds of each stage, of each band and pass within the training, and the peak of resident memory. Then it measures
the two loops that the time goes into, on the images of this run, and the machine they run on:

    gram         inner products of all components at the coefficients of an image
    accumulate   the normal equations of all components, spread over the voxels
    triad        a = b + s c on arrays far larger than the caches: memory bandwidth
    scatter      rows of numbers read, or read and added to, at random voxels of arrays of the loops' own size
    axpy         y += a x in the first-level cache: what vector loops reach that keep their operands there
    GEMM         a product of matrices in single precision: what the arithmetic units reach

and sets the loops' arithmetic (counted from the formulas) against axpy and GEMM, and their memory traffic against
triad and scatter. Traffic is counted as if every voxel that an image touches came from memory once per image: less
than that flows only where images share voxels in the cache. Where a loop is far from all of these, it waits for single
reads: latency. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import yaml
from comparison.runner import BenchmarkError, Machine, read_record
from numpy.typing import NDArray

from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.simulate import simulate_particles, write_relion_project

EXTENT_A = 256.0
SAMPLE_IMAGES = 64  # of the loops' measurement
TRIAD_FLOATS = 1 << 25
GEMM_SIZE = 2048
AXPY_WIDTH, AXPY_ROUNDS = 512, 200_000
RANDOM_ROWS = 1 << 20
FAR_FROM_BOUND = 0.4
_TRACKED = re.compile(r"(Components to .*|Latents|Volumes, pass .*): (\d+) done in .*")


@numba.njit(parallel=True, fastmath=True, cache=True)
def _triad(a: Any, b: Any, c: Any, scale: Any) -> None:
    for i in numba.prange(len(a)):
        a[i] = b[i] + scale * c[i]


@numba.njit(parallel=True, fastmath=True, cache=True)
def _axpy(x: Any, out: Any, rounds: Any) -> None:
    for thread in numba.prange(out.shape[0]):
        y = np.zeros(x.shape[0], np.float32)
        for r in range(rounds):
            scale = np.float32(1e-6) * np.float32(r)
            for j in range(x.shape[0]):
                y[j] += scale * x[j]
        out[thread] = y


@numba.njit(parallel=True, fastmath=True, cache=True)
def _gather(array: Any, rows: Any, out: Any) -> None:
    for thread in numba.prange(out.shape[0]):
        y = np.zeros(array.shape[1], np.float32)
        for i in range(thread, len(rows), out.shape[0]):
            for j in range(array.shape[1]):
                y[j] += array[rows[i], j]
        out[thread] = y


@numba.njit(parallel=True, fastmath=True, cache=True)
def _scatter(array: Any, rows: Any, bounds: Any) -> None:
    for thread in numba.prange(len(bounds) - 1):
        for i in range(bounds[thread], bounds[thread + 1]):
            for j in range(array.shape[1]):
                array[rows[i], j] += np.float32(1)


def fastest(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def machine_rates() -> dict[str, float]:
    """Memory bandwidth in GB/s (reads, the write, and the line fetched for it) and arithmetic in Gflop/s."""
    a, b, c = (np.ones(TRIAD_FLOATS, np.float32) for _ in range(3))
    triad = fastest(lambda: _triad(a, b, c, np.float32(2)))
    threads = numba.get_num_threads()
    x, out = np.ones(AXPY_WIDTH, np.float32), np.zeros((threads, AXPY_WIDTH), np.float32)
    axpy = fastest(lambda: _axpy(x, out, AXPY_ROUNDS))
    left, right = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    gemm = fastest(lambda: left @ right)
    return {
        "triad_GB_per_s": 16 * TRIAD_FLOATS / triad / 1e9,
        "axpy_Gflop_per_s": 2.0 * AXPY_WIDTH * AXPY_ROUNDS * threads / axpy / 1e9,
        "gemm_Gflop_per_s": 2.0 * GEMM_SIZE**3 / gemm / 1e9,
    }


def voxels_per_image(band: Band, planes: torch.Tensor) -> float:
    """Mean number of distinct voxels that the trilinear cells of an image's coefficients touch; planes (B, 2, 3)."""
    kxy, table, half = band.operators.kxy, band.grid.table, band.grid.half
    counts = []
    for plane in planes:
        points = kxy @ plane
        points = torch.where(points[:, :1] < 0, -points, points)
        points = points[points.square().sum(1) <= band.radius**2]
        corner = points.floor().long()
        rows = [table[corner[:, 2] + dz + half, corner[:, 1] + dy + half] for dz in (0, 1) for dy in (0, 1)]
        touched = torch.cat([row + corner[:, 0] + dx for row in rows for dx in (0, 1)])
        counts.append(len(touched.unique()))
    return float(np.mean(counts))


def loop_rates(
    images: ParticleImages, consensus: NDArray[np.float32], radius: int, components: int
) -> dict[str, dict[str, float]]:
    """Time, arithmetic and memory traffic of the two loops for the first images at a band."""
    base = FourierVolume.from_map(torch.from_numpy(consensus), radius=radius + 1)
    band = Band(images, base, radius, torch.device("cpu"), 4e9)
    q = components + 1
    width, triangle = padded(q), padded(q * (q + 1) // 2)
    count = min(images.n, SAMPLE_IMAGES, band.chunk_size)
    chunk = next(iter(band.chunks(torch.arange(count))))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(band.grid.n_voxels, 2, width, generator=generator)
    equations = Equations.empty(band, q)
    moments = torch.eye(q).expand(count, q, q).contiguous()
    half_set, particle_scale = torch.arange(count) % 2, torch.ones(count)
    seconds = {
        "gram": fastest(lambda: band.operators.gram(values, q, chunk)),
        "accumulate": fastest(lambda: equations.add(values, chunk, particle_scale, half_set, moments)),
    }
    # Multiplications and additions per coefficient: eight corners, then products (gram), or products and eight
    # corners again (accumulate); 60 for the consensus.
    flops = {
        "gram": 32 * width + 4 * q * width + 4 * width + 60,
        "accumulate": 32 * width + 4 * q * width + 16 * triangle + 32 * width + 60,
    }
    touched = voxels_per_image(band, chunk.planes[:8])
    random = torch.randint(band.grid.n_voxels, (RANDOM_ROWS,), generator=generator).numpy()
    threads = numba.get_num_threads()
    out = np.zeros((threads, 2 * width), np.float32)
    gather = fastest(lambda: _gather(values.flatten(1).numpy(), random, out))
    ends = np.linspace(0, RANDOM_ROWS, threads + 1).astype(np.int64)
    scatter = fastest(lambda: _scatter(equations.weight[0].numpy(), random, ends))
    scattered = {
        "gather": 8 * width * RANDOM_ROWS / gather / 1e9,
        "scatter": 8 * triangle * RANDOM_ROWS / scatter / 1e9,
    }
    read = 8 * width
    traffic = {"gram": touched * read, "accumulate": touched * (read + 2 * (4 * triangle + 8 * width))}
    samples = band.count * count
    return {
        name: {
            "band_radius": radius,
            "coefficients_per_image": band.count,
            "voxels_per_image": round(touched),
            "images_per_s": round(count / time_s, 1),
            "flop_per_coefficient": flops[name],
            "Gflop_per_s": round(flops[name] * samples / time_s / 1e9, 2),
            "traffic_MB_per_image": round((traffic[name] + 12 * band.count) / 1e6, 2),
            "GB_per_s": round(count * (traffic[name] + 12 * band.count) / time_s / 1e9, 2),
            "scattered_GB_per_s": round(scattered["gather" if name == "gram" else "scatter"], 2),
        }
        for name, time_s in seconds.items()
    }


def bounds(loops: dict[str, dict[str, float]], machine: dict[str, float]) -> dict[str, str]:
    """Say in words how near each loop is to what the machine can do."""
    said = {}
    for name, rates in loops.items():
        shares = {
            "arithmetic on vectors from the cache (axpy)": rates["Gflop_per_s"] / machine["axpy_Gflop_per_s"],
            "memory bandwidth (triad)": rates["GB_per_s"] / machine["triad_GB_per_s"],
            "scattered access to memory (scatter)": rates["GB_per_s"] / rates["scattered_GB_per_s"],
        }
        gemm = rates["Gflop_per_s"] / machine["gemm_Gflop_per_s"]
        nearest = max(shares, key=lambda name: shares[name])
        if shares[nearest] < FAR_FROM_BOUND:
            nearest = "none of these, so the latency of single reads and the instructions around the arithmetic"
        percent = ", ".join(f"{share:.0%} of {what}" for what, share in shares.items())
        said[name] = f"{percent}, {gemm:.0%} of GEMM; bound by {nearest}"
    return said


def substages(lines: tuple[tuple[float, str], ...]) -> dict[str, float]:
    """Seconds of each band and pass of the training, from when the job said that it was done with it."""
    found: dict[str, float] = {}
    before = 0.0
    for seconds, text in lines:
        match = _TRACKED.fullmatch(text)
        if match:
            found[f"{match[1]} ({match[2]})"] = round(seconds - before, 2)
        if match or text.startswith(("Training ...", "Subspace engine")):
            before = seconds
    return found


def measure_loops(given: argparse.Namespace) -> None:
    """Print what the loops and the machine do, as JSON: in a process of its own, so that memory is the job's."""
    if given.threads is not None:
        torch.set_num_threads(given.threads)
        numba.set_num_threads(min(given.threads, numba.get_num_threads()))
    project: Path = given.directory / "project"
    settings = PreprocessSettings(box_size=given.box)
    images = open_images(
        read_particles(project / "particles.star", project), given.directory / "train/checkpoint/images", settings
    )
    consensus = read_consensus(given.directory / "train" / "consensus")
    machine = machine_rates()
    result: dict[str, Any] = {"machine": {name: round(rate, 2) for name, rate in machine.items()}, "loops": {}}
    full = min(images.plane.radius, consensus.radius)
    for radius in sorted({min(full, math.ceil(0.35 * full)), full}):
        loops = loop_rates(images, consensus.map, radius, given.components)
        result["loops"][f"radius {radius}"] = {**loops, "bound": bounds(loops, machine)}
    print(json.dumps(result))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--directory", type=Path, default=Path("box128"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="500 particles of box 64 and 4 components")
    parser.add_argument("--loops", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.directory = given.directory.resolve()
    if given.quick:
        given.particles, given.box, given.components = 500, 64, 4
    if given.loops:
        measure_loops(given)
        return 0
    project: Path = given.directory / "project"
    if not (project / "particles.star").exists():
        print(f"Simulating {given.particles} particles of {given.box} px", file=sys.stderr, flush=True)
        particles = simulate_particles(given.particles, box_size=given.box, pixel_size_A=EXTENT_A / given.box)
        write_relion_project(project, particles)
    machine = Machine(given.threads, use_gpu=False)
    command = [
        sys.executable, "-m", "cryodrgn_ext", "train", "--in_parts", "particles.star", "--engine", "subspace",
        "--o", str(given.directory / "train"), "--zdim", str(given.components), "--box", str(given.box),
    ]  # fmt: skip
    try:
        done = machine.run(
            command, given.directory, "job", cwd=project, product=given.directory / "train" / "report.html"
        )
    except BenchmarkError as error:
        print(f"box128: {error}", file=sys.stderr)
        return 1
    record = yaml.safe_load((given.directory / "train" / "job.yaml").read_text(encoding="utf-8"))
    own = [sys.executable, __file__, "--loops", "--directory", str(given.directory), "--box", str(given.box)]
    own += ["--components", str(given.components)]
    own += [] if given.threads is None else ["--threads", str(given.threads)]
    loops = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True, env=machine.environment(True)).stdout
    job = read_record(given.directory / "job.json") or {}
    result = {
        "particles": record["results"]["particles"],
        "box": record["results"]["box"],
        "components": given.components,
        "seconds": {"in all": done.seconds, "latents on disk": round(done.seconds_until(
            given.directory / "train" / "latents.npz"), 2), **record["results"]["seconds"]},
        "within training": substages(done.lines),
        "cpu_seconds": done.cpu_seconds,
        "peak_memory_MB": done.peak_memory_MB,
        "load_average": job.get("load_average"),
        **json.loads(loops.splitlines()[-1]),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
