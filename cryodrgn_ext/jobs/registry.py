"""The jobs that there are. A new job is one file here, one file of options, and one line in ``JOBS``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings
from cryodrgn_ext.workflow.job_result import JobResult

RunJob = Callable[[Settings, Monitor], JobResult]


@dataclass(frozen=True)
class Job:
    """One job, loaded only when it is used.

    Attributes
    ----------
    name : str
        Sub-command.
    settings_name : str
        Settings class in ``cryodrgn_ext.jobs.options.<module>``.
    summary : str
        One sentence for help texts.
    positional : tuple of str
        Settings that the command line also takes without their option's name, in this order.
    relion_program : str
        Name of the console script that RELION runs; "" when the job has no door there.
    shown : tuple of str
        Settings that get RELION's ten parameter fields; the first ten when empty.
    has_directory : bool
        Whether ``--o`` is a directory that the job fills (and where run.log goes).
    module : str
        Module of the job in this package, and its function there; the name with ``_`` for ``-`` when empty.
    check : str
        Function of the settings, as ``module:name``, that refuses what cannot work and writes nothing; where a suite
        shall know it before it makes a job.
    """

    name: str
    settings_name: str
    summary: str
    positional: tuple[str, ...] = ()
    relion_program: str = ""
    shown: tuple[str, ...] = ()
    has_directory: bool = True
    module: str = ""
    check: str = ""

    @property
    def settings_class(self) -> type[Settings]:
        """The settings class (a light import)."""
        module = importlib.import_module(f"cryodrgn_ext.jobs.options.{self._module}")
        return cast("type[Settings]", getattr(module, self.settings_name))

    def load(self) -> RunJob:
        """Import the job's function (a heavy import: torch and friends)."""
        module = importlib.import_module(f"cryodrgn_ext.jobs.{self._module}")
        return cast("RunJob", getattr(module, self._module))

    def load_check(self) -> Callable[[Settings], object] | None:
        """Import the job's check, if it has one."""
        if not self.check:
            return None
        module, _, name = self.check.partition(":")
        found: Any = importlib.import_module(f"cryodrgn_ext.jobs.{module}")
        for part in name.split("."):
            found = getattr(found, part)
        return cast("Callable[[Settings], object]", found)

    @property
    def _module(self) -> str:
        return self.module or self.name.replace("-", "_")


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job("train", "TrainSettings", "Learn the heterogeneity of a finished refinement; volumes, states, half-maps.",
            relion_program="cdx-relion-train",
            shown=("engine", "zdim", "epochs", "states", "box", "mask_diameter_A", "preset", "volumes", "star_columns",
                   "seed")),
        Job("abinit", "AbinitSettings",
            "Find poses, a map and, if asked, heterogeneity from particles without orientations.",
            relion_program="cdx-relion-abinit",
            shown=("zdim", "starts", "start_particles", "box", "mask_diameter_A", "max_shift_A", "flip_hand",
                   "symmetry", "star_columns", "seed")),
        Job("select", "SelectSettings", "Return the original particles of chosen states, clusters or latent regions.",
            positional=("in_parts",), relion_program="cdx-relion-select", has_directory=False,
            check="selection_groups:read_selection"),
        Job("validate", "ValidateSettings", "Reconstruct states anew at full size and test each against chance.",
            positional=("in_parts",), relion_program="cdx-relion-validate",
            shown=("state", "indices", "box", "mask_diameter_A", "random_subsets", "keep_images", "device", "seed")),
        Job("landscape", "LandscapeSettings",
            "States and a landscape from the volumes of a trained model: clusters, components, densities.",
            positional=("in_parts",), relion_program="cdx-relion-landscape",
            shown=("sketch", "clusters", "linkage", "metric", "min_particles", "set_apart", "components", "mapping",
                   "star_columns", "seed")),
        Job("trajectory", "TrajectorySettings",
            "Volumes along a path through latent space: a component, nearest neighbours, dense regions or lines.",
            positional=("in_parts",)),
        Job("convert", "ConvertSettings", "Convert particles between RELION's .star and CryoSPARC's .cs and .csg.",
            positional=("in_parts", "o"), has_directory=False),
        Job("export-cryodrgn", "ExportCryodrgnSettings",
            "Write particles, poses, CTF and latents as the pickles of the public cryodrgn.", positional=("in_parts",)),
        Job("volumes", "VolumesSettings", "Decode volumes at given latent positions.", positional=("in_result",)),
        Job("fsc", "FscSettings", "Fourier shell correlation of two maps.", positional=("map1", "map2"),
            has_directory=False),
        Job("simulate", "SimulateSettings", "Simulate particles with a moving domain as a RELION project."),
        Job("demo", "DemoSettings", "Simulate, train, and compare what was recovered with the truth."),
    )
}  # fmt: skip
