#!/usr/bin/env python
"""Our engines and the public peer (cryodrgn) on the same simulated files, one after the other, in one table.

    python benchmarks/against_peer.py [--sets linear64 linear128 discrete compositional] [--epochs 10]
                                      [--particles 5000] [--runs auto neural preset] [--output DIR]
                                      [--peer-python PATH] [--threads N] [--quick]

Installs the peer into a virtual environment of its own (in the output folder, or where --peer-environment says) unless
--peer-python names a Python that has it, simulates every set once, and runs in processes of their own

    cryodrgn   train_vae (z-dim 8, 256 x 3 networks, batches of 8), then eval_vol
    auto       cryodrgn-ext train                        (the subspace engine)
    neural     cryodrgn-ext train --engine neural        (the network, with all accelerations)
    preset     the same with --preset cryodrgn, the architecture and the epochs of the peer

The table says, from the start of a program with the particles on disk: seconds until latents are on disk; until 50
volumes at the latents of 50 particles are too; seconds to latents as good as the peer's last ones (R² of the truth
predicted from 50 neighbours, 5-fold; for discrete sets the adjusted Rand index of k-means) and to volumes as good as
its last (area under the FSC of the 50 images' own volumes with their true volumes: whole box, moving region), with the
ratio to the peer's own time; all figures; CryoBench's FSC area by its own definition; images per second and pass; and
peak resident memory. All of it, with every epoch, is in DIR/against_peer.json. What was measured in an earlier run
into the same DIR is taken over, so that an interrupted comparison goes on; for ratios of one run give a new DIR.

--quick is a small version that proves that it works: 600 particles of the first set, one epoch, 10 volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from comparison import ours, peer
from comparison.quality import Judge
from comparison.runner import BenchmarkError, Machine
from comparison.sets import SETS, BenchmarkSet, prepare
from comparison.table import PEER, add_comparison, text_table

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import CryodrgnExtError

RUNS = ("auto", "neural", "preset")
WARM_UP = BenchmarkSet("hinge", 32, 8.0, discrete=False)
WARM_UP_PARTICLES, QUICK_PARTICLES = 200, 600
VOLUMES, QUICK_VOLUMES = 50, 10


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS), help="which of ours")
    parser.add_argument("--epochs", type=int, default=10, help="of the peer, and of our preset of its recipe")
    parser.add_argument("--batch", type=int, default=8, help="of the peer, and of our preset of its recipe")
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--output", type=Path, default=Path("against_peer"))
    parser.add_argument("--threads", type=int, help="of every program; left to the libraries if not given")
    parser.add_argument("--gpu", action="store_true", help="let all programs use GPUs; on the CPU if not given")
    parser.add_argument("--peer-python", type=Path, help="a Python that has the peer: nothing is installed then")
    parser.add_argument("--peer-environment", type=Path, help="where the peer is installed; in the output folder else")
    parser.add_argument("--pip-options", default="", help="such as '--extra-index-url URL', for torch without CUDA")
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it works")
    given = parser.parse_args()
    if given.quick:
        given.sets, given.epochs, given.particles = given.sets[:1], 1, min(given.particles, QUICK_PARTICLES)
    if given.particles < 100 or given.epochs < 1:
        parser.error("at least 100 particles and one epoch are needed")
    return given


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return what is written as JSON."""
    output: Path = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    machine = Machine(given.threads, given.gpu)
    network = peer.Network(given.epochs, given.batch)
    environment = (given.peer_environment or output / "peer_environment").absolute()
    # Not resolved: an environment's Python is a link, and its name decides which packages it sees.
    own_python = None if given.peer_python is None else given.peer_python.absolute()
    python = peer.find_or_install(own_python, environment, given.pip_options)
    warm = prepare(output / "warm_up" / "project", WARM_UP, WARM_UP_PARTICLES, 0.5, 0)
    report: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "threads": given.threads, "gpu": torch.cuda.get_device_name() if given.gpu else None,
            "torch": torch.__version__, "python": platform.python_version(),
        },
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()},
        "warm_up_seconds": ours.warm_up(warm, output / "warm_up", given.runs, machine),
        "sets": {},
    }  # fmt: skip
    for set_name in given.sets:
        kind = SETS[set_name]
        print(f"{set_name}: {given.particles} particles, box {kind.box_size}", flush=True)
        folder = output / set_name
        project = prepare(folder / "project", kind, given.particles, given.snr, given.seed)
        judge = Judge(project.truth, kind.box_size, QUICK_VOLUMES if given.quick else VOLUMES)
        results = {PEER: peer.run(python, project, folder / PEER, network, judge, machine)}
        for name in given.runs:
            recipe = ours.recipes(network)[name]
            results[name] = ours.run(recipe, project, folder / name, network, judge, machine)
        add_comparison(results, kind.discrete)
        report["sets"][set_name] = results
        atomic_write_text(output / "against_peer.json", json.dumps(report, indent=1) + "\n")
        print(text_table({set_name: results}), flush=True)
    return report


def main() -> int:
    """Run the comparison."""
    given = arguments()
    try:
        report = compare(given)
    except (BenchmarkError, CryodrgnExtError, OSError) as error:
        print(f"against_peer: {error}", file=sys.stderr)
        return 1
    print(f"\n{text_table(report['sets'])}\n\nAll figures: {given.output / 'against_peer.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
