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
from pathlib import Path

import numba
import torch

from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles, write_relion_project


def timed(function: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a few runs after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2]


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

        seconds = {"store built from the stack": timed(build)}
        images = open_images(particles, store)
        resident = images.load()
        seconds["half-maps from the store on disk"] = timed(lambda: reconstruct_half_maps(images))
        seconds["half-maps from memory"] = timed(lambda: reconstruct_half_maps(resident))
        seconds["backprojection from memory"] = timed(lambda: backproject(resident))
        total = seconds["store built from the stack"] + seconds["half-maps from the store on disk"]
        seconds["stack to half-maps"] = total
        result = {name: {"seconds": round(s, 3), "images/s": round(images.n / s)} for name, s in seconds.items()}
        print(json.dumps({"images": images.n, "box": images.box_size, "threads": options.threads, **result}, indent=1))
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
