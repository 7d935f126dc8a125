"""The truth that a result is compared with: how it is read, and the figures that hold a result against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.agreement import predict_truth
from cryodrgn_ext.analysis.cryobench import information_imbalance, neighbourhood_similarity, perfect_auc
from cryodrgn_ext.analysis.exact_inference import images_for_inference, state_posterior
from cryodrgn_ext.analysis.populations import adjusted_rand
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.options.benchmark import BenchmarkSettings
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.simulate import load_truth

Figures = dict[str, float]
CEILING = "ceiling_"


@dataclass(frozen=True)
class Truth:
    """Known truth of N particles: state (N,), coordinates (N, L), and where to get the map of a state."""

    state: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    maps: NDArray[np.float32] | None


def latent_ceiling(images: ParticleImages, truth: Truth, monitor: Monitor) -> Figures:
    """What exact inference with the true maps tells of the truth of a sample of the images; see :func:`latent_figures`.

    Of coordinates the posterior mean, of states the likeliest one.
    """
    from scipy.stats import spearmanr

    assert truth.maps is not None
    rows = images_for_inference(truth.state, len(truth.maps))
    posterior = state_posterior(images, rows, truth.state, truth.maps, monitor)
    size = np.maximum(np.bincount(truth.state, minlength=len(truth.maps)), 1)[:, None]
    of_state = np.stack([np.bincount(truth.state, column, len(truth.maps)) for column in truth.coordinates.T], 1) / size
    known, expected = truth.coordinates[rows], posterior @ of_state
    first = np.ptp(expected[:, 0]) > 0
    return {
        "neighbourhood_similarity_percent": neighbourhood_similarity(expected, known),
        "spearman_of_50_neighbours": float(spearmanr(expected[:, 0], known[:, 0])[0]) if first else 0.0,
        "r2_of_50_neighbours": float(1 - ((expected[:, 0] - known[:, 0]) ** 2).sum() / max(known[:, 0].var(), 1e-300)
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


def read_truth(settings: BenchmarkSettings, n: int, box: int) -> Truth:
    """Read the truth of the n particles of a result, with maps in its box where there are any.

    Raises
    ------
    InputError
        When none or two are given, one cannot be read, or it is of other particles or another box.
    """
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


def pose_figures(result: LearnedResult, path: Path) -> Figures:
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


def as_table(figures: Figures) -> list[str]:
    """Lines of the figures, each beside its ceiling where there is one."""
    lines = [f"{'':<40} {'this result':<12}" + (" ceiling" if any(one.startswith(CEILING) for one in figures) else "")]
    for name, value in figures.items():
        if not name.startswith(CEILING):
            ceiling = figures.get(CEILING + name)
            lines.append(f"{name:<40} {value:<12.5g}" + ("" if ceiling is None else f" {ceiling:.5g}"))
    return lines
