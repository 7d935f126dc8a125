#!/usr/bin/env python
"""Time per particle and memory of training, from ten thousand to a million particles read from disk.

    python benchmarks/scale.py [--engine subspace] [--particles 10000 100000 1000000] [--images 6400] [--directory DIR]

The coefficient store is simulated, not the images: a bank of noisy projections with known heterogeneity is repeated
to the wanted number of rows, in float16. Each number of particles runs in a process of its own, with a limit on
resident coefficients (--memory_GB) far below the larger stores, so that their training streams.

The subspace engine runs whole: seconds of the components (a pass sees a part of very many images), of the latents of
all particles and of the volumes. The neural engine ends after --images images of its first pass:

    setup_s        from the call of the engine to its first step (bands, envelope, order of the pass)
    ms_per_image   subspace: latents and volumes, all passes together, divided by the particles; neural: a step,
                   divided by its images (the median over steps)
    anonymous_MB   the most that the process allocated; store_pages_MB: of the store, that the kernel kept mapped
    B_per_particle growth of the allocated memory against the smallest set: poses, CTF, order and latents
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cryodrgn_ext.engines.base import get_engine
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.errors import JobAborted
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.geometry import WorkingGeometry
from cryodrgn_ext.images.store import StoredCoefficients
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor

T = TypeVar("T")
BOX, RADIUS, PIXEL_A, BANK, BEADS = 64, 20, 4.0, 512, 60
AMPLITUDE = 400.0
ROWS_AT_ONCE = 8192


class MemoryWatch(SilentMonitor):
    """Notes the most memory that was in use at any poll, and what each stage took."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = time.perf_counter()
        self.memory = {"RssAnon": 0.0, "RssFile": 0.0}
        self.stages: dict[str, float] = {}

    def poll(self) -> None:
        """Look at the memory."""
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in self.memory:
                self.memory[name] = max(self.memory[name], float(value.split()[0]) / 1024)

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        """Iterate, and add the time to the stage that the description's first word names."""
        begin = time.perf_counter()
        for item in items:
            self.poll()
            yield item
        stage = description.split()[0].strip(",").lower()
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - begin


