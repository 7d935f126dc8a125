#!/usr/bin/env python
"""Time and memory of atomic models by the number of atoms.

    python benchmarks/atomic_scale.py [--atoms 500 5000 50000] [--box 64] [--pixel-size 4.0] [--threads 1]

Chains of alanines on a random walk within a sphere. Printed for each count: seconds of one evaluation of the fast fit
(one node, density and gradient, to two thirds of Nyquist's frequency), of a step of Cryofold (8 images) and of one of
AtomVAE (4 images of 2 conformations, poses given), the best of three; and the most memory that the process held, each
count in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.structure import Structure, read_structure, residue_centres
from cryodrgn_ext.engines.atomic.atomvae import AtomVaeTrainer
from cryodrgn_ext.engines.atomic.atomvae_model import AtomVaeModel
from cryodrgn_ext.engines.atomic.atomvae_settings import AtomVaeSettings
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold import CryofoldTrainer
from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.fit import AtomFit, AtomModel
from cryodrgn_ext.engines.atomic.node_sums import sums_at_nodes
from cryodrgn_ext.engines.atomic.rigid_residues import RigidResidues
from cryodrgn_ext.engines.atomic.training_passes import FoldData
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor

ALANINE = {"N": (-1.2, 0.5, 0.3), "CA": (0, 0, 0), "C": (1.2, 0.6, -0.3), "O": (1.4, 1.7, 0.2), "CB": (0.2, -1.1, 1.0)}
PROTEIN_A3 = 20.0  # for each atom


def main() -> None:
    """Run as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[500, 5000, 50000])
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--pixel-size", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if len(given.atoms) > 1:
        print("atoms | fast (s) | Cryofold (s) | AtomVAE (s) | memory (GB)", flush=True)
        for count in given.atoms:
            shared = ["--box", str(given.box), "--pixel-size", str(given.pixel_size), "--threads", str(given.threads)]
            subprocess.run([sys.executable, __file__, "--atoms", str(count), *shared], check=True)
        return
    torch.set_num_threads(given.threads)
    structure = walk(given.atoms[0] // len(ALANINE))
    images = noise(8, given.box, given.pixel_size)
    radius = given.box // 3
    seconds = [best(step) for step in steps(structure, images, radius)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(" | ".join([str(given.atoms[0]), *(f"{one:.3f}" for one in seconds), f"{memory:.2f}"]), flush=True)


def steps(structure: Structure, images: ParticleImages, radius: int) -> list[Callable[[], object]]:
    """One evaluation of each method."""
    rows, nowhere = torch.arange(images.n), CheckpointFile(None, "", "")
    centres, _, _ = residue_centres(structure)
    model = AtomModel.of(structure, centres, images.pixel_size_A)
    sums = sums_at_nodes(images, rows, torch.ones(images.n, 1), radius, SilentMonitor())
    fit = AtomFit(model, torch.ones(1, 1), sums)
    fold = CryofoldTrainer(
        CryofoldModel(CoarseChain.of(structure), images, radius, 0, False, (1, 8)), FoldData(images, rows, radius),
        CryofoldSettings(zdim=0), 0, nowhere, SilentMonitor(),
    )  # fmt: skip
    vae = AtomVaeTrainer(
        AtomVaeModel(RigidResidues.of(structure), images, radius, 8, 1.0, inferred=False),
        FoldData(images, rows, radius), AtomVaeSettings(vae_conformations=2), 0, nowhere, SilentMonitor(),
    )  # fmt: skip
    scale = torch.ones(sums.grid.shape)
    return [
        lambda: fit._misfit(sums, scale, 0, fit.positions[0].requires_grad_()),
        lambda: fold._loss(rows, 0, 0, False).backward(),
        lambda: vae._loss(rows[:4], 0, 0, False).backward(),
    ]


def best(step: Callable[[], object]) -> float:
    """Seconds of the fastest of three."""
    found = []
    for _ in range(3):
        begin = time.perf_counter()
        step()
        found.append(time.perf_counter() - begin)
    return min(found)


def walk(residues: int) -> Structure:
    """Alanines on a random walk that stays within a sphere of a protein's density."""
    random = np.random.default_rng(0)
    radius = (3 / (4 * np.pi) * PROTEIN_A3 * len(ALANINE) * residues) ** (1 / 3)
    place = np.zeros(3)
    chain = gemmi.Chain("A")
    for number in range(1, residues + 1):
        move = random.normal(size=3)
        tried = place + 3.8 * move / np.linalg.norm(move)
        place = tried if np.linalg.norm(tried) < radius else place - 3.8 * place / np.linalg.norm(place)
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(number, " ")
        for name, offset in ALANINE.items():
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = name, gemmi.Element(name[0]), gemmi.Position(*(place + offset))
            residue.add_atom(atom)
        chain.add_residue(residue)
    made = gemmi.Structure()
    made.add_model(gemmi.Model(1))
    made[0].add_chain(chain)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walk.cif"
        made.make_mmcif_document().write_file(str(path))
        return read_structure(path)


def noise(count: int, box: int, pixel_A: float) -> ParticleImages:
    """Images of nothing in random views."""
    rotation = torch.from_numpy(Rotation.random(count, random_state=0).as_matrix()).float()
    pictures = torch.randn(count, box, box, generator=torch.Generator().manual_seed(0))
    return ParticleImages.from_tensors(pictures, rotation, torch.zeros(count, 2), pixel_A, pixel_noise_sd=1.0)


if __name__ == "__main__":
    main()
