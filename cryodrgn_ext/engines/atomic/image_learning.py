"""From images to a motion, image by image: a model of all, and one of each half-set that the other is tested on.

Each half-set is learned by a whole model of its own, encoder and all, from the base structure on. What it says of a
node of latent space is read from images that it has not seen: noise that it learned from is not in them. The same
images tell whether the model explains single images better than its average structure does: the evidence lower bound,
which counts the price of the latents, against the likelihood of the average.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.structure import Structure, residue_centres
from cryodrgn_ext.engines.atomic.agreement import Density, residue_agreement
from cryodrgn_ext.engines.atomic.cryofold_model import divergence
from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.atomic.motion import IMAGES_PER_NODE, AtomicMotion
from cryodrgn_ext.engines.atomic.node_sums import half_rows, sums_at_nodes
from cryodrgn_ext.engines.atomic.training_passes import FoldData
from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.engines.neural.order import random_generator
from cryodrgn_ext.engines.subspace.assignment import node_probabilities
from cryodrgn_ext.engines.subspace.features import Nodes
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import fingerprint

FloatArray = NDArray[np.float64]

IMAGES_AT_ONCE = 128
#: File of one model's checkpoint, by its key; the job removes them when all is learned.
CHECKPOINT = "atoms_{}.safetensors"


@dataclass(frozen=True)
class FoldResult:
    """What was learned.

    Attributes
    ----------
    motion : AtomicMotion
    z : ndarray
        (N, q) latents of all images; rows of unusable ones are 0.
    held_out : HeldOut or None
        Gain of images by the model of the other half-set; None where latents are given, or are none.
    history : ndarray
        Mean loss per image of each pass.
    """

    motion: AtomicMotion
    z: NDArray[np.float32]
    held_out: HeldOut | None
    history: FloatArray


@dataclass(frozen=True)
class FoldSetting:
    """Beside the user's options, what a fit depends on.

    Attributes
    ----------
    resolution_A : float
        Finest detail that is fitted.
    nodes : int
        Places in latent space that stand for the motion, at most.
    seed : int
    checkpoints : Path or None
    key : str
        Fingerprint of the inputs, for the checkpoints.
    """

    resolution_A: float
    nodes: int
    seed: int
    checkpoints: Path | None
    key: str


@runtime_checkable
class AtomsOfImages(Protocol):
    """A model whose encoder places an image and whose decoder places points of a structure."""

    def encode(self, batch: FoldBatch) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, q) of the latents."""
        ...

    def positions(self, z: Tensor) -> Tensor:
        """Points (B, G, 3) in Å at latents (B, q); (1, G, 3) where the model has none."""
        ...

    def misfit(self, positions: Tensor, batch: FoldBatch) -> Tensor:
        """Squared error (B,) of images, in units of the noise's variance."""
        ...


