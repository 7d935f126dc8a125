#!/usr/bin/env python
"""Images per second of preprocessing and backprojection.

    python benchmarks/backprojection_speed.py [--images 5000] [--box 64] [--threads 2] [--directory DIR]

Simulates a RELION project (or uses the one that DIR holds), then times: building the coefficient store from the
stack, half-maps from the store on disk, half-maps with the coefficients in memory, and the bare backprojection.
Each is run after a warm-up, so that compilation is not counted. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numba
import torch

from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles, write_relion_project


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds, and seconds of processor time over all cores (which a busy machine distorts less)."""

    seconds: float
    cpu_seconds: float


def timed(function: Callable[[], object], repeats: int = 3) -> Timing:
    """The fastest of a few runs after one that is not counted."""
    function()
    runs = []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        function()
        runs.append((time.perf_counter() - start, time.process_time() - cpu_start))
    return Timing(*min(runs))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="where the simulated project is or shall be kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.get_num_threads()))
    directory = options.directory or Path(tempfile.mkdtemp(prefix="backprojection_speed_"))
    try:
        if not (directory / "particles.star").exists():
            simulated = simulate_particles(options.images, box_size=options.box, pixel_size_A=256 / options.box)
            write_relion_project(directory, simulated)
        particles = read_particles(directory / "particles.star", directory)
        store = directory / "coefficients"

        def build() -> None:
            shutil.rmtree(store, ignore_errors=True)
            open_images(particles, store)

        timings = {"store built from the stack": timed(build)}
        images = open_images(particles, store)
        resident = images.load()
        timings["half-maps from the store on disk"] = timed(lambda: reconstruct_half_maps(images))
        timings["half-maps from memory"] = timed(lambda: reconstruct_half_maps(resident))
        timings["backprojection from memory"] = timed(lambda: backproject(resident))
        result = {
            name: {
                "seconds": round(timing.seconds, 3),
                "images/s": round(images.n / timing.seconds),
                "CPU seconds": round(timing.cpu_seconds, 3),
                "images per CPU second": round(images.n / timing.cpu_seconds),
            }
            for name, timing in timings.items()
        }
        print(json.dumps({"images": images.n, "box": images.box_size, "threads": options.threads, **result}, indent=1))
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
