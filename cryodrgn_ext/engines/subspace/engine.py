"""The subspace engine from images to result: latents at low frequencies first, then volumes at all of them."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.base import Heterogeneity, LatentsFunction, Regions
from cryodrgn_ext.engines.context import GIGABYTE, EngineContext
from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.checkpoint import Checkpoint, SubspaceCheckpoints
from cryodrgn_ext.engines.subspace.curved import CurvedFit, HalfLatents, curved_bands
from cryodrgn_ext.engines.subspace.deformed import half_sets
from cryodrgn_ext.engines.subspace.deformed import latents as motion_latents
from cryodrgn_ext.engines.subspace.em import Latents, SubspaceFit, latents
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.finer import FinerFeatures
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.held_regions import HeldRegions
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity, load
from cryodrgn_ext.engines.subspace.linear_motions import LinearMotions
from cryodrgn_ext.engines.subspace.particle_scales import fitted_spread, measure_scales
from cryodrgn_ext.engines.subspace.rare_columns import rare_columns
from cryodrgn_ext.engines.subspace.rare_posterior import RareStates
from cryodrgn_ext.engines.subspace.rare_states import RareSearch
from cryodrgn_ext.engines.subspace.regions import moving_region, standing_out
from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS, SubspaceSettings
from cryodrgn_ext.engines.subspace.states_fit import StatesFit, better_states
from cryodrgn_ext.engines.subspace.subspace import Subspace
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages

__all__ = ["load", "train"]

IMAGES_PER_NODE = 5
MOST_NODES = 400
MOST_STATES = 24
LEAST_STATE = 0.005  # of the particles, in a state that is counted
CURVE_LENGTH = 0.35  # of the features, in units of the latents' spread
LEAST_RADIUS = 6


def train(
    images: ParticleImages,
    consensus: NDArray[np.float32] | None,
    settings: SubspaceSettings,
    context: EngineContext,
    consensus_radius: int | None = None,
    regions: Regions | None = None,
    start: Heterogeneity | None = None,  # noqa: ARG001 (one signature for all engines)
    on_latents: LatentsFunction | None = None,
) -> SubspaceHeterogeneity:
    """Learn the heterogeneity of ``images``; see :class:`cryodrgn_ext.engines.base.TrainFunction`.

    In a group of processes all call it with the same arguments; each takes its shard of every pass. It begins by
    itself: ``start`` is not used.

    Raises
    ------
    InputError
        When there are no images, no consensus, or more components are asked for than the engine takes.
    ResumeError
        When the checkpoint was made with other settings or particles.
    JobAborted
        When the monitor says so; the checkpoint stays.
    """
    zdim = settings.zdim
    if images.n == 0:
        raise InputError("there are no particles to train on: the input holds 0 rows")
    if not 1 <= zdim <= MOST_COMPONENTS:
        raise InputError(
            f"--engine subspace takes 1 to {MOST_COMPONENTS} components, not --zdim {zdim}: choose another number, or "
            "--engine neural"
        )
    if consensus is None:
        raise InputError("--engine subspace starts from a consensus map, and none was given")
    return _Run(images, consensus, settings, context, consensus_radius, regions or Regions(), on_latents).result()


class _Run:
    """One run: the stages, and where they are kept."""

    def __init__(
        self, images: ParticleImages, consensus: NDArray[np.float32], settings: SubspaceSettings,
        context: EngineContext, consensus_radius: int | None, regions: Regions, on_latents: LatentsFunction | None,
    ) -> None:  # fmt: skip
        self.images, self.settings, self.context, self.regions = images, settings, context, regions
        self.on_latents, self.monitor, self.device = on_latents, context.monitor, context.device
        self.zdim = settings.zdim
        self.consensus = np.ascontiguousarray(consensus, dtype=np.float32)
        limit = images.plane.radius
        self.limit = limit if consensus_radius is None else max(min(limit, consensus_radius), min(limit, LEAST_RADIUS))
        particle, focus = (
            None if given is None else torch.as_tensor(np.asarray(given, dtype=np.float32))
            for given in (self.regions.particle, self.regions.focus)
        )
        self.anatomy = Anatomy(self.consensus, particle, focus)
        reach = min(self.limit + 1, images.box_size // 2)
        self.base = FourierVolume.from_map(torch.as_tensor(self.consensus, device=self.device), radius=reach)
        self.file = SubspaceCheckpoints(context.checkpoint_dir, self._key())
        self.last_saved = time.monotonic()

    def _key(self) -> str:
        images, own = self.images, self.settings
        poses = hashlib.sha256(images.rotation.cpu().numpy().tobytes())
        poses.update(images.shift_px.cpu().numpy().tobytes())
        focus = b"" if self.regions.focus is None else np.ascontiguousarray(self.regions.focus).tobytes()
        solvent = b"" if self.regions.particle is None else np.ascontiguousarray(self.regions.particle).tobytes()
        description = [
            images.n, images.box_size, self.limit, own.zdim, self.context.seed, own.fit_contrast,
            own.curve_features, own.rare_states,
            poses.hexdigest(),
            hashlib.sha256(self.consensus.tobytes() + focus + solvent).hexdigest(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()

    def _band(self, radius: int) -> Band:
        return self._band_of(self.images, radius)

    def _band_of(self, images: ParticleImages, radius: int) -> Band:
        band = Band(images, self.base, radius, self.device, self.context.memory_bytes)
        if not band.resident and images.n == self.images.n:
            self.monitor.message(
                f"Coefficients to {images.box_size * images.pixel_size_A / radius:.1f} Å take "
                f"{band.n_bytes / GIGABYTE:.1f} GB, more than {self.context.memory_bytes / GIGABYTE:.1f} GB "
                "(--memory_GB): they are read from disk in every pass."
            )
        return band

    def result(self) -> SubspaceHeterogeneity:
        """All stages."""
        self.monitor.message(
            f"Subspace engine: {self.images.n} images of {self.images.box_size} px, {self.zdim} components; volumes "
            f"to {self.images.box_size * self.images.pixel_size_A / self.limit:.1f} Å; {self.device.type}."
        )
        found = self.file.load()
        fit = self._fit(found)
        if found is None or found.stage == "em":
            subspace = fit.run(self._save_fit)
        else:
            subspace = fit.subspace
        if self.settings.fit_contrast == "auto" and fit.scale_spread > 0:
            self.monitor.message(
                f"Particles differ by {100 * fit.scale_spread:.0f} % (standard deviation) in how strongly they show, "
                "beside what components explain: a scale is fitted to each."
            )
        self.monitor.message(
            f"{subspace.n_real} of {self.zdim} components agree between the half-sets, at frequencies up to "
            f"{self.images.box_size * self.images.pixel_size_A / fit.band.radius:.1f} Å; images of one half-set gain "
            f"{float(fit.gains.mean.max()):.3f} nats by components of the other."
        )
        return self._decode(fit, subspace, found)

    def _fit(self, found: Checkpoint | None) -> SubspaceFit:
        spread = 0.0  # of a continued fit the checkpoint knows it
        if found is None and self.settings.fit_contrast != "no":
            spread = fitted_spread(self.settings.fit_contrast, measure_scales(self.images, self._band_of))
        fit = SubspaceFit(
            self.images,
            self._band,
            self.zdim,
            self.limit,
            spread,
            self.anatomy,
            self.context.seed,
            self.monitor,
        )
        fit.keeps_scales = self.settings.fit_contrast == "yes"
        if found is not None:
            self.monitor.message("Continuing from the checkpoint.")
            fit.restore(found.numbers, found.tensors)
        return fit

    def _save_fit(self, fit: SubspaceFit) -> None:
        if time.monotonic() - self.last_saved < self.context.checkpoint_seconds:
            return
        self.file.save(Checkpoint("em", *fit.state()))
        self.last_saved = time.monotonic()

    def _rare_states(self, fit: SubspaceFit, subspace: Subspace, found: Checkpoint | None) -> RareStates:
        """States of few particles that the subspace leaves out; those that the checkpoint holds if it is so far."""
        if found is not None and found.stage == "decoder":
            return RareStates(found.tensors["rare_values"].to(self.device), *found.tensors["rare_shares"])
        states = RareSearch(fit, self.anatomy.focus, self.monitor).run(self.settings.rare_states)
        columns = rare_columns(subspace, states).column
        for column, share in zip(columns, states.share.tolist(), strict=True):
            self.monitor.message(
                f"A rare state: about {max(1, round(share * self.images.n))} images ({100 * share:.2g} %) have or lack "
                f"density of their own; column {column} of the latents (from 0) tells it."
            )
        return states

    def _decode(self, fit: SubspaceFit, subspace: Subspace, found: Checkpoint | None) -> SubspaceHeterogeneity:
        """Final latents, and the volumes at them."""
        images, workers, states = self.images, current(), self._rare_states(fit, subspace, found)
        shard = workers.shard(images.n)
        rows = torch.arange(shard.start, shard.stop)
        known = latents(fit, subspace, rows, self.monitor, states)
        scale = subspace.scale.float()
        x, x_cov = known.mean * scale, known.covariance * scale[:, None] * scale
        columns = rare_columns(subspace, states)
        z = workers.gather_rows(columns.latents(x, known.rare), images.n)
        used = subspace.real.nonzero()[:, 0] if subspace.n_real else subspace.scale.argmax()[None]
        count = int(np.clip(images.n // IMAGES_PER_NODE, 2, MOST_NODES))
        nodes = Nodes.cover(z[:, used], CURVE_LENGTH, min(count, images.n), self.context.seed)
        # Rare states have columns of their own, in the same block of columns.
        smooth = Features.build(nodes, CURVE_LENGTH, max(1, self.settings.curve_features - len(states)))
        regions = self._held_regions(fit, subspace, states)
        curved = self._curved(fit, rows, x[:, used], x_cov[:, used][:, :, used], known, smooth, regions)
        if found is not None and found.stage == "decoder" and "solved" in found.numbers:  # else an earlier version's
            curved.restore(found.numbers, found.tensors)
        radii = curved_bands(fit.band.radius, self.limit)
        self._learn_curve(curved, fit, states, radii, count)
        features = curved.features
        motions = self._motions(fit, subspace, states, rows, used, curved)
        chosen: CurvedFit | LinearMotions = curved
        if motions is not None and motions.held_out().gain > curved.held_out().gain:
            self.monitor.message("Images gain more by smooth deformations of the consensus than by any other volumes.")
            chosen, features = motions, motions.features
        elif found is None or not found.numbers.get("curve_stays", False):
            free = torch.tensor([j for j in range(self.zdim) if j not in columns.column], dtype=torch.long)
            discrete = better_states(curved, radii, MOST_STATES - len(states), len(free), images.n, self.context.seed)
            if discrete is None:
                self._save_curved(fit, curved, states, curve_stays=True)
            else:
                self._say_states(discrete, curved)
                chosen, features, used = discrete, discrete.located, free
        x[:, used] = chosen.in_order("mean")
        x_cov[:, used[:, None], used] = chosen.in_order("covariance")
        z = workers.gather_rows(columns.latents(x, known.rare), images.n)
        z_cov = workers.gather_rows(columns.covariances(x_cov, known.rare), images.n)
        own = chosen.smoothing if isinstance(chosen, LinearMotions) else z_cov[:, used][:, :, used].double().mean(0)
        if self.on_latents is not None:
            self.on_latents(z.numpy(), z_cov.numpy())
        return SubspaceHeterogeneity(
            features=features,
            share=chosen.share,
            columns_used=tuple(used.tolist()),
            smoothing=own.contiguous(),
            radius=self.limit,
            values=chosen.volumes[..., : chosen.columns].cpu().contiguous(),
            consensus=self.consensus,
            particle=chosen.regions.whole.numpy(),
            moving=chosen.regions.moving.numpy(),
            pixel_size_A=images.pixel_size_A,
            z=z.numpy(),
            z_cov=z_cov.numpy(),
            # Bands hold different coefficients, so that a new band begins at another level.
            loss_history={"total": list(fit.history)},
            held_out=chosen.held_out().as_numbers(),
            rare=columns.column,
            rare_scale=columns.scale,
        )

    def _learn_curve(
        self, curved: CurvedFit, fit: SubspaceFit, states: RareStates, radii: list[int], nodes: int
    ) -> None:  # fmt: skip
        former = curved.features.count
        finer = FinerFeatures(self.images.n, nodes, self.context.seed, self.context.work_bytes, self.limit)
        curved.run(radii, lambda: self._save_curved(fit, curved, states), finer)
        if curved.features.count > former:
            self.monitor.message(f"Volumes are made of {curved.features.count} functions of the latents.")

    def _motions(
        self, fit: SubspaceFit, subspace: Subspace, states: RareStates, rows: Tensor, used: Tensor, curved: CurvedFit,
    ) -> LinearMotions | None:  # fmt: skip
        """Volumes linear in the amplitudes of deformations, where components are such."""
        if fit.deformed is None:
            return None
        grid, n = fit.band.grid, self.images.n
        half = half_sets(self.images.half_set)[rows]
        deformations = self.anatomy.deformations(grid).on(self.device)
        found = motion_latents(fit.deformed, fit.band, deformations, half, rows, fit.scale_spread)
        scale = subspace.scale[used].double()
        found = found.scaled(scale)
        places = current().gather_rows(found.mean.float(), n)
        motions = (fit.values[..., 1 : len(used) + 1] / scale.to(self.device)).float()
        grids = (grid, ComponentGrid(self.images.box_size, self.limit))
        average = curved.volumes[..., 0]
        return LinearMotions.build(average, motions, found, places, curved.regions, states, grids, self.context.seed)

    def _say_states(self, discrete: StatesFit, curve: CurvedFit) -> None:
        more = float((discrete.gains() - curve.gains()).mean())
        self.monitor.message(
            f"The volumes are {int((discrete.share > LEAST_STATE).sum())} discrete states: a single image gains "
            f"{more:.3f} nats more by them than by volumes along smooth coordinates."
        )

    def _held_regions(self, fit: SubspaceFit, subspace: Subspace, states: RareStates) -> HeldRegions:
        """Soft masks (D, D, D) of the particle, and of what moves in it or belongs to a rare state."""
        focus = self.anatomy.focus
        moving = moving_region(subspace, focus)
        for k in range(len(states)):
            added = subspace.grid.to_map(states.values[..., k].contiguous()).cpu().numpy()
            own = standing_out(added, subspace.grid.radius)
            moving = torch.maximum(moving, own if focus is None else own * focus)
        particle = self.anatomy.region(fit.band.radius, moving)
        given = (focus, self.anatomy.particle)
        return HeldRegions.about(particle, torch.minimum(moving, particle), fit.band.radius, *given)

    def _curved(
        self, fit: SubspaceFit, rows: Tensor, x: Tensor, x_cov: Tensor, known: Latents, features: Features,
        regions: HeldRegions,
    ) -> CurvedFit:  # fmt: skip
        """The curved model as the linear one's latents of this process's ``rows`` begin it."""
        half = half_sets(self.images.half_set)
        halves = [(half == side).nonzero()[:, 0] for side in (0, 1)]
        begun, own_rows = [], []
        for members in halves:
            mine = ((members >= int(rows[0])) & (members <= int(rows[-1]))).nonzero()[:, 0] if len(rows) else rows
            here = members[mine] - (int(rows[0]) if len(rows) else 0)
            gain = torch.zeros(len(here), 2, dtype=torch.float64)
            scale, rare = known.particle_scale[here], known.rare[here]
            begun.append(HalfLatents(members[mine], x[here], x_cov[here], scale, rare, gain))
            own_rows.append(mine)

        def bands(radius: int) -> list[Band]:
            memory = self.context.memory_bytes / 2
            return [Band(self.images.subset(m), self.base, radius, self.device, memory) for m in halves]

        return CurvedFit(features, begun, bands, own_rows, regions, fit.scale_spread, self.monitor)

    def _save_curved(
        self, fit: SubspaceFit, curved: CurvedFit, states: RareStates, curve_stays: bool = False
    ) -> None:  # fmt: skip
        numbers, tensors = fit.state()
        own_numbers, own = curved.state(self.images.n)
        own_numbers["curve_stays"] = curve_stays
        rare = {"rare_values": states.values, "rare_shares": torch.stack([states.share, states.offset, states.width])}
        self.file.save(Checkpoint("decoder", {**numbers, **own_numbers}, {**tensors, **own, **rare}))
        self.last_saved = time.monotonic()
