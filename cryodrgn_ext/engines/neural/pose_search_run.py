"""One run of ab initio reconstruction: where it stands, and how a pass searches and learns."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural import checkpoint
from cryodrgn_ext.engines.neural.checkpoint import Progress
from cryodrgn_ext.engines.neural.heterogeneity import build_model
from cryodrgn_ext.engines.neural.local_refinement import differentiable_volume, refine_pairs
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.observations import Bands, ObservationSource
from cryodrgn_ext.engines.neural.order import random_generator, visiting_order
from cryodrgn_ext.engines.neural.pair_vae import PairVaeModel
from cryodrgn_ext.engines.neural.pose_search_model import search_models
from cryodrgn_ext.engines.neural.pose_search_settings import AbinitPlan
from cryodrgn_ext.engines.neural.power_envelope import power_envelope
from cryodrgn_ext.engines.neural.schedule import Pass, make_schedule
from cryodrgn_ext.engines.neural.settings import Recipe
from cryodrgn_ext.engines.neural.table import LatentTable
from cryodrgn_ext.engines.neural.trainer import LATENT_BATCH, make_adam
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.errors import CryodrgnExtError
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search

SEARCH_SHARE = 0.25  # of the memory that is allowed
READY_IMAGES = 32  # made ready together
STAGES = {
    "random": "random orientations", "joint": "poses and network", "retrain": "new network, fixed poses",
    "again": "poses and network again", "final": "last search",
}  # fmt: skip


class AbinitRun:
    """One run; see :func:`cryodrgn_ext.engines.neural.pose_search_engine.train_abinit`.

    Parameters
    ----------
    plan : AbinitPlan
    images : ParticleImages
        N images; or S N of N particles: the first images of all, then the second ones in the same order.
    relative : Tensor
        (S, 3, 3) rotations of a particle's images against the first one.
    initial : Poses or None
        Poses to start from.
    identity : str
        Hash of the images and all that belongs to them.
    context : EngineContext
        Device, memory, checkpoints and monitor.
    precision : torch.dtype
        Of the networks.
    """

    def __init__(
        self,
        plan: AbinitPlan,
        images: ParticleImages,
        relative: Tensor,
        initial: Poses | None,
        identity: str,
        context: EngineContext,
        precision: torch.dtype,
    ) -> None:
        self.plan, self.images, self.relative = plan, images, relative
        self.directory, self.monitor, self.device = context.checkpoint_dir, context.monitor, context.device
        self.checkpoint_seconds, self.search_bytes = (
            context.checkpoint_seconds,
            int(SEARCH_SHARE * context.work_bytes),
        )
        self.precision = precision
        self.views = len(relative)
        self.n, self.recipe = images.n // self.views, plan.recipe
        self.schedule = make_schedule(plan, self.n, initial is not None)
        initial = Poses.unknown(self.n) if initial is None else initial
        #: Poses of all images, and the log-likelihood of each particle.
        self.rotation = self._seen(initial.rotation)
        self.shift_px = torch.cat([initial.shift_px, torch.zeros(images.n - self.n, 2)])
        self.log_likelihood = torch.zeros(self.n)
        self.table: LatentTable | None = None
        if self.recipe.latents == "table" and self.recipe.zdim:
            self.table = LatentTable.start(self.n, self.recipe.zdim, self.recipe.seed)
        self.envelope = power_envelope(images, plan.radius)
        self.model = self._new_model(0)
        self.optimizer = make_adam(self.model, self.recipe.learning_rate)
        self.progress = Progress()
        self.key = checkpoint.fingerprint({"plan": plan.to_mapping()}, {"images": identity})

    # ------------------------------------------------------------------------------------------------- the schedule

    def run(self) -> None:
        """Go through the schedule, from the checkpoint or from the start."""
        self._restore()
        saved = time.monotonic()
        while self.progress.epoch < len(self.schedule):
            step = self.schedule[self.progress.epoch]
            if step.reset and self.progress.step == 0:
                self._restart(self.progress.epoch)
            begin = self.progress.step
            label = f"Pass {self.progress.epoch + 1} of {len(self.schedule)} ({STAGES[step.stage]})"
            order = visiting_order(self.n, self.recipe.seed, self.progress.epoch)[: step.images]
            places = range(begin, step.images, step.block)
            for place in self.monitor.track(places, label, step.images - begin, step.block):
                self._visit(step, order[place : place + step.block], place)
                self.progress.step = place + step.block
                if time.monotonic() - saved > self.checkpoint_seconds and self.progress.step < step.images:
                    self._save()
                    saved = time.monotonic()
            self._finish(step)
            self._save()
            saved = time.monotonic()

    def _visit(self, step: Pass, rows: Tensor, place: int) -> None:
        """Search for a block of images, and learn from it."""
        if step.search:
            self._search(step, rows)
        if not step.train:
            return
        if step.stage == "random":
            generator = random_generator(self.recipe.seed, self.progress.epoch, place, 3)
            quaternion = torch.randn(len(rows), 4, generator=generator, dtype=torch.float64)
            rotation = self._seen(torch.from_numpy(Rotation.from_quat(quaternion.numpy()).as_matrix()).float())
            images = self._images(rows).with_poses(Poses(rotation, torch.zeros(len(rotation), 2)))
        else:
            images = self._aligned(rows)
        self._learn(step, rows, images, place)

    def _finish(self, step: Pass) -> None:
        """Record a pass that is over, and say how it went."""
        history, text = self.progress.history, []
        for name, total in self.progress.running.items():
            history.setdefault(name, []).append(total / step.images)
        if step.train:
            names = ("total", "kl") if self.recipe.zdim else ("total",)
            text.append("loss per coefficient: " + ", ".join(f"{name} {history[name][-1]:.5f}" for name in names))
        if step.search:
            gain, moved = history["search_log_likelihood"][-1], history["search_moved_deg"][-1]
            text.append(f"log-likelihood {gain:.2f} per image, rotations moved by {moved:.1f}° on average")
        self.progress.epoch, self.progress.step, self.progress.running = self.progress.epoch + 1, 0, {}
        self.monitor.message(
            f"Pass {self.progress.epoch} of {len(self.schedule)} ({STAGES[step.stage]}): {'; '.join(text)}."
        )

    @property
    def losses(self) -> dict[str, list[float]]:
        """Losses, one entry per pass that learned."""
        return {name: values for name, values in self.progress.history.items() if not name.startswith("search_")}

    @property
    def searches(self) -> dict[str, list[float]]:
        """Record of the searches, one entry per pass that searched."""
        found = {n: v for n, v in self.progress.history.items() if n.startswith("search_")}
        return {name.removeprefix("search_"): values for name, values in found.items()}

    # --------------------------------------------------------------------------------------------------- the network

    def _new_model(self, epoch: int) -> VaeModel:
        """The network with random weights, that are others after each restart."""
        recipe = replace(self.recipe, seed=(self.recipe.seed + 7919 * epoch) % 2**31)
        n_encoder = self.images.plane.prefix(self.plan.encoder_radius)
        model = build_model(recipe, self.images.box_size, self.envelope, n_encoder)
        if not isinstance(model, VaeModel):
            raise TypeError(f"the coordinate decoder is needed, got {type(model).__name__}")
        if self.views > 1 and self.recipe.zdim and self.table is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                model = PairVaeModel(
                    recipe.zdim, self.envelope, model.features.frequencies, n_encoder,
                    (recipe.enc_layers, recipe.enc_dim), (recipe.dec_layers, recipe.dec_dim), recipe.domain,
                    recipe.kl_weight,
                )  # fmt: skip
        model.network_dtype = self.precision
        return model.to(self.device).train()

    def _restart(self, epoch: int) -> None:
        """A new network and optimiser; poses, and latents that are a table, stay (Zhong 2022, 5.3.3)."""
        self.model.release()
        self.model = self._new_model(epoch)
        self.optimizer = make_adam(self.model, self.recipe.learning_rate)

    def result_model(self) -> tuple[VaeModel, Recipe]:
        """The network as it is kept: without the encoder of pairs, whose images come in twos."""
        if not isinstance(self.model, PairVaeModel):
            return self.model.eval(), self.recipe
        recipe = replace(self.recipe, latents="table")
        model = build_model(recipe, self.images.box_size, self.model.envelope.cpu(), 0)
        kept = {n: t for n, t in self.model.state_dict().items() if n.split(".")[0] not in ("encoder", "joint")}
        model.load_state_dict(kept)
        return model.to(self.device).eval(), recipe  # type: ignore[return-value]

    def _learn(self, step: Pass, rows: Tensor, images: ParticleImages, place: int) -> None:
        """Steps of the optimiser over a block: particles ``rows`` (B,) and their images (S B), at poses."""
        n_train = self.images.plane.prefix(step.radius)
        count = n_train
        # Beside an orientation that means nothing, a latent would learn to stand for the true one.
        informed = step.stage != "random"
        if self.recipe.zdim and self.table is None and informed:
            count = max(count, self.model.n_encoder)
        low, high = self.recipe.final_learning_rate, self.recipe.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = low + (high - low) * 0.5 * (1 + math.cos(math.pi * step.decay))
        stride = self.recipe.batch * max(1, READY_IMAGES // self.recipe.batch)
        for ready in torch.arange(len(rows)).split(stride):
            observation = self._observe(images, ready, count)
            for some in torch.arange(len(ready)).split(self.recipe.batch):
                chosen = torch.cat([some + len(ready) * view for view in range(self.views)])
                where = ready[some]
                self._take(_rows(observation, chosen), rows[where], n_train, place + int(where[0]), informed)

    def _observe(self, images: ParticleImages, where: Tensor, count: int) -> Observation:
        """Particles ``where`` (b,) of a block: their first images, then the second ones, up to ``count``."""
        n, radius = images.n // self.views, images.plane.radius
        rows = torch.cat([where + n * view for view in range(self.views)])
        return ObservationSource(images, None, Bands(radius, radius), self.device).observe(rows, count, None)

    def _take(self, observation: Observation, rows: Tensor, n_train: int, place: int, informed: bool) -> None:
        """One step of the optimiser; latents are drawn from the prior where images do not inform them."""
        self.optimizer.zero_grad(set_to_none=True)
        images = self.views
        generator = random_generator(self.recipe.seed, self.progress.epoch, place, 2)
        noise = torch.randn(len(rows), self.recipe.zdim, generator=generator).to(self.device)
        kl = torch.zeros((), device=self.device)
        z, moments = noise, None
        if self.recipe.zdim and informed:
            if self.table is not None:
                moments = self.table.rows(rows)
                mean, log_variance = moments.to(self.device).chunk(2, dim=1)
            else:
                mean, log_variance = self.model.encode(observation)
            z = mean + noise * (0.5 * log_variance).exp()
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        learned = _narrow(observation, n_train)
        reconstruction = images * self.model.decoder_loss(learned, z.repeat(images, 1)).reconstruction
        total = reconstruction + self.model.kl_weight * kl
        if self.table is not None and moments is not None:
            (gradient,) = torch.autograd.grad(total, moments, retain_graph=True)
            self.table.update(rows, gradient * len(rows))
        total.backward()
        self.optimizer.step()
        share = len(rows) / (images * n_train)
        for name, value in (("total", total), ("reconstruction", reconstruction), ("kl", kl)):
            number = float(value.detach()) * share
            if not math.isfinite(number):
                raise CryodrgnExtError(
                    f"training diverged in pass {self.progress.epoch + 1} (the loss is no longer a number): lower "
                    "--learning_rate, or look for images with extreme values"
                )
            self.progress.running[name] = self.progress.running.get(name, 0.0) + number

    # ---------------------------------------------------------------------------------------------------- the poses

    @property
    def home(self) -> torch.device:
        """Where the images are."""
        return self.images.rotation.device

    def _seen(self, rotation: Tensor) -> Tensor:
        """Rotations (S B, 3, 3) of all images, from those of the first ones (B, 3, 3)."""
        return (self.relative[:, None] @ rotation).flatten(0, 1)

    def _all(self, rows: Tensor) -> Tensor:
        """Rows (S B,) of all images of particles ``rows`` (B,)."""
        return torch.cat([rows + self.n * view for view in range(self.views)])

    def _images(self, rows: Tensor) -> ParticleImages:
        return self.images.subset(self._all(rows))

    def _aligned(self, rows: Tensor) -> ParticleImages:
        """All images of particles ``rows`` at their last poses."""
        every = self._all(rows)
        return self._images(rows).with_poses(Poses(self.rotation[every], self.shift_px[every]))

    def _search(self, step: Pass, rows: Tensor) -> None:
        """Find the poses of a block of images with the network as it is."""
        plan = self.plan
        settings = SearchSettings(
            base_level=plan.base_level, refinements=plan.refinements, keep=plan.keep, k_min=plan.k_min,
            k_max=step.k_max, shift_extent_px=plan.shift_extent_px, shift_count=plan.shift_count,
            memory_bytes=self.search_bytes, device=str(self.device),
        )  # fmt: skip
        images = self._aligned(rows)
        z = self._block_latents(rows, images)[0]
        own = z.repeat(self.views, 1)  # of every image of the block
        moved = 0.0
        for some in search_models(self.model, own, step.k_max, plan.search_volumes, self.recipe.seed):
            first = some.rows[some.rows < len(rows)]
            groups = ImageGroups(torch.stack([first + len(rows) * v for v in range(self.views)], 1), self.relative)
            found = search(images, some.slices, settings, groups=groups)
            rotation, fit = found.best.rotation[:: self.views], found.log_likelihood[:: self.views, 0]
            shift_px = found.best.shift_px.reshape(-1, self.views, 2)
            if step.local_refinement and some.volume is not None:
                scorers = [Scorer(images, members, step.k_max, self.device) for members in groups.rows.T]
                field = differentiable_volume(some.volume, step.k_max)
                rotation, shift_px, fit = refine_pairs(scorers, groups, field, rotation, shift_px)
            every = self._all(rows[first])
            seen = self._seen(rotation.float())
            trace = (seen * self.rotation[every]).sum((1, 2))[: len(first)]
            moved += float(torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos()).sum())
            self.rotation[every], self.shift_px[every] = seen, shift_px.float().transpose(0, 1).flatten(0, 1)
            self.log_likelihood[rows[first]] = fit.float()
            self.monitor.poll()
        running = self.progress.running
        gain = float(self.log_likelihood[rows].sum())
        for name, value in (("search_log_likelihood", gain), ("search_moved_deg", moved)):
            running[name] = running.get(name, 0.0) + value

    @torch.no_grad()
    def _block_latents(self, rows: Tensor, images: ParticleImages) -> tuple[Tensor, Tensor]:
        """Latent means (B, q) and covariances (B, q, q) of particles ``rows`` with their images, on the CPU."""
        q = self.recipe.zdim
        if not q:
            return torch.zeros(len(rows), 0), torch.zeros(len(rows), 0, 0)
        if self.table is not None:
            mean, log_variance = self.table.moments[rows].chunk(2, dim=1)
        else:
            observation = self._observe(images, torch.arange(len(rows)), self.model.n_encoder)
            mean, log_variance = (moment.cpu() for moment in self.model.encode(observation))
        return mean, torch.diag_embed(log_variance.exp())

    def latents(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent means (N, q) and covariances (N, q, q) of all images at their last poses."""
        q = self.recipe.zdim
        mean, covariance = torch.zeros(self.n, q), torch.zeros(self.n, q, q)
        if q:
            for rows in self.monitor.track(torch.arange(self.n).split(LATENT_BATCH), "Latents", self.n, LATENT_BATCH):
                mean[rows], covariance[rows] = self._block_latents(rows, self._aligned(rows))
        return mean.numpy(), covariance.numpy()

    # -------------------------------------------------------------------------------------------------- checkpoints

    def _tables(self) -> dict[str, Tensor]:
        """Tensors with a row for each image, in the checkpoint."""
        tables = {"rotation": self.rotation, "shift_px": self.shift_px, "log_likelihood": self.log_likelihood}
        if self.table is not None:
            tables.update({f"latent_{name}": tensor for name, tensor in self.table.tensors().items()})
        return tables

    def _save(self) -> None:
        if self.directory is not None:
            checkpoint.save(self.directory, self.key, self.model, self.optimizer, self.progress, self._tables())

    def _restore(self) -> None:
        """Go to where the checkpoint stands, if there is one."""
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        found = checkpoint.restore(self.directory, self.key, self.model, self.optimizer, self._tables())
        if found is not None:
            self.progress = found
            self.monitor.message(f"Continuing from the checkpoint after {found.epoch} finished passes.")


def _rows(observation: Observation, rows: Tensor) -> Observation:
    """Some images of an observation."""
    rows = rows.to(observation.values.device)
    return replace(
        observation,
        values=observation.values[rows],
        whitened_ctf=observation.whitened_ctf[rows],
        points=observation.points[rows],
    )


def _narrow(observation: Observation, count: int) -> Observation:
    """The first ``count`` coefficients."""
    if count == len(observation.weight):
        return observation
    return Observation(
        observation.values[:, :count], observation.whitened_ctf[:, :count], observation.points[:, :count],
        observation.shell[:count], observation.weight[:count], count,
    )  # fmt: skip
