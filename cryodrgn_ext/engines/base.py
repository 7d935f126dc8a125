"""The interface of all engines, and the registry by which jobs find them.

An engine is one module with a function ``train`` (see :class:`Engine`) and a function ``load``; adding one is a
folder beside ``neural`` and a line in :data:`ENGINES`. Nothing heavy is imported until an engine is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.saved_model import read_description
from cryodrgn_ext.engines.settings import EngineSettings, options_of
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import Settings

if TYPE_CHECKING:
    from cryodrgn_ext.engines.context import EngineContext
    from cryodrgn_ext.images.particle_images import ParticleImages

S = TypeVar("S", bound=EngineSettings)
S_contra = TypeVar("S_contra", bound=EngineSettings, contravariant=True)


@runtime_checkable
class Heterogeneity(Protocol):
    """Result of every engine: latents, and volumes at any latent.

    Attributes
    ----------
    z : (N, q) float32
        Latent mean of each particle, in the order of the input rows; q = 0 for a homogeneous model.
    z_cov : (N, q, q) float32 or None
        Posterior covariance of the latents, where the engine defines one.
    loss_history : mapping of str to sequence of float
        One entry per epoch: at least ``total``; ``reconstruction`` and ``kl`` where they exist. Units: nats per
        coefficient.
    box_size : int
        Edge of the volumes, in voxels.
    pixel_size_A : float
        Their voxel size.
    """

    @property
    def z(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def z_cov(self) -> NDArray[np.float32] | None: ...  # noqa: D102
    @property
    def loss_history(self) -> Mapping[str, Sequence[float]]: ...  # noqa: D102
    @property
    def box_size(self) -> int: ...  # noqa: D102
    @property
    def pixel_size_A(self) -> float: ...  # noqa: D102

    def volumes(self, z: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield one real-space map (D, D, D), axes z, y, x, white on black, for each row of ``z`` (P, q)."""
        ...

    def save(self, directory: Path) -> None:
        """Write the model (safetensors, JSON; no pickle) into an existing directory."""
        ...


@dataclass(frozen=True)
class LinearForm:
    """Volumes as sums over fixed maps: V(z) = mean + sum over c of weights(z)[c] component_c.

    Whatever is linear in volumes (projections onto eigenvolumes, distances under a mask) then follows for all
    particles from one product per component, exactly and without rendering a volume.

    Attributes
    ----------
    mean : (D, D, D) float32
        Real-space map, axes z, y, x.
    n_components : int
        Number m of component maps.
    components : callable
        () -> iterator over the m component maps, (D, D, D) float32 each, in the order of the weights.
    weights : callable
        (P, q) float32 latents -> (P, m) float32.
    rare : tuple of int
        Components that few particles have a share of: what each rare state adds to the volume.
    """

    mean: NDArray[np.float32]
    n_components: int
    components: Callable[[], Iterator[NDArray[np.float32]]]
    weights: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    rare: tuple[int, ...] = ()


@runtime_checkable
class Linear(Protocol):
    """An engine's result whose volumes have a linear form."""

    def linear_form(self) -> LinearForm:
        """Return the volumes as sums over fixed maps."""
        ...


