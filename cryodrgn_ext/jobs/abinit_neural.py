"""Poses by the neural engine in an abinit job (cryoDRGN2): from the poses of an explicit map, or from random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.pose_search_engine import train_abinit
from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.neural.tilt_pairs import hand_by_tilts, tilt_rotation
from cryodrgn_ext.engines.settings import options_of
from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit_poses import FoundPoses
from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps

FIRST = "first_poses.npz"  # the network's checkpoint holds for these very poses
ExplicitSearch = Callable[[ParticleImages, AbinitSettings, float, Path, Monitor], FoundPoses]


def find_poses_with_network(
    images: ParticleImages,
    tilted: ParticleImages | None,
    settings: AbinitSettings,
    max_shift_px: float,
    checkpoint_dir: Path,
    monitor: Monitor,
    explicit: ExplicitSearch,
) -> FoundPoses:
    """Find poses with the network as the model; an interrupted search goes on from its checkpoint.

    Parameters
    ----------
    images : ParticleImages
    tilted : ParticleImages or None
        Second images of tilt pairs, in the same order.
    settings : AbinitSettings
    max_shift_px : float
        Farthest shift, in working pixels.
    checkpoint_dir : Path
    monitor : Monitor
    explicit : callable
        Finds poses with an explicit map, for ``--first_poses map``.
    """
    first = None
    if settings.first_poses == "map":
        below = checkpoint_dir / "map"
        below.mkdir(parents=True, exist_ok=True)
        first = _read(below / FIRST, monitor)
        if first is None:
            earlier = len(monitor.warnings)
            first = explicit(images, settings, max_shift_px, below, monitor)
            if tilted is not None:
                first = _in_the_hand_of_tilts(images, tilted, settings, max_shift_px, first, monitor)
            _write(below / FIRST, first, monitor.warnings[earlier:])
    network = checkpoint_dir / "network"
    context = EngineContext.of(settings, network, monitor)
    options = options_of(NeuralAbinitSettings, settings)
    initial = None if first is None else first.poses
    result = train_abinit(images, options, context, initial, tilted, max_shift_px)
    halves = reconstruct_half_maps(images.with_poses(result.poses), device=context.device, monitor=monitor)
    initialisations = () if first is None else first.initialisations
    return FoundPoses(
        result.poses, result.log_likelihood, halves.map, halves.fsc, initialisations, result.tilted_shift_px
    )


def _write(path: Path, found: FoundPoses, warnings: Sequence[str]) -> None:
    """Keep the poses of an explicit map, and what their search warned of."""
    rotation, shift_px = found.poses.numpy()
    likelihoods = np.array(found.initialisations, np.float64)
    write_arrays(path, {"rotation": rotation, "shift_px": shift_px, "log_likelihood": found.log_likelihood,
                        "map": found.map, "fsc": found.fsc, "starts": likelihoods,
                        "warnings": np.array(warnings, np.str_)})  # fmt: skip


def _read(path: Path, monitor: Monitor) -> FoundPoses | None:
    """Read what :func:`_write` kept, and warn again; None when there is nothing.

    Raises
    ------
    ResumeError
        When the file is damaged.
    """
    if not path.exists():
        return None
    with readable(path, "remove that file to find the first poses again", error=ResumeError):
        arrays = load_arrays(path)
        poses = Poses.of(arrays["rotation"], arrays["shift_px"])
        likelihoods = tuple(arrays["starts"].tolist())
        for sentence in arrays["warnings"].tolist() if "warnings" in arrays else ():
            monitor.warn(sentence)
        return FoundPoses(poses, arrays["log_likelihood"], arrays["map"], arrays["fsc"], likelihoods)


def _in_the_hand_of_tilts(
    images: ParticleImages,
    tilted: ParticleImages,
    settings: AbinitSettings,
    max_shift_px: float,
    found: FoundPoses,
    monitor: Monitor,
) -> FoundPoses:
    """Poses of an explicit map in the hand in which both images of the pairs agree with it."""
    turn = tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg)
    one, other = hand_by_tilts(images, tilted, turn, torch.from_numpy(found.map), max_shift_px, settings.seed)
    monitor.message(
        f"Hand of the map by the tilts: {one:.2f} nats per pair as it was found, {other:.2f} mirrored; the likelier is "
        "taken."
    )
    if other <= one:
        return found
    return replace(found, poses=CoordinateTransform.identity(mirrored=True).poses(found.poses))
