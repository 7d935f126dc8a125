"""The simulated sets, written once for both programs: a RELION project, and the peer's pickles beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from comparison.runner import fresh_directory, read_record
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.metadata.cryodrgn_pickle import write_ctf, write_poses
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.simulate import GroundTruth, load_truth, simulate_particles, write_relion_project


@dataclass(frozen=True)
class BenchmarkSet:
    """A kind of simulated set.

    Attributes
    ----------
    motion : str
        Name in ``cryodrgn_ext.simulate.MOTIONS``.
    box_size : int
    pixel_size_A : float
    discrete : bool
        Whether the truth is a state, so that clusters are compared with it, rather than a coordinate.
    """

    motion: str
    box_size: int
    pixel_size_A: float
    discrete: bool


SETS = {
    "linear64": BenchmarkSet("hinge", 64, 4.0, discrete=False),
    "linear128": BenchmarkSet("hinge", 128, 2.0, discrete=False),
    "discrete": BenchmarkSet("discrete", 64, 4.0, discrete=True),
    "compositional": BenchmarkSet("compositional", 64, 4.0, discrete=True),
}


@dataclass(frozen=True)
class Project:
    """A set on disk.

    The same image stack serves both programs. ``poses`` and ``ctf`` are in the form of the peer: translations are the
    fractions of the box that move an image back to its centre, images are protein on black, which the peer's default
    inversion and the sign of its CTF expect.
    """

    directory: Path
    particles_star: Path
    stack: Path
    poses: Path
    ctf: Path
    truth: GroundTruth
    kind: BenchmarkSet


def prepare(directory: Path, kind: BenchmarkSet, n: int, snr: float, seed: int) -> Project:
    """Simulate a set, or open what an earlier run with the same numbers simulated."""
    wanted = {**asdict(kind), "particles": n, "snr": snr, "seed": seed}
    if read_record(directory / "set.json") != wanted:
        fresh_directory(directory)
        particles = simulate_particles(
            n, motion=kind.motion, box_size=kind.box_size, pixel_size_A=kind.pixel_size_A, snr=snr, seed=seed
        )
        write_relion_project(directory, particles, monitor=Monitor())
        written = read_particles(directory / "particles.star", directory)
        write_poses(directory / "poses.pkl", written)
        write_ctf(directory / "ctf.pkl", written)
        atomic_write_text(directory / "set.json", json.dumps(wanted, indent=1))
    return Project(
        directory, directory / "particles.star", directory / "Particles" / "particles.mrcs", directory / "poses.pkl",
        directory / "ctf.pkl", load_truth(directory / "truth.npz"), kind,
    )  # fmt: skip
