"""From images to a motion by Cryofold, see :mod:`.image_learning`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.atomic.agreement import Density
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold import CryofoldTrainer
from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.image_learning import AtomsOfImages, FloatArray, FoldSetting, ImageLearner
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor


class CryofoldLearner(ImageLearner):
    """Learns a motion of a structure that lies in the frame of the images.

    Parameters
    ----------
    images : ParticleImages
    chain : CoarseChain
        Where the fit begins.
    settings : CryofoldSettings
    setting : FoldSetting
    monitor : Monitor
    latents : ndarray, optional
        (N, q) given latents; the encoder's if not given.
    """

    def __init__(
        self, images: ParticleImages, chain: CoarseChain, settings: CryofoldSettings, setting: FoldSetting,
        monitor: Monitor, latents: NDArray[np.floating] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(images, chain.structure, settings.zdim, setting, monitor)
        self.chain, self.settings = chain, settings
        if latents is not None and settings.zdim:
            values = torch.from_numpy(np.asarray(latents)).float()
            own = (values - values[self.rows].mean(0)) / values[self.rows].std(0).clamp_min(1e-6)
            self.data, self.zdim = replace(self.data, latents=own), values.shape[1]

    def _train(self, rows: Int64[Tensor, " n"], seed: int, place: CheckpointFile) -> tuple[AtomsOfImages, list[float]]:
        settings, encoder = self.settings, self.data.latents is None
        shape = (settings.layers, settings.dim)
        model = CryofoldModel(self.chain, self.images, self.radius, self.zdim, encoder, shape)
        data = replace(self.data, rows=rows)
        return model, CryofoldTrainer(model, data, settings, seed, place, self.monitor).run()

    def _centres(self, positions: FloatArray) -> FloatArray:
        return self.chain.centres(positions)

    def _density(self, model: AtomsOfImages) -> Density:
        """The electrons of residues, of the fitted width and amplitude."""
        assert isinstance(model, CryofoldModel)
        return self.gaussians(model.log_amplitude.exp(), float(model.log_width_A.detach().exp()))
