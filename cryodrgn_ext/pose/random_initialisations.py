"""Several random initialisations side by side: maps and poses from nothing, and which of them differ.

Random initialisations end in better and worse optima. Each is brought to the same band on the same particles by rounds
of search and local refinement; then their mean log-likelihoods can be compared. Which one is right, images tell at
higher frequencies: see :mod:`.attempts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.all_orientations import search_orientations
from cryodrgn_ext.pose.centring import centre_of_mass, centred_poses, rounded
from cryodrgn_ext.pose.initial import OVERSAMPLING, Schedule, random_initial_map, signal_power
from cryodrgn_ext.pose.local import DifferentiableVolume, refine_poses
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.particle_scale import FIRST_SPREAD, ParticleScale, precision_of, with_scales
from cryodrgn_ext.pose.reconstruct_settings import INITIALISATION_PARTICLES, ReconstructSettings
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import backproject

#: Rounds that follow a random map (True: all orientations are searched, False: poses are refined), the band of their
#: searches (cycles per box), and the one of refinement, in which initialisations are compared.
ROUNDS, SEARCH_RADIUS, LAST_RADIUS = (True, False, False, True, False), 8.0, 12.0
#: Images agree when their rotations differ by no more than this, and initialisations when this share of the images
#: does (by chance, it is 1 in 100).
AGREEING_DEG, AGREEING_SHARE = 20.0, 0.4


@dataclass(frozen=True)
class Initialisation:
    """A random initialisation, brought to the band in which they are compared.

    Attributes
    ----------
    seed : int
    map : Tensor
        (D, D, D) float32.
    poses : Poses
        (n,) float32, of the particles that initialisations are made from.
    log_likelihood : float
        Mean over those particles, nats relative to no particle.
    """

    seed: int
    map: Tensor
    poses: Poses
    log_likelihood: float


@dataclass(frozen=True)
class InitialisationReport:
    """Agreement of an initialisation with the best one.

    Attributes
    ----------
    seed : int
    log_likelihood : float
        Mean nats per particle, relative to no particle, at the best poses.
    agreement : float
        Share of the particles whose rotations agree with the best one's, after alignment, either hand; 1 for itself.
    mirrored : bool
        Whether it has the other hand of the best one.
    """

    seed: int
    log_likelihood: float
    agreement: float
    mirrored: bool


def choose_rows(images: ParticleImages, settings: ReconstructSettings) -> Int[Tensor, " n"]:
    """(n,) int64 sorted rows of the particles that initialisations are made from."""
    wanted = (
        INITIALISATION_PARTICLES if settings.initialisation_particles is None else settings.initialisation_particles
    )
    if wanted >= images.n:
        return torch.arange(images.n)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randperm(images.n, generator=generator)[:wanted].sort().values


def make_initialisation(
    images: ParticleImages, rows: Int[Tensor, " n"], settings: ReconstructSettings, seed: int, monitor: Monitor
) -> Initialisation:
    """Random map, then rounds of search or local refinement, and backprojection.

    Parameters
    ----------
    images : ParticleImages
        Their poses are not used.
    rows : Tensor
        (n,) int64 particles to use.
    settings : ReconstructSettings
    seed : int
    monitor : Monitor
    """
    d = images.box_size
    band = min(LAST_RADIUS, float(images.plane.radius))
    # One band of shells more than is aligned to: the power spectrum is there when the map is solved.
    reach = min(math.ceil(band) + 2, images.plane.radius)
    precision = precision_of(images, FIRST_SPREAD)
    scorer = Scorer(images, rows, reach, settings.device, settings.memory_bytes, precision)
    power = signal_power(images, scorer)
    extent, radius = settings.shift_extent(d), settings.mask_radius(d)
    volume = random_initial_map(scorer, power, Schedule(), extent, radius, seed, monitor)
    mask = spherical_mask(d, 0.9 * radius, 0.1 * radius, scorer.device)
    chosen = images.subset(rows)
    prior = (1.0 / (OVERSAMPLING**3 * power)).cpu()
    count = 2 * max(1, math.ceil(extent * 4 * SEARCH_RADIUS / d - 0.5)) + 1
    looking = SearchSettings(
        base_level=1, refinements=1, keep=4,
        k_min=min(SEARCH_RADIUS, band), k_max=min(0.5 * (SEARCH_RADIUS + LAST_RADIUS), band),
        shift_extent_px=extent, shift_count=count, memory_bytes=settings.memory_bytes, device=settings.device,
        scale_precision=precision,
    )  # fmt: skip
    poses, fit = Poses.unknown(len(rows)), torch.empty(0)
    scale = ParticleScale.one(len(rows))
    for all_orientations in ROUNDS:
        monitor.poll()
        top = min(math.ceil(band) + 1, images.plane.radius)
        if all_orientations:
            model = FourierVolume.from_map(volume, OVERSAMPLING, top)
            poses = search_orientations(settings.search, chosen, model, looking).best
        field = DifferentiableVolume.from_maps(volume[None], top)
        if precision is not None:
            model = FourierVolume.from_map(volume, OVERSAMPLING, top)
            scale = scorer.scales(model, poses, precision, band)
        found = refine_poses(scorer.scaled(scale.mean), field, poses, band, iterations=4)
        poses, fit = found.poses.to(torch.float32), found.log_likelihood - scale.penalty
        sums = backproject(
            with_scales(chosen.with_poses(poses), scale.mean),
            grid=FourierGrid(images.box_size, reach),
            device=scorer.device,
        )
        volume = sums.solve(prior) * mask
        offset = rounded(centre_of_mass(volume))
        if bool(offset.any()):
            volume = torch.roll(volume, (-offset).flip(0).int().tolist(), (0, 1, 2))
            poses = centred_poses(poses, offset)
    return Initialisation(seed, volume, poses, float(fit.mean()))


def make_initialisations(
    images: ParticleImages,
    rows: Tensor,
    settings: ReconstructSettings,
    monitor: Monitor,
    count: int,
    done: Sequence[Initialisation] = (),
    keep: Callable[[Sequence[Initialisation]], None] | None = None,
) -> list[Initialisation]:
    """Make initialisations until there are ``count``.

    Parameters
    ----------
    images, rows, settings, monitor
        As in :func:`make_initialisation`.
    count : int
    done : sequence of Initialisation
        Those that there are already.
    keep : callable, optional
        Called with all of them after each.

    Returns
    -------
    list of Initialisation
        All of them, in the order in which they were made.
    """
    made = list(done)
    while len(made) < count:
        one = make_initialisation(images, rows, settings, settings.seed + len(made), monitor)
        made.append(one)
        monitor.message(
            f"Random initialisation {len(made)} (seed {one.seed}): {one.log_likelihood:.2f} nats per particle over no "
            "particle."
        )
        if keep is not None:
            keep(made)
    return made


def distinct_initialisations(made: Sequence[Initialisation]) -> list[Initialisation]:
    """Those that do not agree with any likelier one, the likeliest first."""
    chosen: list[Initialisation] = []
    for candidate in sorted(made, key=lambda one: -one.log_likelihood):
        if all(_agreement(candidate, other)[0] < AGREEING_SHARE for other in chosen):
            chosen.append(candidate)
    return chosen


def _agreement(one: Initialisation, other: Initialisation) -> tuple[float, bool]:
    """Share of the particles on whose rotations two of them agree after alignment, and whether that mirrors."""
    aligned = align_poses(one.poses, other.poses)
    return float(np.mean(aligned.errors.degrees < AGREEING_DEG)), aligned.transform.mirrored


def report_initialisations(
    made: Sequence[Initialisation], best_seed: int | None = None
) -> tuple[Initialisation, tuple[InitialisationReport, ...]]:
    """Return the best one (the likeliest, unless its seed is given), and how far each of them agrees with it."""
    best = max(made, key=lambda one: one.log_likelihood if best_seed is None else float(one.seed == best_seed))
    reports = []
    for one in made:
        share, mirrored = (1.0, False) if one is best else _agreement(one, best)
        reports.append(InitialisationReport(one.seed, one.log_likelihood, share, mirrored))
    return best, tuple(reports)
