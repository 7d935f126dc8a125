"""The job that compares a result with a known truth, by the measures of CryoBench and some more."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cryodrgn_ext.analysis.agreement import evaluation_particles, predict_truth
from cryodrgn_ext.analysis.cryobench import fsc_auc, information_imbalance, neighbourhood_similarity, perfect_auc
from cryodrgn_ext.analysis.exact_inference import images_for_inference, state_posterior
from cryodrgn_ext.analysis.populations import adjusted_rand, population_error
from cryodrgn_ext.analysis.true_labels import TrueLabels
from cryodrgn_ext.durable_files import atomic_write_text, keep_existing
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.options.benchmark import BenchmarkSettings
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.simulate import load_truth
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.validation_inputs import preprocessing_as_learned

Figures = dict[str, float]
CEILING = "ceiling_"
#: States whose maps are made with the true labels: evenly over those of the images whose volumes are compared.
CEILING_STATES = 20


@dataclass(frozen=True)
class Truth:
    """Known truth of N particles: state (N,), coordinates (N, L), and where to get the map of a state."""

    state: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    maps: NDArray[np.float32] | None


def benchmark(settings: BenchmarkSettings, monitor: Monitor) -> JobResult:
    """Print (and write) how well latents, volumes, states and poses of a result agree with the truth.

    Parameters
    ----------
    settings : BenchmarkSettings
    monitor : Monitor

    Raises
    ------
    InputError
        When there is no finished result or no truth, or they do not fit together.
    """
    result = read_learned_result(settings.in_result, settings.project)
    z = result.require_latents().z
    model = load_heterogeneity(Layout(result.directory).model)
    truth = _read_truth(settings, result.particles.n, model.box_size)
    figures = latent_figures(z, truth)
    rows = evaluation_particles(truth.state, settings.images)
    areas = np.empty(0)
    if truth.maps is not None:
        shown = monitor.track(model.volumes(z[rows]), "Volumes of images", len(rows))
        areas = np.array(
            [fsc_auc(volume, truth.maps[truth.state[row]]) for row, volume in zip(rows, shown, strict=True)]
        )
        figures |= area_figures(areas, truth.state[rows], model.box_size)
    if result.states is not None:
        used = result.states.label >= 0
        figures["adjusted_rand_index"] = adjusted_rand(result.states.label[used], truth.state[used])
        figures["population_error"] = population_error(result.states.label[used], truth.state[used])
    if settings.true_poses is not None:
        figures |= _pose_figures(result, settings.true_poses)
    if truth.maps is not None and settings.ceiling:
        figures |= _ceiling(result, truth, rows, areas, monitor)
    figures = {name: round(float(value), 5) for name, value in figures.items()}
    for line in as_table(figures):
        monitor.message(line)
    if settings.o is not None:
        for sentence in keep_existing([settings.o], settings.overwrite):
            monitor.message(f"Note: {sentence}")
        atomic_write_text(settings.o, yaml.safe_dump(figures, sort_keys=False))
    return JobResult(Path() if settings.o is None else settings.o.parent, ())


def as_table(figures: Figures) -> list[str]:
    """Lines of the figures, each beside its ceiling where there is one."""
    lines = [f"{'':<40} {'this result':<12}" + (" ceiling" if any(one.startswith(CEILING) for one in figures) else "")]
    for name, value in figures.items():
        if not name.startswith(CEILING):
            ceiling = figures.get(CEILING + name)
            lines.append(f"{name:<40} {value:<12.5g}" + ("" if ceiling is None else f" {ceiling:.5g}"))
    return lines


def _ceiling(
    result: LearnedResult, truth: Truth, rows: NDArray[np.int64], areas: NDArray[np.float64], monitor: Monitor
) -> Figures:
    """What the true maps and labels reach on the same images at the same poses; ``areas`` (R,) are ours of ``rows``."""
    assert truth.maps is not None
    record = require_record(result.directory, result.job)
    try:
        check_images(result.particles)
    except InputError as error:
        raise InputError(f"{error} (Give --ceiling no for the figures that need no images.)") from None
    with tempfile.TemporaryDirectory() as store:
        preprocessing = preprocessing_as_learned(record, truth.maps.shape[1])
        images = open_images(result.particles, Path(store) / "images", preprocessing, monitor)
        found = latent_ceiling(images, truth, monitor)
        if result.states is None or len(result.states.center_index) < len(truth.maps):
            del found["adjusted_rand_index"]  # that of fewer states is another question
        own = truth.state[rows]
        states = np.unique(own)
        states = states[np.linspace(0, len(states) - 1, min(len(states), CEILING_STATES)).astype(int)]
        labels = TrueLabels(images, truth.state, truth.maps, point_group(record["settings"].get("symmetry", "C1")))
        best = labels.areas(states.tolist(), choose_device("auto"), monitor)
    of_row = {state: area for state, area in zip(states.tolist(), best, strict=True)}
    both = np.array([(area, of_row[state]) for area, state in zip(areas, own.tolist(), strict=True) if state in of_row])
    found["per_image_fsc_auc"] = float(both[:, 1].mean())
    found["per_conformation_fsc_auc"], found["worst_conformation_fsc_auc"] = float(best.mean()), float(best.min())
    share = float(both[:, 0].mean() / both[:, 1].mean())
    return {CEILING + name: value for name, value in found.items()} | {"per_image_fsc_auc_of_ceiling": share}


def latent_ceiling(images: ParticleImages, truth: Truth, monitor: Monitor) -> Figures:
    """What exact inference with the true maps tells of the truth of a sample of the images; see :func:`latent_figures`.

    Of coordinates the posterior mean, of states the likeliest one.
    """
    assert truth.maps is not None
    rows = images_for_inference(truth.state, len(truth.maps))
    posterior = state_posterior(images, rows, truth.state, truth.maps, monitor)
    size = np.maximum(np.bincount(truth.state, minlength=len(truth.maps)), 1)[:, None]
    of_state = np.stack([np.bincount(truth.state, column, len(truth.maps)) for column in truth.coordinates.T], 1) / size
    known, told = truth.coordinates[rows], posterior @ of_state
    first = np.ptp(told[:, 0]) > 0
    return {
        "neighbourhood_similarity_percent": neighbourhood_similarity(told, known),
        "spearman_of_50_neighbours": float(spearmanr(told[:, 0], known[:, 0])[0]) if first else 0.0,
        "r2_of_50_neighbours": float(1 - ((told[:, 0] - known[:, 0]) ** 2).sum() / max(known[:, 0].var(), 1e-300)
                                     / len(rows)),
        "adjusted_rand_index": adjusted_rand(posterior.argmax(axis=1), truth.state[rows]),
    }  # fmt: skip


def latent_figures(z: NDArray[np.floating], truth: Truth) -> Figures:
    """How well latents tell the truth: CryoBench's two measures, and the first coordinate from 50 neighbours."""
    forth, back = information_imbalance(z, truth.coordinates)
    prediction = predict_truth(z, truth.coordinates[:, 0])
    return {
        "neighbourhood_similarity_percent": neighbourhood_similarity(z, truth.coordinates),
        "information_imbalance_latents_to_truth": forth, "information_imbalance_truth_to_latents": back,
        "spearman_of_50_neighbours": prediction.spearman, "r2_of_50_neighbours": prediction.r2,
    }  # fmt: skip


