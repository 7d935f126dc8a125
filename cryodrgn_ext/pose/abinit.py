"""Ab initio reconstruction: poses and a map from particles of which nothing but the CTF is known.

Random initialisations on some of the particles (:mod:`.random_initialisations`), then the refinement in two
independent halves (:mod:`.refinement`): of several initialisations on some of the particles, until the likeliest result
has been found twice (:mod:`.attempts`); then of as many particles as a good map needs, and when they have converged, of
all. Images cannot tell a map from its mirror
image: either hand comes out, with the same likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.alignment import degrees_between
from cryodrgn_ext.pose.attempts import Contest, contest, judge
from cryodrgn_ext.pose.checkpoint import images_key
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.imposed_symmetry import advice, axes_of, in_coordinates
from cryodrgn_ext.pose.kept_initialisations import KeptInitialisations
from cryodrgn_ext.pose.map_symmetry import has_symmetry
from cryodrgn_ext.pose.random_initialisations import (
    LAST_RADIUS as INITIALISATION_RADIUS,
)
from cryodrgn_ext.pose.random_initialisations import (
    Initialisation,
    InitialisationReport,
    report_initialisations,
)
from cryodrgn_ext.pose.reconstruct_settings import WORTH_A_CORE, ReconstructSettings
from cryodrgn_ext.pose.refinement import MOVED_SHARE, Refined, RefinementState, first_state, moved_share, refine
from cryodrgn_ext.pose.view_evenness import SIDE_VIEWS, evenness
from cryodrgn_ext.pose.well_explained import explained_signal, is_likelier, maps_of_best_explained
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import combine_halves

INITIALISATIONS_FILE = "starts.safetensors"
#: Of refinements, the first without a number: those that contest where all particles that are refined first do, and
#: those where only some do.
REFINEMENT_FILES, CONTEST_FILES = "refinement{}.safetensors", "contest{}.safetensors"
#: Of the refinement of all particles, when some have been refined first.
WHOLE_FILE = "refinement_all.safetensors"
#: Of the refinement with a symmetry of those that were refined first.
SYMMETRIC_FILE = "symmetric.safetensors"
#: Initialisations more than asked for, while the likeliest is alone: each takes as long as those before.
MORE = 1
#: Particles on which several initialisations are refined, when there are many more.
CONTEST_PARTICLES = 5000
#: Refinements, after the first one, from maps of the images that were explained best, while images gain by it.
MOST_AGAIN = 3
#: Poses have not converged when the last search moved a larger share of the images.
UNCONVERGED_SHARE = 0.1
STATE_NUMBERS = ("radius", "resolution", "round", "searches", "local_rounds", "moved_share", "converged")
#: Names in checkpoints that differ.
STATE_KEYS = {"converged": "settled"}


#: Whether the map is right, as far as the images can tell.
Verdict = Literal["found", "probably", "not found"]


@dataclass(frozen=True)
class AbInitio:
    """Result of :func:`reconstruct`.

    Attributes
    ----------
    poses : Poses
        (N,) float32.
    map, half1, half2 : ndarray
        (D, D, D) float32 in the coordinates of the poses, white on black: Wiener-filtered, and unfiltered of each half.
    fsc : ndarray
        (D // 2 + 1,) float64 between the half-maps, in a sphere; the halves were refined independently but for the
        lowest frequencies. 0 beyond the band that was refined.
    resolution_A : float
        Where it falls below 0.143.
    log_likelihood : ndarray
        (N,) float32 nats of each image, relative to no particle.
    error_deg, error_px : ndarray
        (N,) float32 standard deviation (root of the mean over axes) of rotation and shift that noise leaves, from the
        curvature of the likelihood: large for images that hardly tell their pose.
    initialisations : tuple of InitialisationReport
        Log-likelihood of each random initialisation, and how far it agrees with the best one.
    moved_share : float
        Share of the images that the last search over all orientations still moved by more than 10 degrees.
    agreement : float or None
        Share of the images that tell their pose best on which an independent refinement agrees, see :mod:`.attempts`.
    verdict : {"found", "probably", "not found"}
        "found" when an independent refinement found the same, the poses have converged, the map explains what the
        power of the images lets expect, and views fill Fourier space; "probably" when a single initialisation was asked
        for, or one of the others does not hold.
    symmetry : str
        Point group of the map, with RELION's axes: that of the settings, or C1 where two searches do not show it.
    """

    poses: Poses
    map: NDArray[np.float32]
    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    log_likelihood: NDArray[np.float32]
    error_deg: NDArray[np.float32]
    error_px: NDArray[np.float32]
    initialisations: tuple[InitialisationReport, ...]
    moved_share: float
    agreement: float | None
    verdict: Verdict
    symmetry: str


def reconstruct(
    images: ParticleImages,
    settings: ReconstructSettings,
    checkpoint_dir: Path | None = None,
    monitor: Monitor | None = None,
) -> AbInitio:
    """Find poses and map.

    Parameters
    ----------
    images : ParticleImages
        The poses that they have are not used.
    settings : ReconstructSettings
    checkpoint_dir : Path, optional
        Where an interrupted run is continued from, and this one keeps its place.
    monitor : Monitor, optional

    Raises
    ------
    InputError
        When a setting does not fit the images.
    ResumeError
        When a checkpoint is damaged, or was made with other settings or images.
    JobAborted
        When the monitor says so; checkpoints stay.
    """
    settings.check(images)
    symmetry, settings = point_group(settings.symmetry), replace(settings, symmetry="C1")
    monitor = SilentMonitor() if monitor is None else monitor
    key = images_key(images, *_decisive(settings, images))
    with torch.no_grad():
        starts = KeptInitialisations(
            images, settings, CheckpointFile(checkpoint_dir, INITIALISATIONS_FILE, key), monitor
        )
        core = core_rows(images, settings)
        some = images if len(core) == images.n else images.subset(core)
        if some is not images:
            monitor.message(f"{some.n} of {images.n} particles are refined first.")
        contesting = evenly_chosen(some, contest_size(some.n), settings.seed)
        few = some if len(contesting) == some.n else some.subset(contesting)
        files = REFINEMENT_FILES if few is some else CONTEST_FILES

        def refine_one(number: int, one: Initialisation) -> Refined:
            name = "" if number == 0 else str(number + 1)
            file = CheckpointFile(checkpoint_dir, files.format(name), key)
            refined = _refined(few, (one.map, one.map), INITIALISATION_RADIUS, settings, file, monitor)
            for again in range(1, MOST_AGAIN + 1):
                file = CheckpointFile(checkpoint_dir, files.format(f"{name}_again{again}"), key)
                better = _refined_again(few, refined, settings, file, monitor)
                if better is None or not is_likelier(better.state, refined.state):
                    break
                refined = better
            return refined

        most = 1 if settings.initialisations == 1 else settings.initialisations + MORE
        found = contest(starts.first(), most, refine_one, starts.another, has_symmetry, monitor)
        judge(found, monitor)
        best = found.best
        if symmetry.order > 1 and (axes := axes_of(symmetry, found.symmetry, monitor)) is not None:
            settings = replace(settings, symmetry=symmetry.name)
            key = images_key(images, *_decisive(settings, images))
            best = _with_symmetry(
                few, best, axes, settings, CheckpointFile(checkpoint_dir, SYMMETRIC_FILE, key), monitor
            )
        elif found.symmetry is not None:
            monitor.message(advice(found.symmetry))
        doubts = _doubts(few, best, settings, monitor)
        if few is not some:
            file = CheckpointFile(checkpoint_dir, REFINEMENT_FILES.format(""), key)
            best = _joined(some, few.n, best, settings, file, monitor)
        if best.state.moved_share > UNCONVERGED_SHARE:
            monitor.warn(
                f"The last search over all orientations still moved {100 * best.state.moved_share:.0f} % of the images "
                "by more than 10 degrees: the map may be wrong, or the particles differ too much for one map. Look at "
                "the map, and try more --starts, or particles that were cleaned by 2D classes."
            )
        if some is not images:
            best = _joined(images, some.n, best, settings, CheckpointFile(checkpoint_dir, WHOLE_FILE, key), monitor)
        reports = report_initialisations(starts.made, found.seed)[1]
        return _result(images, best, reports, found, doubts, settings.symmetry)


def _with_symmetry(
    images: ParticleImages, found: Refined, axes: CoordinateTransform, settings: ReconstructSettings,
    file: CheckpointFile, monitor: Monitor,
) -> Refined:  # fmt: skip
    """Refinement with a symmetry, from the poses that were found without it."""
    monitor.message(f"Poses are refined with maps of the symmetry {settings.symmetry}, in RELION's axes.")
    begun = _kept_state(file, monitor) or in_coordinates(found.state, axes)
    halves = found.references.half1, found.references.half2  # its poses make others before they are used
    return _refined(images, halves, begun.radius, settings, file, monitor, begun)


def _joined(
    images: ParticleImages, n_before: int, best: Refined, settings: ReconstructSettings, file: CheckpointFile,
    monitor: Monitor,
) -> Refined:  # fmt: skip
    """Refinement of all of ``images`` from the half-maps of some of them."""
    monitor.message(f"All {images.n} particles are aligned to the map of the first {n_before}.")
    halves = best.references.half1, best.references.half2
    return _refined(images, halves, best.state.radius, settings, file, monitor)


def _refined_again(
    images: ParticleImages, before: Refined, settings: ReconstructSettings, file: CheckpointFile, monitor: Monitor
) -> Refined | None:
    """Refinement from maps of the images that another one explains best; None when their search leads nowhere else."""
    monitor.message(f"Once more, from the better half of the {images.n} particles.")
    halves = maps_of_best_explained(images, before.state, settings, monitor)
    radius = min(before.state.radius, INITIALISATION_RADIUS)
    begun = _refined(images, halves, radius, replace(settings, rounds=1), file, monitor).state
    rotated_deg = degrees_between(before.state.estimates.poses.rotation, begun.estimates.poses.rotation)
    if begun.round <= 1 and moved_share(rotated_deg) <= MOVED_SHARE:
        monitor.message("Its search finds the same poses.")
        return None
    return _refined(images, halves, radius, settings, file, monitor, begun)


def core_rows(images: ParticleImages, settings: ReconstructSettings) -> Int[Tensor, " n"]:
    """(n,) int64 sorted rows of the particles that are refined first, from both half-sets as evenly as they allow."""
    return evenly_chosen(images, settings.core(images.n), settings.seed)


def contest_size(n: int) -> int:
    """Particles out of ``n`` on which several initialisations are refined."""
    return CONTEST_PARTICLES if n > WORTH_A_CORE * CONTEST_PARTICLES else n


def evenly_chosen(images: ParticleImages, wanted: int, seed: int) -> Int[Tensor, " n"]:
    """(wanted,) int64 sorted rows, from both half-sets as evenly as they allow."""
    if wanted == images.n:
        return torch.arange(images.n)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(images.n, generator=generator)
    half_of = images.half_set.cpu()[order]
    parts = [order[half_of == half] for half in (1, 2)]
    fewer = min(len(parts[0]), len(parts[1]), wanted // 2)
    return torch.cat([part[: max(fewer, wanted - len(other))] for part, other in (parts, parts[::-1])]).sort().values


def _decisive(settings: ReconstructSettings, images: ParticleImages) -> list[Any]:
    d = images.box_size
    # Checkpoints of the exhaustive search have no word on it.
    algorithm: list[str] = [] if settings.search == "exhaustive" else [settings.search]
    algorithm += [] if settings.symmetry == "C1" else [settings.symmetry]
    return [
        settings.initialisations, settings.initialisation_particles, settings.core(images.n), settings.shift_extent(d),
        settings.mask_radius(d), settings.seed, *algorithm,
    ]  # fmt: skip


def _refined(
    images: ParticleImages, halves: tuple[Tensor, Tensor], radius: float, settings: ReconstructSettings,
    file: CheckpointFile, monitor: Monitor, begun: RefinementState | None = None,
) -> Refined:  # fmt: skip
    """Refine from a map for either half, resolved to ``radius``; or go on from ``begun`` or an interrupted run."""
    state = begun or _kept_state(file, monitor) or first_state(images, min(radius, float(images.plane.radius)))

    def keep(now: RefinementState) -> None:
        numbers = {STATE_KEYS.get(name, name): getattr(now, name) for name in STATE_NUMBERS}
        file.save(numbers, now.estimates.tensors())

    return refine(images, halves, settings, state, monitor, keep)


def _kept_state(file: CheckpointFile, monitor: Monitor) -> RefinementState | None:
    """State that an interrupted refinement left."""
    found = file.load()
    if found is None:
        return None
    numbers, tensors = found
    values: dict[str, Any] = {name: numbers[STATE_KEYS.get(name, name)] for name in STATE_NUMBERS}
    state = RefinementState(PoseEstimates.from_tensors(tensors), **values)
    monitor.message(f"Continuing after round {state.round}.")
    return state


def _doubts(images: ParticleImages, refined: Refined, settings: ReconstructSettings, monitor: Monitor) -> bool:
    """Whether a map may be wrong though others like it are found; says why."""
    explained = explained_signal(images, refined.state, settings)
    if explained.is_whole:
        monitor.message(explained.sentence())
    else:
        monitor.warn(explained.sentence())
    rotation = refined.state.estimates.poses.rotation.double()
    group = torch.from_numpy(point_group(settings.symmetry).rotations)
    even = evenness((rotation[:, None] @ group).flatten(0, 1))
    if even < SIDE_VIEWS:
        monitor.warn(
            f"The views that were found fill Fourier space unevenly (evenness {even:.2f}; 1 for even views, "
            f"{SIDE_VIEWS:.2f} for views all around one axis): the map is stretched by what is missing, and may be "
            "wrong where many views are alike. Look at it, and compare it with that of another --seed."
        )
    return even < SIDE_VIEWS or not explained.is_whole


def _verdict(outcome: Contest, refined: Refined, doubts: bool) -> Verdict:
    converged = refined.state.moved_share <= UNCONVERGED_SHARE and not doubts
    if outcome.agreement is None:
        return "probably" if converged else "not found"
    if not outcome.is_confirmed:
        return "not found"
    return "found" if converged else "probably"


def _result(
    images: ParticleImages,
    refined: Refined,
    reports: tuple[InitialisationReport, ...],
    outcome: Contest,
    doubts: bool,
    symmetry: str,
) -> AbInitio:
    found = refined.state.estimates
    maps = combine_halves(refined.sums1, refined.sums2, images.pixel_size_A)
    return AbInitio(
        poses=found.poses.to(torch.float32),
        map=maps.map,
        half1=maps.half1,
        half2=maps.half2,
        fsc=maps.fsc,
        resolution_A=maps.resolution_A,
        log_likelihood=found.log_likelihood.numpy().astype(np.float32),
        error_deg=found.error_deg.numpy().astype(np.float32),
        error_px=found.error_px.numpy().astype(np.float32),
        initialisations=reports,
        moved_share=refined.state.moved_share,
        agreement=outcome.agreement,
        verdict=_verdict(outcome, refined, doubts),
        symmetry=symmetry,
    )
