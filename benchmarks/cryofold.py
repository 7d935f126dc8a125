#!/usr/bin/env python
"""Tables 7.1 and 7.2 of Zhong 2022 at a size for two cores: one structure from images, by start and by ablation.

    python benchmarks/cryofold.py TRUE.pdb --path FRAMES.npz [--images 2000] [--snr 0.1] [--box 64] [--pixel-size 2.0]
                                  [--rows NAME ...] [--seed 0] [--threads 1]

Images show the structure of TRUE.pdb, rendered by gemmi's electron scattering factors, with true poses, CTF and white
noise (SNR: variances over the whole image). Starts: the structure itself (side chains at Cα, as in the thesis); an
approximate one, the frame of FRAMES.npz (``coords_A``, the atoms of TRUE.pdb) whose Cα r.m.s. distance as it lies is
nearest the thesis' 5.15 Å; the true one with 6 Å of uniform noise on each residue; the true one with its last third
turned by 90 degrees about the residue where it begins; random. Beside the published model:
main chains at the centre of their electrons (``centre``), and the fast atoms of ``atomic`` (``fast``), for which noise
moves residues as rigid bodies.

Printed for each row: r.m.s. distance of Cα from the truth, as they lie, at the start, of the Gaussians of main chains,
and of the Cα that all atoms carried along have; the share of the latter (of the Gaussians with main chains at Cα)
within 3 Å; error of the map in the fitted band; bonds, broken bonds and clashes of all atoms; for fast atoms the share
of residues that agree with the half-map that their fit did not see, of those within 3 Å and of the others; seconds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from atomic_sets.atom_images import drawn_particles, electron_density, images_in_memory
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.analysis.structures import NEAR_A, rmsd, share_within, volume_nmse
from cryodrgn_ext.atoms.stereochemistry import Chemistry, stereochemistry
from cryodrgn_ext.atoms.structure import Structure, read_structure, residue_centres
from cryodrgn_ext.engines.atomic.agreement import Density, residue_agreement
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold import CryofoldTrainer
from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.engines.atomic.fit import AtomFit, AtomModel
from cryodrgn_ext.engines.atomic.node_sums import half_rows, sums_at_nodes
from cryodrgn_ext.engines.atomic.training_passes import FoldData
from cryodrgn_ext.fourier.gaussians import gaussian_map
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor

FloatArray = NDArray[np.float64]

RESOLUTION_A = 6.0
APPROXIMATE_A, NOISE_A, TURN_DEG = 5.15, 6.0, 90.0
#: Options of each row; its start is the first word of its name.
ROWS: dict[str, dict[str, object]] = {
    "exact": {"start": "alpha"},
    "exact centre": {"backbone": "centre"},
    "exact fast": {},
    "approximate": {"start": "alpha"},
    "approximate centre": {"backbone": "centre"},
    "approximate fast": {},
    "noise": {"start": "noise"},
    "noise centre": {"start": "noise", "backbone": "centre"},
    "noise fast": {},
    "turned fast": {},
    "random": {"start": "random"},
    "random fast": {},
    "approximate no-side-chains": {"start": "alpha", "side_chains": False},
    "approximate no-bonds": {"start": "alpha", "bond_strength": 0.0},
    "approximate no-images": {"start": "alpha", "image_weight": 0.0},
}


@dataclass(frozen=True)
class Problem:
    """Images, and what they show.

    Attributes
    ----------
    images : ParticleImages
    truth : Structure
    approximate : ndarray
        (A, 3).
    density : ndarray
        (D, D, D).
    """

    images: ParticleImages
    truth: Structure
    approximate: FloatArray
    density: NDArray[np.float32]

    @property
    def alpha(self) -> NDArray[np.bool_]:
        """(A,) which atoms are Cα."""
        return np.array([site.atom.name == "CA" for site in self.truth.source[0].all()])

    @property
    def radius(self) -> int:
        """Highest frequency that is fitted."""
        return min(self.images.plane.radius - 1, int(self.images.box_size * self.images.pixel_size_A / RESOLUTION_A))


@dataclass(frozen=True)
class Found:
    """What a row led to: atoms, main chains' Gaussians at the start and the end (None without), map, agreement."""

    atoms: FloatArray
    before: FloatArray
    after: FloatArray | None
    volume: torch.Tensor
    agrees: NDArray[np.bool_] | None = None


