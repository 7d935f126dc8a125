#!/usr/bin/env python
"""Bounds that the data of simulated sets set, and an engine's figures as a share of it.

    python benchmarks/limit.py SET [SET ...] [--result RESULT] [--train [OPTION=VALUE ...]] [--box D] [--images 800]

SET is a directory that family.py wrote. Two limits are computed from the truth:

* latents: the posterior over the true states of single images, from exact projections of the true structures at the
  true pose, CTF, noise and scale, with frequencies up to each of several bands; R² and (for one coordinate) Spearman of
  the posterior mean with the truth. Also at the poses that the particles file gives, if those have errors.
* volumes: reconstruction of true states from the images weighted by a kernel of the true coordinate, of the best width
  for the set, filtered by its half-maps' FSC; FSC area with the true volume, whole and in the moving region.

``--train`` runs the train job in SET/result with its defaults (and the options given) before, ``--result`` compares a
result that is there: R² of the truth predicted from latents of 50 neighbours, per-image FSC area, and both as a share
of the limits, beside the consensus. Where states have fewer than 50 images, neighbours are of other states even where
latents are the truth itself: what R² is then (``r2_of_true_latents``) is the limit where it is the lower one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import SetParameters, load
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr
from simulated_family.bead_images import ParticleTruth, clean_spectra, profiles, shells
from simulated_family.specimens import FULL_TURNS, FloatArray, Specimen, truth_targets

from cryodrgn_ext.analysis.agreement import fsc_area, moving_region, predict_truth
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.dataset import PreprocessSettings, open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.stacks import ImageStacks
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.reconstruction.half_maps import combine_halves
from cryodrgn_ext.results.layout import Layout

WIDTHS = (0.0, 0.7, 1.5, 3.0, 6.0)  # of the kernel, in states
EVALUATED_STATES = 12
LARGEST_BOX = 128
PARTICLE_LEVEL = 0.02  # of the largest density


@dataclass(frozen=True)
class SimulatedSet:
    """A set on disk with its truth."""

    directory: Path
    parameters: SetParameters
    specimen: Specimen
    truth: ParticleTruth
    noise_deviation: float

    @classmethod
    def open(cls, directory: Path) -> SimulatedSet:
        """Read it."""
        return cls(directory, *load(directory))

    @property
    def targets(self) -> FloatArray:
        """(N, T) what latents should predict, see :func:`truth_targets`."""
        return truth_targets(self.specimen.kind, self.specimen.coordinates)[self.truth.state]

    @property
    def occupied(self) -> NDArray[np.int64]:
        """Up to twelve states with particles, spread evenly, for measures of volumes."""
        seen = np.unique(self.truth.state)
        found: NDArray[np.int64] = seen[np.linspace(0, len(seen) - 1, min(EVALUATED_STATES, len(seen))).astype(int)]
        return found

    def volume(self, state: int, box: int) -> NDArray[np.float32]:
        """True density (D, D, D) of a state in a box of the same extent."""
        pixel = self.parameters.pixel_size_A * self.parameters.box_size / box
        place = self.specimen.position_A[state] / pixel
        x, y, z = (profiles(place[:, i], self.specimen.sigma_A / pixel, box) for i in range(3))
        plane = (y[:, :, None] * x[:, None] * self.specimen.weight[state][:, None, None]).reshape(len(x), -1)
        return np.asarray((z.T @ plane).reshape(box, box, box), np.float32)


def explained(predicted: FloatArray, target: FloatArray) -> float:
    """Share R² of the variance of targets (n, T), all columns together, that a prediction explains."""
    return float(1 - np.square(predicted - target).sum() / np.square(target - target.mean(0)).sum())


def exact_likelihoods(
    given: SimulatedSet, rows: NDArray[np.int64], rotation: FloatArray | None = None
) -> Iterator[NDArray[np.float64]]:
    """Log likelihoods (S, D // 2) of each image under every true state, with frequencies up to shells 1 .. D // 2."""
    p, truth = given.parameters, given.truth
    truth = truth if rotation is None else replace(truth, rotation=rotation)
    shell = shells(p.box_size).ravel()
    mirrored = np.full(p.box_size // 2 + 1, 2.0)
    mirrored[[0, -1]] = 1.0
    power = p.box_size**2 * truth.noise_power[shell]
    weight = (np.broadcast_to(mirrored, (p.box_size, len(mirrored))).ravel() / power).astype(np.float32)
    order = np.argsort(shell, kind="stable")
    begin = np.searchsorted(shell[order], np.arange(1, p.box_size // 2 + 1))
    stacks = ImageStacks([given.directory / "Particles" / "particles.mrcs"])
    states = np.arange(len(given.specimen.occupancy))
    for row in rows:
        image = np.fft.rfft2(stacks.read(np.zeros(1, np.int64), np.array([row]), p.box_size)[0])
        scale = truth.scale[row] / given.noise_deviation
        model = clean_spectra(given.specimen, truth, np.full(len(states), row), p.box_size, p.pixel_size_A, states)
        model = model.reshape(len(states), -1) * scale
        terms = weight * ((image.ravel().conj() * model).real - 0.5 * np.square(np.abs(model)))
        yield np.add.reduceat(terms[:, order], begin, axis=1).cumsum(1)


def latent_limit(given: SimulatedSet, n_images: int, rotation: FloatArray | None = None) -> dict[str, Any]:
    """R² (and Spearman) of exact inference by band, in Å."""
    n = given.parameters.images
    rows = np.unique(np.linspace(0, n - 1, min(n_images, n)).astype(np.int64))
    prior = np.log(np.maximum(given.specimen.occupancy, 1e-12))
    every = truth_targets(given.specimen.kind, given.specimen.coordinates)
    predicted = []
    for values in exact_likelihoods(given, rows, rotation):
        logits = values + prior[:, None]
        share = np.exp(logits - logits.max(0))
        predicted.append((share / share.sum(0)).T @ every)
    by_band = np.stack(predicted, axis=1)  # shells, images, targets
    edge = given.parameters.box_size * given.parameters.pixel_size_A / np.arange(1, len(by_band) + 1)
    target = given.targets[rows]
    shown = np.unique(np.geomspace(4, len(by_band), 6).astype(int)) - 1
    out: dict[str, Any] = {
        "r2": explained(by_band[-1], target),
        "by_band": {f"{edge[i]:.1f}": round(explained(by_band[i], target), 4) for i in shown},
    }
    if target.shape[1] == 1:
        out["spearman"] = float(spearmanr(by_band[-1][:, 0], target[:, 0])[0])
    return out


def _state_sums(given: SimulatedSet, box: int) -> tuple[dict[tuple[int, int], BackprojectionSums], float]:
    """Backprojections of each state's images by half-set, with poses as given, and the pixel size."""
    particles = read_particles(given.directory / "particles.star")
    with tempfile.TemporaryDirectory(dir=given.directory) as store:
        images = open_images(particles, store, PreprocessSettings(box_size=box, data_sign="white"))
        state, half = torch.from_numpy(given.truth.state), images.half_set
        grid = FourierGrid(images.box_size, images.plane.radius, 1)
        sums = {
            (int(s), h): backproject(images, ((state == s) & (half == h)).nonzero()[:, 0], grid=grid)
            for s in np.unique(given.truth.state)
            for h in (1, 2)
        }
        return sums, images.pixel_size_A


def _kernel(given: SimulatedSet, state: int, width: float) -> FloatArray:
    """Weight of the images of every state in the reconstruction of one."""
    coordinates, names = given.specimen.coordinates, given.specimen.names
    if names == ("state",) or width == 0:
        return (np.arange(len(coordinates)) == state).astype(float) if width == 0 else np.ones(len(coordinates))
    offset = coordinates - coordinates[state]
    step = np.array([np.diff(np.unique(column)).mean() for column in coordinates.T])
    if given.specimen.kind in FULL_TURNS:
        offset = (offset + 180) % 360 - 180
    return np.asarray(np.exp(-0.5 * np.square(offset / step / width).sum(1)))


def _particle_mask(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft mask of a true density: what an engine finds out, reconstruction with true labels is given."""
    distance = ndimage.distance_transform_edt(volume < PARTICLE_LEVEL * volume.max())
    edge = 0.5 * (1 + np.cos(np.pi * np.clip((distance - 1) / 3, 0, 1)))
    return np.asarray(edge, np.float32)


def _weighted(sums: dict[tuple[int, int], BackprojectionSums], weight: FloatArray, half: int) -> BackprojectionSums:
    terms = [
        replace(s, numerator=weight[k] * s.numerator, weight=weight[k] * s.weight)
        for (k, h), s in sums.items() if h == half and weight[k] > 1e-3
    ]  # fmt: skip
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@dataclass(frozen=True)
class VolumeScores:
    """FSC areas of volumes of the evaluated states with their truths, means weighted by nothing."""

    whole: float
    moving: float


def score_volumes(given: SimulatedSet, volumes: dict[int, NDArray[np.float32]], box: int) -> VolumeScores:
    """Measure one volume for each of some states."""
    region = torch.from_numpy(moving_region(np.stack([given.volume(int(s), box) for s in given.occupied])))
    areas = []
    for state, volume in volumes.items():
        pair = torch.from_numpy(volume), torch.from_numpy(given.volume(state, box))
        areas.append([fsc_area(fsc(*pair, mask)) for mask in (None, region)])
    whole, moving = np.mean(areas, axis=0)
    return VolumeScores(float(whole), float(moving))


def volume_limit(given: SimulatedSet, box: int) -> dict[str, Any]:
    """FSC areas that reconstruction with true labels reaches, with the kernel width that is best for the set."""
    sums, pixel = _state_sums(given, box)
    best: dict[str, Any] = {"moving": -1.0}
    for width in WIDTHS:
        volumes = {}
        for state in given.occupied.tolist():
            weight = _kernel(given, state, width)
            halves = [_weighted(sums, weight, half) for half in (1, 2)]
            mask = _particle_mask(given.volume(state, box))
            volumes[state] = combine_halves(halves[0], halves[1], pixel, torch.from_numpy(mask)).map * mask
        scores = score_volumes(given, volumes, box)
        if scores.moving > best["moving"]:
            best = {"whole": scores.whole, "moving": scores.moving, "width_states": width}
    return best


def compare(given: SimulatedSet, result: Path, box: int) -> dict[str, float]:
    """Figures of a train job's result."""
    layout = Layout(result)
    model = load_heterogeneity(layout.model)
    if model.box_size != box:
        raise SystemExit(f"{result} works in a box of {model.box_size}, the limit in {box}: give --box")
    target = given.targets
    columns = [predict_truth(model.z, target[:, j]).predicted for j in range(target.shape[1])]
    perfect = [predict_truth(target, target[:, j]).predicted for j in range(target.shape[1])]
    out = {"r2": explained(np.stack(columns, 1), target), "r2_of_true_latents": explained(np.stack(perfect, 1), target)}
    if target.shape[1] == 1:
        out["spearman"] = float(spearmanr(columns[0], target[:, 0])[0])
    states = given.occupied
    rng = np.random.default_rng(0)
    chosen = {int(s): rng.choice(np.flatnonzero(given.truth.state == s), 4) for s in states}
    parts = []
    for i in range(4):  # the volumes of four images of each state
        rows = [chosen[int(s)][i] for s in states]
        volumes = dict(zip(states.tolist(), model.volumes(model.z[rows]), strict=True))
        parts.append(score_volumes(given, volumes, box))
    consensus = read_map(layout.consensus / "map.mrc").data
    average = score_volumes(given, dict.fromkeys(states.tolist(), consensus), box)
    return out | {
        "whole": float(np.mean([p.whole for p in parts])), "moving": float(np.mean([p.moving for p in parts])),
        "consensus_whole": average.whole, "consensus_moving": average.moving,
    }  # fmt: skip


def limits(given: SimulatedSet, n_images: int, box: int) -> dict[str, Any]:
    """Both limits of a set, kept in limit.json beside it."""
    kept = given.directory / f"limit_{n_images}_{box}.json"
    if not kept.exists():
        found = {"latents": latent_limit(given, n_images), "volumes": volume_limit(given, box)}
        if given.parameters.pose_error_deg > 0:
            rotation = read_particles(given.directory / "particles.star").rotation.astype(float)
            found["latents_at_given_poses"] = latent_limit(given, n_images, rotation)
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    limit: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return limit


def _options(words: list[str]) -> dict[str, Any]:
    pairs = (word.split("=", 1) for word in words)
    return {name: json.loads(value) if value[0] in "-0123456789tf" else value for name, value in pairs}


def main() -> None:
    """Print a table of limits and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--result", default="result", help="directory of the result within each set")
    parser.add_argument("--train", nargs="*", metavar="OPTION=VALUE")
    parser.add_argument("--box", type=int, help="working box; by default the images' own, 128 at most")
    parser.add_argument("--images", type=int, default=800, help="of exact inference")
    asked = parser.parse_args()
    for directory in asked.sets:
        given = SimulatedSet.open(directory)
        box = asked.box or min(given.parameters.box_size, LARGEST_BOX)
        line: dict[str, Any] = {"set": directory.name, "kind": given.parameters.kind}
        line["limit"] = limits(given, asked.images, box)
        result = directory / asked.result
        if asked.train is not None and not (result / "model").exists():
            settings = TrainSettings(in_parts=directory / "particles.star", o=result, box=box, **_options(asked.train))
            begin = time.monotonic()
            train(settings, Monitor())
            line["seconds"] = round(time.monotonic() - begin, 1)
        if (result / "model").exists():
            ours = compare(given, result, box)
            top = line["limit"]["volumes"]
            line["ours"] = ours
            line["share"] = {"r2": ours["r2"] / min(line["limit"]["latents"]["r2"], ours["r2_of_true_latents"])}
            line["share"] |= {name: ours[name] / top[name] for name in ("whole", "moving")}
        print(json.dumps(line, indent=1, default=float), flush=True)


if __name__ == "__main__":
    main()
