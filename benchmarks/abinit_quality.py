#!/usr/bin/env python
"""Ab initio reconstruction from simulated particles with known poses: how often, how exactly, how fast.

    python benchmarks/abinit_quality.py [--sets rigid hinge ...] [--seeds 5] [--images 5000] [--box 64]
                                        [--snr 0.1] [--shift 5] [--map FILE] [--starts 3] [--zdim 4] [--alternations 2]
                                        [--limit] [--threads 2] [--directory DIR]

Sets (each with as many seeds as asked for; seeds differ in specimen, poses, CTF, noise and random initialisations):

    rigid           simulated protein, as a RELION project on disk, read without its poses: CTF, noise, shifts; 256 Å
                    wide, so 4 Å a pixel at box 64 and 2 Å at box 128
    rigid-noiseless projections of the same protein's map: shifts, no noise, no CTF
    rigid-no-ctf    the same with noise
    hinge           the same with a moving arm: poses, then subspace and poses in turns; Spearman of the true angle
                    predicted from the latents of 50 neighbours, 5-fold cross-validated
    map             projections of --map FILE (MRC, resampled to nothing: its box is the images'), noise, no CTF
    map-noiseless   the same without noise
    map-ctf         the same with noise, CTF and shifts

and prints one line each: seconds from opened images to the result; share of the particles on which the two best
initialisations agree; median and mean angle, mean and median squared Frobenius norm of the rotations' error after a
global alignment of either hand (Zhong 2022, 5.6.4), median error of the shift, FSC 0.5 with the true map and FSC 0.143
between the half-maps as fractions of Nyquist. With ``--limit`` also the error of poses searched against the true map:
what noise leaves. The figures of Zhong 2022 (table 5.2, 50,000 images, mean/median squared Frobenius norm) for
projections of its hand (``hand_map.py`` makes its map): cryoSPARC 0.012/0.002 noiseless, 0.692/0.071 at SNR 0.1;
cryoDRGN-BNB 0.39/0.007, 0.06/0.25; cryoDRGN2 0.002/0.0003, 0.086/0.027; of its spike protein (box 128): cryoSPARC
0.0007/0.0003 noiseless, 0.065/0.002 noisy; cryoDRGN-BNB 0.10/0.0006, 0.066/0.012; cryoDRGN2 0.0004/0.0001, 0.057/0.011.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.analysis.agreement import predict_truth
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.engines.base import get_engine
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.abinit import AbInitio, reconstruct
from cryodrgn_ext.pose.alignment import Alignment, align_to_halves
from cryodrgn_ext.pose.half_references import resolved_radius
from cryodrgn_ext.pose.heterogeneous import LinearVolumes, refine_with_volumes
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import SimulatedParticles, simulate_particles, write_relion_project

PIXEL_SIZE_A = 6.0  # of projections of --map
EXTENT_A = 256.0  # of images of the simulated protein
LIMIT_IMAGES = 2000
STATES = 10  # parts of a continuous motion in which poses are judged by themselves
FLOOR_SNR = 100.0  # noise that noiseless images are taken to have: a likelihood needs some
COLUMNS = (
    "set             seed  seconds  agree  deg median/mean   frobenius mean/median   shift px  FSC 0.5  FSC 0.143  more"
)


@dataclass(frozen=True)
class Problem:
    """Images without poses, and the truth."""

    images: ParticleImages
    rotation: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    density: Tensor
    coordinates: NDArray[np.float64] | None = None

    @property
    def poses(self) -> Poses:
        """The true ones."""
        return Poses.of(self.rotation, self.shift_px)


def protein(directory: Path, motion: str, seed: int, given: argparse.Namespace) -> Problem:
    """A simulated RELION project, written and read as a user's would be."""
    particles = simulate_particles(
        given.images, motion=motion, box_size=given.box, pixel_size_A=EXTENT_A / given.box, snr=given.snr,
        max_shift_px=given.shift, seed=seed,
    )  # fmt: skip
    return opened(directory, particles)


def opened(directory: Path, particles: SimulatedParticles) -> Problem:
    """Particles written as a RELION project, and read without their poses."""
    project = write_relion_project(directory, particles)
    unposed = read_particles(project.particles_star, require_poses=False)
    images = open_images(unposed, directory / "store", rebuild=True)
    images = images.with_poses(Poses.unknown(images.n)).load()
    density = torch.from_numpy(read_map(project.reference).data)
    return Problem(images, particles.rotation, particles.shift_px, density, particles.coordinates)


def protein_map(seed: int, box: int) -> Tensor:
    """Density of the simulated protein."""
    alone = simulate_particles(1, motion="rigid", box_size=box, pixel_size_A=EXTENT_A / box, seed=seed)
    return torch.from_numpy(alone.mean_volume())