class ImageLearner(ABC):
    """Learns a motion of a structure that lies in the frame of the images.

    Parameters
    ----------
    images : ParticleImages
    structure : Structure
        In that frame.
    zdim : int
    setting : FoldSetting
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, structure: Structure, zdim: int, setting: FoldSetting, monitor: Monitor
    ) -> None:
        self.images, self.structure, self.zdim = images, structure, zdim
        self.setting, self.monitor = setting, monitor
        self.rows = torch.from_numpy(np.flatnonzero(~images.unusable))
        box_A = images.box_size * images.pixel_size_A
        self.radius = max(4, min(images.plane.radius - 1, int(box_A / setting.resolution_A)))
        self.data = FoldData(images, self.rows, self.radius)

    @abstractmethod
    def _train(self, rows: Int64[Tensor, " n"], seed: int, place: CheckpointFile) -> tuple[AtomsOfImages, list[float]]:
        """Train a model on some images; its losses."""

    @abstractmethod
    def _centres(self, positions: FloatArray) -> FloatArray:
        """Centres of residues (P, C, 3) from the model's points (P, G, 3)."""

    @abstractmethod
    def _density(self, model: AtomsOfImages) -> Density:
        """How centres of residues become density."""

    @property
    def _can_weigh(self) -> bool:
        """Whether latents are the encoder's and the model's likelihood of an image is known."""
        return bool(self.zdim) and self.data.latents is None

    def run(self) -> FoldResult:
        """Learn from all images, and from each half-set."""
        model, history = self._trained(self.rows, 0)
        self._learned(model)
        z, z_cov = self._latents(model)
        probability, nodes = self._placed(z, z_cov)
        halves = [self.rows[members] for members in half_rows(self.images, self.rows)]
        at_nodes, gains = [], []
        for number, rows in enumerate(halves):
            other = halves[1 - number]
            alone, _ = self._trained(rows, number + 1)
            at_nodes.append(self._centres(self._seen_by(alone, other, probability)))
            if self._can_weigh:
                gains.append(self._gain(alone, rows, other))
        with torch.no_grad():
            positions = self._centres(model.positions(nodes.float()).double().numpy())
        density = self._density(model)
        sums = [sums_at_nodes(self.images, rows, probability[rows], self.radius, self.monitor) for rows in halves]
        _, _, residue = residue_centres(self.structure)
        centres = np.stack(at_nodes)
        agreement = residue_agreement(centres, sums, density, residue, self.setting.resolution_A, self.setting.seed)
        share = probability[self.rows].double().mean(0).numpy()
        motion = AtomicMotion(
            nodes.numpy(), positions, centres, share, probability.numpy(), np.ones((len(share), 1)),
            density.scale.double().numpy(), agreement.correlation, np.array([agreement.chance]),
        )  # fmt: skip
        return FoldResult(motion, z.numpy(), _weighed(gains), np.array(history))

    def _learned(self, model: AtomsOfImages) -> None:  # noqa: B027 (most have nothing to do)
        """What is done once the model of all images is learned."""

    def _trained(self, rows: Int64[Tensor, " n"], number: int) -> tuple[AtomsOfImages, list[float]]:
        """The model of some images: of all (0), or of a half-set (1, 2)."""
        key = fingerprint(self.setting.key, number)
        place = CheckpointFile(self.setting.checkpoints, CHECKPOINT.format(key[:12]), key)
        seed = self.setting.seed + number
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # weights of the networks
            return self._train(rows, seed, place)

    def gaussians(self, amplitude: Tensor, width_A: float, own_A: Tensor | None = None) -> Density:
        """Density of residues' centres of a global amplitude and width, beside widths (C,) of their own."""
        shells = torch.arange(self.radius + 2) / (self.images.box_size * self.images.pixel_size_A)
        scale = amplitude.detach() * torch.exp(-2 * (np.pi * width_A * shells) ** 2)
        _, electrons, _ = residue_centres(self.structure)
        own_A = torch.zeros(len(electrons)) if own_A is None else own_A
        return Density(torch.from_numpy(electrons).float(), own_A, scale, self.images.pixel_size_A)

    @torch.no_grad()
    def _latents(self, model: AtomsOfImages) -> tuple[Float[Tensor, "N q"], Float[Tensor, "N q"]]:
        """Mean and variance (N, q) of the latents of all images."""
        mean, variance = torch.zeros(2, self.images.n, self.zdim)
        if self.data.latents is not None:
            return self.data.latents.clone(), variance
        if self.zdim:
            for rows in self.rows.split(IMAGES_AT_ONCE):
                mean[rows], log_variance = model.encode(self.data.batch(rows))
                variance[rows] = log_variance.exp()
        return mean, variance

    def _placed(self, z: Tensor, z_cov: Tensor) -> tuple[Float[Tensor, "N K"], Float64[Tensor, "K q"]]:
        """Probability (N, K) float32 of nodes for all images, and the nodes' latents."""
        if not self.zdim:
            probability = torch.zeros(self.images.n, 1)
            probability[self.rows] = 1.0
            return probability, torch.zeros(1, 0, dtype=torch.float64)
        count = int(np.clip(len(self.rows) // IMAGES_PER_NODE, 2, self.setting.nodes))
        nodes = Nodes.place(z[self.rows].double(), count, self.setting.seed)
        probability = torch.zeros(self.images.n, len(nodes.centres))
        covariance = torch.diag_embed(z_cov[self.rows].double())
        probability[self.rows] = node_probabilities(z[self.rows].double(), covariance, nodes).float()
        return probability, nodes.centres

    @torch.no_grad()
    def _seen_by(
        self, model: AtomsOfImages, rows: Int64[Tensor, " n"], probability: Float[Tensor, "N K"]
    ) -> FloatArray:
        """Centres (K, G, 3) at the nodes: the mean of what the model says of the images ``rows`` there."""
        if not self.zdim:
            return model.positions(torch.zeros(1, 0)).double().numpy()
        total = torch.zeros(())
        for part in rows.split(IMAGES_AT_ONCE):
            if self.data.latents is not None:
                z = self.data.latents[part]
            else:
                z, _ = model.encode(self.data.batch(part))
            total = total + torch.tensordot(probability[part].double().T, model.positions(z).double(), dims=1)
        weight = probability[rows].double().sum(0)
        mean = total.sum(0) / weight.sum().clamp_min(1e-12)
        return torch.where(weight[:, None, None] > 0.5, total / weight.clamp_min(1e-12)[:, None, None], mean).numpy()

    @torch.no_grad()
    def _gain(
        self, model: AtomsOfImages, learned: Int64[Tensor, " n"], tested: Int64[Tensor, " m"]
    ) -> Float64[Tensor, "m 2"]:
        """Of each tested image the nats by which the bound exceeds the average structure, and those of the latter."""
        total = torch.zeros(())
        for rows in learned.split(IMAGES_AT_ONCE):
            z, _ = model.encode(self.data.batch(rows))
            total = total + model.positions(z).sum(0)
        average = total[None] / len(learned)
        found = []
        for number, rows in enumerate(tested.split(IMAGES_AT_ONCE)):
            batch = self.data.batch(rows)
            mean, log_variance = model.encode(batch)
            noise = torch.randn(mean.shape, generator=random_generator(self.setting.seed, 0, number, 3))
            own = model.misfit(model.positions(mean + noise * (0.5 * log_variance).exp()), batch)
            plain, nothing = model.misfit(average, batch), 2 * batch.values.abs().square().sum(1)
            gain = 0.5 * (plain - own) - divergence(mean, log_variance)
            found.append(torch.stack([gain, 0.5 * (nothing - plain)], 1).double())
        return torch.cat(found)


def _weighed(gains: list[Tensor]) -> HeldOut | None:
    """Mean and standard error over all images that were tested."""
    if not gains:
        return None
    both = torch.cat(gains)
    error = float(both[:, 0].std()) / len(both) ** 0.5
    return HeldOut(float(both[:, 0].mean()), error, float(both[:, 1].mean()))
