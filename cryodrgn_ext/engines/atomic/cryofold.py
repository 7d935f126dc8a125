"""Trains Cryofold's model on images: warm-up, passes in minibatches with Adam, checkpoints.

Zhong 2022, 7.4: Adam in minibatches of 8; one pass of warm-up refines width and amplitude, after which the coordinates
are set back. Ours: the amplitude begins at the least-squares one; a step's length follows from the number of steps,
since fewer images than the published 50,000 must reach as far; it falls to a twentieth along a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel, FoldBatch, divergence
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.neural.order import random_generator, visiting_order
from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor

#: A centre that is always pulled the same way shall get this far, Å: four times as far as the published noise.
REACH_A = 24.0
MOST_STEP_A = 0.1
LAST_RATE = 0.05  # of the first
BATCHES_PER_CHECKPOINT = 2000
AMPLITUDE_IMAGES = 64


@dataclass
class FoldProgress:
    """Place in the schedule, and the mean loss per image of each pass."""

    epoch: int = 0
    step: int = 0
    running: float = 0.0
    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FoldData:
    """Images to learn from.

    Attributes
    ----------
    images : ParticleImages
    rows : Tensor
        (n,) int64 those to learn from.
    radius : int
        Highest frequency, cycles per box.
    latents : Tensor or None
        (N, q) given latents of all images, where the model has no encoder.
    """

    images: ParticleImages
    rows: Int64[Tensor, " n"]
    radius: int
    latents: Float[Tensor, "N q"] | None = None

    def batch(self, rows: Int64[Tensor, " B"]) -> FoldBatch:
        """Some of the images."""
        return FoldBatch.of(self.images, rows, self.radius)


class CryofoldTrainer:
    """Trains one model on some images.

    Parameters
    ----------
    model : CryofoldModel
    data : FoldData
    settings : CryofoldSettings
    seed : int
    place : CheckpointFile
        Where the run keeps its place.
    monitor : Monitor
    """

    def __init__(
        self,
        model: CryofoldModel,
        data: FoldData,
        settings: CryofoldSettings,
        seed: int,
        place: CheckpointFile,
        monitor: Monitor,
    ) -> None:
        self.model, self.data, self.rows, self.settings = model, data, data.rows, settings
        self.seed, self.place, self.monitor = seed, place, monitor
        steps = max(1, settings.epochs * math.ceil(len(self.rows) / settings.batch))
        self.step_A = settings.step_A or min(MOST_STEP_A, REACH_A / steps)
        self.optimizer = self._adam()

    def run(self) -> list[float]:
        """Train, or go on; the mean loss per image of each pass, warm-up first."""
        progress = self._restored()
        if progress is None:
            progress = FoldProgress()
            sample = self.rows[torch.linspace(0, len(self.rows) - 1, min(AMPLITUDE_IMAGES, len(self.rows))).long()]
            if self.settings.image_weight:
                self.model.set_amplitude(self.data.batch(sample))
        last = self.settings.warmup_epochs + self.settings.epochs
        while progress.epoch < last:
            warm = progress.epoch < self.settings.warmup_epochs
            self._pass(progress, last, warm)
            progress.history.append(progress.running / len(self.rows))
            progress.epoch, progress.step, progress.running = progress.epoch + 1, 0, 0.0
            if progress.epoch == self.settings.warmup_epochs:
                self._set_back()
            self._save(progress)
        return progress.history

    def _pass(self, progress: FoldProgress, last: int, warm: bool) -> None:
        name = f"Atoms, {'warm-up' if warm else 'pass'} {progress.epoch + 1} of {last}"
        batches = list(self._batches(progress))
        for count, (start, rows) in enumerate(self.monitor.track(batches, name, len(batches)), 1):
            self._set_rates(progress.epoch + start / len(self.rows), warm)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(rows, progress.epoch, start, warm)
            loss.backward()
            self.optimizer.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise CryodrgnExtError(
                    f"the fit of the atoms diverged in pass {progress.epoch + 1} (its loss is no longer a number): "
                    "lower --step_A and --learning_rate, or look for images with extreme values"
                )
            progress.running += value * len(rows)
            progress.step = start + len(rows)
            if count % BATCHES_PER_CHECKPOINT == 0:
                self._save(progress)

    def _batches(self, progress: FoldProgress) -> Iterator[tuple[int, Tensor]]:
        order = visiting_order(len(self.rows), self.seed, progress.epoch)
        for start in range(progress.step, len(order), self.settings.batch):
            yield start, self.rows[order[start : start + self.settings.batch]]

    def _loss(self, rows: Tensor, epoch: int, start: int, warm: bool) -> Float[Tensor, ""]:
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

    def _set_rates(self, place: float, warm: bool) -> None:
        """Cosine over the passes; width and amplitude (logarithms) as far as centres in units of the first width."""
        done = max(0.0, place - self.settings.warmup_epochs) / self.settings.epochs
        factor = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        rates = (self.step_A, self.step_A / 2, 0.0 if warm else self.settings.learning_rate)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * factor

    @torch.no_grad()
    def _set_back(self) -> None:
        self.model.centres.copy_(self.model.chain.base_A)
        self.optimizer = self._adam()

    def _save(self, progress: FoldProgress) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        self.place.save(vars(progress), tensors)

    def _restored(self) -> FoldProgress | None:
        found = self.place.load()
        if found is None:
            return None
        numbers, tensors = found
        prefix = "model."
        self.model.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, moment = name.split(".")
                state.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.monitor.message(f"Continuing the atoms' fit after {numbers['epoch']} finished passes.")
        return FoldProgress(**numbers)
