"""A training repeated on images of one structure: what the job finds where there is nothing to be found."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.plain_files import write_json
from cryodrgn_ext.progress import Monitor, QuietMonitor
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.null_table import found_path
from cryodrgn_ext.validation.image_errors import measure_errors
from cryodrgn_ext.validation.null_images import make_null_images
from cryodrgn_ext.validation.verdict import Conclusion, conclude, together
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining


def run_null(
    training: RepeatedTraining, open_images: Callable[[], ParticleImages], seed: int, folder: Path, monitor: Monitor
) -> None:
    """Make a set of images of one structure, train on it, cut and judge its states, and write what was found.

    Parameters
    ----------
    training : RepeatedTraining
    open_images : callable
        Opens the training's images.
    seed : int
        Of the set.
    folder : Path
        ``folder.json`` is written; what lies in the folder meanwhile is removed.
    monitor : Monitor
    """
    images, consensus = open_images(), read_consensus(training.consensus)
    errors = measure_errors(images, consensus.map, consensus.mask, min(consensus.radius, images.plane.radius))
    folder.mkdir(parents=True, exist_ok=True)
    null = make_null_images(images, consensus.map, errors, (seed, 8), folder / "coefficients.npy", monitor)
    found = _conclusions(training, null, folder, QuietMonitor(monitor))
    write_json(found_path(folder), {
        "states": [vars(one) for one in found], "turn_deg": math.degrees(errors.rotation_rad),
        "shift_A": errors.shift_px * images.pixel_size_A,
    })  # fmt: skip
    shutil.rmtree(folder)


def _conclusions(
    training: RepeatedTraining, images: ParticleImages, folder: Path, monitor: Monitor
) -> list[Conclusion]:
    """Conclude on the states that the training finds in these images."""
    trained = training.train(images, folder, monitor)
    states = training.states(images, trained.label, trained.consensus, monitor)
    return together([conclude(state.evidence) for state in states])
