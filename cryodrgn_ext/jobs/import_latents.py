"""The job that takes over latents of another program, and makes of them a result as a train job leaves it.

There is no decoder: volumes are reconstructed from the images near places in latent space (kernel regression). States,
their evidence, the report and everything that goes on from a result are those of a train job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.analysis.latents import spread_places
from cryodrgn_ext.engines.kernel_regression import regress_volumes
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.cryodrgn_run import read_run
from cryodrgn_ext.options.import_latents import ImportCryodrgnSettings, ImportSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.settings import describe, fingerprint
from cryodrgn_ext.workflow.given_particles import half_set_notes
from cryodrgn_ext.workflow.import_inputs import ImportInputs, read_import_inputs
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.reconstructions import symmetry_key
from cryodrgn_ext.workflow.states_run import StateOptions, StatesRun

SHARED_LATENTS = (
    "The latents come from another program, which may have learned them from both half-sets: the maps are of "
    "independent halves, the choice of particles is not."
)


def import_latents(settings: ImportSettings, monitor: Monitor) -> JobResult:
    """Take over latents of another program with the particles that they belong to.

    Parameters
    ----------
    settings : ImportSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        As of a train job: particles (all, and of each state), maps, half-maps, masks, and the log as PDF.

    Raises
    ------
    InputError
        When a file cannot be used, or latents and particles do not belong together.
    JobAborted
        When the user asks for it; everything finished so far stays, and the same call continues.
    """
    monitor.message(f"Reading {settings.in_parts}" + (f" and {settings.latents}" if settings.latents else ""))
    return ImportRun.start(settings, monitor)


def import_cryodrgn(settings: ImportCryodrgnSettings, monitor: Monitor) -> JobResult:
    """Take over a run of the public cryodrgn: its latents, particles, poses and CTF; see :func:`import_latents`.

    Parameters
    ----------
    settings : ImportCryodrgnSettings
    monitor : Monitor

    Raises
    ------
    InputError
        Also when the directory holds no run, or does not say which particles were trained on.
    """
    run = read_run(settings.in_run, settings.epoch)
    in_parts = run.particles if settings.in_parts is None else settings.in_parts
    if in_parts is None:
        raise InputError(f"{settings.in_run} does not say which particles were trained on: give --in_parts.")
    is_stack = in_parts.suffix.lower() in (".mrcs", ".mrc", ".txt")
    shared = {field.name: getattr(settings, field.name) for field in describe(ImportSettings)
              if field.name not in ("in_parts", "latents", "poses", "ctf", "ind", "datadir")}  # fmt: skip
    resolved = ImportSettings(
        **shared, in_parts=in_parts, latents=run.latents, poses=_first(settings.poses, run.poses),
        ctf=_first(settings.ctf, run.ctf) if is_stack else None, ind=_first(settings.ind, run.ind),
        datadir=run.datadir if in_parts.suffix.lower() == ".txt" else None,
    )  # fmt: skip
    monitor.message(f"Run of cryodrgn in {settings.in_run}: {run.latents.name}, particles {in_parts}")
    for note in run.notes if settings.in_parts is None else ():
        monitor.message(f"Note: {note}.")
    return import_latents(resolved, monitor)


def _first(*given: Path | None) -> Path | None:
    return next((path for path in given if path is not None), None)


class ImportRun(StatesRun[ImportSettings, ImportInputs]):
    """One run of the job."""

    name = "import"

    @classmethod
    def check(cls, settings: ImportSettings, monitor: Monitor) -> ImportInputs:
        """Read particles and latents; see :meth:`JobRun.check`."""
        return read_import_inputs(settings)

    @property
    def options(self) -> StateOptions:
        """Options of the settings that concern states."""
        return StateOptions.of(self.settings)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs = self.settings, self.inputs
        self.say_particles(inputs.particles.n, inputs.native_box, inputs.box, ())
        self.note(*inputs.notes)
        how = PreprocessSettings(
            box_size=inputs.box, mask_diameter_A=settings.mask_diameter_A,
            data_sign=settings.contrast,
        )  # fmt: skip
        sums = [inputs.sha256(name) for name in ("in_parts", "latents", "poses", "ctf", "ind")]
        key = fingerprint(sums, inputs.box, settings.mask_diameter_A, settings.contrast)
        images = self.each_time("preprocessing", key, lambda: self.open_images(inputs.particles, how))
        self.note(*half_set_notes(inputs.particles, True, images.half_set.cpu().numpy()), SHARED_LATENTS)
        key = fingerprint(key, inputs.sha256("in_mask"), *symmetry_key(settings.symmetry))
        consensus = self.reconstruct_consensus(images, key)
        key = fingerprint(key, settings.knots, settings.neighbors, settings.seed)
        self.stage("volumes near latents", key, "Reconstructing volumes near the latents",
                   lambda: self._regress(images, consensus), self.layout.model, self.layout.latents)  # fmt: skip
        return self.cut_into_states(images, consensus, key)

    def _regress(self, images: ParticleImages, consensus: Consensus) -> None:
        z, settings = self.inputs.z, self.settings
        self.write_latents(z, self.inputs.z_cov)
        knots = spread_places(z, min(settings.knots, len(z) // 2), settings.seed)
        model = regress_volumes(
            images, z, knots, settings.neighbors, consensus.map, consensus.radius, device=self.device,
            monitor=self.monitor,
        )  # fmt: skip
        self.write_model(replace(model, z_cov=self.inputs.z_cov))
