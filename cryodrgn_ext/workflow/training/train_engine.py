"""Steps that every process of a training does alike: open the images, and call the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import Heterogeneity, LatentsFunction, Regions, get_engine
from cryodrgn_ext.engines.choice import choose_engine
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.consensus import Consensus, read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.workflow.launcher import Worker
from cryodrgn_ext.workflow.training.train_inputs import TrainInputs, read_inputs


def preprocessing(settings: TrainSettings, inputs: TrainInputs) -> PreprocessSettings:
    """How the images are preprocessed."""
    return PreprocessSettings(
        box_size=inputs.box,
        mask_diameter_A=settings.mask_diameter_A,
        data_sign=settings.contrast,
    )


def learn(
    settings: TrainSettings, inputs: TrainInputs, layout: Layout, images: ParticleImages, consensus: Consensus,
    monitor: Monitor, on_latents: LatentsFunction | None = None,
) -> Heterogeneity:  # fmt: skip
    """Train the engine, alone or as one process of a group."""
    masks = (inputs.mask, inputs.focus)
    return learn_regions(settings, masks, layout.checkpoint / "training", images, consensus, monitor, on_latents)


def learn_regions(
    settings: TrainSettings, masks: tuple[VolumeMap | None, VolumeMap | None], checkpoint: Path, images: ParticleImages,
    consensus: Consensus, monitor: Monitor, on_latents: LatentsFunction | None = None,
) -> Heterogeneity:  # fmt: skip
    """Train the engine with the user's solvent mask and region of interest, if there are."""
    engine = get_engine(choose_engine(settings.engine, settings))
    context = EngineContext.of(settings, checkpoint, monitor)
    return engine.train(
        images, consensus.map, engine.options_of(settings), context, consensus_radius=consensus.radius,
        regions=_regions(masks, images), on_latents=on_latents,
    )  # fmt: skip


def _regions(given: tuple[VolumeMap | None, VolumeMap | None], images: ParticleImages) -> Regions:
    """Masks at the working box."""
    masks: list[NDArray[np.float32] | None] = []
    for name, one in zip(("--in_mask", "--focus_mask"), given, strict=True):
        if one is None:
            masks.append(None)
        else:
            masks.append(working_map(one, images.box_size, images.pixel_size_A, name).clamp(0, 1).numpy())
    return Regions(*masks)


class TrainWorker(Worker):
    """A process that helps with the training and with nothing else: it reads what the first one has prepared."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.layout = settings, Layout(settings.o)
        self.inputs = read_inputs(settings)

    def work(self) -> None:
        """Take part in the training."""
        monitor = SilentMonitor()
        store = self.layout.checkpoint / "images"
        images = open_images(self.inputs.particles, store, preprocessing(self.settings, self.inputs), monitor)
        learn(self.settings, self.inputs, self.layout, images, read_consensus(self.layout.consensus), monitor)
