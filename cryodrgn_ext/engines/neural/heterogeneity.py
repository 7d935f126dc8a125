"""A trained neural model: latents, volumes on demand, and its files (safetensors and JSON, no pickle)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from cryodrgn_ext.engines.base import LinearForm, SpectralForm
from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import VolumeModel
from cryodrgn_ext.engines.neural.residual import ResidualModel
from cryodrgn_ext.engines.neural.separable import SeparableModel
from cryodrgn_ext.engines.neural.settings import Recipe
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.engines.saved_model import MODEL_FILE, opened_model, read_description, write_description
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.slices import FourierGrid, grid_to_map

DECODED = "decoded coefficients"
POINTS_PER_CHUNK = 1 << 15
BYTES_OF_VOLUMES = 1 << 28


def build_model(
    recipe: Recipe, box_size: int, envelope: Tensor, n_encoder: int, n_inputs: int = 0
) -> VolumeModel:  # fmt: skip
    """Build the network of a recipe, initialised from its seed.

    Parameters
    ----------
    recipe : Recipe
    box_size : int
    envelope : Tensor
        (S,) magnitude per shell.
    n_encoder : int
        Number of coefficients that an image encoder sees.
    n_inputs : int
        Number of weights of the volumes that the residual architecture adds to.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    frequencies = feature_frequencies(recipe.features, box_size, recipe.feat_sigma, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.architecture == "separable":
            return SeparableModel(
                recipe.zdim, envelope, frequencies, recipe.dec_dim, recipe.dec_layers, recipe.kl_weight
            )
        if recipe.architecture == "residual":
            return ResidualModel(n_inputs, envelope, frequencies, recipe.dec_dim, recipe.dec_layers)
        n_encoder = n_encoder if recipe.latents == "encoder" else 0
        return VaeModel(
            recipe.zdim, envelope, frequencies, n_encoder, (recipe.enc_layers, recipe.enc_dim),
            (recipe.dec_layers, recipe.dec_dim), recipe.domain, recipe.kl_weight, recipe.of_sums,
        )  # fmt: skip


def render_maps(
    grid: FourierGrid, count: int, spectrum: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[Tensor]:
    """Yield real maps (D, D, D), on the CPU, of ``count`` spectra given as a function.

    Parameters
    ----------
    grid : FourierGrid
        Box and band of the maps, with oversampling 1.
    count : int
        P.
    spectrum : callable
        (K, 3) points in cycles per box, on ``device`` -> (P, K) complex64.
    device : torch.device
    """
    zs, ys, xs = (torch.arange(n, device=device) for n in grid.shape)
    coordinates = torch.stack(torch.meshgrid(xs, ys - grid.half, zs - grid.half, indexing="ij"), -1)
    coordinates = coordinates.permute(2, 1, 0, 3).reshape(-1, 3)
    inside = ((coordinates**2).sum(1) <= grid.radius**2).nonzero()[:, 0]
    points = coordinates[inside].float()
    half = torch.zeros(count, len(coordinates), dtype=torch.complex64, device=device)

    def decode(part: slice) -> None:
        half[:, inside[part]] = spectrum(points[part])

    in_blocks(decode, len(points), DECODED, POINTS_PER_CHUNK)
    for values in half:
        yield grid_to_map(values.reshape(grid.shape), grid).cpu()


@dataclass(frozen=True)
class NeuralHeterogeneity:
    """Result of the neural engine; see :class:`cryodrgn_ext.engines.base.Heterogeneity`."""

    model: VolumeModel
    recipe: Recipe
    box_size: int
    pixel_size_A: float
    train_radius: int
    n_encoder: int
    consensus: NDArray[np.float32] | None
    z: NDArray[np.float32]
    z_cov: NDArray[np.float32] | None
    loss_history: Mapping[str, Sequence[float]]

    def volumes(self, z: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield a map (D, D, D) for each row of ``z`` (P, q).

        Raises
        ------
        InputError
            When ``z`` does not have q columns or is not finite.
        """
        z = np.asarray(z, dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.recipe.zdim:
            raise InputError(f"latents of shape (P, {self.recipe.zdim}) expected, got {z.shape}")
        if not np.isfinite(z).all():
            row = int(np.argmin(np.isfinite(z).all(axis=1)))
            raise InputError(f"latent row {row} (from 0) is not finite: give numbers in every column")
        base_map = None if self.consensus is None else torch.as_tensor(self.consensus)
        grid = FourierGrid(self.box_size, self.train_radius, 1)
        for rows in torch.as_tensor(z).split(max(1, BYTES_OF_VOLUMES // (8 * math.prod(grid.shape)))):
            spectrum = partial(self.model.spectrum, z=rows.to(self.model.envelope.device))
            for volume in render_maps(grid, len(rows), spectrum, self.model.envelope.device):
                yield (volume if base_map is None else volume + base_map).numpy()

    def spectral_form(self) -> SpectralForm:
        """See :class:`cryodrgn_ext.engines.base.SpectralForm`."""
        mean = np.zeros((self.box_size,) * 3, np.float32) if self.consensus is None else self.consensus
        return SpectralForm(mean, self.train_radius, self._spectrum)

    def _spectrum(self, z: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.complex64]:
        device = self.model.envelope.device
        rows = torch.as_tensor(np.asarray(z, np.float32), device=device)
        places = torch.as_tensor(np.asarray(points, np.float32), device=device)
        parts = in_blocks(lambda here: self.model.spectrum(places[here], rows), len(places), DECODED, POINTS_PER_CHUNK)
        found: NDArray[np.complex64] = torch.cat(parts, 1).cpu().numpy()
        return found

    def save(self, directory: Path) -> None:
        """Write ``engine.json`` and ``model.safetensors`` into an existing directory."""
        tensors = {f"model.{name}": tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        tensors["z"] = torch.as_tensor(self.z).contiguous()
        if self.z_cov is not None:
            tensors["z_cov"] = torch.as_tensor(self.z_cov).contiguous()
        if self.consensus is not None:
            tensors["consensus"] = torch.as_tensor(self.consensus).contiguous()
        save_file(tensors, str(directory / MODEL_FILE))
        description = {
            "recipe": self.recipe.to_mapping(),
            "box_size": self.box_size,
            "pixel_size_A": self.pixel_size_A,
            "train_radius": self.train_radius,
            "n_encoder": self.n_encoder,
            "loss_history": {name: list(values) for name, values in self.loss_history.items()},
        }
        write_description(directory, "neural", description)


@dataclass(frozen=True)
class SeparableHeterogeneity(NeuralHeterogeneity):
    """Result of the separable architecture, whose volumes are sums over fixed maps (:class:`base.Linear`)."""

    model: SeparableModel

    def linear_form(self) -> LinearForm:
        """V(z) = consensus + sum over c of u_c(z) component_c: first the real parts' maps, then the imaginary ones'."""
        d, width = self.box_size, self.model.width
        mean = np.zeros((d, d, d), np.float32) if self.consensus is None else self.consensus
        return LinearForm(mean, 2 * width, self._components, self._weights)

    def _components(self) -> Iterator[NDArray[np.float32]]:
        """Component maps, a block of them at a time: the trunk is evaluated anew for each block."""
        grid = FourierGrid(self.box_size, self.train_radius, 1)
        for block in torch.arange(2 * self.model.width).split(max(1, BYTES_OF_VOLUMES // (8 * math.prod(grid.shape)))):
            spectrum = partial(self.model.components, which=block.to(self.model.envelope.device))
            for volume in render_maps(grid, len(block), spectrum, self.model.envelope.device):
                yield volume.numpy()

    def _weights(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(P, q) latents -> (P, 2 w) weights of the components."""
        rows = torch.as_tensor(np.asarray(z, np.float32), device=self.model.envelope.device)
        with torch.no_grad():
            return self.model.weights(rows).cpu().numpy()


def result_class(recipe: Recipe) -> type[NeuralHeterogeneity]:
    """Class of the result of a recipe: only the separable architecture has a linear form."""
    return SeparableHeterogeneity if recipe.architecture == "separable" else NeuralHeterogeneity


def load_whole(directory: Path) -> NeuralHeterogeneity:
    """Read what :meth:`NeuralHeterogeneity.save` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    description = read_description(directory)
    with opened_model(directory) as path:
        tensors = load_file(str(path))
        recipe = Recipe(**description["recipe"])
        state = {name[len("model.") :]: t for name, t in tensors.items() if name.startswith("model.")}
        model = build_model(recipe, description["box_size"], state["envelope"], description["n_encoder"])
        model.load_state_dict(state)
        return result_class(recipe)(
            model=model.eval(),
            recipe=recipe,
            box_size=description["box_size"],
            pixel_size_A=description["pixel_size_A"],
            train_radius=description["train_radius"],
            n_encoder=description["n_encoder"],
            consensus=tensors["consensus"].numpy() if "consensus" in tensors else None,
            z=tensors["z"].numpy(),
            z_cov=tensors["z_cov"].numpy() if "z_cov" in tensors else None,
            loss_history=description["loss_history"],
        )
