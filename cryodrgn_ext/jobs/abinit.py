"""The job that finds poses, a map and, when asked, heterogeneity from particles without orientations.

Stages, each finished on disk before the next begins, so that a killed job goes on where it stopped: preprocessed
images, poses from nothing, coordinates and hand; with ``--zdim`` a first model on these poses and poses refined against
each image's own volume; map and half-maps from the final poses; the final model and its volumes; returned particles,
report.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.abinit_inputs import (
    AbinitInputs,
    check_continuation,
    image_key,
    pose_key,
    read_inputs,
    training_key,
    transform_key,
)
from cryodrgn_ext.jobs.abinit_model import TrainedModel, train_model, write_model_results
from cryodrgn_ext.jobs.abinit_neural import find_poses_with_network
from cryodrgn_ext.jobs.abinit_particles import alignment_columns, write_aligned_particles
from cryodrgn_ext.jobs.abinit_poses import FoundPoses, find_poses, refine_poses
from cryodrgn_ext.jobs.abinit_tilts import STEM, tilted_table
from cryodrgn_ext.jobs.given_particles import half_set_notes
from cryodrgn_ext.jobs.job_outputs import kept_files, map_with_halves, picture, shown_maps
from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.jobs.reconstructions import make_consensus
from cryodrgn_ext.jobs.volumes import decode_at_centers
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.pose.chosen_transform import ChosenTransform, choose_transform
from cryodrgn_ext.pose.map_alignment import fit_to_box
from cryodrgn_ext.pose.origins import JudgedOrigins, Origins, centred_on, judge_origins, origins_px
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.abinit_report import write_abinit_reports
from cryodrgn_ext.report.pictures import draw_fsc, draw_slices, draw_views
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.latent_tables import read_latent_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.pose_choices import (
    read_judged_origins,
    read_transform,
    write_judged_origins,
    write_transform,
)
from cryodrgn_ext.results.pose_table import PoseTable
from cryodrgn_ext.results.record import RECORD_NAME, read_record, write_record
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    returned_name,
    say_changed_poses,
    say_conversion,
    wants_columns,
)
from cryodrgn_ext.settings import fingerprint
from cryodrgn_ext.workflow.job_result import JobResult, Output, ParticleOutput
from cryodrgn_ext.workflow.stages import Stages
from cryodrgn_ext.workflow.threads import use_threads
from cryodrgn_ext.workflow.unfinished_files import remove_unfinished

MAP_FILES = ("map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.star")
FOUND_MAP, FOUND_POSES, FOUND_TILTED = "map.mrc", "poses.npz", "tilted.npz"


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
    use_threads(settings.j)
    monitor.message(f"Reading {settings.in_parts}")
    inputs = read_inputs(settings)
    layout = Layout(settings.o)
    begun = (layout.checkpoint / "search").exists() or (layout.checkpoint / "found").exists()
    check_continuation(settings, inputs, read_record(settings.o), begun)
    monitor.message(f"{inputs.particles.n} particles of {inputs.native_box} px, worked on in a box of {inputs.box} px")
    notes = () if inputs.reference is None else inputs.reference.notes
    for note in (*inputs.particles.notes, *notes):
        monitor.message(f"Note: {note}")
    layout.root.mkdir(parents=True, exist_ok=True)
    remove_unfinished(layout.root)
    return _AbinitJob(settings, inputs, layout, monitor).run()


class _AbinitJob:
    """One run of the job: the stages in order, and what they hand on through the result directory."""

    def __init__(self, settings: AbinitSettings, inputs: AbinitInputs, layout: Layout, monitor: Monitor) -> None:
        self.settings, self.inputs, self.layout, self.monitor = settings, inputs, layout, monitor
        self.device = choose_device(settings.device)
        self.stages = Stages(layout.checkpoint)
        self.notes: list[str] = []
        self.returned = returned_name(inputs.particles, settings.particles_format)
        self.found = layout.checkpoint / "found"
        self.transform = layout.checkpoint / "frame.json"
        self.final = layout.checkpoint / "maps"
        self.centre_px: Tensor | None = None  # (N, 2) working px: the places that shifts are searched around

    def run(self) -> JobResult:
        """All stages."""
        begin = time.monotonic()
        settings, inputs, layout = self.settings, self.inputs, self.layout
        if inputs.had_poses:
            self._note(f"The orientations in {settings.in_parts} are ignored: this job finds its own.")
        if inputs.origins_note is not None:
            self._note(inputs.origins_note)
        for note in half_set_notes(inputs.particles, aligned=False):
            self._note(note)
        images = self._open_images()
        self.stages.note_seconds("preprocessing", image_key(settings, inputs), time.monotonic() - begin)
        self.notes += self.monitor.warnings
        self._record("running", {})
        self.centre_px = self._centre_px(images, inputs.origins)
        self._stage("poses", pose_key(settings, inputs), "Poses from nothing", lambda: self._find(images),
                    self.found / FOUND_MAP, self.found / FOUND_POSES)  # fmt: skip
        key = transform_key(settings, inputs)
        self._stage("frame", key, "Coordinates and hand", self._choose_transform,
                    self.transform)  # fmt: skip
        chosen = read_transform(self.transform)
        self._note(chosen.sentence())
        poses = PoseTable.read(self.found / FOUND_POSES).transformed(chosen.transform, images.pixel_size_A)
        if settings.zdim > 0:
            key = training_key(settings, inputs)
        if settings.zdim > 0 and settings.engine != "neural":
            poses = self._with_own_volumes(images, poses, key)
        aligned = poses.align(images)
        self._stage("maps", key, "Map and half-maps", lambda: self._reconstruct(aligned, poses), self.final,
                    *(layout.root / name for name in (*MAP_FILES, FOUND_POSES)))  # fmt: skip
        consensus = read_consensus(self.final)
        self._note_maps(consensus)
        if settings.zdim > 0:
            self._learn(aligned, consensus, key)
        else:
            self._remove_model()
        name = fingerprint(key, settings.star_columns, self.returned)
        self._stage("particles", name, "Writing particles", lambda: self._write_particles(poses),
                    *(layout.root / one for one in self._returned_names))  # fmt: skip
        results = self._finish(images, poses, consensus, chosen)
        self._record("finished", results)
        self.monitor.message(f"Finished in {time.monotonic() - begin:.0f} s: see {layout.report}")
        return self._result(poses, consensus)

    def _stage(self, name: str, key: str, title: str, work: Callable[[], None], *products: Path) -> None:
        self.stages.run(name, key, self.monitor, title, work, products)

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.monitor.message(sentence)

    def _record(self, status: str, results: Mapping[str, Any]) -> None:
        write_record(self.layout.root, "abinit", status, self.settings, self.inputs.record, results)

    def _open_images(self, particles: ParticleSet | None = None, folder: str = "images") -> ParticleImages:
        preprocessing = PreprocessSettings(
            box_size=self.inputs.box,
            mask_diameter_A=self.settings.mask_diameter_A,
            contrast=self.settings.contrast,  # type: ignore[arg-type]  # the declaration lists the same words
        )
        try:
            return open_images(
                self.inputs.particles if particles is None else particles,
                self.layout.checkpoint / folder,
                preprocessing,
                self.monitor,
                rebuild=True,
            )
        except InputError:
            # Images that cannot be used leave nothing behind; an abort or a kill leaves what can be continued.
            if not (self.layout.root / RECORD_NAME).exists():
                shutil.rmtree(self.layout.checkpoint, ignore_errors=True)
            raise

    def _centre_px(self, images: ParticleImages, origins: Origins | None, name: str = "origins") -> Tensor | None:
        """Where shifts are searched around, by the origins of the user's file; None for the centres of the images."""
        choice = self.settings.use_origins
        if origins is None:
            return None
        judged, path = JudgedOrigins(False, 0.0, 0.0), self.layout.checkpoint / f"{name}.json"
        if choice != "no":
            title = f"Whether the origins in {origins.path.name} centre the particles"
            self._stage(name, pose_key(self.settings, self.inputs), title,
                        lambda: write_judged_origins(path, judge_origins(images, origins, choice, self.monitor)),
                        path)  # fmt: skip
            judged = read_judged_origins(path)
        self._note(judged.sentence(origins, choice))
        return origins_px(origins, images) if judged.used else None

    def _find(self, images: ParticleImages) -> None:
        search = self.layout.checkpoint / "search"
        search.mkdir(parents=True, exist_ok=True)
        shift_px = self.inputs.max_shift_px(self.settings)
        if self.settings.engine != "neural":
            found = find_poses(_centred(images, self.centre_px), self.settings, shift_px, search, self.monitor)
            self._keep(self.found, images, found)
            return
        tilted, second = None, None
        if self.inputs.tilted is not None:
            tilted = self._open_images(self.inputs.tilted.particles, "tilted_images")
            second = self._centre_px(tilted, self.inputs.tilted.origins, "tilted_origins")
        found = find_poses_with_network(
            _centred(images, self.centre_px), None if tilted is None else _centred(tilted, second), self.settings,
            shift_px, search, self.monitor, find_poses,
        )  # fmt: skip
        self._keep(self.found, images, found)
        if tilted is not None:
            first = PoseTable.read(self.found / FOUND_POSES)
            if second is not None and found.tilted_shift_px is not None:
                found = replace(found, tilted_shift_px=found.tilted_shift_px + second.numpy())
            tilted_table(tilted, first, found, self.settings).write(self.found / FOUND_TILTED)

    def _keep(self, directory: Path, images: ParticleImages, found: FoundPoses) -> None:
        """Write what was found for images centred on other places."""
        directory.mkdir(parents=True, exist_ok=True)
        write_map(directory / FOUND_MAP, found.map, images.pixel_size_A)
        poses = found.poses if self.centre_px is None else found.poses.moved(self.centre_px)
        table = PoseTable.from_working(images, poses, found.log_likelihood)
        likelihoods = np.array(found.initialisations, np.float64)
        table.write(directory / FOUND_POSES, starts=likelihoods, fsc=np.asarray(found.fsc, np.float64))

    def _search_arrays(self) -> tuple[list[float], NDArray[np.float64]]:
        """Log-likelihood of each random initialisation, and the FSC between the halves of what was found."""
        with np.load(self.found / FOUND_POSES, allow_pickle=False) as arrays:
            return arrays["starts"].tolist(), arrays["fsc"]

    def _choose_transform(self) -> None:
        volume = read_map(self.found / FOUND_MAP)
        _, curve = self._search_arrays()
        chosen = choose_transform(
            volume.data, volume.pixel_size_A, curve, self.inputs.reference, self.settings.flip_hand
        )
        write_transform(self.transform, chosen)

    def _with_own_volumes(self, images: ParticleImages, poses: PoseTable, key: str) -> PoseTable:
        """A first model, and the poses refined against the volume that it gives each image."""
        first = TrainedModel(self.layout.checkpoint / f"first_{key}")
        refined = self.layout.checkpoint / f"refined_{key}"
        aligned = poses.align(images)
        self._stage("first model", key, "First model, on these poses",
                    lambda: train_model(first, aligned, self.settings, self.device, self.monitor),
                    first.model)  # fmt: skip

        def refine() -> None:
            shift_px, radius = self.inputs.max_shift_px(self.settings), read_consensus(first.consensus).radius
            model = load_heterogeneity(first.model)
            near = centred_on(aligned, self.centre_px)
            self._keep(refined, images, refine_poses(near, model, self.settings, shift_px, radius, self.monitor))

        self._stage("refined poses", key, "Poses against each image's own volume", refine, refined / FOUND_POSES)
        return PoseTable.read(refined / FOUND_POSES)

    def _reconstruct(self, aligned: ParticleImages, poses: PoseTable) -> None:
        make_consensus(self.final, aligned, None, self.device, self.monitor)
        for name in MAP_FILES:
            self._publish(self.final / name, self.layout.root / name)
        particles = self.inputs.particles
        poses.write(self.layout.root / FOUND_POSES, uid=particles.uid, row_id=particles.row_id)

    def _publish(self, source: Path, target: Path) -> None:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)

    def _note_maps(self, consensus: Consensus) -> None:
        halves = (
            "the poses of both halves were found with one model, so take it for an upper estimate"
            if self.settings.zdim > 0 or self.settings.engine == "neural"
            else "the halves were refined independently but for the lowest frequencies"
        )
        self._note(f"Map: {consensus.resolution_A:.2f} Å between half-maps (FSC 0.143, masked); {halves}.")
        reference = self.inputs.reference
        if reference is not None:
            box, pixel_A = len(consensus.map), consensus.pixel_size_A
            target = fit_to_box(torch.from_numpy(reference.data), reference.pixel_size_A, box, pixel_A)
            curve = fsc(torch.from_numpy(consensus.map), target, torch.from_numpy(consensus.mask))
            self._note(f"The map agrees with --in_3dref to {resolution_A(curve, pixel_A, box, 0.5):.1f} Å (FSC 0.5).")

    def _learn(self, aligned: ParticleImages, consensus: Consensus, key: str) -> None:
        """The final model, its latents and volumes."""
        layout = self.layout
        last = TrainedModel(layout.checkpoint / f"last_{key}")
        self._stage("training", key, "Model on the final poses",
                    lambda: write_model_results(layout, last, aligned, consensus, self.inputs.particles, self.settings,
                                                self.monitor), layout.model, layout.latents)  # fmt: skip
        decoded = fingerprint(key, self.settings.volumes, self.settings.seed)
        self._stage("volumes", decoded, "Volumes along the latent space",
                    lambda: decode_at_centers(layout, self.settings.volumes, self.settings.seed, self.monitor),
                    layout.volumes)  # fmt: skip

    def _remove_model(self) -> None:
        """What an earlier run with --zdim left in the directory speaks of other poses."""
        self.layout.latents.unlink(missing_ok=True)
        for folder in (self.layout.model, self.layout.volumes):
            shutil.rmtree(folder, ignore_errors=True)

    def _write_particles(self, poses: PoseTable) -> None:
        particles = self.inputs.particles
        columns = {}
        if self.settings.zdim > 0 and wants_columns(particles, self.settings.star_columns):
            columns = latent_star_columns(read_latent_table(self.layout.latents).z, None)
        say_conversion(particles, Path(self.returned), self.monitor)
        say_changed_poses(particles, self.monitor)
        for name in {"particles.star", "particles.cs", "particles.csg"} - set(self._returned_names):
            (self.layout.root / name).unlink(missing_ok=True)  # of an earlier run in another format
        write_aligned_particles(self.layout.root / self.returned, particles, poses, columns)
        if self.inputs.tilted is not None:
            transform, pixel_A = read_transform(self.transform).transform, self.inputs.extent_A / self.inputs.box
            tilted = PoseTable.read(self.found / FOUND_TILTED).transformed(transform, pixel_A)
            write_aligned_particles(
                self.layout.root / self._returned_names[-1], self.inputs.tilted.particles, tilted, {}
            )

    @property
    def _returned_names(self) -> tuple[str, ...]:
        names = (self.returned, "particles.csg") if self.returned.endswith(".cs") else (self.returned,)
        return names if self.inputs.tilted is None else (*names, STEM + Path(self.returned).suffix)

    def _finish(
        self, images: ParticleImages, poses: PoseTable, consensus: Consensus, chosen: ChosenTransform
    ) -> dict[str, Any]:
        """Report, and what job.yaml says of the results."""
        seconds = self.stages.seconds()
        likelihoods, _ = self._search_arrays()
        self.monitor.poll()
        write_abinit_reports(
            self.layout,
            self.settings,
            self.inputs.particles,
            poses,
            consensus,
            likelihoods,
            chosen,
            self.notes,
            seconds,
        )
        return {
            "particles": self.inputs.particles.n,
            "box": images.box_size,
            "pixel_size_A": round(images.pixel_size_A, 6),
            "resolution_A": round(consensus.resolution_A, 3),
            "log_likelihood_of_starts": [round(one, 4) for one in likelihoods],
            "mirrored": chosen.transform.mirrored,
            "correlation_with_reference": chosen.correlation,
            "notes": self.notes,
            "seconds": seconds,
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
        return JobResult(root, outputs, layout.logfile, plots, shown, kept_files(layout, FOUND_POSES, "latents.npz"))


def _centred(images: ParticleImages, centre_px: Tensor | None) -> ParticleImages:
    """Images without poses, centred on other places: every shift there is zero."""
    if centre_px is None:
        return images
    return centred_on(images.with_poses(Poses(images.rotation, centre_px)), centre_px)
