"""How fast the parts of the engines are on a device, beside what its memory and its arithmetic allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cryodrgn_ext.engines.neural.engine import train as train_network
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.reconstruction.backprojection import backproject
from gpu_checks.numbers import context_on
from gpu_checks.roofline import accumulate_work, gram_work

#: Numbers of a copy that measures memory, and edge of matrices that measure arithmetic, on a GPU and on a CPU.
COPIED = {"cuda": 1 << 28, "cpu": 1 << 24}
MATRIX = {"cuda": 8192, "cpu": 1024}
PROFILED = 8


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_rates(device: torch.device) -> dict[str, float]:
    """Memory (GB/s, read and write) and matrix products (Gflop/s, single precision and bfloat16) of a device."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    source = torch.ones(COPIED[kind], device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device)
    rates = {"memory_GB_s": 8.0 * COPIED[kind] / copied / 1e9}
    size = MATRIX[kind]
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(size, size, device=device).to(dtype)
        taken = seconds_of(lambda matrix=matrix: matrix @ matrix, device)  # type: ignore[misc]
        rates[f"{str(dtype).removeprefix('torch.')}_Gflop_s"] = 2.0 * size**3 / taken / 1e9
    return rates


def component_rates(
    images: ParticleImages, consensus: np.ndarray, components: int, device: torch.device, machine: dict[str, float]
) -> dict[str, Any]:
    """Time of the two loops of the subspace engine for an image, by their torch form, and the roofline's for it."""
    base = FourierVolume.from_map(torch.from_numpy(consensus).to(device))
    band = Band(images, base, images.plane.radius, device, 4e9)
    q = components + 1
    chunk = next(iter(band.chunks(torch.arange(min(images.n, band.chunk_size)))))
    count = len(chunk.rows)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(band.grid.n_voxels, 2, padded(q), generator=generator).to(device)
    sums = Equations.empty(band, q)
    moments = torch.eye(q, device=device).expand(count, q, q).contiguous()
    half_set, scale = torch.arange(count) % 2, torch.ones(count, device=device)
    operators = band.operators

    def accumulate() -> None:
        operators.accumulate_torch(values, chunk, scale, half_set, moments, sums.weight, sums.right)

    found = {}
    for name, loop, work in (
        ("gram", lambda: operators.gram_torch(values, q, chunk), gram_work(images.box_size, components)),
        ("accumulate", accumulate, accumulate_work(images.box_size, components)),
    ):
        taken = seconds_of(loop, device) / count
        found[name] = {
            "us_per_image": 1e6 * taken,
            "roofline_us": 1e6 * work.seconds(machine["memory_GB_s"], machine["float32_Gflop_s"]),
            "share_of_memory": work.bytes / taken / 1e9 / machine["memory_GB_s"],
        }
    return {**found, "profile": profiled(accumulate, device)}


def profiled(function: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of the operations that take longest."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        function()
        wait(device)
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, name))[:PROFILED]
    return {event.key: getattr(event, name) / 1e3 for event in events}


def image_rates(images: ParticleImages, consensus: np.ndarray, device: torch.device) -> dict[str, float]:
    """Images per second of backprojection, search over all orientations and passes of the network; peak of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    resident = images.load(device)
    found = {"backprojection": images.n / seconds_of(lambda: backproject(resident, device=device), device)}
    some = images.subset(torch.arange(min(images.n, 200)))
    volume = FourierVolume.from_map(torch.from_numpy(consensus).to(device))
    looking = SearchSettings(device=str(device), memory_bytes=1 << 31)
    found["search"] = some.n / seconds_of(lambda: search(some, volume, looking), device, repeats=1)
    found["network"] = images.n / network_pass_seconds(images, consensus, device)
    if device.type == "cuda":
        found["peak_GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def network_pass_seconds(images: ParticleImages, consensus: np.ndarray, device: torch.device) -> float:
    """Seconds of one pass of the fast network: two passes less one, which leaves what comes before them out."""
    taken = []
    for epochs in (1, 2):
        settings = NeuralSettings(zdim=8, epochs=epochs, architecture="separable")
        wait(device)
        start = time.perf_counter()
        train_network(images, consensus, settings, context_on(device))
        wait(device)
        taken.append(time.perf_counter() - start)
    return max(taken[1] - taken[0], 1e-9)
