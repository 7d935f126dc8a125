"""The demonstration: simulate a protein with a moving domain, train on it, compare with the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryodrgn_ext.analysis.truth import agreement_with_truth
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.simulate import make_project, refuse_project_in_use
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.demo import DemoSettings
from cryodrgn_ext.options.simulate import SimulateSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.simulate import load_truth
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun

EXTENT_A = 256.0  # of the simulated box, whatever its pixels
RESULT_NAME = "External/train"


def demo(settings: DemoSettings, monitor: Monitor) -> JobResult:
    """Simulate a RELION project, train, and print where things are and what was recovered.

    Parameters
    ----------
    settings : DemoSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        Of the train job inside the project.

    Raises
    ------
    InputError
        When the project cannot be made.
    """
    return DemoRun.start(settings, monitor)


class DemoRun(JobRun[DemoSettings, CheckedInputs]):
    """One run of the job: the simulation, a train job inside the project, and the comparison."""

    name = "demo"

    @classmethod
    def check(cls, settings: DemoSettings, monitor: Monitor) -> CheckedInputs:
        """Look at the directory; see :meth:`JobRun.check`."""
        refuse_project_in_use(settings.o)
        return CheckedInputs(record={})

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Simulate, train and compare."""
        given, monitor = self.settings, self.monitor
        monitor.message(f"Simulating {given.particles} particles of a protein with a moving domain in {given.o}")
        simulated = SimulateSettings(
            o=given.o, particles=given.particles, box=given.box, pixel_size_A=EXTENT_A / given.box, snr=given.snr,
            seed=given.seed,
        )  # fmt: skip
        project = make_project(simulated, monitor)
        training = TrainSettings(
            in_parts=Path(project.particles_star.name), o=Path(RESULT_NAME), zdim=given.zdim, epochs=given.epochs,
            states=given.states, seed=given.seed, j=given.j,
        )  # fmt: skip
        with contextlib.chdir(given.o):  # as RELION works: in the project directory, with paths relative to it
            train(training, monitor)
        layout = Layout(given.o / RESULT_NAME)
        model, consensus = load_heterogeneity(layout.model), read_map(layout.consensus / "map.mrc").data
        figures = agreement_with_truth(model, consensus, load_truth(project.truth))
        _print_summary(layout, given, figures, monitor)
        return figures, JobResult(layout.root)


def _print_summary(layout: Layout, settings: DemoSettings, figures: Mapping[str, float], monitor: Monitor) -> None:
    lines = [
        "",
        "Where things are:",
        f"  RELION project         {settings.o}",
        f"  particles (all)        {layout.particles}",
        f"  particles of states    {layout.states}/stateNN/particles.star",
        f"  maps and half-maps     {layout.states}/stateNN/map.mrc, half1.mrc, half2.mrc",
        f"  volumes                {layout.volumes}/vol_NNN.mrc",
        f"  report                 {layout.report}",
        "What was recovered, against the truth:",
        f"  hinge angle from the latents      Spearman {figures['spearman']:.3f}, R² {figures['r2']:.3f}",
        f"  per-image FSC area               {figures['per_image_fsc_area']:.3f}, moving region "
        f"{figures['per_image_fsc_area_moving_region']:.3f}",
        f"  the same for one structure       {figures['consensus_per_image_fsc_area']:.3f}, moving region "
        f"{figures['consensus_per_image_fsc_area_moving_region']:.3f}",
        f"  consensus and true average       FSC area {figures['consensus_fsc_area_with_true_average']:.3f}",
    ]
    for line in lines:
        monitor.message(line)
