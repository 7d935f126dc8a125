#!/usr/bin/env python
"""Symmetric particles without orientations: whether their symmetry is recognised, and imposed about RELION's axes.

    python benchmarks/abinit_symmetry.py --o DIR [--groups C2 C3 D2 T ...] [--images 600] [--snr 0.3] [--seed 0]

Copies of a chain of beads about the axes of a group, seen from anywhere (48 px of 5 Å, CTF, shifts), rendered in real
space by code that shares nothing with the package. Each set is given to ``abinit`` twice: without ``--symmetry``, which
shall recognise it, and with it. Printed are what the first run said, the verdicts, the correlation of both maps with
the true density (after the best rotation, shift and hand, which images cannot tell), and of the second map with those
that ``relion_reconstruct`` makes of the returned particles, with ``--sym`` and without: both agree only where poses,
axes and map fit each other as RELION understands them. Seconds are of the second run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import starfile
import torch
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.pose.map_alignment import align_maps

BOX, PIXEL_A, SIGMA_PX, BEADS = 48, 5.0, 1.4, 30
VOLTAGE_KV, CS_MM, AMPLITUDE = 300.0, 2.7, 0.1
LINE = "{:6} {:12} {:10} {:10} {:>9} {:>9} {:>10} {:>8} {:>8}"


def beads_of(name: str, seed: int) -> NDArray[np.float64]:
    """(n, 3) places x, y, z in pixels from the centre: a chain off the axes, and its copies."""
    rng = np.random.default_rng(seed)
    chain = np.cumsum(rng.normal(size=(BEADS, 3)), axis=0)
    chain = (chain - chain.mean(0)) / np.abs(chain - chain.mean(0)).max()
    chain = 0.12 * BOX * chain + BOX * np.array([0.13, 0.05, 0.06])
    return np.concatenate([chain @ rotation.T for rotation in point_group(name).rotations])


def density_of(places: NDArray[np.float64]) -> NDArray[np.float32]:
    """(D, D, D) true density, axes z, y, x."""
    axis = np.arange(BOX) - BOX // 2
    along = [np.exp(-((axis - places[:, k, None]) ** 2) / (2 * SIGMA_PX**2)) for k in range(3)]
    density: NDArray[np.float32] = np.einsum("nz,ny,nx->zyx", along[2], along[1], along[0]).astype(np.float32)
    return density


def write_set(directory: Path, name: str, images: int, snr: float, seed: int) -> NDArray[np.float32]:
    """Write a RELION project without orientations; returns the true density."""
    rng = np.random.default_rng([seed, 1])
    places, axis = beads_of(name, seed), np.arange(BOX) - BOX // 2
    rotation = Rotation.random(images, random_state=rng).as_matrix()
    shift, defocus = rng.uniform(-2, 2, (images, 2)), rng.uniform(8000, 20000, images)
    frequency = np.fft.fftfreq(BOX, PIXEL_A)
    s2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    volts = VOLTAGE_KV * 1e3
    wavelength = 12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2)
    stack = np.empty((images, BOX, BOX), np.float32)
    for i in range(images):
        seen = places @ rotation[i].T + np.append(shift[i], 0.0)
        x, y = (np.exp(-((axis - seen[:, k, None]) ** 2) / (2 * SIGMA_PX**2)) for k in range(2))
        phase = np.pi * wavelength * defocus[i] * s2 - 0.5 * np.pi * CS_MM * 1e7 * wavelength**3 * s2**2
        ctf = np.sqrt(1 - AMPLITUDE**2) * np.sin(phase) + AMPLITUDE * np.cos(phase)  # white particles
        stack[i] = np.fft.ifft2(np.fft.fft2(y.T @ x) * ctf).real
    stack += rng.normal(scale=stack.std() / np.sqrt(snr), size=stack.shape).astype(np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(directory / "particles.mrcs", overwrite=True) as file:
        file.set_data(stack)
        file.voxel_size = PIXEL_A
    optics = pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnVoltage": [VOLTAGE_KV],
        "rlnSphericalAberration": [CS_MM], "rlnAmplitudeContrast": [AMPLITUDE], "rlnImagePixelSize": [PIXEL_A],
        "rlnImageSize": [BOX], "rlnImageDimensionality": [2],
    })  # fmt: skip
    particles = pd.DataFrame({
        "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(images)], "rlnOpticsGroup": 1,
        "rlnDefocusU": defocus, "rlnDefocusV": defocus, "rlnDefocusAngle": 0.0,
    })  # fmt: skip
    starfile.write({"optics": optics, "particles": particles}, directory / "particles.star", overwrite=True)
    return density_of(places)


def abinit(directory: Path, out: str, *options: str) -> str:
    """Run the job; returns what it said."""
    command = [sys.executable, "-m", "cryodrgn_ext", "abinit", "--in_parts", "particles.star", "--o", out, *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    return done.stdout + done.stderr


def verdict(directory: Path) -> str:
    """As job.yaml says it."""
    return str(yaml.safe_load((directory / "job.yaml").read_text(encoding="utf-8"))["results"].get("verdict", "?"))


def relion_map(directory: Path, *options: str) -> NDArray[np.float32]:
    """RELION's reconstruction of the returned particles."""
    out = directory / "relion.mrc"
    command = ["relion_reconstruct", "--i", "symmetric/particles.star", "--o", str(out), "--ctf", *options]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    with mrcfile.open(out) as file:
        return np.array(file.data, np.float32)


def one_group(name: str, images: int, snr: float, seed: int, directory: Path) -> str:
    """Make a set, run both jobs, and return a line of the table."""
    truth = torch.from_numpy(write_set(directory, name, images, snr, seed))
    recognised = re.search(r"differ by rotations of (\w+)", abinit(directory, "free", "--seed", str(seed)))
    started = time.monotonic()
    abinit(directory, "symmetric", "--seed", str(seed), "--symmetry", name)
    seconds = time.monotonic() - started
    free, found = (read_map(directory / out / "map.mrc").data for out in ("free", "symmetric"))
    against = [align_maps(torch.from_numpy(one), truth).correlation for one in (free, found)]
    own = [np.corrcoef(relion_map(directory, *words).ravel(), found.ravel())[0, 1] for words in (("--sym", name), ())]
    return LINE.format(
        name, recognised[1] if recognised else "none", verdict(directory / "free"), verdict(directory / "symmetric"),
        f"{against[0]:.3f}", f"{against[1]:.3f}", f"{own[0]:.3f}", f"{own[1]:.3f}", f"{seconds:.0f}",
    )  # fmt: skip


def main() -> None:
    """Run all groups that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--o", type=Path, required=True, metavar="DIR")
    parser.add_argument("--groups", nargs="+", default=["C2", "C3", "D2", "D3", "T"])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--snr", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(LINE.format("group", "recognised", "free", "symmetric", "map free", "map", "RELION sym", "RELION", "seconds"))
    for name in given.groups:
        try:
            print(one_group(name, given.images, given.snr, given.seed, given.o.resolve() / name), flush=True)
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
