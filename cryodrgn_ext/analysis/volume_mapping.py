"""Particles in the space of volume components: exactly, by rendering, or by a learned map (Zhong 2022, 6.2.5, 6.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryodrgn_ext.analysis.volume_basis import PARTICLES_PER_BLOCK, VolumeBasis, combined_rows
from cryodrgn_ext.analysis.volume_pca import VolumePca
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import Monitor, SilentMonitor

FloatArray = NDArray[np.float64]
TRAIN_SHARE = 0.75  # 3:1 (Zhong 2022, 6.4.2)
EPOCHS = 50
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
HIDDEN = 128
LEAST_PAIRS = 16


def map_linear(
    basis: VolumeBasis, gram: FloatArray, pca: VolumePca, z: NDArray[np.float32], monitor: Monitor | None = None
) -> NDArray[np.float32]:
    """Coordinates (N, L) of the volumes of all latents (N, q), exactly and without rendering any.

    Raises
    ------
    ValueError
        When the volumes of other particles are no sums over the basis.
    """
    if basis.particle_weights is None:
        raise ValueError("this basis does not span the volumes of other particles")
    monitor = SilentMonitor() if monitor is None else monitor
    blocks = range(0, len(z), PARTICLES_PER_BLOCK)
    result = np.empty((len(z), pca.n_components), np.float32)
    for start in monitor.track(blocks, "Mapping particles", len(z), PARTICLES_PER_BLOCK):
        part = slice(start, start + PARTICLES_PER_BLOCK)
        result[part] = pca.project(basis.particle_weights(z[part]), gram)
    return result


def map_rendered(
    model: Heterogeneity,
    rows: NDArray[np.float32],
    mask: NDArray[np.bool_],
    pca: VolumePca,
    z: NDArray[np.float32],
    monitor: Monitor | None = None,
) -> NDArray[np.float32]:
    """Coordinates (N, L) of volumes that are rendered one after the other and not kept.

    Parameters
    ----------
    model : Heterogeneity
    rows : ndarray
        (R, n) masked maps of the basis of ``pca``.
    mask : ndarray
        (D, D, D) bool.
    pca : VolumePca
    z : ndarray
        (N, q).
    monitor : Monitor, optional
    """
    monitor = SilentMonitor() if monitor is None else monitor
    inside = np.flatnonzero(mask)
    mean = combined_rows(rows, pca.mean_weights[None])[0]
    eigenvolumes = combined_rows(rows, pca.axes)
    result = np.empty((len(z), pca.n_components), np.float32)
    for number, volume in enumerate(monitor.track(model.volumes(z), "Rendering volumes", len(z))):
        result[number] = eigenvolumes @ (volume.reshape(-1)[inside] - mean)
    return result


@dataclass(frozen=True)
class LearnedMapping:
    """The perceptron φ from latents to volume components.

    Attributes
    ----------
    network : torch module
        Standardised latents -> standardised coordinates.
    z_mean, z_scale : Tensor
        (q,).
    v_mean, v_scale : Tensor
        (L,).
    train_loss, held_out_loss : list of float
        Mean squared error per epoch, as a share of the variance of the coordinates; the network is that of the epoch
        with the least held-out loss.
    """

    network: nn.Module
    z_mean: Tensor
    z_scale: Tensor
    v_mean: Tensor
    v_scale: Tensor
    train_loss: list[float]
    held_out_loss: list[float]

    @property
    def error(self) -> float:
        """Share of the variance of held-out volumes that φ does not predict."""
        return min(self.held_out_loss)

    @torch.no_grad()
    def __call__(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, q) latents -> (N, L) coordinates."""
        parts = [
            self.network((part - self.z_mean) / self.z_scale) * self.v_scale + self.v_mean
            for part in torch.from_numpy(np.ascontiguousarray(z, np.float32)).split(PARTICLES_PER_BLOCK)
        ]
        mapped: NDArray[np.float32] = torch.cat(parts).numpy()
        return mapped


def learn_mapping(
    z: NDArray[np.float32], v: NDArray[np.floating], *, seed: int = 0, epochs: int = EPOCHS,
    monitor: Monitor | None = None,
) -> LearnedMapping:  # fmt: skip
    """Train φ on pairs of latents (T, q) and coordinates (T, L), a quarter of them held out (Zhong 2022, 6.4.2).

    Coordinates are scaled together, so that the loss weighs components by their variance.

    Raises
    ------
    InputError
        When there are fewer than 16 pairs.
    """
    if len(z) < LEAST_PAIRS:
        raise InputError(
            f"the map to volume components needs at least {LEAST_PAIRS} volumes to learn from, got {len(z)}"
        )
    monitor = SilentMonitor() if monitor is None else monitor
    order = np.random.default_rng(seed).permutation(len(z))
    inputs, targets = torch.from_numpy(z[order].astype(np.float32)), torch.from_numpy(v[order].astype(np.float32))
    n_train = round(TRAIN_SHARE * len(z))
    z_mean, z_scale = inputs[:n_train].mean(0), inputs[:n_train].std(0).clamp_min(1e-12)
    v_mean = targets[:n_train].mean(0)
    v_scale = (targets[:n_train] - v_mean).square().mean().sqrt().clamp_min(1e-12).expand(targets.shape[1])
    inputs, targets = (inputs - z_mean) / z_scale, (targets - v_mean) / v_scale
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(inputs.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, targets.shape[1]),
        )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    variance = targets[n_train:].square().mean().clamp_min(1e-12)
    train_loss: list[float] = []
    held_out_loss: list[float] = []
    best = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in monitor.track(range(epochs), "Learning the map to volume components", epochs):
        total = 0.0
        for rows in torch.randperm(n_train, generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = (network(inputs[rows]) - targets[rows]).square().mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.no_grad():
            held_out = (network(inputs[n_train:]) - targets[n_train:]).square().mean() / variance
        train_loss.append(total / n_train)
        held_out_loss.append(held_out.item())
        if held_out_loss[-1] <= min(held_out_loss):
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return LearnedMapping(network.eval(), z_mean, z_scale, v_mean, v_scale, train_loss, held_out_loss)
