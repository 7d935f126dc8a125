"""Result of the residual architecture: the subspace engine's volumes with what the network adds to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.engines.neural.base_volumes import Standardisation
from cryodrgn_ext.engines.neural.heterogeneity import BYTES_OF_VOLUMES, build_model, render_maps
from cryodrgn_ext.engines.neural.residual import ResidualModel
from cryodrgn_ext.engines.neural.settings import Recipe
from cryodrgn_ext.engines.saved_model import MODEL_FILE, opened_model, read_description, write_description
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.heterogeneity import load as load_subspace
from cryodrgn_ext.fourier.slices import FourierGrid

BASE = "base"  # folder of the subspace engine's model, in that of the whole


@dataclass(frozen=True)
class ResidualHeterogeneity:
    """Volumes V_0(z) of the subspace engine, and the network's part; a ``Heterogeneity`` of :mod:`..base`.

    Attributes
    ----------
    base : SubspaceHeterogeneity
        Latents are its.
    model : ResidualModel
        Its envelope holds how much of each shell is taken.
    standardisation : Standardisation
        Of the weights of the base's components.
    recipe : Recipe
    train_radius : int
        Band of the network's part, in cycles per box.
    loss_history : mapping
    """

    base: SubspaceHeterogeneity
    model: ResidualModel
    standardisation: Standardisation
    recipe: Recipe
    train_radius: int
    loss_history: Mapping[str, Sequence[float]]

    @property
    def z(self) -> NDArray[np.float32]:
        """(N, q) latents."""
        return self.base.z

    @property
    def z_cov(self) -> NDArray[np.float32] | None:
        """(N, q, q) their covariances."""
        return self.base.z_cov

    @property
    def box_size(self) -> int:
        """Edge of the volumes, in voxels."""
        return self.base.box_size

    @property
    def pixel_size_A(self) -> float:
        """Their voxel size."""
        return self.base.pixel_size_A

    @property
    def held_out(self) -> Mapping[str, float]:
        """Gain of single images by the base, on which claims rest: what the network adds to it is not counted."""
        return self.base.held_out

    @property
    def _grid(self) -> FourierGrid:
        return FourierGrid(self.box_size, self.train_radius, 1)

    def _inputs(self, z: NDArray[np.floating[Any]]) -> torch.Tensor:
        weights = torch.from_numpy(self.base.weights(z))
        return self.standardisation.apply(weights).to(self.model.envelope.device)

    def volumes(self, z: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield a map (D, D, D) for each row of ``z`` (P, q), within the mask of the particle.

        Raises
        ------
        InputError
            When ``z`` does not have q columns or is not finite.
        """
        z = np.asarray(z, np.float32)
        first = self.base.volumes(z)
        for rows in self._inputs(z).split(self._block):
            spectrum = partial(self.model.spectrum, z=rows)
            for added in render_maps(self._grid, len(rows), spectrum, self.model.envelope.device):
                part: NDArray[np.float32] = added.numpy()
                part *= self.base.particle
                yield next(first) + part

    @property
    def _block(self) -> int:
        return max(1, BYTES_OF_VOLUMES // (8 * math.prod(self._grid.shape)))

    def linear_form(self) -> LinearForm:
        """The base's components, then the network's: first the real parts' maps, then the imaginary ones'."""
        form = self.base.linear_form()
        count = form.n_components + 2 * self.model.width
        return LinearForm(form.mean, count, self._components, self._weights, form.rare)

    def _components(self) -> Iterator[NDArray[np.float32]]:
        yield from self.base.linear_form().components()
        for block in torch.arange(2 * self.model.width).split(self._block):
            spectrum = partial(self.model.components, which=block.to(self.model.envelope.device))
            for volume in render_maps(self._grid, len(block), spectrum, self.model.envelope.device):
                yield volume.numpy() * self.base.particle

    def _weights(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        with torch.no_grad():
            own = self.model.weights(self._inputs(z)).cpu().numpy()
        return np.hstack([self.base.weights(z), own])

    def save(self, directory: Path) -> None:
        """Write ``engine.json`` and ``model.safetensors`` into an existing directory, and the base below it."""
        folder = directory / BASE
        folder.mkdir()
        self.base.save(folder)
        tensors = {f"model.{name}": tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        tensors |= {"inputs.mean": self.standardisation.mean, "inputs.spread": self.standardisation.spread}
        save_file(tensors, str(directory / MODEL_FILE))
        description = {
            "recipe": self.recipe.to_mapping(), "box_size": self.box_size, "train_radius": self.train_radius,
            "loss_history": {name: list(values) for name, values in self.loss_history.items()},
        }  # fmt: skip
        write_description(directory, "neural", description)


def load_residual(directory: Path) -> ResidualHeterogeneity:
    """Read what :meth:`ResidualHeterogeneity.save` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    description = read_description(directory)
    base = load_subspace(directory / BASE)
    with opened_model(directory) as path:
        tensors = load_file(str(path))
        recipe = Recipe(**description["recipe"])
        state = {name[len("model.") :]: t for name, t in tensors.items() if name.startswith("model.")}
        inputs = Standardisation(tensors["inputs.mean"], tensors["inputs.spread"])
        model = build_model(recipe, description["box_size"], state["envelope"], 0, len(inputs.mean))
        model.load_state_dict(state)
        if not isinstance(model, ResidualModel):
            raise ValueError("a model of another architecture")
        return ResidualHeterogeneity(
            base=base, model=model.eval(), standardisation=inputs, recipe=recipe,
            train_radius=int(description["train_radius"]), loss_history=description["loss_history"],
        )  # fmt: skip
