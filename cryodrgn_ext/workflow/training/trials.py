"""Repetitions of a training that a job can be asked for, each a stage that is not done twice.

On images of one structure (what is claimed there is false), on such images with the states' own differences planted
(what is found there could have been seen), and on each half-set by itself (what one model has alone is its invention).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.null_table import found_path, read_finding
from cryodrgn_ext.results.power_table import read_power
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.independent_halves import HalvesFinding
from cryodrgn_ext.validation.null_finding import NullFinding
from cryodrgn_ext.validation.planted import DOSES, PowerFinding
from cryodrgn_ext.workflow.training.halves_runs import read_halves, run_halves
from cryodrgn_ext.workflow.training.null_runs import run_null
from cryodrgn_ext.workflow.training.power_runs import run_planted
from cryodrgn_ext.workflow.training.repeated_training import RepeatedTraining


class StageRunner(Protocol):
    """Does a stage unless it is finished with this key, see :meth:`JobRun.stage`."""

    def __call__(self, name: str, key: str, title: str, work: Callable[[], object], *products: Path) -> None:
        """Do it."""


@dataclass(frozen=True)
class Trials:
    """What repetitions of a training are made of.

    Attributes
    ----------
    training : RepeatedTraining
    layout : Layout
        Of the job that repeats it.
    key : str
        Fingerprint of what the job's states are made of.
    seed : int
    stage : StageRunner
    images : callable
        Opens the images as the training had them.
    monitor : Monitor
    """

    training: RepeatedTraining
    layout: Layout
    key: str
    seed: int
    stage: StageRunner
    images: Callable[[], ParticleImages]
    monitor: Monitor

    def null(self, count: int) -> NullFinding:
        """Repeat it on ``count`` sets of images of one structure."""
        folders = []
        for number in range(count):
            folder = self.layout.checkpoint / f"null_{number + 1:03d}"
            folders.append(folder)
            self.stage(f"null {number + 1}", fingerprint(self.key, number, self.training.key),
                       f"Images of one structure, set {number + 1}",
                       partial(run_null, self.training, self.images, self.seed + number, folder, self.monitor),
                       found_path(folder))  # fmt: skip
        return read_finding(folders)

    def power(self, count: int, label: NDArray[np.integer]) -> PowerFinding:
        """Repeat it on ``count`` sets of each dose of the differences of states (N,; below 0 for none).

        The sets without any are those of :meth:`null`, of which there must be as many.
        """
        files = {}
        for dose in DOSES:
            for number in range(count):
                name = f"power_{100 * dose.strength:03.0f}_{100 * dose.share:03.0f}_{number + 1:03d}"
                folder = self.layout.checkpoint / name
                files[dose, number] = found_path(folder)
                run = partial(run_planted, self.training, self.images, label, dose, self.seed + number, folder,
                              self.monitor)  # fmt: skip
                self.stage(name.replace("_", " "), fingerprint(self.key, number, self.training.key),
                           f"States planted at {dose.words}, set {number + 1}", run, found_path(folder))  # fmt: skip
        nothing = [found_path(self.layout.checkpoint / f"null_{number + 1:03d}") for number in range(count)]
        return read_power(nothing, {dose: [files[dose, number] for number in range(count)] for dose in DOSES})

    def halves(self) -> HalvesFinding:
        """Repeat it on each half-set alone."""
        found = self.layout.checkpoint / "independent_halves.json"
        folder = self.layout.checkpoint / "independent_halves"
        self.stage("independent halves", fingerprint(self.key, self.training.key), "Two models, each of one half-set",
                   lambda: run_halves(self.training, self.images, folder, found, self.monitor), found)  # fmt: skip
        return read_halves(found)
