#!/usr/bin/env python
"""Heterogeneity that the engines learn of a simulated set with known truth, and how fast, for several recipes.

    python benchmarks/engine_quality.py [--directory DIR] [--images 5000] [--published-epochs 5] [--seed S]
                                        [--runs NAME ...]

Simulates the demo's RELION project (or uses the one that DIR holds) and trains on it from the files with each recipe:

    subspace         the default engine
    handed-over      the neural engine's own recipe, begun from the result of ``subspace`` (run both)
    fast             the neural engine's own recipe, which begins with the subspace engine by itself
    separable        the fast network alone, residual to the consensus, latents in closed form
    published        --preset cryodrgn with 256 x 3 networks and 8 latent dimensions
    vae              image encoder and decoder, residual to the consensus, growing band, latents refined at the end
    table            the same with a table of latents
    homogeneous      no latent, residual to the consensus
    homogeneous-published   no latent, --preset cryodrgn with a 256 x 3 network

and prints one table: seconds of the training stage, images per second and pass, Spearman and R² of the true angle
predicted from the latents of 50 neighbours (5-fold cross-validated), the area under the FSC of 50 images' own volumes
with their true volumes (whole box, moving region), and for homogeneous runs the FSC area with the true average.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from cryodrgn_ext.analysis.agreement import fsc_area
from cryodrgn_ext.analysis.truth import agreement_with_truth
from cryodrgn_ext.engines.base import get_engine, load_heterogeneity
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.simulate import GroundTruth, load_truth, simulate_particles, write_relion_project
from cryodrgn_ext.workflow.training.train_engine import preprocessing
from cryodrgn_ext.workflow.training.train_inputs import read_inputs


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    name: str
    options: dict[str, Any]
    start: str | None = None  # run whose result the network begins from


def runs(published_epochs: int) -> dict[str, Run]:
    """All recipes by name."""
    network = {"enc_dim": 256, "dec_dim": 256, "enc_layers": 3, "dec_layers": 3, "epochs": published_epochs}
    every = (
        Run("subspace", {"engine": "subspace"}),
        Run("handed-over", {"engine": "neural"}, start="subspace"),
        Run("fast", {"engine": "neural"}),
        Run("separable", {"engine": "neural", "architecture": "separable"}),
        Run("published", {"engine": "neural", "preset": "cryodrgn", **network}),
        Run("vae", {"engine": "neural", "architecture": "vae", "latent_steps": 2, "epochs": 5}),
        Run("table", {"engine": "neural", "architecture": "vae", "latents": "table", "latent_steps": 2, "epochs": 5}),
        Run("homogeneous", {"engine": "neural", "zdim": 0, "dec_dim": 128, "epochs": 3}),
        Run("homogeneous-published", {"engine": "neural", "preset": "cryodrgn", "zdim": 0, **network}),
    )
    return {run.name: run for run in every}


def train_from(start: Layout, layout: Layout, settings: TrainSettings) -> float:
    """Train the network from another run's result, into ``layout``'s model; return the seconds."""
    inputs = read_inputs(settings)
    store = start.checkpoint / "images"
    images = open_images(inputs.particles, store, preprocessing(settings, inputs), Monitor(), rebuild=True)
    consensus, first = read_consensus(start.consensus), load_heterogeneity(start.model)
    begin = time.monotonic()
    engine = get_engine("neural")
    result = engine.train(
        images, consensus.map, replace(engine.options_of(settings), zdim=first.z.shape[1]),
        EngineContext.of(settings, None, Monitor()), consensus_radius=consensus.radius, start=first,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    layout.model.mkdir(parents=True, exist_ok=True)
    result.save(layout.model)
    shutil.copytree(start.consensus, layout.consensus, dirs_exist_ok=True)
    return seconds


def homogeneous_figures(layout: Layout, truth: GroundTruth) -> dict[str, float]:
    """FSC area of the learned structure, and of the consensus, with the average of the true volumes."""
    model = load_heterogeneity(layout.model)
    (volume,) = model.volumes(np.zeros((1, 0), np.float32))
    occupancy = np.bincount(truth.state, minlength=truth.n_states) / len(truth.state)
    average = torch.from_numpy(np.tensordot(occupancy, truth.volumes(model.box_size), 1).astype(np.float32))
    consensus = read_map(layout.consensus / "map.mrc").data
    mask = torch.from_numpy(read_map(layout.consensus / "mask.mrc").data)
    return {
        "learned": round(fsc_area(fsc(torch.from_numpy(volume), average)), 4),
        "learned, masked": round(fsc_area(fsc(torch.from_numpy(volume), average, mask)), 4),
        "consensus": round(fsc_area(fsc(torch.from_numpy(consensus), average)), 4),
        "consensus, masked": round(fsc_area(fsc(torch.from_numpy(consensus), average, mask)), 4),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("engine_quality"))
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--published-epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--runs", nargs="*", default=None)
    given = parser.parse_args()
    directory: Path = given.directory
    if not (directory / "particles.star").exists():
        particles = simulate_particles(given.images, box_size=64, pixel_size_A=4.0, snr=0.1, seed=0)
        write_relion_project(directory, particles)
    truth = load_truth(directory / "truth.npz")
    os.chdir(directory)
    table = {}
    for run in runs(given.published_epochs).values():
        if given.runs and run.name not in given.runs:
            continue
        layout = Layout(Path("External") / f"{run.name}{given.seed or ''}")
        common = {"in_parts": Path("particles.star"), "o": layout.root, "seed": given.seed}
        settings = TrainSettings(**common, **run.options)
        if run.start is not None:
            seconds = train_from(Layout(Path("External") / f"{run.start}{given.seed or ''}"), layout, settings)
        else:
            train(settings, Monitor())
            record = yaml.safe_load((layout.root / "job.yaml").read_text(encoding="utf-8"))
            seconds = record["results"]["seconds"]["training"]
        model = load_heterogeneity(layout.model)
        passes = len(model.loss_history["total"])
        if model.z.shape[1]:
            figures = agreement_with_truth(model, read_map(layout.consensus / "map.mrc").data, truth)
        else:
            figures = homogeneous_figures(layout, truth)
        table[run.name] = {
            "seconds": round(seconds, 1),
            "images_per_s_and_pass": round(len(model.z) * passes / seconds, 1),
            "passes": passes,
            **figures,
        }
        print(json.dumps({run.name: table[run.name]}, indent=1), flush=True)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
