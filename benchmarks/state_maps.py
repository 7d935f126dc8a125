#!/usr/bin/env python
"""Maps of states by every way that there is, against the truth, in one table.

    python benchmarks/state_maps.py PROJECT [--zdim 4] [--states 4] [--neighbors N] [--threads 1]

PROJECT is a directory that ``cryodrgn-ext simulate`` wrote. It is trained on in PROJECT/out and validated in
PROJECT/maps, unless these are there. For each state, or the particle in its centre, there are maps

    consensus          of all particles
    hard cluster       of the state's own particles, in halves (validate)
    relion_reconstruct the same particles in RELION's hands
    decoder            the model's volume at the centre
    kernel             of images near places of latent space, between which volumes are interpolated (as import does)
    all particles      moved to the centre (validate --motion_corrected)
    true labels        of images near in the true coordinates, the kernel's width being the best for the truth

Each is held against the true structure that it resembles most where these differ. Printed are FSC areas (mean FSC over
shells to Nyquist, 1 is perfect) in a mask around all true structures, and in the region where they differ; means over
the states.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.agreement import fsc_area, moving_region
from cryodrgn_ext.analysis.latents import spread_places
from cryodrgn_ext.analysis.true_labels import TrueLabels
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.kernel_regression import regress_volumes
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.masks import threshold_mask
from cryodrgn_ext.fourier.point_groups import C1
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.simulate import load_truth
from cryodrgn_ext.workflow.corrected_maps import in_units_of_errors

RESULT, MAPS = Path("out"), Path("maps")
PLACES = 64
Volume = NDArray[np.float32]


def run_jobs(given: argparse.Namespace) -> None:
    """Train and validate in the project, unless that is done."""
    if not (RESULT / "states.npz").exists():
        train(TrainSettings(in_parts=Path("particles.star"), o=RESULT, zdim=given.zdim, states=given.states,
                            volumes=1, j=given.threads), Monitor())  # fmt: skip
    if not (MAPS / "job.yaml").exists():
        validate(ValidateSettings(in_parts=RESULT, o=MAPS, motion_corrected=True, random_subsets=12, j=given.threads),
                 Monitor())  # fmt: skip


def relion_map(particles: Path) -> Volume:
    """What relion_reconstruct makes of particles."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "map.mrc"
        subprocess.run(["relion_reconstruct", "--i", str(particles), "--o", str(out), "--ctf"], check=True,
                       capture_output=True)  # fmt: skip
        return read_map(out).data


def maps_of_states(given: argparse.Namespace) -> tuple[dict[str, list[Volume]], Volume, float]:
    """Maps of every kind, the true volumes, and the pixel size."""
    layout, checked = Layout(RESULT), Layout(MAPS)
    with np.load(layout.states_table) as table:
        centres, label = table["center_index"], table["label"]
    model, consensus, truth = (
        load_heterogeneity(layout.model),
        read_consensus(layout.consensus),
        load_truth("truth.npz"),
    )
    own = truth.state[centres].astype(np.int64)
    found: dict[str, list[Volume]] = {"consensus": [consensus.map] * len(centres)}
    numbers = range(len(centres))
    found["hard cluster"] = [read_map(checked.state(number) / "map.mrc").data for number in numbers]
    if shutil.which("relion_reconstruct"):
        found["relion_reconstruct"] = [relion_map(layout.state(number) / "particles.star") for number in numbers]
    found["decoder"] = list(model.volumes(model.z[centres]))
    with tempfile.TemporaryDirectory(dir=".") as store:
        settings = PreprocessSettings(box_size=model.box_size, data_sign="white")
        images = open_images(read_particles("particles.star"), Path(store) / "images", settings)
        z = in_units_of_errors(model.z, model.z_cov)
        near = regress_volumes(images, z, spread_places(z, PLACES, 0), given.neighbors, consensus.map, consensus.radius,
                               monitor=Monitor())  # fmt: skip
        found["kernel"] = list(near.volumes(z[centres]))
        found["all particles"] = [read_map(checked.state(n) / "all_particles" / "map.mrc").data for n in numbers]
        volumes = truth.volumes(model.box_size)
        labels = TrueLabels(images, truth.state.astype(np.int64), volumes, C1)
        by_width = [[labels.map_of(weight, "cpu") for weight in labels.kernels(int(one))] for one in own]
    region = moving_region(volumes)
    areas = [[area(one, volumes[state], region) for one in made] for made, state in zip(by_width, own, strict=True)]
    best = int(np.argmax(np.mean(areas, axis=0)))
    found["true labels"] = [made[best] for made in by_width]
    print("particles of the states:", np.bincount(label[label >= 0]).tolist(), "true states:", own.tolist())
    return found, volumes, consensus.pixel_size_A


def area(volume: Volume, truth: Volume, mask: Volume) -> float:
    """Mean FSC in a mask."""
    return fsc_area(fsc(*(torch.from_numpy(one).double() for one in (volume, truth, mask))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--zdim", type=int, default=4)
    parser.add_argument("--states", type=int, default=4)
    parser.add_argument("--neighbors", type=int, help="of a kernel map; by cross-validation if not given")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with contextlib.chdir(given.project):
        run_jobs(given)
        found, volumes, pixel_A = maps_of_states(given)
    whole, moving = threshold_mask(torch.from_numpy(volumes.max(axis=0)), pixel_A).numpy(), moving_region(volumes)
    print(f"{'map':<20} {'particle':>9} {'moving region':>14} {'worst state':>12}")
    for name, maps in found.items():
        each = []
        for one in maps:
            moves = [area(one, truth, moving) for truth in volumes]
            best = int(np.argmax(moves))
            each.append([area(one, volumes[best], whole), moves[best]])
        mean, worst = np.mean(each, axis=0), np.min(each, axis=0)
        print(f"{name:<20} {mean[0]:9.3f} {mean[1]:14.3f} {worst[1]:12.3f}")


if __name__ == "__main__":
    main()
