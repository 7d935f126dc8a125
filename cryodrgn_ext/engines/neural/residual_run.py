"""Training of the residual architecture: the subspace engine first, then the network on what that leaves.

Images that neither gradient nor step of the network has seen decide how much of each shell of its part is taken: the
factor a that raises their log likelihood most, 2 a s - a^2 t for the sums s and t of
:meth:`~cryodrgn_ext.engines.neural.residual.ResidualModel.shell_sums`, is s / t, within 0 and 1. What they gain is
measured crosswise, the factors of one half of them on the other half; where it is not beyond chance, nothing is taken,
so that the result is the subspace engine's.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.base import Heterogeneity, LatentsFunction, Regions
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.neural.base_volumes import LinearBase
from cryodrgn_ext.engines.neural.heterogeneity import build_model
from cryodrgn_ext.engines.neural.observations import Bands, ObservationSource, choose_bands, signal_envelope
from cryodrgn_ext.engines.neural.prefetch import ReadAhead, within_reach
from cryodrgn_ext.engines.neural.residual import ResidualModel
from cryodrgn_ext.engines.neural.residual_heterogeneity import ResidualHeterogeneity
from cryodrgn_ext.engines.neural.settings import NeuralSettings, Recipe
from cryodrgn_ext.engines.neural.trainer import Trainer, describe_data
from cryodrgn_ext.engines.settings import options_of
from cryodrgn_ext.engines.subspace.engine import train as train_subspace
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages

HELD_SHARE = 0.1  # of the images, not trained on
MOST_HELD = 10_000
HELD_BATCH = 64


@dataclass(frozen=True)
class ResidualRun:
    """Everything that the training is given; see :class:`cryodrgn_ext.engines.base.TrainFunction`.

    Attributes
    ----------
    images : ParticleImages
    consensus : (D, D, D) float32
    settings : NeuralSettings
    recipe : Recipe
    context : EngineContext
    precision : torch.dtype
        Of the network's products.
    consensus_radius : int or None
    regions : Regions or None
    """

    images: ParticleImages
    consensus: NDArray[np.float32]
    settings: NeuralSettings
    recipe: Recipe
    context: EngineContext
    precision: torch.dtype
    consensus_radius: int | None
    regions: Regions | None

    def result(self, start: Heterogeneity | None, on_latents: LatentsFunction | None) -> Heterogeneity:
        """Train, and return the volumes of both, or the base's alone where the network adds nothing.

        Raises
        ------
        InputError
            When ``start`` is not the subspace engine's.
        """
        base = self._base(start, on_latents)
        bands = choose_bands(
            self.images, self._consensus_volume(), self.settings.latent_resolution_A, self.consensus_radius
        )
        linear = LinearBase.of(base.linear_form(), base.z, bands.train_radius, self.context.device)
        model = build_model(
            self.recipe, self.images.box_size, signal_envelope(self.images, self.consensus, bands.train_radius), 0,
            len(linear.standardisation.mean),
        )  # fmt: skip
        if not isinstance(model, ResidualModel):
            raise RuntimeError(f"the recipe makes a model of the architecture {self.recipe.architecture}")
        model.to(self.context.device)
        model.network_dtype = self.precision
        learned, held = split_rows(self.images.n, self.context.seed)
        history = self._train(model, linear, bands, learned)
        gain, error, factors = self._weigh(model.eval(), linear, bands, held)
        if not gain > SURE * error:
            self.context.monitor.message(
                f"The network's part of the volumes is left out: with it {len(held)} images that it was not trained on "
                f"gain {gain:.3f} ± {error:.3f} nats each, which is not beyond chance. The volumes are the subspace "
                "engine's."
            )
            return base
        model.envelope *= factors.to(model.envelope)
        self.context.monitor.message(
            f"With the network's part of the volumes {len(held)} images that it was not trained on gain {gain:.3f} ± "
            f"{error:.3f} nats each."
        )
        return ResidualHeterogeneity(base, model, linear.standardisation, self.recipe, bands.train_radius, history)

    def _base(self, start: Heterogeneity | None, on_latents: LatentsFunction | None) -> SubspaceHeterogeneity:
        if start is None:
            context, own = self.context, options_of(SubspaceSettings, self.settings)
            if context.checkpoint_dir is not None:
                context = replace(context, checkpoint_dir=_folder(context.checkpoint_dir / "subspace"))
            return train_subspace(
                self.images, self.consensus, own, context, self.consensus_radius, self.regions, on_latents=on_latents
            )
        if not isinstance(start, SubspaceHeterogeneity):
            raise InputError(
                "--architecture residual begins with the subspace engine's result: begin with one, or choose another "
                "architecture"
            )
        return start

    def _consensus_volume(self) -> FourierVolume:
        return FourierVolume.from_map(torch.as_tensor(self.consensus, device=self.context.device))

    def _source(self, base: LinearBase, bands: Bands, rows: Tensor) -> ObservationSource:
        """Observations of this process's part of some images."""
        shard = current().shard(len(rows))
        own = rows[shard.start : shard.stop]
        images = within_reach(self.images.subset(own), bands.train_radius, self.context)
        return ObservationSource(images, base.of_rows(own), bands, self.context.device)

    def _train(self, model: ResidualModel, base: LinearBase, bands: Bands, rows: Tensor) -> dict[str, list[float]]:
        """Train on some images; return the history of the loss."""
        data = describe_data(ObservationSource(self.images, base, bands, self.context.device))
        data["base"] = hashlib.sha256(base.weights.numpy().tobytes()).hexdigest()
        source = self._source(base, bands, rows)
        trainer = Trainer(self.recipe, source, model, None, len(rows), data, current(), self.context)
        try:
            return trainer.run()
        finally:
            _close(source)

    def _weigh(self, model: ResidualModel, base: LinearBase, bands: Bands, held: Tensor) -> tuple[float, float, Tensor]:
        """Gain of the held images by the network's part with its standard error, in nats, and its factor per shell."""
        group, shells = current(), bands.train_radius + 1
        source = self._source(base, bands, held)
        own = [torch.zeros(0, 2, shells, dtype=torch.float64)]
        try:
            for rows in torch.arange(source.images.n).split(HELD_BATCH):
                own.append(model.shell_sums(source.observe(rows, source.n_train, None), shells).cpu())
        finally:
            _close(source)
        each = group.gather_rows(torch.cat(own).contiguous(), len(held))
        half = torch.arange(len(held)) % 2
        sums = torch.stack([each[half == h].sum(0) for h in (0, 1)])
        crosswise = torch.empty(len(held), dtype=torch.float64)
        for h in (0, 1):
            factor = _factors(sums[1 - h])
            crosswise[half == h] = (2 * factor * each[half == h, 0] - factor**2 * each[half == h, 1]).sum(1)
        error = float(crosswise.std()) / math.sqrt(len(held)) if len(held) > 1 else math.inf
        return float(crosswise.mean()), error, _factors(sums.sum(0))


def split_rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (n - h,) of images to learn from, and (h,) of images to judge by, each in ascending order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held = min(MOST_HELD, round(HELD_SHARE * n))
    return order[held:].sort().values, order[:held].sort().values


def _factors(sums: Tensor) -> Tensor:
    """Factor (S,) per shell that raises the likelihood most, for sums (2, S)."""
    return (sums[0] / sums[1].clamp_min(1e-30)).clamp(0, 1)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _close(source: ObservationSource) -> None:
    if isinstance(source.images.source, ReadAhead):
        source.images.source.close()
