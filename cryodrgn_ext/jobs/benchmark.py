"""The job that compares a result with a known truth, by the measures of CryoBench and some more."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from cryodrgn_ext.analysis.agreement import evaluation_particles
from cryodrgn_ext.analysis.cryobench import fsc_auc
from cryodrgn_ext.analysis.populations import adjusted_rand, population_error
from cryodrgn_ext.analysis.true_labels import TrueLabels
from cryodrgn_ext.durable_files import atomic_write_text, keep_existing
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.options.benchmark import BenchmarkSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.truth_figures import (
    CEILING,
    Figures,
    Truth,
    area_figures,
    as_table,
    latent_ceiling,
    latent_figures,
    pose_figures,
    read_truth,
)
from cryodrgn_ext.workflow.validation_inputs import preprocessing_as_learned

#: States whose maps are made with the true labels: evenly over those of the images whose volumes are compared.
CEILING_STATES = 20


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
    truth = read_truth(settings, result.particles.n, model.box_size)
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
        figures |= pose_figures(result, settings.true_poses)
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
