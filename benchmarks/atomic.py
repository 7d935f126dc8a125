#!/usr/bin/env python
"""Atoms along a known path: how near the structures of single images come to the true ones, and how fast.

    python benchmarks/atomic.py BASE.pdb [OTHER.pdb ...] [--path FRAMES.npz] [--images 2000] [--snr 0.1 0.01] [--null]
                                [--box 64] [--pixel-size 2.0] [--zdim 4] [--nodes 24] [--directory DIR]
                                [--method fast|cryofold|atomvae] [--epochs 10] [--backbone alpha|centre]

The states are those of the structures (the same atoms in the same order), or of FRAMES.npz (``coords_A``, (S, A, 3),
the atoms of BASE.pdb). Images are rendered by gemmi's electron scattering factors with true poses, CTF and white noise
(SNR: variances over the whole image); ``train`` and ``atomic`` run on the project's files, from BASE.pdb. With --null
all images show the base structure.

Printed for each SNR: mean Cα RMSD of single images after superposition, by tenths of the path, and of the base
structure; as distributions, the earth mover's distance (superposed Cα, Hungarian assignment) and that of pair
distances; the motion, what of it is proven and the error that the job says; and seconds of the stages.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import yaml
from atomic_sets.atom_images import drawn_particles
from numpy.typing import NDArray

from cryodrgn_ext.analysis.structures import emd_rmsd, pair_distance_distance, superposed_rmsd
from cryodrgn_ext.atoms.structure import Structure, read_structure
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.jobs.atomic import atomic
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.atomic import AtomicSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.atomic_files import (
    MOTION_NAME,
    PLACEMENT_NAME,
    placed_structure,
    read_motion,
    read_placement,
)
from cryodrgn_ext.simulate import write_relion_project

FloatArray = NDArray[np.float64]
IMAGES_COMPARED = 400


def main() -> None:
    """Run as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="+", type=Path)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--pixel-size", type=float, default=2.0)
    parser.add_argument("--zdim", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--method", choices=("fast", "cryofold", "atomvae"), default="fast")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backbone", choices=("alpha", "centre"), default="alpha")
    given = parser.parse_args()
    base = read_structure(given.structures[0])
    if given.path is None:
        frames = np.stack([read_structure(path).positions for path in given.structures])
    else:
        frames = np.load(given.path)["coords_A"].astype(np.float64)
    frames = frames[:1] if given.null else frames
    frames = frames - frames[0].mean(axis=0)
    for snr in given.snr:
        with tempfile.TemporaryDirectory() as temporary:
            root = (given.directory or Path(temporary)).resolve() / f"snr_{snr:g}"
            particles = drawn_particles(base, frames, given.images, given.box, given.pixel_size, snr)
            write_relion_project(root, particles)
            run(root, given)
            print_table(root, base, frames, particles.state, snr)


def run(root: Path, given: argparse.Namespace) -> None:
    """Train and fit the atoms."""
    train(TrainSettings(in_parts=root / "particles.star", o=root / "train", zdim=given.zdim, states=2, volumes=2),
          Monitor())  # fmt: skip
    atomic(AtomicSettings(in_parts=root / "train", structure=given.structures[0].resolve(), o=root / "atoms",
                          nodes=given.nodes, method=given.method, epochs=given.epochs, vae_epochs=given.epochs, zdim=1,
                          backbone=given.backbone), Monitor())  # fmt: skip


def print_table(root: Path, base: Structure, frames: FloatArray, state: NDArray[np.int32], snr: float) -> None:
    """Compare single images' structures with the true ones."""
    placed = placed_structure(base, read_placement(root / "atoms" / PLACEMENT_NAME))
    motion = read_motion(root / "atoms" / MOTION_NAME)
    alpha = np.array([site.atom.name == "CA" for site in base.source[0].all()])
    rows = np.unique(np.linspace(0, len(state) - 1, IMAGES_COMPARED).astype(int))
    found = carried_atoms(placed, motion.of_images(rows))[:, alpha]
    truth = frames[state[rows]][:, alpha]
    distance = superposed_rmsd(found, truth)
    before = superposed_rmsd(placed.positions[None, alpha], truth)
    tenth = state[rows] * 10 // len(frames)
    record = yaml.safe_load((root / "atoms/job.yaml").read_text())["results"]
    print(f"SNR {snr:g}: mean Cα RMSD of single images {distance.mean():.2f} Å (base structure {before.mean():.2f} Å)")
    print("  by tenths of the path: " + " ".join(f"{distance[tenth == k].mean():.2f}" for k in np.unique(tenth)))
    print(f"  as distributions: earth mover's distance {emd_rmsd(found, truth):.2f} Å (base structure "
          f"{before.mean():.2f} Å), pair distances {pair_distance_distance(found, truth):.2f} Å")  # fmt: skip
    print(f"  {record['agreeing_residues']} of {record['residues']} residues agree with the half-map not seen; "
          f"stereochemistry of the worst model: {' '.join(record['stereochemistry'][1][1:])}")  # fmt: skip
    print(f"  motion {record['motion_A']:.2f} Å, proven {record['proven_motion_A']:.2f} Å, said error "
          f"{record['error_A']:.2f} Å")  # fmt: skip
    learned = yaml.safe_load((root / "train/job.yaml").read_text())["results"]
    for name, seconds in (("train", learned["seconds"]), ("atomic", record["seconds"])):
        print(f"  {name}: " + ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items()))


if __name__ == "__main__":
    main()
