"""Poses by the neural engine in an abinit job (cryoDRGN2): from the poses of an explicit map, or from random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.pose_search_engine import train_abinit
from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.neural.tilt_pairs import hand_by_tilts, tilt_rotation
from cryodrgn_ext.engines.settings import options_of
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.results.found_poses import FoundPoses, read_first_poses, write_first_poses

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
        first = read_first_poses(below / FIRST, monitor)
        if first is None:
            earlier = len(monitor.warnings)
            first = explicit(images, settings, max_shift_px, below, monitor)
            if tilted is not None:
                first = _in_the_hand_of_tilts(images, tilted, settings, max_shift_px, first, monitor)
            write_first_poses(below / FIRST, first, monitor.warnings[earlier:])
    network = checkpoint_dir / "network"
    context = EngineContext.of(settings, network, monitor)
    options = options_of(NeuralAbinitSettings, settings)
    initial = None if first is None else first.poses
    result = train_abinit(images, options, context, initial, tilted, max_shift_px)
    halves = reconstruct_half_maps(images.with_poses(result.poses), device=context.device, monitor=monitor)
    initialisations = () if first is None else first.initialisations
    return FoundPoses(
        result.poses, result.log_likelihood, halves.map, halves.fsc, initialisations, result.tilted_shift_px,
        "" if first is None else first.verdict,
    )  # fmt: skip


def _in_the_hand_of_tilts(
    images: ParticleImages,
    tilted: ParticleImages,
    settings: AbinitSettings,
    max_shift_px: float,
    found: FoundPoses,
    monitor: Monitor,
) -> FoundPoses:
    """Poses of an explicit map in the hand in which both images of the pairs agree with it."""
    tilt = tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg)
    one, other = hand_by_tilts(images, tilted, tilt, torch.from_numpy(found.map), max_shift_px, settings.seed)
    monitor.message(
        f"Hand of the map by the tilts: {one:.2f} nats per pair as it was found, {other:.2f} mirrored; the likelier is "
        "taken."
    )
    if other <= one:
        return found
    return replace(found, poses=CoordinateTransform.identity(mirrored=True).poses(found.poses))
