"""The public peer, cryodrgn: its environment, its training, and what it leaves behind.

It lives in a virtual environment of its own and is only ever run as a program. Its latents are pickles, which are
read by a reader that knows arrays and nothing else.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from comparison.quality import LATENT_FIGURES, Judge
from comparison.runner import BenchmarkError, Machine, fresh_directory, read_record
from comparison.sets import Project
from cryodrgn_ext.metadata.cryodrgn_pickle import read_latents

VERSION = "4.3.1"
NAME = "cryodrgn"
_EPOCH = re.compile(r"Epoch: (\d+) Average gen loss = (\S+), KLD = (\S+), total loss = (\S+); Finished in (\S+)")


@dataclass(frozen=True)
class Network:
    """Architecture and training, the same for the peer and for our preset of its recipe."""

    epochs: int
    batch: int = 8
    width: int = 256
    layers: int = 3
    zdim: int = 8


def find_or_install(given: Path | None, folder: Path, pip_options: str) -> Path:
    """Return the Python that has the peer: the one that was given, or that of an environment made in ``folder``.

    It gets the same version of torch as this program, from wherever the user's pip finds it.

    Raises
    ------
    BenchmarkError
        When it cannot be installed, or the one that was given does not have it.
    """
    python = folder / "bin" / "python" if given is None else given
    found = _version(python)
    if given is None and found != VERSION:
        print(f"Installing {NAME} {VERSION} into {folder} (some minutes)", flush=True)
        torch_version = torch.__version__.partition("+")[0]
        install = [str(python), "-m", "pip", "install", *shlex.split(pip_options)]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [*install, f"torch=={torch_version}", f"{NAME}=={VERSION}"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BenchmarkError(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout)[-2000:]}")
        found = _version(python)
    if found is None:
        raise BenchmarkError(f"{python} cannot import {NAME}: give a Python that has it, or leave --peer-python out")
    if found != VERSION:
        print(f"Note: {python} has {NAME} {found}; figures in the documentation are of {VERSION}", flush=True)
    return python


def _version(python: Path) -> str | None:
    if not python.exists():
        return None
    code = f"from importlib.metadata import version; import {NAME}; print(version('{NAME}'))"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def run(
    python: Path, project: Project, directory: Path, network: Network, judge: Judge, machine: Machine
) -> dict[str, Any]:
    """Train the peer, decode the judge's volumes with it, and return the figures.

    The time of an epoch's latents is the moment at which the peer has written them, its start and its reading of the
    images included. Weights of the same epoch are written just before.
    """
    out = directory / "train"
    last = out / f"z.{network.epochs}.pkl"
    program = [str(python), "-I", "-c", f"from {NAME}.command_line import main_commands; main_commands()"]
    size = [str(network.width), str(network.layers)]
    command = [
        *program, "train_vae", str(project.stack), "--poses", str(project.poses), "--ctf", str(project.ctf),
        "--zdim", str(network.zdim), "-n", str(network.epochs), "-b", str(network.batch),
        "--enc-dim", size[0], "--enc-layers", size[1], "--dec-dim", size[0], "--dec-layers", size[1],
        "--no-analysis", "--seed", "0", "-o", str(out),
    ]  # fmt: skip
    if (read_record(directory / "train.json") or {}).get("command") != command or not last.exists():
        fresh_directory(out)
    training = machine.run(command, directory, "train", cwd=project.directory, product=last, own_packages=False)
    epochs: list[dict[str, Any]] = []
    for line in (text for _, text in training.lines):
        match = _EPOCH.search(line)
        if match:
            number = int(match[1])
            z = read_latents(out / f"z.{number}.pkl").mean
            epochs.append({
                "epoch": number, "seconds": round(training.seconds_until(out / f"z.{number}.pkl"), 2),
                "reconstruction_loss": float(match[2]), "kl": float(match[3]), "total_loss": float(match[4]),
                "pass_seconds": round(_clock(match[5]), 2), **judge.latents(z, thorough=number == network.epochs),
            })  # fmt: skip
    if len(epochs) != network.epochs:
        raise BenchmarkError(f"{directory / 'train.txt'} tells of {len(epochs)} epochs, expected {network.epochs}")
    z = read_latents(last).mean
    volumes, seconds = _decode(program, project, directory, z[judge.rows], network.epochs, machine)
    passes = sum(epoch["pass_seconds"] for epoch in epochs)
    return {
        "seconds_to_latents": epochs[-1]["seconds"],
        "seconds_to_volumes": round(epochs[-1]["seconds"] + seconds, 2),
        "seconds_of_volumes": round(seconds, 2),
        "images_per_s_and_pass": round(len(z) * network.epochs / passes, 1),
        "seconds_in_all": training.seconds,
        "cpu_seconds": training.cpu_seconds,
        "peak_memory_MB": training.peak_memory_MB,
        "load_average": round(training.load_average, 1),
        "epochs": epochs,
        **{name: epochs[-1][name] for name in LATENT_FIGURES},
        **judge.volumes(volumes),
    }


def _decode(
    program: list[str], project: Project, directory: Path, z: NDArray[np.floating], epoch: int, machine: Machine
) -> tuple[Sequence[Path], float]:
    """Volumes at latents (P, q) by the peer's own command; paths, and seconds."""
    out, latents = directory / "volumes", directory / "z.txt"
    np.savetxt(latents, z)
    last = out / f"vol_{len(z) - 1:03d}.mrc"
    train = directory / "train"
    command = [
        *program, "eval_vol", str(train / f"weights.{epoch}.pkl"), "-c", str(train / "config.yaml"),
        "--zfile", str(latents), "--Apix", str(project.kind.pixel_size_A), "--vol-start-index", "0", "-o", str(out),
    ]  # fmt: skip
    if last.exists() and last.stat().st_mtime < (train / f"z.{epoch}.pkl").stat().st_mtime:
        fresh_directory(out)  # of another training
    done = machine.run(command, directory, "volumes", cwd=project.directory, product=last, own_packages=False)
    return [out / f"vol_{number:03d}.mrc" for number in range(len(z))], done.seconds


def _clock(text: str) -> float:
    """Seconds of h:mm:ss.ffffff."""
    hours, minutes, seconds = text.split(":")
    return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
