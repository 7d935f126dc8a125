"""Trains Cryofold's model on images.

Zhong 2022, 7.4: Adam in minibatches of 8; one pass of warm-up refines width and amplitude, after which the coordinates
are set back. Ours: the amplitude begins at the least-squares one; a step's length follows from the number of steps,
since fewer images than the published 50,000 must reach as far; it falls to a twentieth along a cosine.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel, divergence
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.training_passes import FoldData, PassTrainer, Schedule
from cryodrgn_ext.engines.neural.order import random_generator
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.progress import Monitor

#: A centre that is always pulled the same way shall get this far, Å: four times as far as the published noise.
REACH_A = 24.0
MOST_STEP_A = 0.1
AMPLITUDE_IMAGES = 64


class CryofoldTrainer(PassTrainer[CryofoldModel]):
    """Trains one model on some images, see :class:`PassTrainer`."""

    def __init__(
        self,
        model: CryofoldModel,
        data: FoldData,
        settings: CryofoldSettings,
        seed: int,
        place: CheckpointFile,
        monitor: Monitor,
    ) -> None:
        self.settings = settings
        steps = max(1, settings.epochs * math.ceil(len(data.rows) / settings.batch))
        self.step_A = settings.step_A or min(MOST_STEP_A, REACH_A / steps)
        schedule = Schedule(settings.warmup_epochs, settings.epochs, settings.batch)
        super().__init__(model, data, schedule, seed, place, monitor)

    def _begin(self) -> None:
        if self.settings.image_weight:
            sample = torch.linspace(0, len(self.rows) - 1, min(AMPLITUDE_IMAGES, len(self.rows))).long()
            self.model.set_amplitude(self.data.batch(self.rows[sample]))

    def _loss(self, rows: Int64[Tensor, " B"], epoch: int, start: int, warm: bool) -> Float[Tensor, ""]:
        """Loss of a batch, mean over its images; the networks are left out while warming up."""
        batch = self.data.batch(rows)
        settings, model = self.settings, self.model
        kl = torch.zeros(())
        z: Tensor | None = None
        if model.zdim and not warm:
            if self.data.latents is not None:
                z = self.data.latents[rows]
            else:
                mean, log_variance = model.encode(batch)
                noise = torch.randn(mean.shape, generator=random_generator(self.seed, epoch, start, 2))
                z = mean + noise * (0.5 * log_variance).exp()
                kl = divergence(mean, log_variance).mean()
        positions = model.positions(z)
        loss = settings.bond_strength * model.chain.energy(positions).mean() + 2 * settings.beta * kl
        if settings.image_weight:
            loss = loss + settings.image_weight * model.misfit(positions, batch).mean()
        return loss

    def _adam(self) -> torch.optim.Adam:
        model = self.model
        own = [model.centres, model.log_width_A, model.log_amplitude]
        networks = [one for one in model.parameters() if all(one is not other for other in own)]
        groups = [{"params": own[:1], "lr": 0.0}, {"params": own[1:], "lr": 0.0}]
        return torch.optim.Adam([*groups, {"params": networks, "lr": 0.0}] if networks else groups)

    def _rates(self, warm: bool) -> tuple[float, ...]:
        """Width and amplitude (logarithms) move as far as centres do in units of 2 Å."""
        return self.step_A, self.step_A / 2, 0.0 if warm else self.settings.learning_rate

    @torch.no_grad()
    def _warmed_up(self) -> None:
        self.model.centres.copy_(self.model.chain.base_A)
        self.optimizer = self._adam()