class Stopwatch(MemoryWatch):
    """Ends the run after a number of images, and notes when each step began."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.left = images
        self.steps: list[tuple[float, int]] = []

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        """Iterate until enough images were seen."""
        for item in items:
            self.steps.append((time.perf_counter(), unit))
            self.poll()
            if self.left <= 0:
                raise JobAborted("enough images")
            self.left -= unit
            yield item


def random_rotations(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, 3, 3) uniform rotations from unit quaternions."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), 2 * (x * y + z * w),
            1 - 2 * (x * x + z * z), 2 * (y * z - x * w), 2 * (x * z - y * w), 2 * (y * z + x * w),
            1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, 1).view(n, 3, 3)


def parameters(n: int, generator: torch.Generator) -> CtfParameters:
    """Draw a CTF for each particle."""
    defocus = 10_000 + 15_000 * torch.rand(n, generator=generator)
    one = torch.ones(n)
    return CtfParameters(
        defocus_u_A=defocus, defocus_v_A=defocus + 300, defocus_angle_rad=one * 0.3, voltage_kV=one * 300,
        cs_mm=one * 2.7, amplitude_contrast=one * 0.1, phase_shift_rad=one * 0, b_factor_A2=one * 0, scale=one,
    )  # fmt: skip


def simulated(n: int, path: Path) -> tuple[ParticleImages, np.ndarray]:
    """Particles whose coefficients lie in a file of float16 pairs, and their consensus map."""
    generator = torch.Generator().manual_seed(0)
    beads = 5.0 * torch.randn(BEADS, 3, generator=generator)
    axis = torch.arange(BOX) - BOX // 2
    profile = torch.exp(-0.5 * ((axis[:, None, None] - beads.T) / 1.5) ** 2)  # (voxel, x y z, bead)
    volume = torch.einsum("zb,yb,xb->zyx", profile[:, 2], profile[:, 1], profile[:, 0])
    volume = volume * (AMPLITUDE / (2 * np.pi * 1.5**2) ** 1.5)
    bank = ParticleImages.from_tensors(
        torch.zeros(BANK, BOX, BOX), random_rotations(BANK, generator), torch.zeros(BANK, 2), PIXEL_A,
        parameters(BANK, generator), pixel_noise_sd=1.0,
        geometry=WorkingGeometry.make([BOX], [PIXEL_A], None, RADIUS),
    )  # fmt: skip
    values = torch.complex(*torch.randn(2, BANK, bank.plane.n_coefficients, generator=generator)) * 0.5**0.5
    for row in range(BANK):
        batch = bank.batch(torch.tensor([row]))
        moved = beads + (torch.rand(1, generator=generator) * 4 - 2) * (beads[:, :1] > 4)
        phase = -2 * np.pi / BOX * batch.points[0] @ moved.T
        envelope = torch.exp(-2 * (np.pi * 1.5 / BOX) ** 2 * batch.points[0].square().sum(1))
        values[row] += batch.ctf[0] * AMPLITUDE * envelope * torch.polar(torch.ones_like(phase), phase).sum(1)
    pairs = torch.view_as_real(values).half().numpy()
    data = np.memmap(path, np.float16, "w+", shape=(n, *pairs.shape[1:]))
    for start in range(0, n, ROWS_AT_ONCE):
        data[start : start + ROWS_AT_ONCE] = pairs[np.arange(start, min(start + ROWS_AT_ONCE, n)) % BANK]
    data.flush()
    del data
    repeat = torch.arange(n) % BANK
    transfer = bank.ctf_parameters
    assert transfer is not None  # given above
    stored = np.memmap(path, np.float16, "r", shape=(n, *pairs.shape[1:]))
    particles = replace(
        bank, source=StoredCoefficients(stored, torch.arange(n)), rotation=bank.rotation[repeat],
        shift_px=torch.zeros(n, 2), ctf_parameters=transfer.index(repeat),
        half_set=(repeat % 2 + 1).to(torch.int8), optics_index=torch.zeros(n, dtype=torch.int64),
    )  # fmt: skip
    return particles, volume.numpy()


def one(engine: str, n: int, images: int, directory: Path, memory_GB: float) -> dict[str, float]:
    """Measure one number of particles."""
    path = directory / f"store_{n}.bin"
    try:
        particles, consensus = simulated(n, path)
        settings = TrainSettings(in_parts=Path(), o=Path(), device="cpu", epochs=10, memory_GB=memory_GB)
        watch = Stopwatch(images) if engine == "neural" else MemoryWatch()
        with contextlib.suppress(JobAborted):
            chosen, context = get_engine(engine), EngineContext.of(settings, None, watch)
            chosen.train(particles, consensus, chosen.options_of(settings), context, consensus_radius=RADIUS)
        if isinstance(watch, Stopwatch):
            times = np.array([t for t, _ in watch.steps])
            per_image = float(np.median(np.diff(times) / np.array([unit for _, unit in watch.steps[:-1]])))
            seconds = {"setup_s": round(times[0] - watch.begin, 2)}
        else:
            per_image = (watch.stages["latents"] + watch.stages["volumes"]) / n
            seconds = {f"{name}_s": round(taken, 2) for name, taken in watch.stages.items()}
            seconds["all_s"] = round(time.perf_counter() - watch.begin, 2)
        return {
            "particles": n,
            "store_GB": round(path.stat().st_size / 1e9, 2),
            **seconds,
            "ms_per_image": round(per_image * 1e3, 3),
            "anonymous_MB": round(watch.memory["RssAnon"], 1),
            "store_pages_MB": round(watch.memory["RssFile"], 1),
        }
    finally:
        path.unlink(missing_ok=True)


def main() -> None:
    """Run the benchmark: a process of its own for each number of particles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("subspace", "neural"), default="subspace")
    parser.add_argument("--particles", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--memory_GB", type=float, default=0.1)
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.single:
        print(json.dumps(one(given.engine, given.particles[0], given.images, given.directory, given.memory_GB)))
        return
    given.directory.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    for n in sorted(given.particles):
        command = [sys.executable, __file__, "--single", "--engine", given.engine, "--particles", str(n)]
        command += ["--images", str(given.images), "--directory", str(given.directory)]
        command += ["--memory_GB", str(given.memory_GB)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        if rows:
            grown = row["anonymous_MB"] - rows[0]["anonymous_MB"]
            row["B_per_particle"] = round(grown * 2**20 / (n - rows[0]["particles"]))
        rows.append(row)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
