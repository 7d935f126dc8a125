"""Time and memory of reading, subsetting and writing a large particles STAR file.

Run ``python benchmarks/metadata_throughput.py`` (300,000 particles, 30 columns); ``-n 1000000`` for a million. The
goal at 300,000 is below 20 seconds and 2 GB, with poses, rotations and half-sets computed.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from throughput import print_total, run, timed

from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles

HEAD = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnAmplitudeContrast #3
_rlnSphericalAberration #4
_rlnVoltage #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
           1 opticsGroup1     0.100000     2.700000   300.000000     1.060000          256            2
           2 opticsGroup2     0.100000     2.700000   300.000000     1.060000          256            2


# version 30001

data_particles

loop_
"""
NUMBERS = [
    "CoordinateX",
    "CoordinateY",
    "CtfMaxResolution",
    "CtfFigureOfMerit",
    "DefocusU",
    "DefocusV",
    "DefocusAngle",
    "CtfBfactor",
    "CtfScalefactor",
    "PhaseShift",
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "NormCorrection",
    "LogLikeliContribution",
    "MaxValueProbDistribution",
    "AutopickFigureOfMerit",
    "HelicalTrackLengthAngst",
    "AngleTiltPrior",
    "AnglePsiPrior",
]
COLUMNS = [
    *(f"rln{name}" for name in NUMBERS),
    *("rlnClassNumber", "rlnRandomSubset", "rlnNrOfSignificantSamples", "rlnOpticsGroup", "rlnGroupNumber"),
    *("rlnImageName", "rlnMicrographName", "cdxLabel"),
]
PARTICLES = "particles.star"


def generate(directory: Path, n: int) -> None:
    """Write particles.star of RELION 3.1 with ``n`` rows, 150 particles a micrograph."""
    rng = np.random.default_rng(0)
    with open(directory / PARTICLES, "w", encoding="utf-8") as handle:
        handle.write(HEAD)
        handle.writelines(f"_{name} #{number}\n" for number, name in enumerate(COLUMNS, 1))
        for begin in range(0, n, 10_000):
            count = min(10_000, n - begin)
            numbers = rng.uniform(0, 180, (count, len(NUMBERS)))
            integers = rng.integers(1, 3, (count, 5))
            for i in range(count):
                micrograph, index = divmod(begin + i, 150)
                stem = f"FoilHole_{micrograph:08d}_Data_10985376_10985377_20180810_2123-144102"
                values = "".join(f"{value:13.6f}" for value in numbers[i])
                values += "".join(f"{value:13d}" for value in integers[i])
                handle.write(
                    f"{values} {index + 1:06d}@Extract/job133/Micrographs/{stem}.mrcs "
                    f"MotionCorr/job002/Micrographs/{stem}.mrc state_{index % 7} \n"
                )
        handle.write(" \n")


def measure(directory: Path) -> None:
    """Read, subset and write, and print times and the peak of resident memory."""
    start = time.perf_counter()
    with timed("read"):
        particles = read_particles(directory / PARTICLES)
    with timed("rotations"):
        rotation = particles.rotation
    with timed("half-sets"):
        choose_half_sets(particles, 0)
    half = np.sort(np.random.default_rng(1).permutation(particles.n)[: particles.n // 2])
    with timed("subset of half"):
        subset = particles.subset(half)
    latents = np.random.default_rng(2).normal(size=(subset.n, 8)).astype(np.float32)
    columns = {f"cdxLatent{j + 1}": latents[:, j] for j in range(8)}
    with timed("write with 8 latents"):
        write_particles_star(subset, directory / "subset.star", columns)
    with timed("write with other poses"):
        write_particles_star(subset.with_poses(rotation[half], subset.shift_A), directory / "poses.star")
    with timed("all image names as strings"):
        particles.image_name  # noqa: B018
    print_total(f"{particles.n} particles, {len(COLUMNS)} columns", start)


if __name__ == "__main__":
    run(__file__, __doc__, 300_000, generate, measure)
