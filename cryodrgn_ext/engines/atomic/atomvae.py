"""Trains AtomVAE on images, and turns it into a motion.

Rosenbaum et al. 2021, eq. 4: of several conformations, and poses of each, drawn for an image the likelihoods are
summed, not multiplied, so that one good sample is enough; divergences have weights of their own; bonds between residues
and the centre hold the structure. Where poses are inferred, a first stage learns the poses of the base structure alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cryodrgn_ext.atoms.structure import Structure, residue_widths
from cryodrgn_ext.engines.atomic.agreement import Density
from cryodrgn_ext.engines.atomic.atomvae_model import POSE, AtomVaeModel, misfit
from cryodrgn_ext.engines.atomic.atomvae_settings import AtomVaeSettings
from cryodrgn_ext.engines.atomic.cryofold_model import divergence
from cryodrgn_ext.engines.atomic.image_learning import (
    IMAGES_AT_ONCE,
    AtomsOfImages,
    FloatArray,
    FoldSetting,
    ImageLearner,
)
from cryodrgn_ext.engines.atomic.rigid_residues import RigidResidues
from cryodrgn_ext.engines.atomic.training_passes import FoldData, PassTrainer, Schedule
from cryodrgn_ext.engines.neural.order import random_generator
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.progress import Monitor

AMPLITUDE_IMAGES = 64
#: Poses drawn for each conformation while only poses are learned, in units of those drawn later (published 128 to 4 of
#: 64 conformations each).
FIRST_POSES = 8


class AtomVaeTrainer(PassTrainer[AtomVaeModel]):
    """Trains one model on some images, see :class:`PassTrainer`."""

    def __init__(
        self, model: AtomVaeModel, data: FoldData, settings: AtomVaeSettings, seed: int, place: CheckpointFile,
        monitor: Monitor,
    ) -> None:  # fmt: skip
        self.settings = settings
        warmup = settings.vae_pose_epochs if model.inferred else 0
        super().__init__(model, data, Schedule(warmup, settings.vae_epochs, settings.vae_batch), seed, place, monitor)

    @torch.no_grad()
    def _begin(self) -> None:
        """Begin with the amplitude that gives projections in random views the power that images have beyond noise."""
        sample = self.rows[torch.linspace(0, len(self.rows) - 1, min(AMPLITUDE_IMAGES, len(self.rows))).long()]
        batch, model = self.data.batch(sample), self.model
        pose = torch.randn(len(sample), POSE, generator=random_generator(self.seed, 0, 0, 4))
        base = model.base.expand(len(sample), -1, 3)
        planes = model.posed(pose)[0] if model.inferred else batch.planes
        expected = batch.ctf * model.expected(base, planes, torch.zeros(len(sample), 2))
        signal = (batch.values.abs().square() - (batch.ctf != 0).float()).sum().clamp_min(1e-6)
        model.log_amplitude.add_(0.5 * (signal / expected.abs().square().sum().clamp_min(1e-30)).log())

    def _adam(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.model.parameters(), lr=0.0)

    def _rates(self, warm: bool) -> tuple[float, ...]:
        return (self.settings.vae_learning_rate,)

    def _loss(self, rows: Int64[Tensor, " B"], epoch: int, start: int, warm: bool) -> Float[Tensor, ""]:
        batch, model, settings = self.data.batch(rows), self.model, self.settings
        representation = model.represent(batch)
        generator = random_generator(self.seed, epoch, start, 2)
        count = 1 if warm else settings.vae_conformations
        loss = torch.zeros(())
        if warm:
            z = torch.zeros(len(rows), 1, model.zdim)
        else:
            mean, log_variance = model.conformation(representation)
            noise = torch.randn(len(rows), count, model.zdim, generator=generator)
            z = mean[:, None] + noise * (0.5 * log_variance).exp()[:, None]
            loss = settings.vae_beta * divergence(mean, log_variance).mean()
        positions, decoded = model.decode(z)
        if warm:
            positions = model.base.expand(*z.shape[:2], -1, -1)
        else:
            loss = loss + settings.vae_centring * model.chain.off_centre(positions).mean()
            loss = loss + settings.vae_continuity * model.chain.continuity(positions).mean()
        if model.inferred:
            poses = settings.vae_pose_samples * (FIRST_POSES if warm else 1)
            pose = model.pose_posterior(representation[:, None], decoded)
            noise = torch.randn(len(rows), count, poses, POSE, generator=generator)
            latent = pose[0][:, :, None] + noise * (0.5 * pose[1]).exp()[:, :, None]
            kl = divergence(pose[0].flatten(0, 1), pose[1].flatten(0, 1)).mean()
            loss = loss + settings.vae_pose_beta * kl
            planes, shift_A = model.posed(latent)
            expected = model.expected(positions[:, :, None].expand(-1, -1, poses, -1, -1), planes, shift_A)
        else:
            planes = batch.planes[:, None].expand(-1, count, -1, -1)
            expected = model.expected(positions, planes, torch.zeros(len(rows), count, 2))
        return loss - summed_likelihood(misfit(batch, expected.flatten(1, -2))).mean()


def summed_likelihood(error: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """Logarithm (B,) of the mean likelihood of S samples of squared errors (B, S): summed, where bounds multiply."""
    return torch.logsumexp(-0.5 * error, dim=1) - math.log(error.shape[1])


class AtomVaeLearner(ImageLearner):
    """Learns a motion of all atoms; see :class:`ImageLearner`.

    Parameters
    ----------
    images : ParticleImages
        Their poses are used only where they are given.
    structure : Structure
        The base structure, in the frame of the images.
    settings : AtomVaeSettings
    setting : FoldSetting
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, structure: Structure, settings: AtomVaeSettings, setting: FoldSetting,
        monitor: Monitor,
    ) -> None:  # fmt: skip
        super().__init__(images, structure, settings.vae_zdim, setting, monitor)
        self.settings, self.atoms = settings, RigidResidues.of(structure)
        self.inferred = settings.vae_poses == "inferred"
        if self.inferred:
            as_they_lie = Poses(torch.eye(3).expand(images.n, 3, 3).contiguous(), torch.zeros(images.n, 2))
            self.data = replace(self.data, images=images.with_poses(as_they_lie))

    def _train(self, rows: Int64[Tensor, " n"], seed: int, place: CheckpointFile) -> tuple[AtomsOfImages, list[float]]:
        settings = self.settings
        model = AtomVaeModel(
            self.atoms, self.images, self.radius, settings.vae_zdim, settings.vae_width_A, self.inferred
        )
        data = replace(self.data, rows=rows)
        return model, AtomVaeTrainer(model, data, settings, seed, place, self.monitor).run()

    @torch.no_grad()
    def _learned(self, model: AtomsOfImages) -> None:
        """Images take the poses that were inferred: maps of nodes are made with them."""
        if not self.inferred:
            return
        assert isinstance(model, AtomVaeModel)
        rotation, shift_px = self.images.rotation.clone(), self.images.shift_px.clone()
        for rows in self.rows.split(IMAGES_AT_ONCE):
            planes, shift_A = model.pose_of(self.data.batch(rows))
            normal = torch.linalg.cross(planes[:, 0], planes[:, 1])
            rotation[rows] = torch.cat([planes, normal[:, None]], dim=1)
            shift_px[rows] = shift_A / self.images.pixel_size_A
        self.images = self.images.with_poses(Poses(rotation, shift_px))

    @property
    def _can_weigh(self) -> bool:
        """Not where poses are inferred: the bound would have to count their price as well."""
        return not self.inferred

    def _centres(self, positions: FloatArray) -> FloatArray:
        return self.atoms.centres(positions)

    def _density(self, model: AtomsOfImages) -> Density:
        """The electrons of residues, as wide as their atoms lie apart and an atom is."""
        assert isinstance(model, AtomVaeModel)
        own = torch.from_numpy(residue_widths(self.structure)).float()
        return self.gaussians(model.log_amplitude.exp(), model.width_A, own)
