"""The job that finds poses, a map and, when asked, heterogeneity from particles without orientations.

Stages, each finished on disk before the next begins, so that a killed job goes on where it stopped: preprocessed
images, poses from nothing, coordinates and hand; with ``--zdim`` a first model on these poses and poses refined against
each image's own volume; map and half-maps from the final poses; the final model and its volumes; returned particles,
report.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.data_sign import map_sign, sign_of_found_map
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.chosen_transform import ChosenTransform, choose_transform
from cryodrgn_ext.pose.map_alignment import fit_to_box
from cryodrgn_ext.pose.origins import JudgedOrigins, Origins, PlacedImages, judge_origins, origins_px
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.abinit_report import write_abinit_reports
from cryodrgn_ext.report.pictures import draw_fsc, draw_slices, draw_views
from cryodrgn_ext.results.aligned_particles import alignment_columns, write_aligned_particles
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.decoded_volumes import decode_at_centers
from cryodrgn_ext.results.found_poses import (
    MAP_NAME,
    POSES_NAME,
    AbinitFiles,
    FoundPoses,
    read_search,
    read_symmetry,
    read_verdict,
    write_found,
)
from cryodrgn_ext.results.latent_tables import read_latent_table
from cryodrgn_ext.results.maps_for_relion import with_measured_sign
from cryodrgn_ext.results.pose_choices import (
    read_judged_origins,
    read_transform,
    write_judged_origins,
    write_transform,
)
from cryodrgn_ext.results.pose_table import PoseTable
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    remove_other_formats,
    returned_name,
    returned_names,
    say_changed_poses,
    say_conversion,
    wants_columns,
)
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.validation.verdict import NOT_TESTED, Conclusion, overall
from cryodrgn_ext.workflow.abinit.abinit_inputs import (
    AbinitInputs,
    image_key,
    pose_key,
    read_inputs,
    training_key,
    transform_key,
)
from cryodrgn_ext.workflow.abinit.abinit_model import train_model, write_model_results
from cryodrgn_ext.workflow.abinit.abinit_neural import find_poses_with_network
from cryodrgn_ext.workflow.abinit.abinit_poses import find_poses, refine_poses
from cryodrgn_ext.workflow.abinit.abinit_tilts import STEM, tilted_table
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.given_particles import half_set_notes
from cryodrgn_ext.workflow.job_outputs import kept_files, map_with_halves, picture, shown_maps
from cryodrgn_ext.workflow.job_result import JobResult, Output, ParticleOutput
from cryodrgn_ext.workflow.job_run import JobRun
from cryodrgn_ext.workflow.reconstructions import make_consensus

UNTESTED = "abinit cuts no states: run landscape on this directory and validate on that"
UNASKED = "one map was made of all: train on particles.star asks"
MAP_FILES = (MAP_NAME, "half1.mrc", "half2.mrc", "mask.mrc", "fsc.star")


def abinit(settings: AbinitSettings, monitor: Monitor) -> JobResult:
    """Find poses and a map from particles without orientations.

    Parameters
    ----------
    settings : AbinitSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The particles with poses, map, half-map, mask, volumes of a heterogeneous model, and the log as PDF.

    Raises
    ------
    InputError
        When the particles, their images, or the reference cannot be used.
    ResumeError
        When the directory holds a job with other particles or another search.
    JobAborted
        When the user asks for it; everything finished so far stays, and the same call continues.
    """
    monitor.message(f"Reading {settings.in_parts}")
    return AbinitRun.start(settings, monitor)


#: What a verdict of the search means to the user.
VERDICTS = {
    "found": "Verdict: found. Refinements from independent random initialisations led to the same poses.",
    "probably": "Verdict: probably found, but not confirmed in full: a single random "
    "initialisation was made (--starts 1), poses of some images still move, the map explains less than the images "
    "hold, or views are missing (see the warnings).",
    "not found": "Verdict: not found. No other random initialisation led to this map; do not go on with it before it "
    "was confirmed (more --starts, another --seed, cleaner particles).",
}


class AbinitRun(JobRun[AbinitSettings, AbinitInputs]):
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    name = "abinit"

    def __init__(self, settings: AbinitSettings, inputs: AbinitInputs, monitor: Monitor) -> None:
        super().__init__(settings, inputs, monitor)
        self.device = choose_device(settings.device)
        self.particles = inputs.particles
        self.returned = returned_name(inputs.particles, settings.particles_format)
        self.files = AbinitFiles(self.layout)

    @classmethod
    def check(cls, settings: AbinitSettings, monitor: Monitor) -> AbinitInputs:
        """Read the particles and the reference; see :meth:`JobRun.check`."""
        return read_inputs(settings)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages."""
        settings, inputs, layout, found = self.settings, self.inputs, self.layout, self.files.found
        self._note_inputs()
        images = self.each_time("preprocessing", image_key(settings, inputs), lambda: self._open(inputs.particles))
        placed = self._placed(images, inputs.origins, "origins")
        self.stage("poses", pose_key(settings, inputs), "Poses from nothing", lambda: self._find(placed),
                   found / MAP_NAME, found / POSES_NAME)  # fmt: skip
        if (verdict := read_verdict(found)) in VERDICTS:
            self.note(VERDICTS[verdict])
        if (symmetry := read_symmetry(found)) != "C1":
            self.note(f"Poses and map have the symmetry {symmetry}, about RELION's axes: refine them with it.")
        key = transform_key(settings, inputs)
        self.stage("frame", key, "Coordinates and hand", self._choose_transform, self.files.transform)
        chosen = read_transform(self.files.transform)
        self.note(chosen.sentence())
        poses = PoseTable.read(found / POSES_NAME).transformed(chosen.transform, images.pixel_size_A)
        if settings.zdim > 0:
            key = training_key(settings, inputs)
        if settings.zdim > 0 and settings.engine != "neural":
            poses = self._with_own_volumes(placed, poses, key)
        aligned = poses.align(images)
        self.stage("maps", key, "Map and half-maps", lambda: self._reconstruct(aligned, poses), self.files.maps,
                   *(layout.root / name for name in (*MAP_FILES, POSES_NAME)))  # fmt: skip
        consensus = read_consensus(self.files.maps)
        self._note_maps(consensus)
        self.note(sign_of_found_map(map_sign(aligned), images.data_sign))
        if settings.zdim > 0:
            self._learn(aligned, consensus, key)
        else:
            self._remove_model()
        self.particles = with_measured_sign(self.particles, consensus.data_sign)
        self.stage("particles", fingerprint(key, settings.star_columns, self.returned), "Writing particles",
                   lambda: self._write_particles(poses), *self._returned_files)  # fmt: skip
        self.note_data_sign([self.layout.root], consensus.data_sign, self.particles, self.returned)
        return self._finish(images, poses, consensus, chosen), self._result(poses, consensus)

    def _note_inputs(self) -> None:
        inputs = self.inputs
        notes = () if inputs.reference is None else inputs.reference.notes
        self.say_particles(inputs.particles.n, inputs.native_box, inputs.box, (*inputs.particles.notes, *notes))
        if inputs.had_poses:
            self.note(f"The orientations in {self.settings.in_parts} are ignored: this job finds its own.")
        if inputs.origins_note is not None:
            self.note(inputs.origins_note)
        if inputs.tilted is not None:
            self.note(inputs.tilted.matched)
        self.note(*half_set_notes(inputs.particles, aligned=False))

    def _open(self, particles: ParticleSet, folder: str = "images") -> ParticleImages:
        preprocessing = PreprocessSettings(
            box_size=self.inputs.box,
            mask_diameter_A=self.settings.mask_diameter_A,
            data_sign=self.settings.contrast,
        )
        return self.open_images(particles, preprocessing, folder)

    def _placed(self, images: ParticleImages, origins: Origins | None, name: str) -> PlacedImages:
        """Images with the places that shifts are searched around, by the origins of the user's file."""
        choice = self.settings.use_origins
        if origins is None:
            return PlacedImages(images, None)
        judged, path = JudgedOrigins(False, 0.0, 0.0), self.layout.checkpoint / f"{name}.json"
        if choice != "no":
            title = f"Whether the origins in {origins.path.name} centre the particles"
            self.stage(name, pose_key(self.settings, self.inputs), title,
                       lambda: write_judged_origins(path, judge_origins(images, origins, choice, self.monitor)),
                       path)  # fmt: skip
            judged = read_judged_origins(path)
        self.note(judged.sentence(origins, choice))
        return PlacedImages(images, origins_px(origins, images) if judged.used else None)

    def _find(self, placed: PlacedImages) -> None:
        settings, files, tilts = self.settings, self.files, self.inputs.tilted
        files.search.mkdir(parents=True, exist_ok=True)
        shift_px = self.inputs.max_shift_px(settings)
        if settings.engine != "neural":
            found = find_poses(placed.unaligned(), settings, shift_px, files.search, self.monitor)
            write_found(files.found, placed, found)
            return
        tilted = None
        if tilts is not None:
            tilted = self._placed(self._open(tilts.particles, "tilted_images"), tilts.origins, "tilted_origins")
        found = find_poses_with_network(
            placed.unaligned(), None if tilted is None else tilted.unaligned(), settings, shift_px, files.search,
            self.monitor, find_poses,
        )  # fmt: skip
        write_found(files.found, placed, found)
        if tilted is not None:
            self._write_tilted(tilted, found)

    def _write_tilted(self, tilted: PlacedImages, found: FoundPoses) -> None:
        if tilted.centre_px is not None and found.tilted_shift_px is not None:
            found = replace(found, tilted_shift_px=found.tilted_shift_px + tilted.centre_px.numpy())
        first = PoseTable.read(self.files.found / POSES_NAME)
        tilted_table(tilted.images, first, found, self.settings).write(self.files.found_tilted)

    def _choose_transform(self) -> None:
        volume = read_map(self.files.found / MAP_NAME)
        _, curve = read_search(self.files.found)
        chosen = choose_transform(
            volume.data, volume.pixel_size_A, curve, self.inputs.reference, self.settings.flip_hand
        )
        write_transform(self.files.transform, chosen)

    def _with_own_volumes(self, placed: PlacedImages, poses: PoseTable, key: str) -> PoseTable:
        """A first model, and the poses refined against the volume that it gives each image."""
        first, refined = self.files.first_model(key), self.files.refined(key)
        aligned = poses.align(placed.images)
        self.stage("first model", key, "First model, on these poses",
                   lambda: train_model(first, aligned, self.settings, self.device, self.monitor),
                   first.model)  # fmt: skip

        def refine() -> None:
            shift_px, radius = self.inputs.max_shift_px(self.settings), read_consensus(first.consensus).radius
            model, near = load_heterogeneity(first.model), placed.near(aligned)
            write_found(refined, placed, refine_poses(near, model, self.settings, shift_px, radius, self.monitor))

        self.stage("refined poses", key, "Poses against each image's own volume", refine, refined / POSES_NAME)
        return PoseTable.read(refined / POSES_NAME)

    def _reconstruct(self, aligned: ParticleImages, poses: PoseTable) -> None:
        symmetry = point_group(read_symmetry(self.files.found))
        make_consensus(self.files.maps, aligned, None, self.device, self.monitor, symmetry)
        for name in MAP_FILES:
            with atomic_path(self.layout.root / name) as temporary:
                shutil.copyfile(self.files.maps / name, temporary)
        particles = self.inputs.particles
        poses.write(self.layout.root / POSES_NAME, uid=particles.uid, row_id=particles.row_id)

    def _note_maps(self, consensus: Consensus) -> None:
        halves = (
            "the poses of both halves were found with one model, so take it for an upper estimate"
            if self.settings.zdim > 0 or self.settings.engine == "neural"
            else "the halves were refined independently but for the lowest frequencies"
        )
        self.note(f"Map: {consensus.resolution_A:.2f} Å between half-maps (FSC 0.143, masked); {halves}.")
        reference = self.inputs.reference
        if reference is not None:
            box, pixel_A = len(consensus.map), consensus.pixel_size_A
            target = fit_to_box(torch.from_numpy(reference.data), reference.pixel_size_A, box, pixel_A)
            curve = fsc(torch.from_numpy(consensus.map), target, torch.from_numpy(consensus.mask))
            self.note(f"The map agrees with --in_3dref to {resolution_A(curve, pixel_A, box, 0.5):.1f} Å (FSC 0.5).")

    def _learn(self, aligned: ParticleImages, consensus: Consensus, key: str) -> None:
        """The final model, its latents and volumes."""
        layout, settings = self.layout, self.settings
        last = self.files.last_model(key)
        self.stage("training", key, "Model on the final poses",
                   lambda: write_model_results(layout, last, aligned, consensus, self.inputs.particles, settings,
                                               self.monitor), layout.model, layout.latents)  # fmt: skip
        decoded = fingerprint(key, settings.volumes, settings.seed)
        self.stage("volumes", decoded, "Volumes along the latent space",
                   lambda: decode_at_centers(layout, settings.volumes, settings.seed, self.monitor),
                   layout.volumes)  # fmt: skip

    def _remove_model(self) -> None:
        """Remove what an earlier run with --zdim left in the directory: it belongs to other poses."""
        self.layout.latents.unlink(missing_ok=True)
        for folder in (self.layout.model, self.layout.volumes):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _returned_files(self) -> tuple[Path, ...]:
        names = returned_names(self.returned)
        if self.inputs.tilted is not None:
            names = (*names, STEM + Path(self.returned).suffix)
        return tuple(self.layout.root / name for name in names)

    def _write_particles(self, poses: PoseTable) -> None:
        particles, root = self.particles, self.layout.root
        columns = {}
        if self.settings.zdim > 0 and wants_columns(particles, self.settings.star_columns):
            columns = latent_star_columns(read_latent_table(self.layout.latents).z, None)
        say_conversion(particles, Path(self.returned), self.monitor)
        say_changed_poses(particles, self.monitor)
        remove_other_formats(root, self.returned)
        write_aligned_particles(root / self.returned, particles, poses, columns)
        if self.inputs.tilted is not None:
            transform = read_transform(self.files.transform).transform
            tilted = PoseTable.read(self.files.found_tilted)
            tilted = tilted.transformed(transform, self.inputs.extent_A / self.inputs.box)
            write_aligned_particles(self._returned_files[-1], self.inputs.tilted.particles, tilted, {})

    def _finish(
        self, images: ParticleImages, poses: PoseTable, consensus: Consensus, chosen: ChosenTransform
    ) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        likelihoods, _ = read_search(self.files.found)
        gained = self.note_single_images(load_heterogeneity(self.layout.model)) if self.settings.zdim > 0 else {}
        self.monitor.poll()
        found = overall([Conclusion(NOT_TESTED, reason=UNTESTED if self.settings.zdim > 0 else UNASKED)], "particle")
        self.headline(found)
        write_abinit_reports(self.facts, self.inputs.particles, poses, consensus, likelihoods, chosen)
        return {
            "particles": self.inputs.particles.n,
            "found": found,
            "box": images.box_size,
            "pixel_size_A": round(images.pixel_size_A, 6),
            "resolution_A": round(consensus.resolution_A, 3),
            "data_sign": consensus.data_sign,
            **({"verdict": verdict} if (verdict := read_verdict(self.files.found)) else {}),
            "log_likelihood_of_starts": [round(one, 4) for one in likelihoods],
            "mirrored": chosen.transform.mirrored,
            "correlation_with_reference": chosen.correlation,
            **gained,
        }

    def _result(self, poses: PoseTable, consensus: Consensus) -> JobResult:
        layout, root = self.layout, self.layout.root
        shown = picture(layout, "map", "Central slices of the map", partial(draw_slices, {"map": root / "map.mrc"}))
        views = picture(layout, "views", "Directions of view", partial(draw_views, poses.rotation))
        curve = partial(draw_fsc, {"half-maps": consensus.fsc}, consensus.pixel_size_A)
        plots = (shown, views, picture(layout, "fsc", "FSC between half-maps, masked", curve))
        particles = ParticleOutput(
            title="Particles with the poses that were found", path=root / self.returned, picture=views,
            uid=self.inputs.particles.uid, columns=alignment_columns(root / self.returned),
            coordinates=read_latent_table(layout.latents).z if self.settings.zdim > 0 else None,
        )  # fmt: skip
        outputs: tuple[Output, ...] = (particles, map_with_halves(root, title="Ab initio", picture=shown),
                   *shown_maps(sorted(layout.volumes.glob("vol_*.mrc"))))  # fmt: skip
        return JobResult(root, outputs, layout.logfile, plots, shown, kept_files(layout, POSES_NAME, "latents.npz"))


def report_abinit(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When what its stages left in checkpoint/ is gone, or no particles are found any more.
    """
    layout, settings = finished.layout, finished.settings
    assert isinstance(settings, AbinitSettings)
    files = AbinitFiles(layout)
    if not files.maps.exists():
        raise InputError(
            f"{layout.checkpoint} is gone, which the report of an abinit job is made from: it cannot be written again."
        )
    given = settings.in_parts
    particles = read_particles(given if given.exists() else layout.particles, require_poses=False)
    monitor.poll()
    write_abinit_reports(
        finished.facts, particles, PoseTable.read(layout.root / POSES_NAME), read_consensus(files.maps),
        read_search(files.found)[0], read_transform(files.transform),
    )  # fmt: skip
