"""A fitted subspace: latents, volumes on demand, their linear form, and its files (safetensors and JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.engines.saved_model import MODEL_FILE, opened_model, read_description, write_description
from cryodrgn_ext.engines.subspace.assignment import node_probabilities
from cryodrgn_ext.engines.subspace.cells import Cells
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.states import States
from cryodrgn_ext.errors import InputError


@dataclass(frozen=True)
class SubspaceHeterogeneity:
    """Result of the subspace engine; see :class:`cryodrgn_ext.engines.base.Heterogeneity`.

    Attributes
    ----------
    features : Features or States
        What volumes are linear in.
    columns_used : tuple of int
        Columns of the latents that the features depend on; the half-sets do not agree on the others.
    rare : tuple of int
        Columns of the latents that show rare states, one each: 0 without it, and with it ``rare_scale``.
    rare_scale : tuple of float
    smoothing : Tensor
        (d, d) float64 typical covariance of those columns: how precisely an image tells its latent.
    radius : int
        Band of the components, in cycles per box.
    values : Tensor
        (V, 2, Q) float32 components on the grid of that band: the correction of the consensus, those of the features,
        and what each rare state adds.
    share : Tensor, optional
        (K,) float64 of the particles at each node of the features; models made by earlier versions have none.
    held_out : mapping of str to float
        Log likelihoods of single images under what the other half-set learned, see
        :class:`cryodrgn_ext.engines.held_out.HeldOut`.
    consensus : ndarray
        (D, D, D).
    particle, moving : ndarray
        (D, D, D) soft masks.
    """

    features: Features | States
    columns_used: tuple[int, ...]
    smoothing: Tensor
    radius: int
    values: Tensor
    consensus: NDArray[np.float32]
    particle: NDArray[np.float32]
    moving: NDArray[np.float32]
    pixel_size_A: float
    z: NDArray[np.float32]
    z_cov: NDArray[np.float32] | None
    loss_history: Mapping[str, Sequence[float]]
    rare: tuple[int, ...] = ()
    rare_scale: tuple[float, ...] = ()
    share: Tensor | None = None
    held_out: Mapping[str, float] = field(default_factory=dict)

    @property
    def box_size(self) -> int:
        """Edge of the volumes, in voxels."""
        return len(self.consensus)

    @cached_property
    def grid(self) -> ComponentGrid:
        """Where the components lie."""
        return ComponentGrid(self.box_size, self.radius)

    def weights(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Weights (P, m) of the components in the volumes at latents (P, q).

        The mean of the features over where an image with that latent may lie: volumes are shown only where there are
        particles, and as sharp as images tell them apart.

        Raises
        ------
        InputError
            When ``z`` does not have q columns or is not finite.
        """
        z = np.asarray(z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.z.shape[1]:
            raise InputError(f"latents of shape (P, {self.z.shape[1]}) expected, got {z.shape}")
        if not np.isfinite(z).all():
            row = int(np.argmin(np.isfinite(z).all(axis=1)))
            raise InputError(f"latent row {row} (from 0) is not finite: give numbers in every column")
        x = torch.from_numpy(z[:, list(self.columns_used)].astype(np.float64))
        features = self._feature_weights(x)
        scale = np.array(self.rare_scale, np.float32)
        return np.hstack([features, np.clip(z[:, list(self.rare)] / scale, 0, 1)])

    def _feature_weights(self, x: Tensor) -> NDArray[np.float32]:
        """(P, m) float32 mean features over where images with latents (P, d) may lie."""
        if self.share is None:  # a model made before there were cells
            table, nodes = self.features.at_nodes()[:, 1:], self.features.nodes
            parts = [node_probabilities(part, self.smoothing, nodes) @ table for part in x.split(4096)]
            return (torch.cat(parts) if parts else table[:0]).float().numpy()
        if isinstance(self.features, States):
            return self.features.weights(x, self.share)[:, 1:].float().numpy()
        return self._cells.weights(x, self.smoothing, self.share)[:, 1:].float().numpy()

    @cached_property
    def _cells(self) -> Cells:
        return Cells(self.features)

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        correction = self.grid.to_map(self.values[..., 0].contiguous()).numpy()
        mean: NDArray[np.float32] = (self.consensus + correction) * self.particle
        return mean

    def _components(self) -> Iterator[NDArray[np.float32]]:
        grid = self.grid
        for j in range(1, self.values.shape[2]):
            component: NDArray[np.float32] = grid.to_map(self.values[..., j].contiguous()).numpy() * self.moving
            yield component

    @cached_property
    def _moving_components(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Voxels (n,) of the moving region, and the components (m, n) in them: all that volumes differ by."""
        voxels = np.flatnonzero(self.moving)
        rows = [component.reshape(-1)[voxels] for component in self._components()]
        return voxels, np.stack(rows) if rows else np.zeros((0, len(voxels)), np.float32)

    def linear_form(self) -> LinearForm:
        """See :class:`cryodrgn_ext.engines.base.LinearForm`."""
        count = self.values.shape[2] - 1
        rare = tuple(range(self.features.count, count))
        return LinearForm(self._mean, count, self._components, self.weights, rare)

    def volumes(self, z: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield a map (D, D, D) for each row of ``z`` (P, q), within the mask of the particle.

        Raises
        ------
        InputError
            When ``z`` does not have q columns or is not finite.
        """
        mean, (voxels, components) = self._mean, self._moving_components
        for weight in self.weights(z):
            volume = mean.copy()
            volume.reshape(-1)[voxels] += weight @ components
            yield volume

    def single_volume(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return the map (D, D, D) at a latent (q,), within the mask of the particle.

        By one transform of the sum of all components: the first volume of :meth:`volumes` needs one for each of them.

        Raises
        ------
        InputError
            When ``z`` does not have q numbers or is not finite.
        """
        weight = np.concatenate([[0], *self.weights(np.asarray(z)[None])]).astype(np.float32)
        moved: NDArray[np.float32] = self.grid.to_map(self.values @ torch.from_numpy(weight)).numpy()
        volume: NDArray[np.float32] = self._mean + moved * self.moving
        return volume

    def save(self, directory: Path) -> None:
        """Write ``engine.json`` and ``model.safetensors`` into an existing directory."""
        tensors = {
            "values": self.values, "consensus": torch.from_numpy(self.consensus),
            "particle": torch.from_numpy(self.particle), "moving": torch.from_numpy(self.moving),
            "z": torch.from_numpy(self.z), "smoothing": self.smoothing,
            "centres": self.features.nodes.centres, "weight": self.features.nodes.weight,
            "projection": self.features.projection,
        }  # fmt: skip
        if isinstance(self.features, Features):
            tensors["linear"] = self.features.linear
        if self.share is not None:
            tensors["share"] = self.share
        if self.z_cov is not None:
            tensors["z_cov"] = torch.from_numpy(self.z_cov)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(directory / MODEL_FILE))
        description = {
            "box_size": self.box_size, "pixel_size_A": self.pixel_size_A, "radius": self.radius,
            "carried": list(self.columns_used), "rare": list(self.rare), "rare_scale": list(self.rare_scale),
            "held_out": dict(self.held_out), **_form(self.features),
            "loss_history": {name: list(values) for name, values in self.loss_history.items()},
        }  # fmt: skip
        write_description(directory, "subspace", description)


def _form(features: Features | States) -> dict[str, Any]:
    """Plain values of what volumes are linear in."""
    if isinstance(features, States):
        return {"form": "states"}
    return {"form": "curve", "length": features.length, "spread": features.spread}


def _features(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Features | States:
    """What volumes are linear in, of a saved model."""
    nodes = Nodes(tensors["centres"], tensors["weight"])
    if description.get("form", "curve") == "states":
        return States(nodes, tensors["projection"])
    length, spread = float(description["length"]), float(description["spread"])
    return Features.known(nodes, length, spread, tensors["projection"], tensors.get("linear"))


def load(directory: Path) -> SubspaceHeterogeneity:
    """Read what :meth:`SubspaceHeterogeneity.save` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    description = read_description(directory)
    with opened_model(directory) as path:
        # As they lie in the file tensors are not aligned, and products of unaligned ones round differently.
        t = {name: tensor.clone() for name, tensor in load_file(str(path)).items()}
        model = SubspaceHeterogeneity(
            features=_features(description, t),
            columns_used=tuple(int(column) for column in description["carried"]),
            smoothing=t["smoothing"],
            radius=int(description["radius"]),
            values=t["values"],
            consensus=t["consensus"].numpy(),
            particle=t["particle"].numpy(),
            moving=t["moving"].numpy(),
            pixel_size_A=float(description["pixel_size_A"]),
            z=t["z"].numpy(),
            z_cov=t["z_cov"].numpy() if "z_cov" in t else None,
            loss_history=description["loss_history"],
            rare=tuple(int(column) for column in description.get("rare", ())),
            rare_scale=tuple(float(scale) for scale in description.get("rare_scale", ())),
            share=t.get("share"),
            held_out={name: float(value) for name, value in description.get("held_out", {}).items()},
        )
        if t["values"].shape != (model.grid.n_voxels, 2, model.features.count + 1 + len(model.rare)):
            raise ValueError("components of another shape")
        return model