def main() -> None:
    """Run as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--pixel-size", type=float, default=2.0)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    problem = make(given)
    chemistry = Chemistry.of(problem.truth)
    print(
        "row | start | Gaussians | atoms (Å) | within 3 Å | map NMSE | bonds (Å) | broken | clashes | "
        "agree: near, far | seconds"
    )
    for name in given.rows:
        begin = time.perf_counter()
        found = fast(problem, name, given.seed) if name.endswith("fast") else fold(problem, name, given.seed)
        seconds = time.perf_counter() - begin
        truth = problem.truth.positions[problem.alpha]
        atoms = found.atoms[problem.alpha]
        published = found.after is not None and "centre" not in name
        judged = found.after if published and found.after is not None else atoms
        chemical = stereochemistry(problem.truth, found.atoms, chemistry)
        gaussians = "" if found.after is None else f"{rmsd(found.after, truth):.2f}"
        print(
            f"{name} | {rmsd(found.before, truth):.2f} | {gaussians} | {rmsd(atoms, truth):.2f} | "
            f"{100 * share_within(judged, truth):.1f} % | {nmse(problem, found.volume):.3f} | {chemical.bond_A:.2f} | "
            f"{chemical.broken} | {chemical.clashes} | {agreement(found, truth, problem)} | {seconds:.0f}", flush=True,
        )  # fmt: skip


def agreement(found: Found, truth: FloatArray, problem: Problem) -> str:
    """Share of residues that agree with the half-map, of those that are near their true place and of the others."""
    if found.agrees is None:
        return ""
    near = np.linalg.norm(found.atoms[problem.alpha] - truth, axis=1) < NEAR_A
    parts = [found.agrees[members] for members in (near, ~near)]
    return ", ".join(f"{100 * part.mean():.0f} % of {len(part)}" if len(part) else "none" for part in parts)


def make(given: argparse.Namespace) -> Problem:
    """Images of the true structure, and the approximate one."""
    truth = read_structure(given.structure)
    frames = np.load(given.path)["coords_A"].astype(np.float64)
    middle = truth.positions.mean(axis=0)
    frames = frames - frames[0].mean(axis=0)
    truth = replace(truth, positions=truth.positions - middle)
    alpha = np.array([site.atom.name == "CA" for site in truth.source[0].all()])
    away = np.array([rmsd(frame[alpha], truth.positions[alpha]) for frame in frames])
    images = images_in_memory(
        drawn_particles(truth, truth.positions[None], given.images, given.box, given.pixel_size, given.snr, given.seed)
    )
    density = electron_density(truth, truth.positions, given.box, given.pixel_size)
    return Problem(images, truth, frames[np.abs(away - APPROXIMATE_A).argmin()], density)


def begun(problem: Problem, name: str) -> Structure:
    """The structure that a row begins with, noise left out."""
    return replace(problem.truth, positions=problem.approximate) if name.startswith("approx") else problem.truth


def fold(problem: Problem, name: str, seed: int) -> Found:
    """Cryofold's homogeneous fit."""
    settings = CryofoldSettings(zdim=0, **ROWS[name])  # type: ignore[arg-type]
    images, base = problem.images, begun(problem, name)
    extent_A = images.box_size * images.pixel_size_A / 4
    chain = CoarseChain.of(base, settings.backbone, settings.side_chains)
    chain = chain.begun(settings.start, settings.start_noise_A, extent_A, seed)
    model = CryofoldModel(chain, images, problem.radius, 0, False, (1, 8))
    data = FoldData(images, torch.arange(images.n), problem.radius)
    CryofoldTrainer(model, data, settings, seed, CheckpointFile(None, "", ""), SilentMonitor()).run()
    centres = model.centres.detach()
    atoms = carried_atoms(base, chain.centres(centres.double().numpy()[None]))[0]
    pixel = images.pixel_size_A
    width = model.log_width_A.detach().exp() / pixel
    volume = gaussian_map(images.box_size, centres / pixel, chain.electrons, width.expand(len(centres)))
    main = chain.main.numpy()
    return Found(atoms, chain.base_A.numpy()[main], centres.numpy()[main], volume)


