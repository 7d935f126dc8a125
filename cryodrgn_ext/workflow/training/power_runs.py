"""A training repeated on images of one structure with the differences of states planted: what it could have seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.engines.held_out import weighed
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor, QuietMonitor
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.null_table import found_path
from cryodrgn_ext.results.power_table import write_dose
from cryodrgn_ext.validation.image_errors import measure_errors
from cryodrgn_ext.validation.null_finding import without_gain
from cryodrgn_ext.validation.null_images import make_null_images
from cryodrgn_ext.validation.planted import Dose, Planted, agreement_of_states, state_differences
from cryodrgn_ext.validation.states import MIN_PARTICLES_PER_HALF
from cryodrgn_ext.validation.verdict import conclude, together
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining


def run_planted(
    training: RepeatedTraining, open_images: Callable[[], ParticleImages], label: NDArray[np.integer], dose: Dose,
    seed: int, folder: Path, monitor: Monitor,
) -> None:  # fmt: skip
    """Plant the differences of states into images of one structure, train on them, and write what was found.

    Latents, states and verdicts are made anew, as from any images; nothing of the first training is used but the
    differences of its states.

    Parameters
    ----------
    training : RepeatedTraining
    open_images : callable
        Opens the training's images.
    label : ndarray
        (N,) state of each particle; below 0 for none.
    dose : Dose
    seed : int
        Of the set.
    folder : Path
        ``folder.json`` is written; what lies in the folder meanwhile is removed.
    monitor : Monitor

    Raises
    ------
    InputError
        When no state has enough particles in both half-sets.
    """
    images, consensus = open_images(), read_consensus(training.consensus)
    quiet = QuietMonitor(monitor)
    label = _large_enough(label, images)
    differences = state_differences(images, label, choose_device(training.settings.device))
    errors = measure_errors(images, consensus.map, consensus.mask, min(consensus.radius, images.plane.radius))
    folder.mkdir(parents=True, exist_ok=True)
    planted = Planted.at(dose, differences, label, seed)
    made = make_null_images(images, consensus.map, errors, (seed, 14), folder / "coefficients.npy", monitor, planted)
    trained = training.train(made, folder, quiet)
    states = training.states(made, trained.label, trained.consensus, quiet)
    found = together([conclude(state.evidence) for state in states])
    gained = weighed(trained.model)
    if gained is not None and not gained.wins:
        found = without_gain(found)
    write_dose(found_path(folder), found, agreement_of_states(planted.label, trained.label))
    shutil.rmtree(folder)


def _large_enough(label: NDArray[np.integer], images: ParticleImages) -> NDArray[np.int64]:
    """(N,) numbers 0 to K - 1 of the states that both half-sets have enough particles of; -1 for the others."""
    half_set = images.half_set.cpu().numpy()
    kept = [
        state for state in np.unique(label[label >= 0])
        if min(np.count_nonzero((label == state) & (half_set == half)) for half in (1, 2)) >= MIN_PARTICLES_PER_HALF
    ]  # fmt: skip
    if not kept:
        raise InputError("--power needs a state with at least ten particles in each half-set: there is none.")
    found = np.full(len(label), -1, np.int64)
    for number, state in enumerate(kept):
        found[label == state] = number
    return found
