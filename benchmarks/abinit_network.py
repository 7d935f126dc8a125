#!/usr/bin/env python
"""Ab initio reconstruction with the network (cryoDRGN2) from simulated particles with known poses.

    python benchmarks/abinit_network.py [--sets rigid hinge pairs] [--first map random] [--seeds 1] [--images 3000]
                                        [--box 64] [--snr 0.1] [--shift 5] [--zdim 4] [--tilt 45] [--starts 3]
                                        [--options epochs=20 ...] [--threads 2] [--directory DIR] [--verbose]

Sets, each a RELION project on disk, read without its poses: CTF, noise, shifts:

    rigid   simulated protein, one structure
    hinge   the same with an arm that turns by 60 degrees, --zdim latents: Spearman of the true angle predicted from the
            latents of 50 neighbours, 5-fold cross-validated
    pairs   the rigid one, of every particle a second image after a tilt of the stage (Zhong 2022, 3.7.2): the
            first images alone, then both, which tell the hand

``--first map`` starts from the poses of an explicit map, as the job does by default, ``random`` from random
orientations, as published. --options are those of ``abinit`` for the network. Prints one line each: seconds of the
explicit map and of the network, and of the processor for the latter; median and mean angle, mean and median squared
Frobenius norm of the rotations' error after a global alignment of either hand (Zhong 2022, 5.6.4), median error of the
shift, FSC 0.5 with the true map and FSC 0.143 between half-maps as fractions of Nyquist, from the first images at the
poses found. With --directory all figures are kept in DIR/abinit_network.json, and a run that was stopped goes on from
its checkpoint there; its seconds are then those since it went on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from abinit_quality import Problem, judge, opened
from scipy.spatial.transform import Rotation

from cryodrgn_ext.analysis.agreement import predict_truth
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.pose_search_engine import train_abinit
from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.neural.tilt_pairs import hand_by_tilts, tilt_rotation
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.abinit import reconstruct
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.settings import from_mapping
from cryodrgn_ext.simulate import simulate_particles

COLUMNS = (
    "set    first   seed  map s  net s   (CPU)  deg median/mean   frobenius mean/median   shift px  FSC 0.5  "
    "FSC 0.143  more"
)


def make(name: str, directory: Path, seed: int, given: argparse.Namespace) -> tuple[Problem, ParticleImages | None]:
    """A set of that name, and the second images of its pairs."""
    particles = simulate_particles(
        given.images, motion="hinge-continuous" if name == "hinge" else "rigid", box_size=given.box,
        pixel_size_A=4.0 * 64 / given.box, snr=given.snr, max_shift_px=given.shift, seed=seed,
    )  # fmt: skip
    problem = opened(directory / "first", particles)
    if name != "pairs":
        return problem, None
    turned = tilt_rotation(given.tilt).numpy().astype(np.float64) @ particles.rotation
    euler = Rotation.from_matrix(turned.transpose(0, 2, 1)).as_euler("ZYZ", degrees=True)
    other = simulate_particles(
        given.images, motion=particles.motion, box_size=given.box, pixel_size_A=particles.pixel_size_A, snr=given.snr,
        max_shift_px=given.shift, seed=seed + 10_000,
    ).with_coordinates(particles.coordinates)  # fmt: skip
    tilted = replace(other, euler_deg=euler.round(6))  # CTF, shifts and noise of their own
    return problem, opened(directory / "second", tilted).images


@dataclass(frozen=True)
class RunSettings(NeuralAbinitSettings, ComputeSettings):
    """Options of a run."""


def first_poses(
    problem: Problem, tilted: ParticleImages | None, settings: RunSettings, given: argparse.Namespace
) -> Poses:
    """Poses of an explicit map, in the hand that tilts tell if there are any: as the job does."""
    chosen = ReconstructSettings(initialisations=given.starts, seed=settings.seed)
    found = reconstruct(problem.images, chosen, None, SilentMonitor())
    if tilted is not None:
        turn = tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg)
        density = torch.from_numpy(found.map)
        as_is, mirrored = hand_by_tilts(problem.images, tilted, turn, density, given.shift, settings.seed)
        if mirrored > as_is:
            return CoordinateTransform.identity(mirrored=True).poses(found.poses)
    return found.poses


def run(
    problem: Problem, tilted: ParticleImages | None, first: str, settings: RunSettings,
    checkpoint: Path | None, given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """One reconstruction and its figures."""
    began = time.monotonic()
    initial = first_poses(problem, tilted, settings, given) if first == "map" else None
    middle, cpu = time.monotonic(), time.process_time()
    monitor = Monitor() if given.verbose else SilentMonitor()
    found = train_abinit(
        problem.images, settings, EngineContext.of(settings, checkpoint, monitor), initial, tilted, given.shift
    )
    record: dict[str, Any] = {
        "map_seconds": middle - began, "network_seconds": time.monotonic() - middle,
        "network_cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip
    record |= judge(problem, found.poses)
    aligned = align_poses(found.poses, problem.poses)
    record["mirrored"] = aligned.transform.mirrored
    if problem.coordinates is not None and settings.zdim:
        prediction = predict_truth(found.heterogeneity.z, problem.coordinates[:, 0])
        record |= {"spearman": prediction.spearman, "r2": prediction.r2}
    searches = {f"search_{name}": list(values) for name, values in found.search_history.items()}
    return record | searches | {"loss": list(found.loss_history["total"])}


def line(name: str, first: str, seed: int, figures: dict[str, Any]) -> str:
    """One row of the table."""
    more = "other hand" if figures["mirrored"] else "true hand"
    if "spearman" in figures:
        more += f", Spearman {figures['spearman']:.3f}, R² {figures['r2']:.3f}"
    return (
        f"{name:6s} {first:7s} {seed:4d}  {figures['map_seconds']:5.0f}  {figures['network_seconds']:5.0f} "
        f"{figures['network_cpu_seconds']:7.0f}  "
        f"{figures['median_rotation_deg']:8.3f}/{figures['mean_rotation_deg']:6.3f}   "
        f"{figures['mean_rotation_frobenius_sq']:10.5f}/{figures['median_rotation_frobenius_sq']:9.6f}   "
        f"{figures['median_shift_px']:8.3f}  {figures['fsc_half']:7.2f}  {figures['fsc_0143']:9.2f}  {more}"
    )


def main() -> None:
    """Run all sets, starts and seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["rigid"], choices=["rigid", "hinge", "pairs"])
    parser.add_argument("--first", nargs="+", default=["map", "random"], choices=["map", "random"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--zdim", type=int, default=4)
    parser.add_argument("--tilt", type=float, default=45.0)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--verbose", action="store_true", help="say how every pass went")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = dict(option.split("=", 1) for option in given.options)
    lines, records = [COLUMNS], []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if given.directory is None else given.directory
        root.mkdir(parents=True, exist_ok=True)
        for name in given.sets:
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                problem, second = make(name, root / f"{name}{seed}", seed, given)
                zdim = str(given.zdim if name == "hinge" else 0)
                settings = from_mapping(
                    RunSettings, {"zdim": zdim, "seed": str(seed), "tilt_deg": str(given.tilt)} | options
                )
                for first in given.first:
                    for tilted in (None,) if second is None else (None, second):
                        label = name if name != "pairs" else "pairs" if tilted is not None else "single"
                        checkpoint = None if given.directory is None else root / f"{label}{seed}_{first}"
                        figures = run(problem, tilted, first, settings, checkpoint, given)
                        records.append({"set": label, "first": first, "seed": seed} | figures)
                        lines.append(line(label, first, seed, figures))
                        print("\n".join(lines), flush=True)
                        if given.directory is not None:
                            atomic_write_text(root / "abinit_network.json", json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