def projections(
    density: Tensor, pixel_size_A: float, n: int, extent: float, seed: int, snr: float | None, with_ctf: bool
) -> Problem:
    """``n`` images of a map in random orientations, off centre by up to ``extent`` px."""
    box = len(density)
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(n, random_state=rng).as_matrix()
    shift = rng.uniform(-extent, extent, (n, 2))
    plane = HalfPlane(box, box // 2)
    volume = FourierVolume.from_map(density)
    parameters = None
    if with_ctf:
        mean = rng.uniform(10_000, 25_000, n)
        columns = [
            mean + 200,
            mean - 200,
            rng.uniform(0, np.pi, n),
            *(np.full(n, v) for v in (300.0, 2.7, 0.1, 0, 0, 1)),
        ]
        parameters = CtfParameters(*(torch.from_numpy(column).float() for column in columns))
    pictures = torch.empty(n, box, box)
    for rows in torch.arange(n).split(512):
        values = volume.slice(slice_points(plane.kxy, torch.from_numpy(rotation[rows]).float()))
        values = values * shift_phases(plane.kxy, torch.from_numpy(shift[rows]).float(), box)
        if parameters is not None:
            values = values * ctf(parameters.index(rows), plane.kxy, pixel_size_A, box)
        pictures[rows] = plane.to_images(values)
    sd = float(pictures.std()) / np.sqrt(FLOOR_SNR if snr is None else snr)
    if snr is not None:
        generator = torch.Generator().manual_seed(seed)
        pictures += sd * torch.randn(pictures.shape, generator=generator)
    images = ParticleImages.from_tensors(
        pictures, torch.eye(3).expand(n, 3, 3), torch.zeros(n, 2), pixel_size_A, parameters, pixel_noise_sd=sd
    )
    return Problem(images, rotation, shift, density)


def make(name: str, directory: Path, seed: int, given: argparse.Namespace) -> Problem:
    """A set of that name."""
    if name in ("rigid", "hinge"):
        return protein(directory, "hinge-continuous" if name == "hinge" else "rigid", seed, given)
    snr = None if name.endswith("-noiseless") else given.snr
    if name.startswith("rigid-"):
        density = protein_map(seed, given.box)
        return projections(density, EXTENT_A / given.box, given.images, given.shift, seed, snr, with_ctf=False)
    with_ctf = name == "map-ctf"
    density = torch.from_numpy(read_map(given.map).data)
    extent = given.shift if with_ctf else 0.0
    return projections(density, PIXEL_SIZE_A, given.images, extent, seed, snr, with_ctf)


def judge(problem: Problem, poses: Poses) -> dict[str, float]:
    """Errors of poses after a global alignment, and the resolution of the map that they give."""
    aligned = align_poses(poses, problem.poses)
    maps = reconstruct_half_maps(problem.images.with_poses(aligned.transform.poses(poses)))
    curve = fsc(torch.from_numpy(maps.map), problem.density)
    nyquist = problem.images.plane.radius  # the last shell that images carry: beyond it there is nothing to compare
    figures = aligned.errors.summary()
    figures["fsc_half"] = min(1.0, resolved_radius(curve[: nyquist + 1], 0.5) / nyquist)
    figures["fsc_0143"] = min(1.0, resolved_radius(maps.fsc[: nyquist + 1], 0.143) / nyquist)
    return figures


def noise_limit(problem: Problem, seed: int) -> dict[str, float]:
    """Errors of poses that a search of all orientations finds with the true map."""
    images = problem.images
    rows = torch.arange(min(images.n, LIMIT_IMAGES))
    how = Alignment("search", float(images.plane.radius), ReconstructSettings(seed=seed), known=False)
    nothing = Poses.unknown(images.n, torch.float64)
    halves = problem.density, problem.density
    found, _ = align_to_halves(images, halves, nothing, how, rows, SilentMonitor())
    return pose_errors(found.poses, problem.poses[: len(rows)]).summary()


def degrees_by_state(problem: Problem, poses: Poses) -> float:
    """Median angle after an alignment within each tenth of the particles, ordered by their true coordinate.

    Poses and conformations cannot be told apart whole: coordinates that rotate with the state are as good as those that
    stand still. This is the error without such a rotation.
    """
    if problem.coordinates is None:
        raise ValueError("a set without coordinates has no states")
    angles = []
    for rows in np.array_split(problem.coordinates[:, 0].argsort(), STATES):
        angles.append(align_poses(poses[rows], problem.poses[rows]).errors.degrees)
    return float(np.median(np.concatenate(angles)))


def alternate(problem: Problem, found: AbInitio, given: argparse.Namespace, seed: int) -> tuple[Poses, dict[str, Any]]:
    """Learn a subspace and refine poses against each image's own volume, alternately; figures of every alternation."""
    settings = SubspaceSettings(zdim=given.zdim)
    context = EngineContext.of(ComputeSettings(seed=seed), None, Monitor())
    poses = found.poses
    truth = problem.coordinates
    if truth is None:
        raise SystemExit("a set without coordinates has no heterogeneity to learn")
    out: dict[str, Any] = {"spearman": [], "degrees": []}
    engine = get_engine("subspace")
    for number in range(given.alternations + 1):
        images = problem.images.with_poses(poses)
        consensus = reconstruct_half_maps(images)
        radius = round(resolved_radius(consensus.fsc))
        model = engine.train(images, consensus.map, settings, context, consensus_radius=radius)
        out["spearman"].append(round(predict_truth(model.z, truth[:, 0]).spearman, 4))
        aligned = align_poses(poses, problem.poses)
        out["degrees"].append(round(float(np.median(aligned.errors.degrees)), 3))
        print(f"  {number}: Spearman {out['spearman'][-1]}, median error {out['degrees'][-1]} degrees", flush=True)
        if number == given.alternations:
            break
        form = model.linear_form()  # type: ignore[attr-defined]
        volumes = LinearVolumes(
            torch.from_numpy(form.mean), torch.from_numpy(np.stack(list(form.components()))),
            torch.from_numpy(form.weights(model.z)),
        )  # fmt: skip
        refined = refine_with_volumes(images, volumes, ReconstructSettings(seed=seed), radius, search_all=number == 0)
        poses = refined.poses.to(torch.float32)
    out["degrees_by_state"] = round(degrees_by_state(problem, poses), 3)
    return poses, out


def main() -> None:
    """Run all sets and seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["rigid"],
                        choices=["rigid", "rigid-noiseless", "rigid-no-ctf", "hinge", "map", "map-noiseless",
                                 "map-ctf"])  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--zdim", type=int, default=4)
    parser.add_argument("--alternations", type=int, default=2)
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    if given.map is None and any(name.startswith("map") for name in given.sets):
        parser.error("projections of a map need --map FILE")
    torch.set_num_threads(given.threads)
    lines: list[str] = [COLUMNS]
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if given.directory is None else given.directory
        root.mkdir(parents=True, exist_ok=True)
        for name in given.sets:
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                problem = make(name, root / f"{name}{seed}", seed, given)
                began, cpu = time.monotonic(), time.process_time()
                found = reconstruct(
                    problem.images, ReconstructSettings(initialisations=given.starts, seed=seed), None, Monitor()
                )
                seconds, cpu = time.monotonic() - began, time.process_time() - cpu
                poses, more = found.poses, ""
                record: dict[str, Any] = {"set": name, "seed": seed, "seconds": seconds, "cpu_seconds": cpu}
                if name == "hinge":
                    poses, more_figures = alternate(problem, found, given, seed)
                    record |= more_figures
                    more = (
                        f"Spearman {more_figures['spearman']}, degrees {more_figures['degrees']}, with coordinates for "
                        f"each state {more_figures['degrees_by_state']}"
                    )
                figures = judge(problem, poses)
                if given.limit:
                    limit = noise_limit(problem, seed)
                    record["limit"] = limit
                    more += (
                        f" with the true map: {limit['median_rotation_deg']:.3f}/{limit['mean_rotation_deg']:.3f} "
                        f"degrees, {limit['mean_rotation_frobenius_sq']:.5f}/"
                        f"{limit['median_rotation_frobenius_sq']:.6f}"
                    )
                others = sorted((one.agreement for one in found.initialisations), reverse=True)[1:]
                record |= figures | {
                    "agreement": others,
                    "log_likelihood": [one.log_likelihood for one in found.initialisations],
                }
                records.append(record)
                lines.append(
                    f"{name:15s} {seed:4d}  {seconds:7.0f}  {max(others, default=0):5.2f}  "
                    f"{figures['median_rotation_deg']:8.3f}/{figures['mean_rotation_deg']:6.3f}   "
                    f"{figures['mean_rotation_frobenius_sq']:10.5f}/{figures['median_rotation_frobenius_sq']:9.6f}   "
                    f"{figures['median_shift_px']:8.3f}  {figures['fsc_half']:7.2f}  {figures['fsc_0143']:9.2f}  {more}"
                )
                print("\n".join(lines), flush=True)
                if given.directory is not None:
                    atomic_write_text(root / "abinit_quality.json", json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
