"""The demonstration: simulate a protein with a moving domain, train on it, compare with the truth."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cryodrgn_ext.analysis.truth import agreement_with_truth
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.options.demo import DemoSettings
from cryodrgn_ext.jobs.options.simulate import SimulateSettings
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.simulate import make_project, refuse_project_in_use
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import write_record
from cryodrgn_ext.simulate import load_truth
from cryodrgn_ext.workflow.job_result import JobResult

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
    begin = time.monotonic()
    refuse_project_in_use(settings.o, "demo")
    monitor.message(f"Simulating {settings.particles} particles of a protein with a moving domain in {settings.o}")
    project = make_project(
        SimulateSettings(
            o=settings.o,
            particles=settings.particles,
            box=settings.box,
            pixel_size_A=EXTENT_A / settings.box,
            snr=settings.snr,
            seed=settings.seed,
        ),
        monitor,
    )
    with _working_directory(settings.o):
        train(
            TrainSettings(
                in_parts=Path(project.particles_star.name),
                o=Path(RESULT_NAME),
                zdim=settings.zdim,
                epochs=settings.epochs,
                states=settings.states,
                seed=settings.seed,
                j=settings.j,
            ),
            monitor,
        )
    truth = load_truth(project.truth)
    layout = Layout(settings.o / RESULT_NAME)
    model, consensus = load_heterogeneity(layout.model), read_map(layout.consensus / "map.mrc").data
    figures = agreement_with_truth(model, consensus, truth)
    write_record(settings.o, "demo", "finished", settings, {}, figures)
    _print_summary(layout, settings, figures, time.monotonic() - begin, monitor)
    return JobResult(layout.root)


@contextlib.contextmanager
def _working_directory(directory: Path) -> Iterator[None]:
    """Work as RELION does: in the project directory, with paths relative to it."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def _print_summary(
    layout: Layout, settings: DemoSettings, figures: dict[str, float], elapsed_s: float, monitor: Monitor
) -> None:
    lines = [
        "",
        f"Demo finished in {elapsed_s:.0f} s. Where things are:",
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
