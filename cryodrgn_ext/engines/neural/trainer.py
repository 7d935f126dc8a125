"""One training run of the neural engine: the passes, the optimiser, checkpoints, and the latents at the end.

In a group of processes each works on its own rows of every batch; gradients are added up, so that all hold the same
weights, and the result is that of one process up to rounding. Everything random follows from the seed and the place
in the schedule, never from the number of processes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.distributed import Workers
from cryodrgn_ext.engines.neural import checkpoint
from cryodrgn_ext.engines.neural.checkpoint import Progress
from cryodrgn_ext.engines.neural.model import LossTerms, Observation, VolumeModel
from cryodrgn_ext.engines.neural.observations import ObservationSource
from cryodrgn_ext.engines.neural.order import random_generator, visiting_order
from cryodrgn_ext.engines.neural.prefetch import ReadAhead
from cryodrgn_ext.engines.neural.refinement import refine
from cryodrgn_ext.engines.neural.settings import Recipe
from cryodrgn_ext.engines.neural.table import LatentTable
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.fourier.block_sizes import block_size, halved, in_blocks

LATENT_BATCH = 256
TRAINED = "images of a training step"
BLOCK_IMAGES = 32  # made ready together: what does not depend on the weights is computed for several steps at once
CURRICULUM = 0.4  # of the passes, in which the band of the fast vae grows from the latent to the training band
SAMPLED = ("separable", "residual")  # architectures that see a random choice of the high frequencies in each step
LOSSES = ("total", "reconstruction", "kl")


@dataclass(frozen=True)
class _Step:
    """Part of one batch that this process works on: positions in the batch, rows of the shard, and their images."""

    start: int
    size: int
    position: Tensor
    rows: Tensor
    observation: Observation

    def images(self, start: int, stop: int) -> _Step:
        """Some of the images, without copying."""
        here = slice(start, stop)
        position, rows = self.position[here], self.rows[here]
        return _Step(self.start, self.size, position, rows, self.observation.images(start, stop))


class Trainer:
    """One training run: where it stands, and how it goes on.

    Parameters
    ----------
    recipe : Recipe
    source : ObservationSource
        Of the images of this process's shard.
    model : VolumeModel
    table : LatentTable or None
        Latents of the shard, where they are a table.
    n_images : int
        Number of images of all processes.
    data : mapping
        What identifies the images, for the checkpoint.
    group : Workers
    context : EngineContext
        Checkpoints and monitor.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: ObservationSource,
        model: VolumeModel,
        table: LatentTable | None,
        n_images: int,
        data: dict[str, Any],
        group: Workers,
        context: EngineContext,
    ) -> None:
        self.recipe, self.source, self.model, self.table = recipe, source, model, table
        self.n, self.group, self.shard = n_images, group, group.shard(n_images)
        self.directory, self.monitor = context.checkpoint_dir, context.monitor
        self.checkpoint_seconds = context.checkpoint_seconds
        self.optimizer = make_adam(model, recipe.learning_rate)
        self.key = checkpoint.fingerprint(recipe.to_mapping(), data)

    def run(self) -> dict[str, list[float]]:
        """Train from the checkpoint, or from the start, to the last pass; return the loss history."""
        progress = self._restored()
        self.model.train()
        saved = time.monotonic()
        while progress.epoch < self.recipe.epochs:
            begin, batch = progress.step, self.recipe.batch
            total = self.n - begin
            label = f"Pass {progress.epoch + 1} of {self.recipe.epochs}"
            for step in self.monitor.track(self._steps(progress.epoch, begin), label, total, batch):
                due = self.directory is not None and time.monotonic() - saved > self.checkpoint_seconds
                due = self._take(step, progress, due)
                progress.step = step.start + batch
                if due:
                    self._save(progress)
                    saved = time.monotonic()
            self._finish_pass(progress)
            self._save(progress)
            saved = time.monotonic()
        return progress.history

    def _restored(self) -> Progress:
        """Where the checkpoint stands; the start when there is none."""
        if self.directory is None:
            return Progress()
        self.directory.mkdir(parents=True, exist_ok=True)
        table = None if self.table is None else self.table.tensors()
        found = checkpoint.restore(self.directory, self.key, self.model, self.optimizer, table, self.shard)
        if found is None:
            return Progress()
        self.monitor.message(f"Continuing from the checkpoint after {found.epoch} finished passes.")
        if found.epoch > self.recipe.epochs:
            self.monitor.message(
                f"Warning: the model has been trained for {passes(found.epoch)} already, more than "
                f"--epochs {self.recipe.epochs}: it is taken as it is."
            )
        return found

    def _steps(self, epoch: int, first: int) -> Iterator[_Step]:
        """Own part of every batch of a pass, from position ``first`` of the order on."""
        order = visiting_order(self.n, self.recipe.seed, epoch, self.group.size)
        batch = self.recipe.batch
        stride = batch * max(1, BLOCK_IMAGES // batch)
        starts = range(first - first % stride, self.n, stride)
        ahead = self.source.images.source if isinstance(self.source.images.source, ReadAhead) else None
        count = self._band(epoch)
        for start in starts:
            block = order[start : start + stride]
            mine = (block >= self.shard.start) & (block < self.shard.stop)
            position = mine.nonzero()[:, 0]
            local = block[position] - self.shard.start
            generator = random_generator(self.recipe.seed, epoch, start, 1)
            drawn = self.source.draw(generator) if self._samples(epoch) else None
            observation = self.source.observe(local, count, drawn)
            if ahead is not None and start + stride < self.n:
                following = order[start + stride : start + 2 * stride]
                own = following[(following >= self.shard.start) & (following < self.shard.stop)]
                ahead.expect(own - self.shard.start, count)
            for offset in range(0, len(block), batch):
                if start + offset < first:
                    continue
                size = min(batch, len(block) - offset)
                low, high = (int((position < limit).sum()) for limit in (offset, offset + size))
                yield _Step(
                    start + offset, size, position[low:high] - offset, local[low:high], observation.images(low, high)
                )

    def _linear(self, epoch: int) -> bool:
        return epoch < self.recipe.linear_epochs

    def _samples(self, epoch: int) -> bool:
        """Whether steps of a pass see the latent band and a random choice of the rest."""
        return self.recipe.architecture in SAMPLED and not self._linear(epoch)

    def _band(self, epoch: int) -> int:
        """Number of leading coefficients that a pass trains on."""
        bands, plane = self.source.bands, self.source.images.plane
        if self._linear(epoch):
            return self.source.n_latent
        growing = CURRICULUM * self.recipe.epochs
        if self.recipe.preset == "cryodrgn" or self.recipe.architecture in SAMPLED or epoch >= growing:
            return self.source.n_train
        radius = bands.latent_radius + (bands.train_radius - bands.latent_radius) * epoch / growing
        return max(self.source.n_latent, plane.prefix(radius))

    def _take(self, step: _Step, progress: Progress, due: bool) -> bool:
        """One step of the optimiser; returns whether a checkpoint is due (the first process decides)."""
        rate = self._learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(LOSSES) + 1)
        if len(step.rows):
            share = len(step.rows) / step.size
            weight = share / float(step.observation.weight.sum())
            sums[: len(LOSSES)] = self._gradient(step, progress.epoch, share) * weight
        sums[-1] = float(due and self.group.is_first)
        self._add_up(sums)
        self.optimizer.step()
        for name, number in zip(LOSSES, sums.tolist(), strict=False):
            if not math.isfinite(number):
                raise CryodrgnExtError(
                    f"training diverged in pass {progress.epoch + 1} (the loss is no longer a number): lower "
                    "--learning_rate, or look for images with extreme values"
                )
            progress.running[name] = progress.running.get(name, 0.0) + number * step.size
        return bool(sums[-1] > 0)

    def _gradient(self, step: _Step, epoch: int, share: float) -> Tensor:
        """Leave ``share`` times the gradient with the parameters; return the losses (3,), means over images.

        As many images at once as the device has memory for, with the result of all of them.
        """
        n = len(step.rows)
        while True:
            size = block_size(TRAINED, n)
            try:
                return self._sum_of_parts(step, epoch, share, size)
            except torch.OutOfMemoryError:
                pass  # the error holds what was computed
            self.optimizer.zero_grad(set_to_none=True)
            halved(TRAINED, size)

    def _sum_of_parts(self, step: _Step, epoch: int, share: float, size: int) -> Tensor:
        n = len(step.rows)
        losses, updates = torch.zeros(len(LOSSES)), []
        for start in range(0, n, size):
            part = step.images(start, min(start + size, n))
            terms, update = self._loss(part, epoch)
            fraction = len(part.rows) / n
            (terms.total * (share * fraction)).backward()
            losses += torch.stack([terms.total, terms.reconstruction, terms.kl]).detach().cpu() * fraction
            updates.append((part.rows, update))
        for rows, update in updates:
            if self.table is not None and update is not None:
                self.table.update(rows, update)
        return losses

    def _loss(self, step: _Step, epoch: int) -> tuple[LossTerms, Tensor | None]:
        """Loss of some images, mean over them, and the gradient of its sum by the moments in the table."""
        q = self.recipe.zdim
        generator = random_generator(self.recipe.seed, epoch, step.start, 2)
        noise = torch.randn(step.size, q, generator=generator)[step.position].to(self.source.device)
        if self.table is None or not isinstance(self.model, VaeModel):
            return self.model.loss(step.observation, noise, self._linear(epoch)), None
        moments = self.table.rows(step.rows)
        mean, log_variance = moments.to(noise.device).chunk(2, dim=1)
        terms = self.model.sampled_loss(step.observation, mean, log_variance, noise)
        (gradient,) = torch.autograd.grad(terms.total, moments, retain_graph=True)
        return terms, gradient * len(step.rows)  # of the sum: whatever the batch's size

    def _add_up(self, sums: Tensor) -> None:
        """Sum the gradients and ``sums`` over all processes."""
        if self.group.size == 1:
            return
        parameters = list(self.model.parameters())
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
        self.group.sum(used, sums)
        # What has a gradient nowhere gets none: Adam must not count a step for it.
        parameters = [p for p, count in zip(parameters, used.tolist(), strict=True) if count]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.group.sum(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def _learning_rate(self, progress: Progress) -> float:
        """Cosine from the recipe's first to its last rate over the whole run."""
        done = (progress.epoch + progress.step / self.n) / self.recipe.epochs
        high, low = self.recipe.learning_rate, self.recipe.final_learning_rate
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _finish_pass(self, progress: Progress) -> None:
        for name, total in progress.running.items():
            progress.history.setdefault(name, []).append(total / self.n)
        means = ", ".join(f"{name} {values[-1]:.5f}" for name, values in progress.history.items())
        progress.epoch, progress.step, progress.running = progress.epoch + 1, 0, {}
        self.monitor.message(f"Pass {progress.epoch} of {self.recipe.epochs}: loss per coefficient: {means}")

    def _save(self, progress: Progress) -> None:
        """Write a checkpoint: the first process does, but all take part when latents are a table."""
        if self.directory is None:
            return
        table = None
        if self.table is not None:
            table = {name: self.group.gather_rows(t, self.n) for name, t in self.table.tensors().items()}
        if self.group.is_first:
            checkpoint.save(self.directory, self.key, self.model, self.optimizer, progress, table)

    @torch.no_grad()
    def latents(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent means (N, q) and covariances (N, q, q) of all images, on every process."""
        n, q = len(self.shard), self.recipe.zdim
        mean, covariance = torch.zeros(n, q), torch.zeros(n, q, q)
        if q:
            self.model.eval()
            batches = torch.arange(n).split(LATENT_BATCH)
            for rows in self.monitor.track(batches, "Latents", n, LATENT_BATCH):
                parts = in_blocks(lambda here, rows=rows: self._posterior(rows[here]), len(rows), "latents")  # type: ignore[misc]
                mean[rows], covariance[rows] = (torch.cat(part) for part in zip(*parts, strict=True))
        return self.group.gather_rows(mean, self.n).numpy(), self.group.gather_rows(covariance, self.n).numpy()

    def _posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and covariance of some images of the shard."""
        if self.table is not None:
            mean, log_variance = self.table.moments[rows].chunk(2, dim=1)
            covariance = torch.diag_embed(log_variance.exp())
            if not self.recipe.latent_steps:
                return mean, covariance
        observation = self.source.latent(rows)
        if self.table is None:
            mean, covariance = self.model.posterior(observation)
        if self.recipe.latent_steps and isinstance(self.model, VaeModel):
            mean, covariance = refine(self.model, observation, mean.to(self.source.device), self.recipe.latent_steps)
        return mean.float().cpu(), covariance.float().cpu()


def make_adam(model: VolumeModel, learning_rate: float) -> torch.optim.Adam:
    """Adam over all weights in one kernel, where this torch has one for the device."""
    try:
        return torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    except (RuntimeError, NotImplementedError):
        return torch.optim.Adam(model.parameters(), lr=learning_rate)


def describe_data(source: ObservationSource) -> dict[str, Any]:
    """Identity of the images of a run, for its checkpoint."""
    images = source.images
    poses = hashlib.sha256(images.rotation.cpu().numpy().tobytes())
    poses.update(images.shift_px.cpu().numpy().tobytes())
    return {
        "n": images.n, "box": images.box_size, "latent": source.bands.latent_radius,
        "train": source.bands.train_radius, "poses": poses.hexdigest(),
    }  # fmt: skip


def passes(count: int) -> str:
    """Say how many passes."""
    return f"{count} pass" if count == 1 else f"{count} passes"
