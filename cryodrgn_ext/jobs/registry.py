"""The jobs that there are. A new job is one file here and one line in ``JOBS``.

The line names the settings class and the function as ``module:name`` within cryodrgn_ext. Both may stand in one module:
the settings are read to make commands, templates and help, so such a module imports nothing heavy at its top (torch,
scipy, matplotlib), but in its functions. Larger jobs keep their settings in ``cryodrgn_ext/options``. How a job with a
result directory is written: :mod:`cryodrgn_ext.workflow.job_run`.
"""

from __future__ import annotations

import functools
import importlib
import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings
from cryodrgn_ext.workflow.job_result import JobResult

if TYPE_CHECKING:  # it imports torch
    from cryodrgn_ext.workflow.finished_result import FinishedResult
    from cryodrgn_ext.workflow.launcher import Worker

RunJob = Callable[[Settings, Monitor], JobResult]


@dataclass(frozen=True)
class Job:
    """One job, loaded only when it is used.

    Attributes
    ----------
    name : str
        Sub-command.
    settings : str
        Settings class, as ``options.train:TrainSettings``.
    function : str
        Function of (settings, monitor) that returns a :class:`JobResult`, as ``jobs.train:train``.
    summary : str
        One sentence for help texts.
    positional : tuple of str
        Settings that the command line also takes without their option's name, in this order.
    relion_program : str
        Name of the console script that RELION runs; "" when the job is not offered there.
    shown : tuple of str
        Settings that get RELION's ten parameter fields; the first ten when empty.
    check : str
        Function of (settings, monitor), as ``module:name``, that refuses what cannot work and writes nothing; where a
        suite shall know it before it makes a job.
    report : str
        Function of (:class:`FinishedResult`, monitor), as ``module:name``, that writes the report of a finished result
        again; "" for a job without one.
    worker : str
        Class of what a further process does, see :mod:`cryodrgn_ext.workflow.launcher`; "" for a job in one process.
    """

    name: str
    settings: str
    function: str
    summary: str
    positional: tuple[str, ...] = ()
    relion_program: str = ""
    shown: tuple[str, ...] = ()
    check: str = ""
    report: str = ""
    worker: str = ""

    @property
    def identifier(self) -> str:
        """The name as Python takes it: ``import_cryodrgn`` for import-cryodrgn, ``import_`` for import."""
        name = self.name.replace("-", "_")
        return name + "_" if keyword.iskeyword(name) else name

    @property
    def settings_class(self) -> type[Settings]:
        """The settings class (a light import)."""
        return cast("type[Settings]", _load(self.settings))

    def load(self) -> RunJob:
        """Import the job's function (a heavy import: torch and friends)."""
        return cast("RunJob", _load(self.function))

    def load_check(self) -> Callable[[Settings, Monitor], object] | None:
        """Import the job's check, if it has one."""
        return cast("Callable[[Settings, Monitor], object]", _load(self.check)) if self.check else None

    def load_report(self) -> Callable[[FinishedResult, Monitor], None] | None:
        """Import what writes the job's report again, if it has one."""
        return cast("Callable[[FinishedResult, Monitor], None]", _load(self.report)) if self.report else None

    def load_worker(self) -> Callable[[Settings], Worker]:
        """Import what a further process does.

        Raises
        ------
        InputError
            When the job has nothing to share.
        """
        if not self.worker:
            raise InputError(f"the job {self.name} runs in one process: start it without torchrun")
        return cast("Callable[[Settings], Worker]", _load(self.worker))


