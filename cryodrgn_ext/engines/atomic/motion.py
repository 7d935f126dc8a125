"""The motion of a structure over the latents of a finished model: placed images, fitted atoms, and what is determined.

Expectation and maximisation in turn: images are weighed at nodes of latent space, first against the model's own
volumes, then against those of the atoms; the atoms are fitted to the sums of the images at the nodes. Beside that each
half-set is fitted alone from the base structure, its images at the nodes where their latents are. The subspace engine
infers the latents of each half-set from the volumes that the other one learned, so that noise which put an image at a
node is not the same in both: what both halves find is the images' word.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.atomic.agreement import Agreement, Density, residue_agreement
from cryodrgn_ext.engines.atomic.fit import AtomFit, AtomModel
from cryodrgn_ext.engines.atomic.node_sums import (
    NodeSums,
    half_rows,
    log_likelihoods,
    posterior,
    sums_at_nodes,
)
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.engines.subspace.assignment import node_probabilities
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor

FloatArray = NDArray[np.float64]

IMAGES_PER_NODE = 25
#: Length of the features in units of the latents' spread, as of the subspace engine's curved model.
CURVE_LENGTH = 0.35
#: A motion counts as found where the half-sets share this part of it (root mean square).
SHARED = 0.5


@dataclass(frozen=True)
class MotionSettings:
    """How a motion is learned.

    Attributes
    ----------
    nodes, features : int
        Places in latent space at which images are summed, at most; and smooth functions of the latents.
    resolution_A : float
        Highest frequency that is fitted; one Gaussian for each main chain and side chain says nothing beyond 6 Å.
    rounds : int
        Times that images are placed by the atoms and the atoms fitted again.
    seed : int
    """

    nodes: int = 24
    features: int = 6
    resolution_A: float = 6.0
    rounds: int = 1
    seed: int = 0


@dataclass(frozen=True)
class AtomicMotion:
    """What was learned.

    Attributes
    ----------
    nodes_z : ndarray
        (K, q) latents of the nodes; only the columns that the model uses differ.
    positions : ndarray
        (K, C, 3) centres at the nodes, Å from the centre of the box.
    halves : ndarray
        (2, K, C, 3) the same of each half-set alone.
    share : ndarray
        (K,) of the particles at each node.
    probability : ndarray
        (N, K) float32 of each node for each image; rows of unusable images are 0.
    features : ndarray
        (K, F) values at the nodes.
    scale : ndarray
        (S,) by shell, of the density in the units of whitened images.
    correlation : ndarray
        (R,) of each residue with the half-map that its fit did not see; empty in results of earlier versions.
    chance : ndarray
        (1,) what places of other residues reach.
    """

    nodes_z: FloatArray
    positions: FloatArray
    halves: FloatArray
    share: FloatArray
    probability: NDArray[np.float32]
    features: FloatArray
    scale: FloatArray
    correlation: FloatArray = field(default_factory=lambda: np.empty(0))
    chance: FloatArray = field(default_factory=lambda: np.empty(0))

    @property
    def agreement(self) -> Agreement | None:
        """Residues against half-maps that their fit did not see, where it was measured."""
        return Agreement(self.correlation, float(self.chance[0])) if len(self.chance) else None

    def of_images(self, rows: NDArray[np.int64]) -> FloatArray:
        """Centres (n, C, 3) of images: the mean over where each may lie."""
        where = self.probability[rows].astype(np.float64)
        mixed: FloatArray = np.einsum("nk,kcx->ncx", where, self.positions)
        return mixed


class MotionLearner:
    """Learns a motion of a structure that lies in the frame of the images.

    Parameters
    ----------
    images : ParticleImages
    model : Heterogeneity
        A finished training on the same images, at their box.
    atoms : AtomModel
    settings : MotionSettings
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, model: Heterogeneity, atoms: AtomModel, settings: MotionSettings, monitor: Monitor
    ) -> None:
        self.images, self.model, self.atoms = images, model, atoms
        self.settings, self.monitor = settings, monitor
        self.rows = torch.from_numpy(np.flatnonzero(~images.unusable))
        box_A = images.box_size * images.pixel_size_A
        self.radius = max(4, min(images.plane.radius - 1, int(box_A / settings.resolution_A)))
        columns = used_columns(model)
        used = torch.from_numpy(model.z[:, columns]).double()[self.rows]
        count = int(np.clip(len(self.rows) // IMAGES_PER_NODE, 2, settings.nodes))
        self.nodes = Nodes.place(used, count, settings.seed)
        self.features = feature_values(self.nodes, settings.features)
        self.nodes_z = np.tile(model.z.mean(axis=0, dtype=np.float64), (len(self.nodes.centres), 1))
        self.nodes_z[:, columns] = self.nodes.centres.numpy()

    def run(self) -> AtomicMotion:
        """All steps."""
        weight = self.nodes.weight
        volumes = [
            FourierVolume.from_map(torch.from_numpy(volume), radius=self.radius + 1)
            for volume in self.model.volumes(self.nodes_z.astype(np.float32))
        ]
        probability, weight = self._placed(volumes, weight)
        sums = self._sums(probability)
        fit = AtomFit(self.atoms, self.features, sums[0] + sums[1])
        fit.run(self.settings.resolution_A, self.monitor)
        for _ in range(self.settings.rounds):
            probability, weight = self._placed(fit.volumes(self.radius + 1), weight)
            sums = self._sums(probability)
            fit.sums = sums[0] + sums[1]
            fit.run(self.settings.resolution_A, self.monitor, last_only=True)
        sums = self._sums(self._by_latents())
        halves = np.stack([self._alone(one) for one in sums])
        density = Density(self.atoms.electrons, self.atoms.width_A, fit.scale, self.atoms.pixel_size_A)
        agreement = residue_agreement(halves, sums, density, self.atoms.residue, self.settings.resolution_A,
                                      self.settings.seed)  # fmt: skip
        everything = np.zeros((self.images.n, len(weight)), np.float32)
        everything[self.rows.numpy()] = probability.float().numpy()
        return AtomicMotion(
            self.nodes_z, fit.positions.double().numpy(), halves, weight.numpy(), everything,
            self.features.double().numpy(), fit.scale.double().numpy(), agreement.correlation,
            np.array([agreement.chance]),
        )  # fmt: skip

    def _placed(self, volumes: list[FourierVolume], weight: Tensor) -> tuple[Tensor, Tensor]:
        """Probability (n, K) of the nodes for the usable images, and the nodes' shares (K,)."""
        found = posterior(log_likelihoods(self.images, self.rows, volumes, self.radius, self.monitor), weight)
        return found, found.mean(dim=0)

    def _by_latents(self) -> Tensor:
        """Probability (n, K) of the nodes by the latents of the usable images and their covariances, if there are."""
        columns = used_columns(self.model)
        z, z_cov = self.model.z[self.rows.numpy()], self.model.z_cov
        if z_cov is None:
            covariance = torch.zeros(len(columns), len(columns), dtype=torch.float64)
        else:
            covariance = torch.from_numpy(z_cov[self.rows.numpy()][:, columns][:, :, columns]).double()
        return node_probabilities(torch.from_numpy(z[:, columns]), covariance, self.nodes)

    def _sums(self, probability: Tensor) -> list[NodeSums]:
        """Sums of each half-set."""
        return [
            sums_at_nodes(self.images, self.rows[members], probability[members], self.radius, self.monitor)
            for members in half_rows(self.images, self.rows)
        ]

    def _alone(self, sums: NodeSums) -> FloatArray:
        """Centres (K, C, 3) that one half-set leads to, from the base structure on."""
        fit = AtomFit(self.atoms, self.features, sums)
        fit.run(self.settings.resolution_A, self.monitor)
        return fit.positions.double().numpy()


def used_columns(model: Heterogeneity) -> list[int]:
    """Columns of the latents that the model's volumes depend on, as far as it says."""
    if isinstance(model, SubspaceHeterogeneity):
        return list(model.columns_used)
    return list(range(model.z.shape[1]))


def feature_values(nodes: Nodes, count: int) -> Float[Tensor, "K F"]:
    """Features (K, F) float32 at the nodes: 1, then smooth ones, of the variance of a Gaussian process' prior."""
    features = Features.build(nodes, CURVE_LENGTH, count)
    # A column of the projection is an eigenvector over its eigenvalue: its length tells the eigenvalue.
    eigenvalue = 1.0 / (features.projection / nodes.weight.sqrt()[:, None]).norm(dim=0)
    values = features.at_nodes()
    values[:, 1:] *= (eigenvalue / eigenvalue.max()).sqrt() if features.count else 1.0
    return values.float()


def first_coordinate(motion: AtomicMotion) -> FloatArray:
    """(K,) place of each node along the largest motion, in Å: the first principal component of the centres."""
    flat = (motion.positions - np.average(motion.positions, axis=0, weights=motion.share)).reshape(
        len(motion.share), -1
    )
    root = np.sqrt(motion.share)[:, None]
    _, _, axes = np.linalg.svd(root * flat, full_matrices=False)
    place: FloatArray = flat @ axes[0] / np.sqrt(motion.positions.shape[1])
    return place


def along_motion(motion: AtomicMotion, count: int) -> FloatArray:
    """(P, C, 3) centres at ``count`` even steps along the largest motion, from the 2nd to the 98th percentile.

    Each is the mean over the nodes nearby, by their shares of the particles.
    """
    place = first_coordinate(motion)
    order = np.argsort(place)
    cumulated = np.cumsum(motion.share[order])
    low, high = np.interp([0.02, 0.98], cumulated / cumulated[-1], place[order])
    at = np.linspace(low, high, count)
    width = max((high - low) / max(count - 1, 1), float(np.ptp(place)) / len(place), 1e-6)
    weight = np.exp(-0.5 * ((at[:, None] - place) / width) ** 2) * motion.share + 1e-300
    frames: FloatArray = np.einsum("pk,kcx->pcx", weight / weight.sum(axis=1, keepdims=True), motion.positions)
    return frames


@dataclass(frozen=True)
class ResidueEvidence:
    """What the half-sets say of each residue, root mean squares over the nodes by their shares.

    Attributes
    ----------
    motion_A : ndarray
        (R,) about its mean position.
    proven_A : ndarray
        (R,) what of it the half-sets have in common; 0 where they have nothing.
    error_A : ndarray
        (R,) of the position that all images lead to: half of the half-sets' difference.
    """

    motion_A: FloatArray
    proven_A: FloatArray
    error_A: FloatArray

    @property
    def determined(self) -> NDArray[np.bool_]:
        """(R,) residues whose position the half-sets agree on better than they move, or to the width of an atom."""
        determined: NDArray[np.bool_] = self.error_A < np.maximum(self.motion_A, 1.0)
        return determined

    def sentence(self, held_out: HeldOut | None) -> str:
        """What was found, in one sentence.

        Half-sets prove a motion only where their latents never met, as a model's whose gain was measured on images
        that it was not learned from.

        Parameters
        ----------
        held_out : HeldOut or None
            Gain of images by the model of the latents; None where the latents come from one model of all images.
        """
        moved, proven, error = rms(self.motion_A), rms(self.proven_A), rms(self.error_A)
        known = (
            f"{int(self.determined.sum())} of {len(self.error_A)} residues are determined, with an error by chance of "
            f"{error:.1f} Å (r.m.s., from the half-sets)"
        )
        if moved == 0:
            return f"One structure for all images, as asked for: {known}."
        shared = f"the half-sets share {proven:.1f} of {moved:.1f} Å"
        if held_out is None:
            return (
                f"No motion of the atoms is proven: {shared}, which proves nothing by itself, since the latents come "
                f"from one model of all images; {known}."
            )
        if not held_out.wins:
            return (
                "No motion of the atoms is proven: the model of the latents explains images no better than the average "
                f"structure does ({shared}); {known}."
            )
        if proven < SHARED * moved or proven < error:
            return f"No motion of the atoms is proven: {shared}; {known}."
        return f"The atoms move by {moved:.1f} Å (r.m.s.), of which both half-sets show {proven:.1f} Å; {known}."


def rms(values: FloatArray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def residue_evidence(motion: AtomicMotion, residue: Int64[np.ndarray, " C"], electrons: FloatArray) -> ResidueEvidence:
    """Compare the half-sets, residue by residue; ``residue`` and ``electrons`` (C,) of the centres."""
    count = int(residue.max()) + 1
    mass = np.bincount(residue, electrons, count)

    def by_residue(values: FloatArray) -> FloatArray:
        """Means (R,) over the nodes and the residue's centres of values (K, C)."""
        total = np.bincount(residue, electrons * (motion.share @ values), count)
        means: FloatArray = total / (mass * motion.share.sum())
        return means

    def about_mean(positions: FloatArray) -> FloatArray:
        moved: FloatArray = positions - np.average(positions, axis=0, weights=motion.share)
        return moved

    whole, first, second = (about_mean(one) for one in (motion.positions, *motion.halves))
    common = by_residue((first * second).sum(axis=-1))
    difference = by_residue(np.square(motion.halves[0] - motion.halves[1]).sum(axis=-1))
    return ResidueEvidence(
        np.sqrt(by_residue(np.square(whole).sum(axis=-1))), np.sqrt(np.maximum(common, 0)), 0.5 * np.sqrt(difference)
    )
