"""From images to a motion by Cryofold: one model of all images, and one of each half-set that the other is tested on.

Each half-set is learned by a whole model of its own, encoder and all, from the base structure on. What it says of a
node of latent space is read from images that it has not seen: noise that it learned from is not in them. The same
images tell whether the model explains single images better than its average structure does: the evidence lower bound,
which counts the price of the latents, against the likelihood of the average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.structure import residue_centres
from cryodrgn_ext.engines.atomic.agreement import Agreement, Density, residue_agreement
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold import CryofoldTrainer, FoldData
from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel, divergence
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.motion import IMAGES_PER_NODE, AtomicMotion
from cryodrgn_ext.engines.atomic.node_sums import half_rows, sums_at_nodes
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
    width_A : float
        Of the Gaussians.
    """

    motion: AtomicMotion
    z: NDArray[np.float32]
    held_out: HeldOut | None
    history: FloatArray
    width_A: float


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


class CryofoldLearner:
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
        self.images, self.chain, self.settings = images, chain, settings
        self.setting, self.monitor = setting, monitor
        self.rows = torch.from_numpy(np.flatnonzero(~images.unusable))
        box_A = images.box_size * images.pixel_size_A
        self.radius = max(4, min(images.plane.radius - 1, int(box_A / setting.resolution_A)))
        self.latents: Tensor | None = None
        self.zdim = settings.zdim
        if latents is not None and settings.zdim:
            values = torch.from_numpy(np.asarray(latents)).float()
            self.latents = (values - values[self.rows].mean(0)) / values[self.rows].std(0).clamp_min(1e-6)
            self.zdim = values.shape[1]
        self.data = FoldData(images, self.rows, self.radius, self.latents)

    def run(self) -> FoldResult:
        """Learn from all images, and from each half-set."""
        model, history = self._trained(self.rows, 0)
        z, z_cov = self._latents(model)
        probability, nodes = self._placed(z, z_cov)
        halves = [self.rows[members] for members in half_rows(self.images, self.rows)]
        at_nodes, gains = [], []
        for number, rows in enumerate(halves):
            other = halves[1 - number]
            alone, _ = self._trained(rows, number + 1)
            at_nodes.append(self._seen_by(alone, other, probability))
            if alone.encoder is not None:
                gains.append(self._gain(alone, rows, other))
        share = probability[self.rows].double().mean(0).numpy()
        with torch.no_grad():
            positions = model.positions(nodes.float() if self.zdim else None).double().numpy()
        shells = torch.arange(self.radius + 2) / (self.images.box_size * self.images.pixel_size_A)
        width_A = float(model.log_width_A.detach().exp())
        scale = model.log_amplitude.detach().exp() * torch.exp(-2 * (np.pi * width_A * shells) ** 2)
        centres = np.stack([self.chain.centres(one) for one in at_nodes])
        agreement = self._agreement(centres, halves, probability, scale)
        motion = AtomicMotion(
            nodes.numpy(), self.chain.centres(positions), centres,
            share, probability.numpy(), np.ones((len(share), 1)), scale.double().numpy(), agreement.correlation,
            np.array([agreement.chance]),
        )  # fmt: skip
        return FoldResult(motion, z.numpy(), _weighed(gains), np.array(history), width_A)

    def _trained(self, rows: Int64[Tensor, " n"], number: int) -> tuple[CryofoldModel, list[float]]:
        """The model of some images: of all (0), or of a half-set (1, 2)."""
        settings, seed = self.settings, self.setting.seed + number
        shape = (settings.layers, settings.dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # weights of the networks
            model = CryofoldModel(self.chain, self.images, self.radius, self.zdim, self.latents is None, shape)
        key = fingerprint(self.setting.key, number)
        place = CheckpointFile(self.setting.checkpoints, CHECKPOINT.format(key[:12]), key)
        data = replace(self.data, rows=rows)
        trainer = CryofoldTrainer(model, data, settings, seed, place, self.monitor)
        return model, trainer.run()

    @torch.no_grad()
    def _latents(self, model: CryofoldModel) -> tuple[Float[Tensor, "N q"], Float[Tensor, "N q"]]:
        """Mean and variance (N, q) of the latents of all images."""
        mean, variance = torch.zeros(2, self.images.n, self.zdim)
        if self.latents is not None:
            return self.latents.clone(), variance
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
        self, model: CryofoldModel, rows: Int64[Tensor, " n"], probability: Float[Tensor, "N K"]
    ) -> FloatArray:
        """Centres (K, G, 3) at the nodes: the mean of what the model says of the images ``rows`` there."""
        count = probability.shape[1]
        if not self.zdim:
            return model.positions().double().numpy()
        total = torch.zeros(count, *model.centres.shape, dtype=torch.float64)
        for part in rows.split(IMAGES_AT_ONCE):
            if self.latents is not None:
                z = self.latents[part]
            else:
                z, _ = model.encode(self.data.batch(part))
            total += torch.tensordot(probability[part].double().T, model.positions(z).double(), dims=1)
        weight = probability[rows].double().sum(0)
        mean = total.sum(0) / weight.sum().clamp_min(1e-12)
        return torch.where(weight[:, None, None] > 0.5, total / weight.clamp_min(1e-12)[:, None, None], mean).numpy()

    @torch.no_grad()
    def _gain(
        self, model: CryofoldModel, learned: Int64[Tensor, " n"], tested: Int64[Tensor, " m"]
    ) -> Float64[Tensor, "m 2"]:
        """Of each tested image the nats by which the bound exceeds the average structure, and those of the latter."""
        total = torch.zeros_like(model.centres)
        for rows in learned.split(IMAGES_AT_ONCE):
            z, _ = model.encode(self.data.batch(rows))
            total += model.positions(z).sum(0)
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

    def _agreement(
        self, centres: FloatArray, halves: list[Tensor], probability: Float[Tensor, "N K"], scale: Tensor
    ) -> Agreement:
        """Residues of each half's centres (2, K, C, 3) against the map of the other half."""
        sums = [sums_at_nodes(self.images, rows, probability[rows], self.radius, self.monitor) for rows in halves]
        _, electrons, residue = residue_centres(self.chain.structure)
        # The fitted width is in the scale.
        density = Density(torch.from_numpy(electrons).float(), torch.zeros(len(electrons)), scale,
                          self.images.pixel_size_A)  # fmt: skip
        return residue_agreement(centres, sums, density, residue, self.setting.resolution_A, self.setting.seed)


def _weighed(gains: list[Tensor]) -> HeldOut | None:
    """Mean and standard error over all images that were tested."""
    if not gains:
        return None
    both = torch.cat(gains)
    error = float(both[:, 0].std()) / len(both) ** 0.5
    return HeldOut(float(both[:, 0].mean()), error, float(both[:, 1].mean()))
