"""Options of the neural engine, and the recipes that fill in the rest. No torch here: entry points read it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS, SubspaceSettings
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import setting

T = TypeVar("T")

FAST_IMAGES = 50_000  # images that the fast recipe visits before its latents have converged (measured, box 64 and 128)


@dataclass(frozen=True)
class NeuralSettings(SubspaceSettings):
    """Options of the neural engine, and of the subspace engine that it begins with; a job's settings inherit them."""

    preset: str = setting(
        "fast", choices=("fast", "cryodrgn"), help="Recipe of the engine; cryodrgn as published (slow)"
    )
    epochs: int | None = setting(
        None, low=1, high=10_000, help="Passes over all particles; chosen by their number if not given"
    )
    batch: int | None = setting(None, low=1, high=65_536, help="Images per step; chosen by the recipe if not given")
    learning_rate: float | None = setting(
        None, low=1e-8, high=1, help="Step size of Adam; chosen by the recipe if not given"
    )
    beta: float | None = setting(
        None, low=0, high=1000, help="Weight of the latent prior; chosen by the recipe if not given"
    )
    architecture: str = setting(
        "auto",
        choices=("auto", "residual", "separable", "vae"),
        help="residual: what the subspace engine's volumes leave unexplained, at its latents; separable: volumes are "
        "mixtures of learned Fourier components, latents by closed-form inference; vae: image encoder and coordinate "
        "decoder as in cryoDRGN",
    )
    enc_layers: int | None = setting(None, low=1, high=32, help="Hidden layers of the image encoder (vae)")
    enc_dim: int | None = setting(None, low=8, high=8192, help="Nodes per layer of the image encoder (vae)")
    dec_layers: int | None = setting(None, low=1, high=32, help="Hidden layers of the volume decoder")
    dec_dim: int | None = setting(None, low=8, high=8192, help="Nodes per layer of the volume decoder")
    features: str = setting(
        "auto",
        choices=("auto", "support", "gaussian", "geometric", "geometric_lowpass"),
        help="Fourier features of the coordinates: positions inside the particle's sphere, Gaussian frequencies, or "
        "the geometric series of the first cryoDRGN (lowpass: for noisy images)",
    )
    feat_sigma: float = setting(0.5, low=0.01, high=10, help="Scale of Gaussian Fourier features")
    domain: str = setting(
        "auto",
        choices=("auto", "complex", "hartley"),
        help="What the vae decoder puts out: complex values on the half plane, or Hartley values on the whole (slow)",
    )
    latents: str = setting(
        "encoder",
        choices=("encoder", "table"),
        help="Latents of the vae: from an image encoder, or a table with one entry per image",
    )
    latent_steps: int = setting(
        0, low=0, high=100, help="Gauss-Newton steps that refine each image's latent after training (vae)"
    )
    latent_resolution_A: float | None = setting(
        None, low=1, high=500, unit="Å", help="Resolution up to which images inform the latents; found if not given"
    )
    precision: str = setting(
        "auto", choices=("auto", "float32", "bfloat16"), help="Arithmetic of the networks; auto asks the processor"
    )


@dataclass(frozen=True)
class Recipe:
    """Recipe of a training run: every choice made, in full. Saved with the model."""

    preset: str
    architecture: str
    zdim: int
    epochs: int
    linear_epochs: int
    batch: int
    learning_rate: float
    final_learning_rate: float
    beta: float
    enc_layers: int
    enc_dim: int
    dec_layers: int
    dec_dim: int
    features: str
    feat_sigma: float
    domain: str
    residual: bool
    seed: int
    latents: str = "encoder"
    latent_steps: int = 0
    of_sums: bool = False  # form of the residual layers (vae)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence beside the log likelihood of whitened noise.

        The published loss is the mean square error over the Hartley pixels plus beta KL / pixels, without the 1/2 of
        a Gaussian's exponent: its beta counts half as much as in the evidence lower bound.
        """
        return self.beta / 2 if self.preset == "cryodrgn" else self.beta

    def to_mapping(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def _given(value: T | None, fallback: T) -> T:
    """Return the user's choice, or else the fallback."""
    return fallback if value is None or value == "auto" else value


def resolve(settings: NeuralSettings, seed: int, n_images: int) -> Recipe:
    """Fill in what the user left open.

    Parameters
    ----------
    settings : NeuralSettings
    seed : int
        Of everything random.
    n_images : int
        Number of particles.

    Returns
    -------
    Recipe
        ``cryodrgn``: the published recipe (Zhong 2022, 4.4.5: Adam at 1e-4, minibatches of 8, image encoder and
        coordinate decoder of 1024 x 3, Gaussian features (3.1.1), beta = 1 / zdim). ``fast``: residual to the
        consensus, closed-form latents.

    Raises
    ------
    InputError
        When options contradict each other.
    """
    preset, zdim = settings.preset, settings.zdim
    published = preset == "cryodrgn"
    fast = "residual" if zdim <= MOST_COMPONENTS else "separable"
    architecture = _given(settings.architecture, "vae" if published else fast)
    if zdim == 0:
        architecture = "vae"  # a decoder without latent; there is nothing to infer
    separable = architecture in ("separable", "residual")
    latents, latent_steps = settings.latents, settings.latent_steps
    domain = _given(settings.domain, "complex")
    if separable and (latents == "table" or latent_steps):
        raise InputError(
            f"--latents table and --latent_steps are for --architecture vae: the {architecture} architecture computes "
            "the exact latent of every image; leave them out, or choose vae"
        )
    if latent_steps and domain == "hartley":
        raise InputError("--latent_steps needs --domain complex: leave one of them out")
    if published:
        epochs = 20
    else:
        epochs = max(2, min(20 if not separable else 10, math.ceil(FAST_IMAGES * (1 if separable else 4) / n_images)))
    epochs = _given(settings.epochs, epochs)
    learning_rate = _given(settings.learning_rate, 1e-4 if published else (3e-3 if separable else 1e-3))
    return Recipe(
        preset=preset,
        architecture=architecture,
        zdim=zdim,
        epochs=epochs,
        linear_epochs=max(1, round(0.2 * epochs)) if architecture == "separable" and epochs > 1 else 0,
        batch=_given(settings.batch, 8 if published else 32),
        learning_rate=learning_rate,
        final_learning_rate=learning_rate if published else learning_rate * 0.05,
        beta=_given(settings.beta, (1.0 / max(zdim, 1)) if published else 1.0),
        enc_layers=_given(settings.enc_layers, 3),
        enc_dim=_given(settings.enc_dim, 1024 if published else 256),
        dec_layers=_given(settings.dec_layers, 3 if not separable else 2),
        dec_dim=_given(settings.dec_dim, 1024 if published else (128 if separable else 256)),
        features=_given(settings.features, "gaussian" if published else "support"),
        feat_sigma=settings.feat_sigma,
        domain=domain,
        residual=not published,
        seed=seed,
        latents=latents if zdim else "encoder",
        latent_steps=latent_steps if zdim else 0,
        of_sums=published,
    )