def area_figures(areas: NDArray[np.float64], states: NDArray[np.integer], box: int) -> Figures:
    """CryoBench's per-image FSC: mean over images, over conformations, the worst of these, and scaled to 1."""
    each = [float(areas[states == state].mean()) for state in np.unique(states)]
    return {
        "per_image_fsc_auc": float(areas.mean()), "per_image_fsc_auc_sd": float(areas.std()),
        "per_conformation_fsc_auc": float(np.mean(each)), "worst_conformation_fsc_auc": min(each),
        "perfect_fsc_auc": perfect_auc(box), "per_image_fsc_auc_of_perfect": float(areas.mean()) / perfect_auc(box),
    }  # fmt: skip


def _read_truth(settings: BenchmarkSettings, n: int, box: int) -> Truth:
    if (settings.truth is None) == (settings.labels is None):
        raise InputError("give --truth (the truth.npz of simulate) or --labels (a number for each particle).")
    if settings.truth is not None:
        known = load_truth(settings.truth)
        truth = Truth(known.state.astype(np.int64), known.coordinates, known.volumes(box))
    else:
        assert settings.labels is not None
        _, state = np.unique(_read_labels(settings.labels), return_inverse=True)
        state = state.reshape(-1).astype(np.int64)
        maps = _read_maps([Path(name) for name in settings.true_maps], int(state.max()) + 1, box)
        truth = Truth(state, state[:, None].astype(np.float64), maps)
    if len(truth.state) != n:
        given = settings.truth or settings.labels
        raise InputError(f"{given} has {len(truth.state)} particles, but the result has {n}: give the truth of these.")
    return truth


def _read_labels(path: Path) -> NDArray[np.int64]:
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except (OSError, ValueError):
        raise InputError(f"{path} cannot be read as whole numbers, one for each particle (.txt or .npy).") from None
    if values.ndim != 1 or len(values) == 0 or not np.array_equal(values, np.rint(values)):
        raise InputError(f"{path} must hold one whole number for each particle, but has the shape {values.shape}.")
    return np.asarray(values, np.int64)


def _read_maps(paths: Sequence[Path], n_states: int, box: int) -> NDArray[np.float32] | None:
    if not paths:
        return None
    if len(paths) != n_states:
        raise InputError(f"--labels name {n_states} states, but {len(paths)} --true_maps are given: give one of each.")
    maps = [read_map(path) for path in paths]
    for path, one in zip(paths, maps, strict=True):
        if one.box_size != box:
            raise InputError(f"{path} has a box of {one.box_size} voxels, but the model's volumes have {box}.")
    return np.stack([one.data for one in maps])


def _pose_figures(result: LearnedResult, path: Path) -> Figures:
    """Errors of the result's poses, after the one rotation, shift and hand that bring most of them together."""
    reference = read_particles(path, result.particles.project_dir)
    found = result.particles
    rows = match_rows(found, reference).rows
    ours = Poses.of(found.rotation, found.shift_A)
    theirs = Poses.of(reference.rotation[rows], reference.shift_A[rows])
    errors = align_poses(ours, theirs).errors
    return {
        "median_orientation_error_deg": float(np.median(errors.degrees)),
        "mean_orientation_error_deg": float(errors.degrees.mean()),
        "rms_shift_error_A": float(np.sqrt(np.mean(errors.shift_sq_px2))),
    }
