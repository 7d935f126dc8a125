"""Our runs on the files that the peer gets too: each engine by the command that a user would type."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from comparison.peer import Network
from comparison.quality import LATENT_FIGURES, Judge
from comparison.runner import Machine, Measured, fresh_directory, read_record
from comparison.sets import Project
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.results.layout import Layout

PROGRAM = [sys.executable, "-m", "cryodrgn_ext"]
LATENTS_KNOWN = "agree between the half-sets"  # what the subspace engine says when latents are settled
SEED = "0"


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes
    ----------
    name : str
    options : tuple of str
        Of ``cryodrgn-ext train``.
    milestones : tuple of int
        Numbers of epochs after which latents are looked at; the job continues from one to the next. Empty: the
        recipe's own number.
    """

    name: str
    options: tuple[str, ...]
    milestones: tuple[int, ...] = ()


def recipes(network: Network) -> dict[str, Recipe]:
    """All recipes by name."""
    size = (str(network.width), str(network.layers))
    half = max(1, network.epochs // 2)
    preset = (
        "--engine", "neural", "--preset", "cryodrgn", "--batch", str(network.batch), "--enc_dim", size[0],
        "--enc_layers", size[1], "--dec_dim", size[0], "--dec_layers", size[1],
    )  # fmt: skip
    every = (
        Recipe("auto", ("--engine", "auto")),
        Recipe("neural", ("--engine", "neural")),
        Recipe("preset", preset, tuple(sorted({half, network.epochs}))),
    )
    return {recipe.name: recipe for recipe in every}


def warm_up(project: Project, directory: Path, names: Sequence[str], machine: Machine) -> float:
    """Train on a small set once, so that no later time holds the compilation that follows an installation."""
    seconds = 0.0
    for engine in sorted({"auto" if name == "auto" else "neural" for name in names}):
        out = directory / engine
        command = [*PROGRAM, "train", "--in_parts", "particles.star", "--o", str(out), "--engine", engine]
        command += ["--states", "2", "--volumes", "2", *(("--epochs", "2") if engine == "neural" else ())]
        product = out / "latents.npz"
        if not product.exists():
            fresh_directory(out)
        done = machine.run(command, directory, f"warm-up {engine}", cwd=project.directory, product=product)
        seconds += done.seconds
    return round(seconds, 1)


def run(
    recipe: Recipe, project: Project, directory: Path, network: Network, judge: Judge, machine: Machine
) -> dict[str, Any]:
    """Train by one recipe, decode the judge's volumes, and return the figures.

    Time runs from the start of the program to the moment at which the latents are on disk; the job goes on to cut the
    particles into states and to reconstruct these, which ``seconds_in_all`` holds.
    """
    out = directory / "train"
    layout = Layout(out)
    steps: list[dict[str, Any]] = []
    peak = begun = 0.0
    for epochs in recipe.milestones or (None,):
        name = "train" if epochs is None else f"train to epoch {epochs}"
        command = [*PROGRAM, "train", "--in_parts", project.particles_star.name, "--o", str(out)]
        command += ["--zdim", str(network.zdim), "--seed", SEED, *recipe.options]
        command += [] if epochs is None else ["--epochs", str(epochs)]
        kept = directory / f"{name}.npz"
        known = (read_record(directory / f"{name}.json") or {}).get("command") == command and kept.exists()
        if not known and not steps:
            fresh_directory(out)
        measured = machine.run(
            command, directory, name, cwd=project.directory, product=kept if known else layout.latents
        )
        if not known:
            with open(kept, "wb") as handle:
                found = _times(measured, layout)
                np.savez(
                    handle, z=load_heterogeneity(layout.model).z, latents=found["latents"], settled=found["settled"],
                    training=found["training"], model=found["model"],
                )  # fmt: skip
        with np.load(kept, allow_pickle=False) as data:
            z, times = data["z"], {key: float(data[key]) for key in ("latents", "settled", "training", "model")}
        steps.append({
            "epoch": epochs, "seconds": round(begun + times["latents"], 2),
            "seconds_to_model": round(begun + times["model"], 2),
            "training_seconds": round(times["training"], 2),
            "seconds_to_settled_latents": None if np.isnan(times["settled"]) else round(begun + times["settled"], 2),
            **judge.latents(z, thorough=epochs in (None, network.epochs)),
        })  # fmt: skip
        begun += times["model"]
        peak = max(peak, measured.peak_memory_MB)
    model = load_heterogeneity(layout.model)
    history = {key: [float(value) for value in values] for key, values in model.loss_history.items()}
    # A pass of the subspace engine sees a band, and a part of very many images: it is not an epoch.
    passes = 0 if recipe.name == "auto" else len(history["total"])
    training = sum(step["training_seconds"] for step in steps)
    volumes, decoding = _decode(project, directory, np.asarray(model.z[judge.rows]), out, machine)
    return {
        "seconds_to_latents": steps[-1]["seconds"],
        "seconds_to_settled_latents": steps[-1]["seconds_to_settled_latents"],
        "seconds_to_volumes": round(steps[-1]["seconds_to_model"] + decoding, 2),
        "seconds_of_volumes": round(decoding, 2),
        "images_per_s_and_pass": round(len(model.z) * passes / training, 1) if passes else None,
        "seconds_in_all": measured.seconds,
        "cpu_seconds": measured.cpu_seconds,
        "peak_memory_MB": peak,
        "load_average": round(measured.load_average, 1),
        "epochs": steps,
        "loss_history": history,
        **{key: steps[-1][key] for key in LATENT_FIGURES},
        **judge.volumes(volumes),
    }


def _times(measured: Measured, layout: Layout) -> dict[str, float]:
    """Seconds until latents and the model were on disk, until latents were settled (nan: not said); of training."""
    settled = [seconds for seconds, text in measured.lines if LATENTS_KNOWN in text]
    record = yaml.safe_load((layout.root / "job.yaml").read_text(encoding="utf-8"))
    return {
        "latents": measured.seconds_until(layout.latents),
        "model": measured.seconds_until(layout.model),
        "settled": settled[0] if settled else np.nan,
        "training": float(record["results"]["seconds"]["training"]),
    }


def _decode(
    project: Project, directory: Path, z: np.ndarray, result: Path, machine: Machine
) -> tuple[Sequence[Path], float]:
    """Volumes at latents (P, q) by our own command; paths, and seconds."""
    out, latents = directory / "volumes", directory / "z.npy"
    np.save(latents, z)
    last = out / f"vol_{len(z) - 1:03d}.mrc"
    if last.exists() and last.stat().st_mtime < (result / "latents.npz").stat().st_mtime:
        fresh_directory(out)  # of another training
    command = [*PROGRAM, "volumes", str(result), "--z", str(latents), "--o", str(out)]
    done = machine.run(command, directory, "volumes", cwd=project.directory, product=last)
    return [out / f"vol_{number:03d}.mrc" for number in range(len(z))], done.seconds
