"""A finished training repeated on other images: of one structure, or of one half-set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.settings import as_switches, fingerprint
from cryodrgn_ext.validation.states import State, StateMasks, SubsetDraws, iterate_states
from cryodrgn_ext.workflow.finished_result import read_finished
from cryodrgn_ext.workflow.given_maps import read_mask
from cryodrgn_ext.workflow.reconstructions import make_consensus
from cryodrgn_ext.workflow.states_run import cut_latents
from cryodrgn_ext.workflow.training.train_engine import learn_regions
from cryodrgn_ext.workflow.working_box import native_box, native_pixel_A


@dataclass(frozen=True)
class Trained:
    """Model, consensus, and state of each particle (N,), of a repeated training."""

    model: Heterogeneity
    consensus: Consensus
    label: NDArray[np.int32]


@dataclass(frozen=True)
class RepeatedTraining:
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
    def of(cls, result: LearnedResult) -> RepeatedTraining:
        """Read how a result was trained.

        Raises
        ------
        InputError
            When it is of no train job, has no latents, or a mask of it is gone.
        """
        if result.job != "train" or result.latents is None:
            raise InputError(
                f"--null, --power and --independent_halves repeat a training, but {result.directory} is of "
                f"{'a homogeneous train' if result.job == 'train' else f'an {result.job}'} job: leave them out, or "
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
    def key(self) -> str:
        """Fingerprint of how it was trained."""
        return fingerprint(as_switches(self.settings.to_mapping()), self.box, self.data_sign)

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How the training's images were preprocessed."""
        return PreprocessSettings(
            box_size=self.box, mask_diameter_A=self.settings.mask_diameter_A, data_sign=self.data_sign
        )

    def states(
        self, images: ParticleImages, label: NDArray[np.integer], consensus: Consensus, monitor: Monitor
    ) -> Iterator[State]:
        """Reconstruct the states of labelled images (N,; below 0 in none) and weigh the evidence of each."""
        return iterate_states(
            images, label, consensus, StateMasks(consensus.mask), draws=SubsetDraws(seed=self.settings.seed),
            device=choose_device(self.settings.device), monitor=monitor,
        )  # fmt: skip

    def train(self, images: ParticleImages, folder: Path, monitor: Monitor) -> Trained:
        """Do all that the job does up to its states; a run that was killed goes on in the same folder.

        Parameters
        ----------
        images : ParticleImages
            In the place of the training's.
        folder : Path
            For the consensus and the engine's checkpoints.
        monitor : Monitor
        """
        settings = self.settings
        group = point_group(settings.symmetry)
        make_consensus(folder / "consensus", images, self.masks[0], choose_device(settings.device), monitor, group)
        consensus = read_consensus(folder / "consensus")
        model = learn_regions(settings, self.masks, folder / "training", images, consensus, monitor)
        table, _ = cut_latents(model.z, model.z_cov, images.unusable, settings.states, settings.seed)
        return Trained(model, consensus, table.label)