@runtime_checkable
class SingleVolume(Protocol):
    """An engine's result that has one volume sooner than :meth:`Heterogeneity.volumes` has its first."""

    def single_volume(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return the map (D, D, D) at one latent (q,), that of ``volumes`` but for rounding."""
        ...


@dataclass(frozen=True)
class SpectralForm:
    """Volumes as a fixed map and Fourier coefficients that can be had one by one: V(z) = mean + map of spectrum(z).

    What is smooth in volumes, such as their projections onto eigenvolumes, needs few of the coefficients.

    Attributes
    ----------
    mean : (D, D, D) float32
        Real-space map, axes z, y, x.
    radius : int
        Coefficients with |k| up to this count, in cycles per box; D // 2 at most.
    spectrum : callable
        (K, q) float32 latents, (P, 3) float32 integer frequencies x, y, z with x >= 0 -> (K, P) complex64 coefficients:
        sum over voxels of V(x) exp(-2 pi i k.(x - D // 2) / D).
    """

    mean: NDArray[np.float32]
    radius: int
    spectrum: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.complex64]]


@runtime_checkable
class Spectral(Protocol):
    """An engine's result whose volumes have a spectral form."""

    def spectral_form(self) -> SpectralForm:
        """Return the volumes as Fourier coefficients on demand."""
        ...


@dataclass(frozen=True)
class Regions:
    """Where an engine may look, in the working box.

    Attributes
    ----------
    particle : (D, D, D) float32 or None
        Soft mask of the particle, where the user gave one.
    focus : (D, D, D) float32 or None
        Soft mask of the region whose heterogeneity is of interest; the rest stays as in the consensus.
    """

    particle: NDArray[np.float32] | None = None
    focus: NDArray[np.float32] | None = None


LatentsFunction = Callable[[NDArray[np.float32], NDArray[np.float32] | None], None]
"""Takes final latents (N, q) and, where defined, their covariances (N, q, q)."""


@runtime_checkable
class TrainFunction(Protocol[S_contra]):
    """Signature of an engine's ``train``."""

    def __call__(
        self,
        images: ParticleImages,
        consensus: NDArray[np.float32] | None,
        settings: S_contra,
        context: EngineContext,
        consensus_radius: int | None = None,
        regions: Regions | None = None,
        start: Heterogeneity | None = None,
        on_latents: LatentsFunction | None = None,
    ) -> Heterogeneity:
        """Learn the heterogeneity of ``images``.

        Parameters
        ----------
        images : ParticleImages
            Whitened coefficients with poses and CTF.
        consensus : (D, D, D) float32 or None
            Consensus map at the working box; engines that learn a residual start from it.
        settings : EngineSettings
            The engine's own; see :meth:`Engine.options_of`.
        context : EngineContext
            Device, memory, seed, checkpoints and monitor.
        consensus_radius : int, optional
            Shell (cycles per box) up to which the consensus carries signal; beyond it nothing is learned.
        regions : Regions, optional
            Masks, for engines that can use them.
        start : Heterogeneity, optional
            Another engine's result on the same images, for engines that can begin with it.
        on_latents : callable, optional
            Called by engines whose latents are final before their volumes are, as soon as they are.
        """
        ...


@dataclass(frozen=True)
class Engine(Generic[S]):
    """One engine as the registry knows it: name, module that holds ``train`` and ``load``, and settings class."""

    name: str
    module: str
    settings_class: type[S]

    def options_of(self, settings: Settings) -> S:
        """The engine's own options from those of a job that offers them."""
        return options_of(self.settings_class, settings)

    @property
    def train(self) -> TrainFunction[S]:
        """The engine's training function."""
        function: TrainFunction[S] = importlib.import_module(self.module).train
        return function

    @property
    def load(self) -> Callable[[Path], Heterogeneity]:
        """The engine's loader of a saved model."""
        function: Callable[[Path], Heterogeneity] = importlib.import_module(self.module).load
        return function


ENGINES: dict[str, Engine[Any]] = {
    "subspace": Engine("subspace", "cryodrgn_ext.engines.subspace.engine", SubspaceSettings),
    "neural": Engine("neural", "cryodrgn_ext.engines.neural.engine", NeuralSettings),
    # For latents of other programs: it has volumes and no training.
    "kernel": Engine("kernel", "cryodrgn_ext.engines.kernel_regression", EngineSettings),
}
AUTO_ENGINE = "subspace"


def get_engine(name: str) -> Engine[Any]:
    """Return the engine of that name; ``auto`` is the one that suits most data (see :mod:`.choice`).

    Raises
    ------
    InputError
        When there is no such engine.
    """
    key = AUTO_ENGINE if name == "auto" else name
    if key not in ENGINES:
        raise InputError(f"there is no engine '{name}': choose one of auto, {', '.join(ENGINES)}")
    return ENGINES[key]


def load_heterogeneity(directory: Path) -> Heterogeneity:
    """Read a saved model back, whatever engine made it.

    Raises
    ------
    InputError
        When the directory holds no saved model, a damaged one, or one of an unknown engine.
    """
    return get_engine(read_description(directory)["engine"]).load(directory)
