"""Rare states: found where a few images hold density of their own, grown to the whole difference, and tested.

From a ball at the place that :mod:`.rare_scan` has found, the images that have it are separated from the others and
what they have in common beyond their model is reconstructed, alternately (expectation maximisation of a mixture). Both
half-sets do so on their own. A state is kept only if each half's volume picks its images out of the other half, whose
images it has never seen: better than no state, better than the same volume in varying amounts (which is a motion or a
scale, and belongs to the subspace), and without leaving most of them in doubt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.em import SubspaceFit, images_of_pass
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.halves import independent_halves, interpolation_falloff
from cryodrgn_ext.engines.subspace.posterior import infer
from cryodrgn_ext.engines.subspace.rare_posterior import (
    RareStates,
    compare,
    continuous_gain,
    infer_mixture,
    log_ratio,
    share_of,
)
from cryodrgn_ext.engines.subspace.rare_scan import MOST, Candidate, scan
from cryodrgn_ext.engines.subspace.regions import standing_out
from cryodrgn_ext.engines.subspace.residuals import residuals
from cryodrgn_ext.engines.subspace.torch_form import Chunk
from cryodrgn_ext.progress import Monitor

FEWEST_IMAGES = 1000  # in which rare states are looked for
FEWEST_MEMBERS = 12
TRIES = 3  # candidates of a scan that are grown
LEAST_GAIN = 20.0  # nats: some thousand places are looked at
ROUNDS = 3
LARGEST_FACTOR = 5.0  # by which a template may be stronger than its shrunken form
LEAST_PROBABILITY = 0.02
FIRST_WINDOW = 3.0  # standard deviations of the ball
MOST_DOUBT = 0.4  # mean of 1 - p over the members


@dataclass(frozen=True)
class _Seen:
    """All images of the search, compared with the templates of both halves.

    Attributes
    ----------
    score, sharpness : Tensor
        (n, 2) float64 of all images, see :func:`compare`.
    mean : Tensor
        (n', zdim) float32 latents of this process' images if they have what their own half has found.
    particle_scale : Tensor
        (n',) float32.
    """

    score: Tensor
    sharpness: Tensor
    mean: Tensor
    particle_scale: Tensor


@dataclass
class _Ratios:
    """Evidence of images about a state: of all of them, and of each half (in lists).

    Attributes
    ----------
    ratio, probability : Tensor
        (n,) float64.
    offset, width : list of float
        Median of the scores, and how they scatter.
    share, gain, continuous : list of float
        Of the members; log likelihood that the state gains, and that the same volume in varying amounts does.
    """

    ratio: Tensor
    probability: Tensor
    offset: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    continuous: list[float] = field(default_factory=list)

    def stands(self) -> bool:
        """Whether both halves' images hold the state that the other half has found."""
        members = float(self.probability.sum())
        if len(self.gain) < 2 or members < FEWEST_MEMBERS:
            return False
        doubt = float((self.probability * (1 - self.probability)).sum()) / members
        better = all(g > max(LEAST_GAIN, c) for g, c in zip(self.gain, self.continuous, strict=True))
        return better and doubt < MOST_DOUBT and max(self.share) < MOST


class RareSearch:
    """Looks for rare states beyond a fitted subspace.

    Parameters
    ----------
    fit : SubspaceFit
        At its last band.
    focus : Tensor or None
        (D, D, D) soft mask outside which nothing is looked for.
    monitor : Monitor
    """

    def __init__(self, fit: SubspaceFit, focus: Tensor | None, monitor: Monitor) -> None:
        self.fit, self.band, self.monitor = fit, fit.band, monitor
        self.columns = fit.zdim + 1
        images = fit.images
        self.rows = images_of_pass(images, self.band.count, fit.seed)
        total = torch.tensor([float(len(self.rows))], dtype=torch.float64)
        current().sum(total)
        self.n = int(total)
        start = current().shard(self.n).start
        self.mine = slice(start, start + len(self.rows))
        self.half = current().gather_rows((images.half_set[self.rows] == 2).long().contiguous(), self.n)
        self.focus = focus
        self.blank = copy.copy(self.band)  # the same images, and no consensus
        base = self.band.operators.base
        self.nothing = torch.zeros(self.band.grid.n_voxels, 2, padded(1), device=self.band.device)
        self.blank.operators = replace(self.band.operators, base=replace(base, data=torch.zeros_like(base.data)))

    def run(self, most: int) -> RareStates:
        """At most ``most`` states, one after the other."""
        states = RareStates.none(self.band.grid)
        if self.fit.images.n < FEWEST_IMAGES:
            return states
        while len(states) < most:
            found = self._next(states)
            if found is None:
                break
            states = states.joined(found)
        return states

    def _next(self, states: RareStates) -> RareStates | None:
        claimed = self._claimed(states)
        candidates = scan(
            self.band, self.fit.values, self.rows[~claimed[self.mine]], self._weights, self.focus, self.monitor,
            "Looking for rare states", TRIES,
        )  # fmt: skip
        for candidate in candidates:
            if candidate.gain < LEAST_GAIN:
                break
            found = self._grow(candidate, claimed)
            if found is not None:
                return found
        return None

    def _weights(self, chunk: Chunk) -> Tensor:
        """(B, Q) weights of consensus and components in the images of a chunk."""
        found = infer(*self.band.operators.gram(self.fit.values, self.columns, chunk), self.fit.scale_spread)
        return (torch.cat([torch.ones_like(found.mean[:, :1]), found.mean], 1) * found.particle_scale[:, None]).float()

    def _claimed(self, states: RareStates) -> Tensor:
        """(n,) bool: images that states found so far have taken."""
        claimed = torch.zeros(len(self.rows), dtype=torch.bool)
        if len(states):
            values, start = states.beside(self.fit.values, self.columns), 0
            for chunk in self.band.chunks(self.rows):
                inner, cross = self.band.operators.gram(values, self.columns + len(states), chunk)
                _, probability = infer_mixture(inner, cross, self.columns, states, self.fit.scale_spread)
                claimed[start : start + len(chunk.rows)] = (probability.sum(1) > 0.5).cpu()
                start += len(chunk.rows)
        return current().gather_rows(claimed.to(torch.uint8), self.n) > 0

    def _see(self, templates: list[Tensor]) -> _Seen:
        """Compare all images with the templates (V, 2) of both halves."""
        values = RareStates(torch.stack(templates, dim=-1), *(torch.zeros(2),) * 3).beside(
            self.fit.values, self.columns
        )
        n = len(self.rows)
        score, sharpness = torch.zeros(n, 2, dtype=torch.float64), torch.zeros(n, 2, dtype=torch.float64)
        mean, particle_scale = torch.zeros(n, self.fit.zdim), torch.zeros(n)
        start = 0
        for chunk in self.band.chunks(self.rows):
            self.monitor.poll()
            here = slice(start, start + len(chunk.rows))
            start += len(chunk.rows)
            inner, cross = self.band.operators.gram(values, self.columns + 2, chunk)
            common = infer(
                inner[:, : self.columns, : self.columns], cross[:, : self.columns], self.fit.scale_spread
            )  # fmt: skip
            own = self.half[self.mine][here]
            for h in (0, 1):
                found = compare(inner, cross, self.columns, self.columns + h, common, self.fit.scale_spread)
                score[here, h], sharpness[here, h] = found[0].cpu(), found[1].cpu()
                members = own == h
                mean[here][members] = found[2].mean.float().cpu()[members]
                particle_scale[here][members] = found[2].particle_scale.float().cpu()[members]
        workers = current()
        return _Seen(workers.gather_rows(score, self.n), workers.gather_rows(sharpness, self.n), mean, particle_scale)

    def _ratios(self, seen: _Seen, templates_of: Callable[[int], int], claimed: Tensor) -> _Ratios:
        """Log likelihood ratios of all images, each half by the template of the half that ``templates_of`` names."""
        ratio, probability = torch.full((self.n,), -200.0, dtype=torch.float64), torch.zeros(self.n).double()
        out = _Ratios(ratio, probability)
        for half in (0, 1):
            chosen = (self.half == half) & ~claimed
            if int(chosen.sum()) < 2 * FEWEST_MEMBERS:
                continue
            t, s = (x[chosen, templates_of(half)] for x in (seen.score, seen.sharpness))
            low, middle, high = torch.quantile(t, torch.tensor([0.1587, 0.5, 0.8413], dtype=torch.float64)).tolist()
            offset, width = middle, max(1.0, 0.5 * (high - low))
            ratio[chosen] = log_ratio(t, s, offset, width)
            share, gain = share_of(ratio[chosen], MOST)
            probability[chosen] = torch.sigmoid(ratio[chosen] + np.log(share / (1 - share)))
            out.offset.append(offset)
            out.width.append(width)
            out.share.append(share)
            out.gain.append(gain)
            out.continuous.append(continuous_gain(t, s, offset, width))
        return out

    def _grow(self, candidate: Candidate, claimed: Tensor) -> RareStates | None:
        """From a ball to a state, or None when it does not stand the test."""
        grid = self.band.grid
        ball = self._ball(candidate)
        templates, windows = [ball, ball], self._first_windows(candidate)
        solved, probability = ball, None
        for number in range(ROUNDS + 1):
            seen = self._see(templates)
            if probability is not None:
                templates, seen = self._rescaled(templates, seen, probability)
            held_out = self._ratios(seen, lambda half: 1 - half, claimed)
            if number == ROUNDS:
                break
            probability = self._ratios(seen, lambda half: half, claimed).probability
            if float(probability.sum()) < FEWEST_MEMBERS or min(held_out.gain, default=0.0) < LEAST_GAIN:
                return None
            equations = self._equations(seen, probability)
            raw = equations.halves(self.nothing)
            halves = independent_halves(grid, self.nothing, *raw, torch.zeros(0, 0, dtype=torch.float64))
            precision = equations.precision(equations.signal(halves.first, halves.second))
            if number > 0:
                windows = [self._window(template) for template in templates]
            templates = [
                self._cut(equations.solve(self.nothing, precision, half)[..., 0], windows[half]) for half in (0, 1)
            ]
            solved = self._cut(equations.solve(self.nothing, precision)[..., 0], torch.maximum(*windows))
        if not held_out.stands():
            return None
        return RareStates(
            (self._along(solved, templates) * solved)[..., None],
            torch.tensor([float(held_out.probability.mean())], dtype=torch.float64),
            torch.tensor([float(np.mean(held_out.offset))], dtype=torch.float64),
            torch.tensor([float(np.mean(held_out.width))], dtype=torch.float64),
        )

    def _rescaled(
        self, templates: list[Tensor], seen: _Seen, probability: Tensor
    ) -> tuple[list[Tensor], _Seen]:  # fmt: skip
        """Templates as strong as the members of the half that has not made them say: their prior has shrunk them."""
        factors = []
        for half in (0, 1):
            others = (self.half != half) & (probability > LEAST_PROBABILITY)
            weight, t, s = probability[others], seen.score[others, half], seen.sharpness[others, half]
            offset = float(seen.score[self.half != half, half].median())
            strength = float((weight * (t - offset) * s).sum() / (weight * s.square()).sum().clamp_min(1e-12))
            factors.append(min(max(strength, 1 / LARGEST_FACTOR), LARGEST_FACTOR))
        sharpness = seen.sharpness * torch.tensor(factors, dtype=torch.float64)
        return [f * t for f, t in zip(factors, templates, strict=True)], replace(seen, sharpness=sharpness)

    def _along(self, solved: Tensor, templates: list[Tensor]) -> float:
        """Factor that makes what both halves have solved together as strong as the templates along it."""
        weight = self.band.grid.multiplicity.to(solved.device)[:, None]
        own = float((weight * solved.square()).sum())
        return sum(float((weight * solved * t).sum()) for t in templates) / (2 * max(own, 1e-30))

    def _equations(self, seen: _Seen, probability: Tensor) -> Equations:
        """Equations of what members have beyond their model, each image counted by its probability."""
        own = probability[self.mine]
        members = (own > LEAST_PROBABILITY).nonzero()[:, 0]
        equations, start = Equations.empty(self.blank, 1), 0
        for chunk in self.band.chunks(self.rows[members]):
            here = members[start : start + len(chunk.rows)]
            start += len(chunk.rows)
            weights = torch.cat([torch.ones(len(here), 1), seen.mean[here]], 1) * seen.particle_scale[here, None]
            rest = residuals(self.band.operators, self.fit.values, weights.to(self.band.device), chunk)
            moments = own[here].float()[:, None, None].to(self.band.device)
            equations.add(
                self.nothing, replace(chunk, values=rest), seen.particle_scale[here].double().to(self.band.device),
                self.half[self.mine][here].to(self.band.device), moments,
            )  # fmt: skip
        equations.complete()
        return equations

    # Maps of as few voxels as the band needs, (E, E, E) -------------------------------------------------------------

    def _ball(self, candidate: Candidate) -> Tensor:
        """The candidate (V, 2)."""
        small = self.band.grid.coarse
        step = self.band.grid.box_size / small.box_size
        axis = (torch.arange(small.box_size) - small.box_size // 2) * step
        offset = [axis - c for c in candidate.place.tolist()]
        profile = [torch.exp(-0.5 * (o / candidate.width) ** 2) for o in offset]
        ball = profile[2][:, None, None] * profile[1][:, None] * profile[0]
        return small.from_map(candidate.amplitude * ball / ball.sum()).to(self.band.device)

    def _first_windows(self, candidate: Candidate) -> list[Tensor]:
        small = self.band.grid.coarse
        axis = (torch.arange(small.box_size) - small.box_size // 2) * (self.band.grid.box_size / small.box_size)
        x, y, z = candidate.place.tolist()
        square = (axis - z).square()[:, None, None] + (axis - y).square()[:, None] + (axis - x).square()
        inside = torch.sigmoid((FIRST_WINDOW * candidate.width - square.sqrt()) / (0.25 * candidate.width))
        return [self._within(inside)] * 2

    def _window(self, template: Tensor) -> Tensor:
        """Where a template stands out."""
        small = self.band.grid.coarse
        return self._within(standing_out(small.to_map(template).cpu().numpy(), self.band.radius))

    def _within(self, window: Tensor) -> Tensor:
        """The same within the focus mask."""
        if self.focus is None:
            return window
        zoom = len(window) / len(self.focus)
        focus = ndimage.zoom(self.focus.numpy(), zoom, order=1, grid_mode=True, mode="nearest")
        return window * torch.from_numpy(focus)

    def _cut(self, step: Tensor, window: Tensor) -> Tensor:
        """A solution (V, 2) that began at nothing, made up for its short step (see :mod:`.halves`), in a window."""
        small = self.band.grid.coarse
        gain = (window / interpolation_falloff(small.box_size)).to(step.device)
        return small.from_map(small.to_map(step.contiguous()) * gain)