def _load(place: str) -> Any:
    module, name = place.split(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(f"cryodrgn_ext.{module}"))


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job("train", "options.train:TrainSettings", "jobs.train:train",
            "Learn the heterogeneity of a finished refinement; volumes, states, half-maps.",
            relion_program="cdx-relion-train", worker="workflow.training.train_engine:TrainWorker",
            shown=("engine", "zdim", "epochs", "states", "box", "mask_diameter_A", "preset", "volumes", "star_columns",
                   "seed"),
            report="jobs.train:report_states"),
        Job("abinit", "options.abinit:AbinitSettings", "jobs.abinit:abinit",
            "Find poses, a map and, if asked, heterogeneity from particles without orientations.",
            relion_program="cdx-relion-abinit",
            shown=("zdim", "starts", "start_particles", "box", "mask_diameter_A", "max_shift_A", "flip_hand",
                   "symmetry", "star_columns", "seed"),
            report="jobs.abinit:report_abinit"),
        Job("select", "options.select:SelectSettings", "jobs.select:select",
            "Return the original particles of chosen states, clusters or latent regions.",
            positional=("in_parts",), relion_program="cdx-relion-select",
            check="workflow.selection_groups:read_selection"),
        Job("validate", "options.validate:ValidateSettings", "jobs.validate:validate",
            "Reconstruct states anew at full size and test each against chance.",
            positional=("in_parts",), relion_program="cdx-relion-validate", check="jobs.validate:ValidateRun.check",
            shown=("state", "indices", "symmetry", "box", "mask_diameter_A", "random_subsets", "keep_images", "device",
                   "seed"),
            report="jobs.validate:report_validate"),
        Job("landscape", "options.landscape:LandscapeSettings", "jobs.landscape:landscape",
            "States and a landscape from the volumes of a trained model: clusters, components, densities.",
            positional=("in_parts",), relion_program="cdx-relion-landscape", check="jobs.landscape:LandscapeRun.check",
            shown=("sketch", "clusters", "linkage", "metric", "min_particles", "set_apart", "components", "mapping",
                   "star_columns", "seed"),
            report="jobs.landscape:report_landscape"),
        Job("import", "options.import_latents:ImportSettings", "jobs.import_latents:import_latents",
            "Take over latents of another program with their particles: volumes, states, half-maps.",
            relion_program="cdx-relion-import",
            shown=("latents", "states", "symmetry", "knots", "neighbors", "volumes", "box", "mask_diameter_A",
                   "star_columns", "seed"),
            report="jobs.train:report_states"),
        Job("import-cryodrgn", "options.import_latents:ImportCryodrgnSettings", "jobs.import_latents:import_cryodrgn",
            "Take over a run of the public cryodrgn: latents, particles, poses, CTF.", positional=("in_run",),
            relion_program="cdx-relion-import-cryodrgn",
            shown=("in_run", "epoch", "poses", "ctf", "states", "symmetry", "volumes", "box", "star_columns", "seed")),
        Job("consensus", "options.consensus:ConsensusSettings", "jobs.consensus:consensus",
            "Reconstruct all particles in two halves: map, FSC, sharpened map; a check of their metadata.",
            relion_program="cdx-relion-consensus",
            shown=("symmetry", "box", "mask_diameter_A", "b_factor", "contrast", "keep_images", "device", "seed"),
            report="jobs.consensus:report_consensus"),
        Job("compare", "options.compare:CompareSettings", "jobs.compare:compare",
            "Compare replicate runs: whether latents and states agree, and the particles on which they do.",
            positional=("in_results",), relion_program="cdx-relion-compare",
            report="jobs.compare:report_compare"),
        Job("trajectory", "options.trajectory:TrajectorySettings", "jobs.trajectory:trajectory",
            "Volumes along a path through latent space: a component, nearest neighbours, dense regions or lines.",
            positional=("in_parts",), relion_program="cdx-relion-trajectory",
            shown=("method", "pc", "frames", "anchor_particles", "anchor_clusters", "nearest", "mean_neighbors",
                   "percentile_low", "percentile_high", "seed"),
            report="jobs.trajectory:report_trajectory"),
        Job("atomic", "options.atomic:AtomicSettings", "jobs.atomic:atomic",
            "Move a structure's atoms with the latents of a finished training, as far as the images say so.",
            positional=("in_parts",), relion_program="cdx-relion-atomic", check="jobs.atomic:AtomicRun.check",
            shown=("structure", "method", "models", "resolution_A", "nodes", "features", "rounds", "zdim", "epochs",
                   "seed"),
            report="jobs.atomic:report_atomic"),
        Job("convert", "options.convert:ConvertSettings", "jobs.convert:convert",
            "Convert particles between RELION's .star and CryoSPARC's .cs and .csg.",
            positional=("in_parts", "o")),
        Job("export-cryodrgn", "options.export_cryodrgn:ExportCryodrgnSettings", "jobs.export_cryodrgn:export_cryodrgn",
            "Write particles, poses, CTF and latents as the pickles of the public cryodrgn.", positional=("in_parts",)),
        Job("volumes", "options.volumes:VolumesSettings", "jobs.volumes:volumes",
            "Decode volumes at given latent positions.",
            positional=("in_result",)),
        Job("report", "options.report:ReportSettings", "jobs.report:report",
            "Write report.html and logfile.pdf of a finished result again.", positional=("in_result",)),
        Job("explore", "options.explore:ExploreSettings", "explorer.serve:explore",
            "Look at results in a web page of this machine, choose particles, and carry them back into the suite.",
            positional=("in_results",)),
        Job("fsc", "options.fsc:FscSettings", "jobs.fsc:fsc", "Fourier shell correlation of two maps.",
            positional=("map1", "map2")),
        Job("benchmark", "options.benchmark:BenchmarkSettings", "jobs.benchmark:benchmark",
            "Agreement of latents, volumes, states and poses with a known truth, by CryoBench's measures.",
            positional=("in_result",)),
        Job("simulate", "options.simulate:SimulateSettings", "jobs.simulate:simulate",
            "Simulate particles with a moving domain as a RELION project."),
        Job("demo", "options.demo:DemoSettings", "jobs.demo:demo",
            "Simulate, train, and compare what was recovered with the truth."),
    )
}  # fmt: skip
