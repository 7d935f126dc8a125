#!/usr/bin/env python
"""An ab initio result in the hands of the real RELION: it reconstructs the same map, and refines without moving.

    python benchmarks/abinit_relion.py [--particles 5000] [--box 64] [--snr 0.1] [--shift 5] [--seed 0] [--zdim 0]
                                       [--iterations 3] [--threads 2] [--directory DIR]

Needs relion_reconstruct and relion_refine on the PATH. Simulates a RELION project (protein, CTF, noise, shifts), takes
angles, origins and half-sets out of its STAR file, and then, each in a process of its own, from the project's
directory:

1. ``cdx-relion-abinit`` on these particles. ``--in_3dref`` is the true map, onto which the result is turned when the
   search is over, so that poses and maps can be set beside the truth without any further alignment;
2. ``relion_reconstruct --ctf`` on the particles.star that it returned, all of it and each half;
3. ``relion_refine`` from map.mrc and these poses, with local searches only, for a few iterations; and the same
   command from the true map and the true poses, which shows what noise makes of poses that could not be better.

Prints seconds, and

    poses          median angle and shift between the poses returned and the truth, the same after refinement, and
                   after the refinement that began from the truth
    reconstruct    FSC of RELION's map with map.mrc, unmasked: the least of the shells up to half of Nyquist and up to
                   0.9 of Nyquist, and the same within mask.mrc; of each half of RELION's with each half-map of ours
                   (the same halves must agree)
    drift          the turn and shift of the frame between the poses returned and those refined (their common part),
                   and the median change of single poses
    fsc            FSC 0.5 with the true map, in a mask, as a fraction of Nyquist: of map.mrc, of RELION's
                   reconstruction, and of both refined maps; and the least FSC between these two up to half of Nyquist

With ``--zdim`` the specimen has a moving arm, and poses come from each image's own volume. Ends with an error when the
FSC of the reconstruction is 0.95 or less up to half of Nyquist, or the refinement does not stay in place: a frame
turned by more than half a degree or shifted by more than a quarter of a pixel, another map than that of the refinement
that began from the truth, or poses worse by more than a tenth than that one's. Local searches keep a memory of where
they begin (a prior about that pose), which is the truth there, so the errors of the poses returned are added to its
errors, as independent ones, before they are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.runner import BenchmarkError, Machine, Measured
from scipy.spatial.transform import Rotation

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.half_references import resolved_radius
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.simulate import simulate_particles, write_relion_project

EXTENT_A = 256.0
JOB = Path("External/job001")
POSE_COLUMNS = (
    "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset",
)  # fmt: skip
LEAST_FSC = 0.95
MOST_TURN_DEG, MOST_SHIFT_PX, MOST_WORSE = 0.5, 0.25, 1.1
# Local searches as RELION begins them: 3.7° halved by oversampling, a prior of 2° about the poses in the file.
REFINE = (
    "--ctf", "--K", "1", "--tau2_fudge", "2", "--healpix_order", "4", "--sigma_ang", "2", "--offset_range", "2",
    "--offset_step", "1", "--oversampling", "1", "--ini_high", "12", "--flatten_solvent", "--zero_mask", "--norm",
    "--scale", "--pad", "1", "--dont_combine_weights_via_disc", "--preread_images", "--random_seed", "1",
)  # fmt: skip


class Trial:
    """One simulated project, the commands run in it, and what they left."""

    def __init__(self, root: Path, given: argparse.Namespace) -> None:
        self.given = given
        self.machine = Machine(given.threads, use_gpu=False)
        for program in ("relion_reconstruct", "relion_refine"):
            if shutil.which(program) is None:
                raise BenchmarkError(f"{program} is not on the PATH: install RELION 3.1 or later")
        self.project, self.logs = root / "project", root / "logs"
        motion = "hinge-continuous" if given.zdim else "rigid"
        self.truth = simulate_particles(
            given.particles, motion=motion, box_size=given.box, pixel_size_A=EXTENT_A / given.box, snr=given.snr,
            max_shift_px=given.shift, seed=given.seed,
        )  # fmt: skip
        if not (self.project / "unposed.star").exists():
            written = write_relion_project(self.project, self.truth)
            simulated = read_particles(written.particles_star)
            write_particles_star(simulated, self.project / "unposed.star", dropped_columns=POSE_COLUMNS)
        self.nyquist = given.box // 2 - 1  # the last shell that images carry whole

    def run(self, name: str, product: Path, command: list[str]) -> Measured:
        """Run one command in the project."""
        target = self.project / product
        target.parent.mkdir(parents=True, exist_ok=True)
        return self.machine.run(command, self.logs, name, cwd=self.project, product=target)

    def map(self, path: Path | str) -> torch.Tensor:
        """A map of the project."""
        return torch.from_numpy(read_map(self.project / path).data)

    def poses(self, path: Path) -> Poses:
        """Rotations and shifts (px) of a STAR file, in the order of the truth."""
        particles = read_particles(self.project / path, project_dir=self.project)
        number = np.array([int(name.split("@")[0]) for name in particles.image_name]) - 1
        order = np.argsort(number)
        if not np.array_equal(number[order], np.arange(self.truth.n)):
            raise BenchmarkError(f"{path} has other particles than the {self.truth.n} that were simulated")
        return Poses.of(particles.rotation[order], particles.shift_A[order] / self.truth.pixel_size_A)

    def errors(self, path: Path) -> dict[str, float]:
        """Median errors of the poses of a STAR file against the truth, in its coordinates."""
        found = pose_errors(self.poses(path), Poses.of(self.truth.rotation, self.truth.shift_px))
        return {"deg": float(np.median(found.degrees)), "px": float(np.median(found.shift_px)),
                "beyond_10_deg": float(np.mean(found.degrees > 10.0))}  # fmt: skip

    def least(self, one: torch.Tensor, other: torch.Tensor, share: float, mask: torch.Tensor | None = None) -> float:
        """Least FSC of the shells from the first up to a share of Nyquist."""
        return float(fsc(one, other, mask)[1 : int(share * self.given.box / 2) + 1].min())


def measure(trial: Trial) -> dict[str, Any]:
    """Run everything, and compare."""
    given, python = trial.given, sys.executable
    particles, threads = JOB / "particles.star", str(given.threads)
    commands = {"abinit": trial.run("abinit", particles, [
        python, "-m", "relion_wrappers", "abinit", "--o", f"{JOB}/", "--in_parts", "unposed.star", "--in_3dref",
        "reference.mrc", "--seed", str(given.seed), "--zdim", str(given.zdim), "--j", threads,
    ])}  # fmt: skip
    for name, subset in (("all", "-1"), ("half1", "1"), ("half2", "2")):
        commands[f"reconstruct_{name}"] = trial.run(f"reconstruct_{name}", Path(f"theirs_{name}.mrc"), [
            "relion_reconstruct", "--i", str(particles), "--o", f"theirs_{name}.mrc", "--ctf", "--subset", subset,
        ])  # fmt: skip
    diameter_A = min(2.0 * (trial.truth.motion.radius_A + 10.0), 0.94 * EXTENT_A)
    last = f"run_it{given.iterations:03d}"
    refined, control = Path("Refine") / f"{last}_data.star", Path("FromTruth") / f"{last}_data.star"
    for star, begun, product in ((particles, JOB / "map.mrc", refined),
                                 (Path("particles.star"), Path("reference.mrc"), control)):  # fmt: skip
        name = product.parent.name
        commands[name] = trial.run(name, product, [
            "relion_refine", "--i", str(star), "--ref", str(begun), "--o", f"{name}/run", "--iter",
            str(given.iterations), "--particle_diameter", f"{diameter_A:.0f}", "--j", threads, *REFINE,
        ])  # fmt: skip
    ours, theirs = trial.map(JOB / "map.mrc"), trial.map("theirs_all.mrc")
    maps = {"map.mrc": ours, "relion_reconstruct": theirs,
            "refined": trial.map(refined.with_name(f"{last}_class001.mrc")),
            "refined_from_truth": trial.map(control.with_name(f"{last}_class001.mrc"))}  # fmt: skip
    truth, mask, ours_mask = trial.map("reference.mrc"), trial.map("mask.mrc"), trial.map(JOB / "mask.mrc")
    moved = align_poses(trial.poses(refined), trial.poses(particles), both_hands=False)
    single = pose_errors(trial.poses(refined), trial.poses(particles))
    curves = {name: fsc(one, truth, mask)[: trial.nyquist + 1] for name, one in maps.items()}
    return {
        "poses": {"returned": trial.errors(particles), "refined": trial.errors(refined),
                  "refined_from_truth": trial.errors(control)},
        "reconstruct": {
            "least_fsc_to_half_nyquist": trial.least(theirs, ours, 0.5),
            "least_fsc_to_0.9_nyquist": trial.least(theirs, ours, 0.9),
            "masked_least_fsc_to_half_nyquist": trial.least(theirs, ours, 0.5, ours_mask),
            "masked_least_fsc_to_0.9_nyquist": trial.least(theirs, ours, 0.9, ours_mask),
            "halves_least_fsc_to_half_nyquist": [
                [trial.least(trial.map(f"theirs_half{i}.mrc"), trial.map(JOB / f"half{j}.mrc"), 0.5) for j in (1, 2)]
                for i in (1, 2)
            ],
        },
        "drift": {
            "frame_deg": float(np.degrees(Rotation.from_matrix(moved.transform.rotation).magnitude())),
            "frame_px": float(np.linalg.norm(moved.transform.shift_px)),
            "single_deg": float(np.median(single.degrees)), "single_px": float(np.median(single.shift_px)),
        },
        "fsc": {
            "half_with_truth_of_nyquist": {
                name: min(1.0, resolved_radius(curve, 0.5) / trial.nyquist) for name, curve in curves.items()
            },
            "refined_with_refined_from_truth": trial.least(maps["refined"], maps["refined_from_truth"], 0.5),
        },
        "commands": {name: {key: value for key, value in asdict(one).items() if key != "lines"}
                     for name, one in commands.items()},
    }  # fmt: skip


def faults(figures: dict[str, Any]) -> list[str]:
    """Deviations from what must be."""
    found, drift, poses = [], figures["drift"], figures["poses"]
    if figures["reconstruct"]["least_fsc_to_half_nyquist"] <= LEAST_FSC:
        found.append("relion_reconstruct does not give the map that was returned")
    (same1, cross1), (cross2, same2) = figures["reconstruct"]["halves_least_fsc_to_half_nyquist"]
    if min(same1, same2) <= max(cross1, cross2):
        found.append("the halves of the STAR file are not those of the half-maps")
    if drift["frame_deg"] > MOST_TURN_DEG or drift["frame_px"] > MOST_SHIFT_PX:
        found.append("the refinement turns or shifts the frame")
    if poses["refined"]["deg"] > MOST_WORSE * float(
        np.hypot(poses["refined_from_truth"]["deg"], poses["returned"]["deg"])
    ):
        found.append("the refinement ends farther from the truth than one that begins there")
    if figures["fsc"]["refined_with_refined_from_truth"] <= LEAST_FSC:
        found.append("the refinement ends at another map than one that begins from the truth")
    return found


def main() -> int:
    """Simulate, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zdim", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if given.directory is None else given.directory.absolute()
        root.mkdir(parents=True, exist_ok=True)
        try:
            figures = measure(Trial(root, given))
        except BenchmarkError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 1
        text = json.dumps(figures, indent=1)
        atomic_write_text(root / "abinit_relion.json", text)
        print(text)
        found = faults(figures)
        for one in found:
            print(f"FAILED: {one}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
