"""A training repeated on images of one structure: what the job finds where there is nothing to be found."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.train_engine import learn_regions
from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.progress import Monitor, QuietMonitor
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.validation.image_errors import measure_errors
from cryodrgn_ext.validation.null_finding import NullFinding
from cryodrgn_ext.validation.null_images import make_null_images
from cryodrgn_ext.validation.states import StateMasks, SubsetDraws, iterate_states
from cryodrgn_ext.validation.verdict import Conclusion, conclude
from cryodrgn_ext.workflow.finished_result import read_finished
from cryodrgn_ext.workflow.given_maps import read_mask
from cryodrgn_ext.workflow.reconstructions import make_consensus
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A


@dataclass(frozen=True)
class NullRuns:
    """A finished training, ready to be repeated.

    Attributes
    ----------
    settings : TrainSettings
        Of the training.
    box : int
        That it worked in.
    data_sign : str
        That it took the images for.
    consensus : Path
        Folder of its consensus.
    masks : pair of VolumeMap or None
        Solvent and region of interest, as its user gave them.
    """

    settings: TrainSettings
    box: int
    data_sign: str
    consensus: Path
    masks: tuple[VolumeMap | None, VolumeMap | None]

    @classmethod
    def of(cls, result: LearnedResult) -> NullRuns:
        """Read how a result was trained.

        Raises
        ------
        InputError
            When it is of no train job, has no latents, or a mask of it is gone.
        """
        if result.job != "train" or result.latents is None:
            raise InputError(
                f"--null repeats a training on images of one structure, but {result.directory} is of "
                f"{'a homogeneous train' if result.job == 'train' else f'an {result.job}'} job: leave --null out, or "
                "train on its particles and give that result."
            )
        record = require_record(result.directory, "train")
        settings = read_finished(result.directory, record, TrainSettings).settings
        assert isinstance(settings, TrainSettings)
        native, pixel_A = native_box(result.particles), native_pixel_A(result.particles)
        solvent, focus = (
            None if path is None else read_mask(path, option, native, pixel_A)
            for path, option in ((settings.in_mask, "--in_mask"), (settings.focus_mask, "--focus_mask"))
        )
        sign = "black" if record["results"].get("data_sign", 1) < 0 else "white"
        return cls(settings, int(record["results"]["box"]), sign, Layout(result.directory).consensus, (solvent, focus))

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How the training's images were preprocessed."""
        return PreprocessSettings(
            box_size=self.box, mask_diameter_A=self.settings.mask_diameter_A, data_sign=self.data_sign
        )

    def run(self, open_images: Callable[[], ParticleImages], seed: int, folder: Path, monitor: Monitor) -> None:
        """Make a set of images of one structure, train on it, cut and judge its states, and write what was found.

        Parameters
        ----------
        open_images : callable
            Opens the training's images.
        seed : int
            Of the set.
        folder : Path
            ``folder.json`` is written; what lies in the folder meanwhile is removed.
        monitor : Monitor
        """
        images, consensus = open_images(), read_consensus(self.consensus)
        errors = measure_errors(images, consensus.map, consensus.mask, min(consensus.radius, images.plane.radius))
        folder.mkdir(parents=True, exist_ok=True)
        null = make_null_images(images, consensus.map, errors, (seed, 8), folder / "coefficients.npy", monitor)
        found = self._find(null, folder, QuietMonitor(monitor))
        write_json(found_path(folder), {
            "states": [vars(one) for one in found], "turn_deg": math.degrees(errors.turn_rad),
            "shift_A": errors.shift_px * images.pixel_size_A,
        })  # fmt: skip
        shutil.rmtree(folder)

    def _find(self, images: ParticleImages, folder: Path, monitor: Monitor) -> list[Conclusion]:
        """Conclude on the states that the training finds in these images."""
        settings = self.settings
        device = choose_device(settings.device)
        group = point_group(settings.symmetry)
        make_consensus(folder / "consensus", images, self.masks[0], device, monitor, group)
        consensus: Consensus = read_consensus(folder / "consensus")
        result = learn_regions(settings, self.masks, folder / "training", images, consensus, monitor)
        clusters = cluster_latents(result.z, settings.states, seed=settings.seed)
        draws = SubsetDraws(seed=settings.seed)
        states = iterate_states(images, clusters.label, consensus, StateMasks(consensus.mask), draws=draws,
                                device=device, monitor=monitor)  # fmt: skip
        return [conclude(state.evidence) for state in states]


def found_path(folder: Path) -> Path:
    """Where a run in ``folder`` leaves what it found."""
    return folder.with_suffix(".json")


def read_finding(folders: list[Path]) -> NullFinding:
    """Sum up finished runs."""
    found = [load_json(found_path(folder)) for folder in folders]
    runs = [[Conclusion(**one) for one in run["states"]] for run in found]
    return NullFinding.of(runs, max(run["turn_deg"] for run in found), max(run["shift_A"] for run in found))
