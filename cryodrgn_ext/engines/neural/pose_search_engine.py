"""Ab initio reconstruction with the neural decoder (cryoDRGN2, Zhong 2022, chapter 5): poses, volumes and latents.

Passes over the images follow a schedule (:mod:`.schedule`). In a pass that searches, a block of images is held
against the decoder as it is (:mod:`.pose_search_model`, :mod:`cryodrgn_ext.pose.search`), then the decoder learns from
the block at the poses found: poses and network improve together, and the symmetry of the first blob breaks. Passes in
between learn at the last poses. The first volume may also come from elsewhere, with poses to start from.

The result holds for one process. All that is random follows from the seed and the place in the schedule, and a
checkpoint holds weights, optimiser, poses and latents: a continued run gives the same as one that was never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.neural.engine import choose_precision
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity
from cryodrgn_ext.engines.neural.pose_search_run import AbinitRun
from cryodrgn_ext.engines.neural.pose_search_settings import AbinitPlan, NeuralAbinitSettings, plan_abinit
from cryodrgn_ext.engines.neural.tilt_pairs import join_pairs, tilt_rotation
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses

FEWEST_IMAGES = 2
NOT_ROTATION = 1e-3
SAMPLE_IMAGES, SAMPLE_COEFFICIENTS = 16, 64  # that identify a set


@dataclass(frozen=True)
class NeuralAbInitio:
    """Result of :func:`train_abinit`.

    Attributes
    ----------
    poses : Poses
        (N,) float32, in the order of the input rows.
    tilted_shift_px : (N, 2) float32 or None
        Shifts of the second images of tilt pairs, in working pixels.
    log_likelihood : (N,) float32
        Of the last search: nats, relative to an image without particle.
    map : (D, D, D) float32
        The decoder's volume at the mean latent, white on black; in the coordinates of the poses.
    heterogeneity : NeuralHeterogeneity
        Latents and volumes; with q = 0 one volume.
    loss_history : mapping of str to sequence of float
        One entry per pass that learned, in nats per coefficient.
    search_history : mapping of str to sequence of float
        One entry per pass that searched: ``log_likelihood`` (mean, nats per image) and ``moved_deg`` (mean angle from
        the pose before).
    """

    poses: Poses
    tilted_shift_px: NDArray[np.float32] | None
    log_likelihood: NDArray[np.float32]
    map: NDArray[np.float32]
    heterogeneity: NeuralHeterogeneity
    loss_history: Mapping[str, Sequence[float]]
    search_history: Mapping[str, Sequence[float]]


def train_abinit(
    images: ParticleImages,
    settings: NeuralAbinitSettings,
    context: EngineContext,
    initial: Poses | None = None,
    tilted: ParticleImages | None = None,
    max_shift_px: float | None = None,
) -> NeuralAbInitio:
    """Find poses, volumes and latents of images with nothing but CTF.

    Parameters
    ----------
    images : ParticleImages
        Their poses are not used.
    settings : NeuralAbinitSettings
    context : EngineContext
        Device, memory, seed, checkpoints and monitor.
    initial : Poses, optional
        Poses to start from instead of random ones: the network is trained at them, then poses are searched again.
    tilted : ParticleImages, optional
        Second images of tilt pairs, one of every particle in the order of ``images``; the angle is in the settings.
    max_shift_px : float, optional
        Farthest that particles lie off the centre, along x and along y, in pixels of the working box.

    Raises
    ------
    InputError
        When images, tilted images, poses to start from and settings do not go together.
    ResumeError
        When the checkpoint was made with other settings or particles.
    JobAborted
        When the monitor says so; the checkpoint stays.
    """
    if images.n < FEWEST_IMAGES:
        raise InputError(f"ab initio reconstruction needs at least {FEWEST_IMAGES} particles, got {images.n}")
    plan = plan_abinit(settings, context.seed, images.n, images.box_size, images.plane.radius, max_shift_px)
    n, relative = images.n, torch.eye(3)[None]
    if tilted is not None:
        tilt = tilt_rotation(settings.tilt_deg, settings.tilt_axis_deg)
        images, relative = join_pairs(images, tilted), torch.stack([torch.eye(3), tilt])
    poses = None if initial is None else _checked(initial, n)
    precision = choose_precision(settings.precision, context.device)
    identity = _identify(images, relative, poses)
    images = _resident(images, plan, context)
    context.monitor.message(_summary(plan, n, images, context.device, precision, poses is not None, tilted is not None))
    run = AbinitRun(plan, images, relative, poses, identity, context, precision)
    try:
        run.run()
        z, z_cov = run.latents()
    finally:
        run.model.release()
    return _result(run, images, z, z_cov)


def _result(
    run: AbinitRun, images: ParticleImages, z: NDArray[np.float32], z_cov: NDArray[np.float32]
) -> NeuralAbInitio:
    """Result of a finished run, with the latents (N, q) and covariances (N, q, q) of its particles."""
    model, recipe = run.result_model()
    heterogeneity = NeuralHeterogeneity(
        model=model,
        recipe=recipe,
        box_size=images.box_size,
        pixel_size_A=images.pixel_size_A,
        train_radius=run.plan.radius,
        n_encoder=model.n_encoder,
        consensus=None,
        z=z,
        z_cov=z_cov if recipe.zdim else None,
        loss_history=run.losses,
    )
    (volume,) = heterogeneity.volumes(z.mean(0, keepdims=True))
    return NeuralAbInitio(
        poses=Poses(run.rotation[: run.n], run.shift_px[: run.n]),
        tilted_shift_px=run.shift_px[run.n :].numpy() if run.views > 1 else None,
        log_likelihood=run.log_likelihood.numpy(),
        map=volume,
        heterogeneity=heterogeneity,
        loss_history=run.losses,
        search_history=run.searches,
    )


def _checked(initial: Poses, n: int) -> Poses:
    """Rotations and shifts to start from, float32; refuses what is none."""
    initial = initial.to("cpu", torch.float32)
    rotation, shift_px = initial.rotation, initial.shift_px
    if rotation.shape != (n, 3, 3) or shift_px.shape != (n, 2):
        raise InputError(
            f"the poses to start from have shapes {tuple(rotation.shape)} and {tuple(shift_px.shape)}, expected "
            f"{(n, 3, 3)} and {(n, 2)}: start from poses of the same particles"
        )
    error = (rotation @ rotation.mT - torch.eye(3)).abs().amax((1, 2))
    bad = ~((error < NOT_ROTATION) & (torch.linalg.det(rotation) > 0) & shift_px.isfinite().all(1))
    if bool(bad.any()):
        raise InputError(
            f"the pose to start from of particle {int(bad.nonzero()[0, 0])} (from 0) is no rotation with a finite "
            "shift: start from poses of a finished reconstruction"
        )
    return initial


def _resident(images: ParticleImages, plan: AbinitPlan, context: EngineContext) -> ParticleImages:
    """The images with their coefficients in memory, if they fit; poses that they have are left behind."""
    images = images.with_poses(Poses.unknown(images.n))
    count = images.plane.prefix(plan.radius)
    return images.load(context.device, count) if 8.0 * images.n * count <= context.memory_bytes else images


def _identify(images: ParticleImages, relative: Tensor, initial: Poses | None) -> str:
    """Hash of what a continued run must share with the run that it continues, besides its plan."""
    digest = hashlib.sha256(f"{images.n} {images.box_size} {images.pixel_size_A:.6g}".encode())
    some = torch.linspace(0, images.n - 1, min(images.n, SAMPLE_IMAGES)).long()
    sample = images.source.gather(some, min(SAMPLE_COEFFICIENTS, images.source.n_coefficients))
    for part in (
        torch.view_as_real(sample),
        relative,
        *(() if initial is None else (initial.rotation, initial.shift_px)),
    ):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _summary(
    plan: AbinitPlan,
    n: int,
    images: ParticleImages,
    device: torch.device,
    precision: torch.dtype,
    started: bool,
    pairs: bool,
) -> str:
    recipe, edge_A = plan.recipe, images.box_size * images.pixel_size_A
    kind = "tilt pairs" if pairs else "images"
    return (
        f"Ab initio reconstruction with the neural decoder: {n} {kind} of {images.box_size} px, {recipe.zdim} "
        f"latent dimensions, {'from the poses given' if started else 'from random orientations'}, stages of "
        f"{recipe.epochs} passes with a search every {plan.search_every}, poses from data to "
        f"{edge_A / plan.k_min:.1f} and then {edge_A / plan.k_max:.1f} Å; {device.type}, "
        f"{str(precision).removeprefix('torch.')}."
    )
