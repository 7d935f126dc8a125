#!/usr/bin/env python
"""Ten minutes on a graphics card: whether results are those of the CPU, how fast each part is, and what bounds it.

    python benchmarks/gpu.py [--device cuda] [--o gpu.json] [--boxes 64 128 256] [--components 8 16] [--images 2000]
                             [--directory DIR] [--quick]
    python benchmarks/gpu.py --paper

Prints a table and writes everything as JSON. It ends with status 1 when a result on the device is not that of the CPU.

    numbers      half-maps, search, both engines on 300 images of 32 px, on the CPU and on the device
    loops        the two loops of the subspace engine at each box and number of components: microseconds an image, what
                 the roofline allows (bytes moved by the torch form over the measured bandwidth of a copy), and the
                 operations of one of them that take longest
    images/s     backprojection, search over all orientations, a pass of the network; peak of the card's memory

``--device cpu`` runs the same code on the processor (the loops in their torch form, which users' runs on a CPU do not
take), ``--quick`` few and small images. ``--paper`` measures nothing and prints what an H100 would have to take.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_checks.numbers import compare_devices, simulated
from gpu_checks.rates import component_rates, image_rates, machine_rates
from gpu_checks.roofline import paper_table

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps

NUMBERS_IMAGES, NUMBERS_BOX = 300, 32


def main() -> int:
    """Run the benchmark; status 1 when results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--o", type=Path, default=Path("gpu.json"))
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--components", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--directory", type=Path, help="where simulated particles are or shall be kept")
    parser.add_argument("--quick", action="store_true", help="60 images of 32 px")
    parser.add_argument("--paper", action="store_true", help="only the table for an H100")
    given = parser.parse_args()
    if given.paper:
        print(paper_table())
        return 0
    if given.quick:
        given.boxes, given.components, given.images = [32], [2], 60
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu: no CUDA GPU is visible; --device cpu runs the same code on the processor", file=sys.stderr)
        return 2
    with _folder(given.directory) as folder:
        report = measure(given, device, folder)
    atomic_write_text(given.o, json.dumps(report, indent=1) + "\n")
    print(f"Written: {given.o}")
    return 0 if all(one["agrees"] for one in report["numbers"]) else 1


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="gpu_") as name:
        yield Path(name)


def measure(given: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Any]:
    """Everything, printed as it comes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    machine = machine_rates(device)
    print(f"{name}, torch {torch.__version__}: " + ", ".join(f"{key} {rate:.0f}" for key, rate in machine.items()))
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "machine": machine,
        "numbers": [],
        "sizes": {},
    }
    few = 60 if given.quick else NUMBERS_IMAGES
    for one in compare_devices(folder, device, few, NUMBERS_BOX):
        report["numbers"].append({**vars(one), "agrees": one.agrees})
        print(
            f"{'same' if one.agrees else 'DIFFERS':8s}{one.name}: {one.value:.2g} (at most {one.limit:g})", flush=True
        )
    for box in given.boxes:
        images = simulated(folder, given.images, box)
        consensus = reconstruct_half_maps(images).map
        size: dict[str, Any] = {"images_per_s": image_rates(images, consensus, device), "loops": {}}
        rates = ", ".join(f"{key} {rate:.4g}" for key, rate in size["images_per_s"].items())
        print(f"box {box}, images/s: {rates}", flush=True)
        for components in given.components:
            loops = component_rates(images, consensus, components, device, machine)
            size["loops"][components] = loops
            for loop in ("gram", "accumulate"):
                row = loops[loop]
                print(
                    f"box {box}, {components} components, {loop}: {row['us_per_image']:.0f} µs an image, roofline "
                    f"{row['roofline_us']:.0f} µs, {100 * row['share_of_memory']:.0f} % of the memory's bandwidth",
                    flush=True,
                )
        report["sizes"][box] = size
    return report


if __name__ == "__main__":
    sys.exit(main())
