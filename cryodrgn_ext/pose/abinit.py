"""Ab initio reconstruction: poses and a map from particles of which nothing but the CTF is known.

Random starts on some of the particles (:mod:`.starts`), of which the likeliest is kept, then the refinement in two
independent halves (:mod:`.refinement`): of as many particles as a good map needs, and when they have come to rest, of
all. A wrong start betrays itself: no other start agrees with it, and searches keep on moving poses; then others are
refined too, and the likeliest result is returned. Images cannot tell a map from its mirror image: either hand comes
out, with the same likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.checkpoint import images_key
from cryodrgn_ext.pose.local import POSE_COLUMNS
from cryodrgn_ext.pose.random_initialisations import (
    LAST_RADIUS as INITIALISATION_RADIUS,
)
from cryodrgn_ext.pose.random_initialisations import (
    InitialisationReport,
    Start,
    choose_rows,
    distinct_initialisations,
    make_initialisations,
    report_initialisations,
)
from cryodrgn_ext.pose.refinement import Refined, RefinementState, first_state, refine
from cryodrgn_ext.pose.settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import combine_halves

INITIALISATIONS_FILE = "starts.safetensors"
#: Of the refinement of the likeliest start, and of those that are tried when its poses do not come to rest.
REFINEMENT_FILES = ("refinement.safetensors", "refinement2.safetensors", "refinement3.safetensors")
#: Of the refinement of all particles, when some have been refined first.
WHOLE_FILE = "refinement_all.safetensors"
MOST_ATTEMPTS = len(REFINEMENT_FILES)
#: Poses have not come to rest when the last search moved a larger share of the images.
UNCONVERGED_SHARE = 0.1
STATE_NUMBERS = ("radius", "resolution", "round", "searches", "local_rounds", "moved_share", "settled")


@dataclass(frozen=True)
class AbInitio:
    """What was found.

    Attributes
    ----------
    rotation : ndarray
        (N, 3, 3) float32, model frame to image frame.
    shift_px : ndarray
        (N, 2) float32 displacement x, y of the particle, in pixels of the working box.
    map, half1, half2 : ndarray
        (D, D, D) float32 in the frame of the poses, white on black: Wiener-filtered, and unfiltered of each half.
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
    starts : tuple of InitialisationReport
        Log-likelihood of each random start, and how far it agrees with the best one.
    moved_share : float
        Share of the images that the last search over all orientations still moved by more than 10 degrees.
    """

    rotation: NDArray[np.float32]
    shift_px: NDArray[np.float32]
    map: NDArray[np.float32]
    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    log_likelihood: NDArray[np.float32]
    error_deg: NDArray[np.float32]
    error_px: NDArray[np.float32]
    starts: tuple[InitialisationReport, ...]
    moved_share: float


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
    monitor = SilentMonitor() if monitor is None else monitor
    key = images_key(images, *_decisive(settings, images))
    with torch.no_grad():
        starts = _starts(images, settings, CheckpointFile(checkpoint_dir, INITIALISATIONS_FILE, key), monitor)
        core = core_rows(images, settings)
        some = images if len(core) == images.n else images.subset(core)
        if len(core) < images.n:
            monitor.message(f"{len(core)} of {images.n} particles are refined first.")
        best: Refined | None = None
        for number, start in enumerate(distinct_initialisations(starts)[:MOST_ATTEMPTS]):
            if best is not None:
                monitor.message(
                    f"The poses do not come to rest (the last search moved {100 * best.state.moved_share:.0f} % of the "
                    f"images): another start is refined (seed {start.seed})."
                )
            file = CheckpointFile(checkpoint_dir, REFINEMENT_FILES[number], key)
            refined = _refined(some, (start.map, start.map), INITIALISATION_RADIUS, settings, file, monitor)
            best = refined if best is None or _likelier(refined, best) else best
            if best.state.moved_share <= UNCONVERGED_SHARE:
                break
        if best is None:
            raise ValueError("there are no starts to refine")
        if best.state.moved_share > UNCONVERGED_SHARE:
            monitor.warn(
                f"The last search over all orientations still moved {100 * best.state.moved_share:.0f} % of the images "
                "by more than 10 degrees: the map may be wrong, or the particles differ too much for one map. Look at "
                "the map, and try more --starts, or particles that were cleaned by 2D classes."
            )
        if len(core) < images.n:
            monitor.message(f"All {images.n} particles are posed against the map of the first {len(core)}.")
            halves = best.references.half1, best.references.half2
            file = CheckpointFile(checkpoint_dir, WHOLE_FILE, key)
            best = _refined(images, halves, best.state.radius, settings, file, monitor)
        return _result(images, best, report_initialisations(starts)[1])


def core_rows(images: ParticleImages, settings: ReconstructSettings) -> Tensor:
    """(n,) int64 sorted rows of the particles that are refined first, from both half-sets as evenly as they allow."""
    wanted = settings.core(images.n)
    if wanted == images.n:
        return torch.arange(images.n)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(images.n, generator=generator)
    half_of = images.half_set.cpu()[order]
    parts = [order[half_of == half] for half in (1, 2)]
    fewer = min(len(parts[0]), len(parts[1]), wanted // 2)
    return torch.cat([part[: max(fewer, wanted - len(other))] for part, other in (parts, parts[::-1])]).sort().values


def _likelier(one: Refined, other: Refined) -> bool:
    """Whether the images are likelier by one result than by the other."""
    return float(one.state.log_likelihood.mean()) > float(other.state.log_likelihood.mean())


def _decisive(settings: ReconstructSettings, images: ParticleImages) -> list[Any]:
    d = images.box_size
    return [
        settings.starts, settings.start_particles, settings.core(images.n), settings.shift_extent(d),
        settings.mask_radius(d), settings.seed,
    ]  # fmt: skip


def _starts(
    images: ParticleImages, settings: ReconstructSettings, file: CheckpointFile, monitor: Monitor
) -> list[Start]:
    """All random starts."""
    rows = choose_rows(images, settings)
    device = torch.device(images.rotation.device if settings.device is None else settings.device)
    done: list[Start] = []
    finished = False
    found = file.load()
    if found is not None:
        numbers, tensors = found
        finished = bool(numbers["finished"])
        for i, seed in enumerate(numbers["seeds"]):
            parts = [tensors[f"{name}{i}"].to(device) for name in ("map", "rotation", "shift_px")]
            done.append(Start(int(seed), parts[0], parts[1], parts[2], float(numbers["log_likelihood"][i])))
        monitor.message(f"Continuing after {len(done)} random starts.")
    if finished:
        return done

    def keep(starts: Sequence[Start], finished: bool = False) -> None:
        numbers = {
            "seeds": [start.seed for start in starts],
            "log_likelihood": [start.log_likelihood for start in starts],
            "finished": finished,
        }
        tensors: dict[str, Tensor] = {}
        for i, start in enumerate(starts):
            tensors |= {f"map{i}": start.map, f"rotation{i}": start.rotation, f"shift_px{i}": start.shift_px}
        file.save(numbers, tensors)

    monitor.message(f"Random starts from {len(rows)} of {images.n} particles.")
    starts = make_initialisations(images, rows, settings, monitor, done, keep)
    keep(starts, finished=True)
    return starts


def _refined(
    images: ParticleImages, start: tuple[Tensor, Tensor], radius: float, settings: ReconstructSettings,
    file: CheckpointFile, monitor: Monitor,
) -> Refined:  # fmt: skip
    """Refine from a map for either half, resolved to ``radius``, or go on with an interrupted refinement."""
    state = first_state(images, min(radius, float(images.plane.radius)))
    found = file.load()
    if found is not None:
        numbers, tensors = found
        values: dict[str, Any] = {name: tensors[name] for name in POSE_COLUMNS}
        state = RefinementState(**values, **{name: numbers[name] for name in STATE_NUMBERS})
        monitor.message(f"Continuing after round {state.round}.")

    def keep(now: RefinementState) -> None:
        file.save(
            {name: getattr(now, name) for name in STATE_NUMBERS}, {name: getattr(now, name) for name in POSE_COLUMNS}
        )

    return refine(images, start, settings, state, monitor, keep)


def _result(images: ParticleImages, refined: Refined, reports: tuple[InitialisationReport, ...]) -> AbInitio:
    state = refined.state
    maps = combine_halves(refined.sums1, refined.sums2, images.pixel_size_A)
    return AbInitio(
        rotation=state.rotation.numpy().astype(np.float32),
        shift_px=state.shift_px.numpy().astype(np.float32),
        map=maps.map,
        half1=maps.half1,
        half2=maps.half2,
        fsc=maps.fsc,
        resolution_A=maps.resolution_A,
        log_likelihood=state.log_likelihood.numpy().astype(np.float32),
        error_deg=state.error_deg.numpy().astype(np.float32),
        error_px=state.error_px.numpy().astype(np.float32),
        starts=reports,
        moved_share=state.moved_share,
    )