def fast(problem: Problem, name: str, seed: int) -> Found:
    """The fast atoms' fit of one structure."""
    images, base = problem.images, begun(problem, name)
    generator = np.random.default_rng(seed)
    if name.startswith("turned"):
        third = base.residue >= 2 * len(base.chain) // 3
        hinge = base.positions[np.flatnonzero(third)[0]]
        turn = Rotation.from_euler("x", TURN_DEG, degrees=True).as_matrix()
        base = replace(
            base, positions=np.where(third[:, None], (base.positions - hinge) @ turn.T + hinge, base.positions)
        )
    elif not name.startswith(("exact", "approx")):
        alpha = base.positions[problem.alpha]
        extent_A = images.box_size * images.pixel_size_A / 4
        moved = generator.uniform(-1, 1, alpha.shape) * (NOISE_A if name.startswith("noise") else extent_A)
        moved += 0 if name.startswith("noise") else alpha.mean(axis=0) - alpha
        base = replace(base, positions=base.positions + moved[base.residue])
    centres, _, _ = residue_centres(base)
    model = AtomModel.of(base, centres, images.pixel_size_A)
    rows = torch.arange(images.n)
    sums = [sums_at_nodes(images, rows[half], torch.ones(int(half.sum()), 1), problem.radius, SilentMonitor())
            for half in half_rows(images, rows)]  # fmt: skip
    fit, *halves = [AtomFit(model, torch.ones(1, 1), one) for one in (sums[0] + sums[1], *sums)]
    for one in (fit, *halves):
        one.run(RESOLUTION_A, SilentMonitor())
    density = Density(model.electrons, model.width_A, fit.scale, model.pixel_size_A)
    centres = np.stack([one.positions.double().numpy() for one in halves])
    agreed = residue_agreement(centres, sums, density, model.residue, RESOLUTION_A, seed)
    atoms = carried_atoms(base, fit.positions.double().numpy())[0]
    pixel = images.pixel_size_A
    volume = gaussian_map(images.box_size, fit.positions[0] / pixel, model.electrons, model.width_A / pixel)
    spectrum = torch.fft.rfftn(volume) * fit.scale[shells(images.box_size).clamp_max(len(fit.scale) - 1)]
    return Found(atoms, base.positions[problem.alpha], None, torch.fft.irfftn(spectrum, s=volume.shape), agreed.agrees)


def shells(box: int) -> torch.Tensor:
    """Shell of each coefficient of a real map's transform."""
    k = torch.fft.fftfreq(box, 1 / box)
    squared: torch.Tensor = k[:, None, None] ** 2 + k[None, :, None] ** 2 + torch.arange(box // 2 + 1) ** 2
    return squared.sqrt().round().long()


def nmse(problem: Problem, volume: torch.Tensor) -> float:
    """Error of a map within the fitted band."""
    inside = shells(problem.images.box_size) <= problem.radius
    maps = [torch.fft.irfftn(torch.fft.rfftn(one) * inside, s=one.shape).numpy()
            for one in (volume, torch.from_numpy(problem.density))]  # fmt: skip
    return volume_nmse(maps[0], maps[1])


if __name__ == "__main__":
    main()
