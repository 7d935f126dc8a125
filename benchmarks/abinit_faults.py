#!/usr/bin/env python
"""Faults of real data in particles without orientations: what ``abinit`` finds, and what it says of it.

    python benchmarks/abinit_faults.py --o DIR [--faults none contrast empty ...] [--seeds 0 1 2] [--images 1000]
                                       [--snr 0.3]

Sets of one structure with the faults of ``nuisance_sets/faults.py`` (48 px of 5 Å, CTF, origins as a 2D classification
leaves them). Each is reconstructed at its true poses (``consensus``), and by ``abinit`` without them; the map at true
poses only brings the result into its coordinates. Printed are the correlation of the two maps, the share of the images
whose rotation is wrong by more than 20°, the verdict, the number of warnings, and seconds. Empty images are among
those that are wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from nuisance_sets.faults import FAULTS
from nuisance_sets.project import write_set

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.metadata.particles import read_particles

WRONG_DEG = 20.0
LINE = "{:14} {:>4} {:>12} {:>9} {:>12} {:>9} {:>8}"
USUAL = ("none", "contrast", "empty", "cone", "off-centre", "neighbours", "all of it")


def run(*words: str | Path) -> str:
    """Run a command of the package and return what it said."""
    command = [sys.executable, "-m", "cryodrgn_ext", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    return done.stdout + done.stderr


def one_set(fault: str, seed: int, images: int, snr: float, directory: Path) -> str:
    """Make a set, run both jobs, and return a line of the table."""
    write_set(directory, FAULTS[fault], "none", images, snr, seed)
    star, reference = directory / "particles.star", directory / "true" / "consensus" / "map.mrc"
    run("consensus", "--in_parts", star, "--o", directory / "true")
    started = time.monotonic()
    said = run("abinit", "--in_parts", star, "--o", directory / "found", "--in_3dref", reference, "--seed", str(seed))
    seconds = time.monotonic() - started
    found, true = (read_map(path).data for path in (directory / "found" / "map.mrc", reference))
    correlation = float(np.corrcoef(found.ravel(), true.ravel())[0, 1])
    one, other = (read_particles(path).rotation for path in (directory / "found" / "particles.star", star))
    cosine = (np.einsum("nij,nij->n", one, other) - 1) / 2
    wrong = float((np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) > WRONG_DEG).mean())
    record = yaml.safe_load((directory / "found" / "job.yaml").read_text(encoding="utf-8"))
    verdict = str(record["results"].get("verdict", "?"))
    warnings = sum("arning" in line for line in said.splitlines())
    return LINE.format(fault, seed, f"{correlation:.3f}", f"{wrong:.2f}", verdict, warnings, f"{seconds:.0f}")


def main() -> None:
    """Run all sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--o", type=Path, required=True, metavar="DIR")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(USUAL))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--snr", type=float, default=0.3)
    given = parser.parse_args()
    print(LINE.format("fault", "seed", "correlation", "wrong", "verdict", "warnings", "seconds"), flush=True)
    for fault in given.faults:
        for seed in given.seeds:
            directory = given.o / f"{fault.replace(' ', '_')}_{seed}"
            directory.mkdir(parents=True, exist_ok=True)
            try:
                print(one_set(fault, seed, given.images, given.snr, directory), flush=True)
            except RuntimeError as error:
                print(f"{fault} {seed}: {error}", flush=True)


if __name__ == "__main__":
    main()
