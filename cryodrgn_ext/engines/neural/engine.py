"""Training of the neural engine: schedule, optimiser, checkpoints, and the latents at the end."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.engines import base
from cryodrgn_ext.engines.neural import checkpoint
from cryodrgn_ext.engines.neural.checkpoint import Progress
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity, build_model, load, result_class
from cryodrgn_ext.engines.neural.model import VolumeModel
from cryodrgn_ext.engines.neural.observations import Bands, ObservationSource, choose_bands, signal_envelope
from cryodrgn_ext.engines.neural.settings import Recipe, resolve
from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.imaging.slices import FourierVolume
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings

__all__ = ["load", "train"]

LATENT_BATCH = 256
GIGABYTE = 1e9


def train(
    images: ParticleImages,
    consensus: NDArray[np.float32] | None,
    settings: Settings,
    checkpoint_dir: Path | None,
    monitor: Monitor,
    consensus_radius: int | None = None,
    regions: base.Regions | None = None,
) -> NeuralHeterogeneity:
    """Learn the heterogeneity of ``images``; see :class:`cryodrgn_ext.engines.base.TrainFunction`.

    Raises
    ------
    InputError
        When there are no images, or the device that was asked for does not exist.
    ResumeError
        When the checkpoint was made with other settings or particles.
    JobAborted
        When the monitor says so; the checkpoint stays.
    """
    if images.n == 0:
        raise InputError("there are no particles to train on: the input holds 0 rows")
    if regions is not None and regions.focus is not None:
        raise InputError("--focus_mask works with --engine subspace only: choose that engine, or leave the mask out")
    recipe = resolve(settings, images.n)
    device = choose_device(getattr(settings, "device", "auto"))
    base_map = consensus if recipe.residual else None
    volume = None
    if base_map is not None:
        volume = FourierVolume.from_map(torch.as_tensor(base_map, device=device))
    bands = choose_bands(images, volume, getattr(settings, "latent_resolution_A", None), consensus_radius)
    source = ObservationSource(_resident(images, bands, settings, device), volume, bands, device)
    model = build_model(recipe, images.box_size, signal_envelope(images, base_map, bands.train_radius), source.n_latent)
    model.to(device)
    precision = model.network_dtype = choose_precision(getattr(settings, "precision", "auto"), device)
    monitor.message(_summary(recipe, images, bands, device, precision, model))
    trainer = _Trainer(recipe, source, model, checkpoint_dir, monitor)
    history = trainer.run(60.0 * getattr(settings, "checkpoint_minutes", 5.0))
    z, z_cov = trainer.latents()
    return result_class(recipe)(
        model=model.eval(),
        recipe=recipe,
        box_size=images.box_size,
        pixel_size_A=images.pixel_size_A,
        train_radius=bands.train_radius,
        n_encoder=source.n_latent,
        consensus=None if base_map is None else np.asarray(base_map, dtype=np.float32),
        z=z,
        z_cov=z_cov if recipe.zdim else None,
        loss_history=history,
    )


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` takes a GPU if there is one.

    Raises
    ------
    InputError
        When a GPU was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda was asked for, but no CUDA GPU is visible: use --device cpu, or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Arithmetic of the networks: bfloat16 where the processor multiplies it natively, unless the user chose."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _resident(images: ParticleImages, bands: Bands, settings: Settings, device: torch.device) -> ParticleImages:
    """Load the training band into memory if it fits the limit; otherwise batches are read from disk."""
    count = images.plane.prefix(bands.train_radius)
    limit = getattr(settings, "memory_GB", 4.0) * GIGABYTE
    return images.load(device, count) if 8.0 * images.n * count <= limit else images


def _summary(
    recipe: Recipe, images: ParticleImages, bands: Bands, device: torch.device, precision: torch.dtype,
    model: VolumeModel,
) -> str:  # fmt: skip
    def resolution(radius: int) -> str:
        return f"{images.box_size * images.pixel_size_A / radius:.1f} Å"

    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"Neural engine ({recipe.architecture}, preset {recipe.preset}): {images.n} images of {images.box_size} px, "
        f"{recipe.zdim} latent dimensions, {parameters} parameters, {_passes(recipe.epochs)}; latents from data to "
        f"{resolution(bands.latent_radius)}, training to {resolution(bands.train_radius)}; {device.type}, "
        f"{str(precision).removeprefix('torch.')}."
    )


def _passes(count: int) -> str:
    return f"{count} pass" if count == 1 else f"{count} passes"


class _Trainer:
    """One training run: where it stands, and how it goes on."""

    def __init__(
        self,
        recipe: Recipe,
        source: ObservationSource,
        model: VolumeModel,
        checkpoint_dir: Path | None,
        monitor: Monitor,
    ) -> None:
        self.recipe, self.source, self.model = recipe, source, model
        self.directory, self.monitor = checkpoint_dir, monitor
        self.optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.key = checkpoint.fingerprint(recipe.to_mapping(), self._data_description())

    def _data_description(self) -> dict[str, Any]:
        images = self.source.images
        poses = hashlib.sha256(images.rotation.cpu().numpy().tobytes())
        poses.update(images.shift_px.cpu().numpy().tobytes())
        return {
            "n": images.n, "box": images.box_size, "latent": self.source.bands.latent_radius,
            "train": self.source.bands.train_radius, "poses": poses.hexdigest(),
        }  # fmt: skip

    def run(self, checkpoint_seconds: float) -> dict[str, list[float]]:
        """Train from the checkpoint, or from the start, to the last pass; return the loss history."""
        progress = Progress()
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            found = checkpoint.restore(self.directory, self.key, self.model, self.optimizer, self.generator)
            if found is not None:
                progress = found
                self.monitor.message(f"Continuing from the checkpoint after {progress.epoch} finished passes.")
                if progress.epoch > self.recipe.epochs:
                    self.monitor.message(
                        f"Warning: the model has been trained for {_passes(progress.epoch)} already, more than "
                        f"--epochs {self.recipe.epochs}: it is taken as it is."
                    )
        self.model.train()
        last_saved = time.monotonic()
        n, batch = self.source.images.n, self.recipe.batch
        while progress.epoch < self.recipe.epochs:
            order = self._order(progress.epoch)
            steps = list(range(progress.step, n, batch))
            label = f"Pass {progress.epoch + 1} of {self.recipe.epochs}"
            for start in self.monitor.track(steps, label, n - progress.step, batch):
                self._step(order[start : start + batch], progress)
                progress.step = start + batch
                if self.directory is not None and time.monotonic() - last_saved > checkpoint_seconds:
                    self._save(progress)
                    last_saved = time.monotonic()
            self._finish_pass(progress)
            if self.directory is not None:
                self._save(progress)
                last_saved = time.monotonic()
        return progress.history

    def _order(self, epoch: int) -> torch.Tensor:
        """Order of the images in a pass: from seed and pass alone, so that a continued pass goes on in it."""
        generator = torch.Generator().manual_seed((self.recipe.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.source.images.n, generator=generator)

    def _step(self, indices: torch.Tensor, progress: Progress) -> None:
        linear = progress.epoch < self.recipe.linear_epochs
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(progress)
        if linear:
            observation = self.source.latent(indices)
        elif self.recipe.architecture == "separable":
            observation = self.source.sampled(indices, self.generator)
        else:
            observation = self.source.whole(indices)
        terms = self.model.loss(observation, self.generator, linear)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()
        n_coefficients = float(observation.weight.sum())
        for name, value in (("total", terms.total), ("reconstruction", terms.reconstruction), ("kl", terms.kl)):
            number = float(value.detach())
            if not math.isfinite(number):
                raise CryodrgnExtError(
                    f"training diverged in pass {progress.epoch + 1} (the loss is no longer a number): lower "
                    "--learning_rate, or look for images with extreme values"
                )
            progress.running[name] = progress.running.get(name, 0.0) + number * len(indices) / n_coefficients

    def _learning_rate(self, progress: Progress) -> float:
        """Cosine from the recipe's first to its last rate over the whole run."""
        done = (progress.epoch + progress.step / self.source.images.n) / self.recipe.epochs
        high, low = self.recipe.learning_rate, self.recipe.final_learning_rate
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _finish_pass(self, progress: Progress) -> None:
        n = self.source.images.n
        for name, total in progress.running.items():
            progress.history.setdefault(name, []).append(total / n)
        means = ", ".join(f"{name} {values[-1]:.5f}" for name, values in progress.history.items())
        progress.epoch, progress.step, progress.running = progress.epoch + 1, 0, {}
        self.monitor.message(f"Pass {progress.epoch} of {self.recipe.epochs}: loss per coefficient: {means}")

    def _save(self, progress: Progress) -> None:
        if self.directory is not None:
            checkpoint.save(self.directory, self.key, self.model, self.optimizer, self.generator, progress)

    @torch.no_grad()
    def latents(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent means (N, q) and covariances (N, q, q) of all images."""
        n, q = self.source.images.n, self.recipe.zdim
        mean, covariance = np.zeros((n, q), np.float32), np.zeros((n, q, q), np.float32)
        if q == 0:
            return mean, covariance
        self.model.eval()
        for rows in self.monitor.track(torch.arange(n).split(LATENT_BATCH), "Latents", n, LATENT_BATCH):
            m, c = self.model.posterior(self.source.latent(rows))
            mean[rows[0] : rows[-1] + 1] = m.float().cpu().numpy()
            covariance[rows[0] : rows[-1] + 1] = c.float().cpu().numpy()
        return mean, covariance
