"""Passes over images in minibatches with Adam: warm-up, a cosine of the step, checkpoints in the middle of a pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.neural.order import visiting_order
from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.images.checkpoint_file import CheckpointFile, restore_training, training_tensors
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor

LAST_RATE = 0.05  # of the first
BATCHES_PER_CHECKPOINT = 2000

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """How many passes, and how many images in a step."""

    warmup_epochs: int
    epochs: int
    batch: int


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


class PassTrainer(ABC, Generic[M]):
    """Trains one model on some images.

    Parameters
    ----------
    model : nn.Module
    data : FoldData
    schedule : Schedule
    seed : int
    place : CheckpointFile
        Where the run keeps its place.
    monitor : Monitor
    """

    def __init__(
        self, model: M, data: FoldData, schedule: Schedule, seed: int, place: CheckpointFile, monitor: Monitor
    ) -> None:
        self.model, self.data, self.rows, self.schedule = model, data, data.rows, schedule
        self.seed, self.place, self.monitor = seed, place, monitor
        self.optimizer = self._adam()

    @abstractmethod
    def _begin(self) -> None:
        """What is done once, before the first pass."""

    @abstractmethod
    def _adam(self) -> torch.optim.Adam:
        """A new optimiser of all parameters."""

    @abstractmethod
    def _rates(self, warm: bool) -> tuple[float, ...]:
        """Step of each group of parameters at the height of the cosine."""

    @abstractmethod
    def _loss(self, rows: Int64[Tensor, " B"], epoch: int, start: int, warm: bool) -> Float[Tensor, ""]:
        """Loss of a batch, mean over its images."""

    def _warmed_up(self) -> None:
        """What is done after the warm-up."""

    def run(self) -> list[float]:
        """Train, or go on; the mean loss per image of each pass, warm-up first."""
        progress = self._restored()
        if progress is None:
            progress = FoldProgress()
            self._begin()
        last = self.schedule.warmup_epochs + self.schedule.epochs
        while progress.epoch < last:
            warm = progress.epoch < self.schedule.warmup_epochs
            self._pass(progress, last, warm)
            progress.history.append(progress.running / len(self.rows))
            progress.epoch, progress.step, progress.running = progress.epoch + 1, 0, 0.0
            if progress.epoch == self.schedule.warmup_epochs:
                self._warmed_up()
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
                    "lower the step size, or look for images with extreme values"
                )
            progress.running += value * len(rows)
            progress.step = start + len(rows)
            if count % BATCHES_PER_CHECKPOINT == 0:
                self._save(progress)

    def _batches(self, progress: FoldProgress) -> Iterator[tuple[int, Tensor]]:
        order = visiting_order(len(self.rows), self.seed, progress.epoch)
        for start in range(progress.step, len(order), self.schedule.batch):
            yield start, self.rows[order[start : start + self.schedule.batch]]

    def _set_rates(self, place: float, warm: bool) -> None:
        """Cosine over the passes after the warm-up."""
        done = max(0.0, place - self.schedule.warmup_epochs) / self.schedule.epochs
        factor = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        for group, rate in zip(self.optimizer.param_groups, self._rates(warm), strict=False):
            group["lr"] = rate * factor

    def _save(self, progress: FoldProgress) -> None:
        self.place.save(vars(progress), training_tensors(self.model, self.optimizer))

    def _restored(self) -> FoldProgress | None:
        found = self.place.load()
        if found is None:
            return None
        numbers, tensors = found
        restore_training(tensors, self.model, self.optimizer)
        self.monitor.message(f"Continuing the atoms' fit after {numbers['epoch']} finished passes.")
        return FoldProgress(**numbers)
