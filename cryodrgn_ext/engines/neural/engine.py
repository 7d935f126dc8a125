"""The neural engine as jobs call it: choices made from settings and images, then training, then the result."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import Heterogeneity, LatentsFunction, Regions
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.distributed import Workers, current
from cryodrgn_ext.engines.neural import checkpoint
from cryodrgn_ext.engines.neural.base_volumes import ConsensusBase
from cryodrgn_ext.engines.neural.heterogeneity import build_model, load_whole, result_class
from cryodrgn_ext.engines.neural.model import VolumeModel
from cryodrgn_ext.engines.neural.observations import Bands, ObservationSource, choose_bands, signal_envelope
from cryodrgn_ext.engines.neural.prefetch import ReadAhead, within_reach
from cryodrgn_ext.engines.neural.residual_heterogeneity import load_residual
from cryodrgn_ext.engines.neural.residual_run import ResidualRun
from cryodrgn_ext.engines.neural.settings import NeuralSettings, Recipe, resolve
from cryodrgn_ext.engines.neural.table import LatentTable
from cryodrgn_ext.engines.neural.trainer import Trainer, describe_data, passes
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.engines.neural.warm_start import WarmStart, fit_encoder, fit_volumes
from cryodrgn_ext.engines.saved_model import read_description
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages

__all__ = ["load", "train"]


def train(
    images: ParticleImages,
    consensus: NDArray[np.float32] | None,
    settings: NeuralSettings,
    context: EngineContext,
    consensus_radius: int | None = None,
    regions: Regions | None = None,
    start: Heterogeneity | None = None,
    on_latents: LatentsFunction | None = None,
) -> Heterogeneity:
    """Learn the heterogeneity of ``images``; see :class:`cryodrgn_ext.engines.base.TrainFunction`.

    In a group of processes (:mod:`cryodrgn_ext.engines.distributed`) all call it with the same arguments, each holds
    its shard of the coefficients, and all return the same result.

    Parameters
    ----------
    images, consensus, settings, context, consensus_radius, regions
        As in :class:`cryodrgn_ext.engines.base.TrainFunction`.
    start : Heterogeneity, optional
        Result of another engine on the same images, with the same number of latent dimensions, to begin with: its
        volumes, where they are linear, are taught to the network first, and its latents begin the table, where the
        latents are one, or are taught to the encoder. The residual architecture adds to it instead, and makes its
        own when none is given.
    on_latents : callable, optional
        Called by the residual architecture; else latents and volumes are final together.

    Raises
    ------
    InputError
        When there are no images, the device that was asked for does not exist, or ``start`` does not fit.
    ResumeError
        When the checkpoint was made with other settings or particles.
    JobAborted
        When the monitor says so; the checkpoint stays.
    """
    if images.n == 0:
        raise InputError("there are no particles to train on: the input holds 0 rows")
    if regions is not None and regions.focus is not None:
        raise InputError("--focus_mask works with --engine subspace only: choose that engine, or leave the mask out")
    recipe = resolve(settings, context.seed, images.n)
    device, monitor, group = context.device, context.monitor, current()
    precision = choose_precision(settings.precision, device)
    if recipe.architecture == "residual":
        if consensus is None:
            raise InputError("--architecture residual starts from a consensus map, and none was given")
        run = ResidualRun(images, consensus, settings, recipe, context, precision, consensus_radius, regions)
        return run.result(start, on_latents)
    base_map = consensus if recipe.residual else None
    base = None if base_map is None else FourierVolume.from_map(torch.as_tensor(base_map, device=device))
    bands = choose_bands(images, base, settings.latent_resolution_A, consensus_radius)
    known = None if base is None else ConsensusBase(base)
    data = describe_data(ObservationSource(images, known, bands, device))
    shard = group.shard(images.n)
    own = images if group.size == 1 else images.subset(torch.arange(shard.start, shard.stop))
    own = within_reach(own, bands.train_radius, context)
    source = ObservationSource(own, known, bands, device)
    model = build_model(recipe, images.box_size, signal_envelope(images, base_map, bands.train_radius), source.n_latent)
    model.to(device)
    warm = _warm_start(start, recipe, images)
    monitor.message(_summary(recipe, images, bands, device, precision, model))
    if warm is not None:
        data["start"] = hashlib.sha256(warm.z.tobytes()).hexdigest()
        if not checkpoint.exists(context.checkpoint_dir):
            explained = _learn_start(warm, model, source, base_map, recipe, group)
            monitor.message(f"Started from another engine's latents; {100 * explained:.0f} % of its volumes learned.")
    model.network_dtype = precision
    table = None
    if recipe.latents == "table":
        first = None if warm is None else torch.as_tensor(warm.z)
        table = LatentTable.start(images.n, recipe.zdim, recipe.seed, first).shard(shard)
    trainer = Trainer(recipe, source, model, table, images.n, data, group, context)
    try:
        history = trainer.run()
        z, z_cov = trainer.latents()
    finally:
        if isinstance(own.source, ReadAhead):
            own.source.close()
        if isinstance(model, VaeModel):
            model.release()
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


def load(directory: Path) -> Heterogeneity:
    """Read a saved model of this engine.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    residual = read_description(directory).get("recipe", {}).get("architecture") == "residual"
    return load_residual(directory) if residual else load_whole(directory)


def _learn_start(
    warm: WarmStart, model: VolumeModel, source: ObservationSource, base_map: NDArray[np.float32] | None,
    recipe: Recipe, group: Workers,
) -> float:  # fmt: skip
    """Teach the network another engine's volumes and latents; return the part of the volumes that it learned."""
    explained = fit_volumes(model, warm, base_map, source.bands.train_radius, recipe.seed)
    if isinstance(model, VaeModel) and recipe.latents == "encoder":
        shard = group.shard(len(warm.z))
        fit_encoder(model, source, torch.as_tensor(warm.z[shard.start : shard.stop]), group, recipe.seed)
    return explained


def _warm_start(start: Heterogeneity | None, recipe: Recipe, images: ParticleImages) -> WarmStart | None:
    """The start in the engine's own units; refuses one of other images or dimensions."""
    if start is None or recipe.zdim == 0:
        return None
    if start.z.shape != (images.n, recipe.zdim) or start.box_size != images.box_size:
        raise InputError(
            f"the latents to start from have shape {start.z.shape} at a box of {start.box_size} px, expected "
            f"{(images.n, recipe.zdim)} at {images.box_size} px: start from a result of the same particles, with the "
            "same --zdim and --box"
        )
    return WarmStart.from_result(start)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Arithmetic of the networks: bfloat16 where the processor multiplies it natively, unless the user chose."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _summary(
    recipe: Recipe, images: ParticleImages, bands: Bands, device: torch.device, precision: torch.dtype,
    model: VolumeModel,
) -> str:  # fmt: skip
    def resolution(radius: int) -> str:
        return f"{images.box_size * images.pixel_size_A / radius:.1f} Å"

    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"Neural engine ({recipe.architecture}, preset {recipe.preset}): {images.n} images of {images.box_size} px, "
        f"{recipe.zdim} latent dimensions, {parameters} parameters, {passes(recipe.epochs)}; latents from data to "
        f"{resolution(bands.latent_radius)}, training to {resolution(bands.train_radius)}; {device.type}, "
        f"{str(precision).removeprefix('torch.')}."
    )
