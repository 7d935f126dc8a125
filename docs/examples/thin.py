"""The job that keeps one particle of every few: an exercise for docs/extending.md.

As ``cryodrgn_ext/jobs/thin.py``, with this line in ``cryodrgn_ext/jobs/registry.py``, it is a sub-command of
``cryodrgn-ext``, an External job of RELION and of CryoSPARC, and a section of docs/options.md::

    Job("thin", "jobs.thin:ThinSettings", "jobs.thin:thin", "Keep one particle of every few.",
        positional=("in_parts",), relion_program="cdx-relion-thin"),
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import setting
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput, Picture


@dataclass(frozen=True)
class ThinSettings(ResultSettings):
    """Settings of the thin job."""

    in_parts: Path = setting(help="Particles with poses and CTF", connects="aligned particles")
    every: int = setting(2, low=1, high=1000, help="Keep one particle of so many")
    particles_format: str = setting("auto", choices=("auto", "star", "cs"), help="Format of returned particles")


def thin(settings: ThinSettings, monitor: Monitor) -> JobResult:
    """Return every n-th of the user's particles, with its row as a coordinate.

    Parameters
    ----------
    settings : ThinSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The particles that were kept.

    Raises
    ------
    InputError
        When the particles cannot be read, or fewer than ``every`` are given.
    """
    # Imported here: whoever asks for the settings only, as a help text does, need not wait for it.
    import numpy as np

    from cryodrgn_ext.metadata.particles import read_particles
    from cryodrgn_ext.report.pictures import draw_latents
    from cryodrgn_ext.results.returned_particles import returned_name, write_particles

    particles = read_particles(settings.in_parts)
    if particles.n < settings.every:
        raise InputError(f"--every is {settings.every}, but {settings.in_parts} has only {particles.n} particles.")
    rows = np.arange(0, particles.n, settings.every)
    path = settings.o / returned_name(particles, settings.particles_format)
    write_particles(path, particles, rows, {})
    monitor.message(f"Kept {len(rows)} of {particles.n} particles: {path}")
    row = rows[:, None].astype(np.float32)
    shown = Picture(settings.o / "pictures/rows.png", "Rows", partial(draw_latents, row, np.zeros(len(rows), np.int32)))
    kept = ParticleOutput(name="kept", title="Kept particles", path=path, uid=particles.uid[rows], coordinates=row,
                          picture=shown)  # fmt: skip
    return JobResult(settings.o, (kept,), plots=(shown,), card=shown)
