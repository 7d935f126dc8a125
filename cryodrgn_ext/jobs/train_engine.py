"""What every process of a training does alike: open the images, and call the engine."""

from __future__ import annotations

from cryodrgn_ext.engines.base import Heterogeneity, get_engine
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.consensus import Consensus, read_consensus
from cryodrgn_ext.jobs.layout import Layout
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.parallel import Worker
from cryodrgn_ext.jobs.train_inputs import TrainInputs, read_inputs
from cryodrgn_ext.progress import Monitor, SilentMonitor


def open_working_images(
    settings: TrainSettings, inputs: TrainInputs, layout: Layout, monitor: Monitor, rebuild: bool = True
) -> ParticleImages:
    """Preprocess the images of a job, or open those that are there; see :func:`open_images`."""
    preprocessing = PreprocessSettings(
        box_size=inputs.box,
        mask_diameter_A=settings.mask_diameter_A,
        contrast=settings.contrast,  # type: ignore[arg-type]  # the declaration lists the same words
    )
    return open_images(inputs.particles, layout.checkpoint / "images", preprocessing, monitor, rebuild=rebuild)


def learn(
    settings: TrainSettings, layout: Layout, images: ParticleImages, consensus: Consensus, monitor: Monitor
) -> Heterogeneity:
    """Train the engine, alone or as one process of a group."""
    engine = get_engine(settings.engine)
    return engine.train(
        images, consensus.map, settings, layout.checkpoint / "training", monitor, consensus_radius=consensus.radius
    )


class TrainWorker(Worker):
    """A process that helps with the training and with nothing else: it reads what the first one has prepared."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.layout = settings, Layout(settings.o)
        self.inputs = read_inputs(settings)

    def work(self) -> None:
        """Take part in the training."""
        monitor = SilentMonitor()
        images = open_working_images(self.settings, self.inputs, self.layout, monitor, rebuild=False)
        learn(self.settings, self.layout, images, read_consensus(self.layout.consensus), monitor)
