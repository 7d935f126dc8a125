"""Options of ab initio reconstruction with the neural decoder, and the choices that follow. No torch here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from cryodrgn_ext.engines.neural.settings import Recipe
from cryodrgn_ext.engines.settings import EngineSettings
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import setting

GRID_LEVELS = {"30": 0, "15": 1, "7.5": 2}
VISITS = 60_000  # of images in a stage, at least: a small set needs more passes for as many updates
FEWEST_PASSES, MOST_PASSES = 30, 200  # Zhong 2022, 5.6.3: 30
RANDOM_IMAGES = 10_000
PUBLISHED_RATE, PUBLISHED_IMAGES, FASTEST_RATE = 1e-4, 50_000, 1e-3
SHIFT_EXTENT = 20 / 128  # of the box: Zhong 2022, 5.6.1
BLOCKS_PER_PASS = 20
SMALLEST_BLOCK, LARGEST_BLOCK = 64, 512
MOST_ENCODED = 4096  # coefficients that the image encoder sees
LARGEST_BAND = 32.0  # of the last refinement, cycles per box


@dataclass(frozen=True)
class NeuralAbinitSettings(EngineSettings):
    """Options of cryoDRGN2's ab initio reconstruction; a job's settings inherit them."""

    zdim: int = setting(0, low=0, high=128, help="Dimensions of the latent space; 0 reconstructs one structure")
    epochs: int | None = setting(
        None,
        low=1,
        high=10_000,
        help="Passes over all particles in each stage (neural); chosen by their number if not given",
    )
    search_every: int = setting(5, low=1, high=1000, help="Every so many passes, poses are searched for anew (neural)")
    random_images: int | None = setting(
        None, low=0, high=10_000_000, help="Images learned at random orientations before the first search (neural); "
        "three times the particles, at most 10,000, if not given"
    )  # fmt: skip
    retrain: str = setting(
        "r+ps",
        choices=("none", "r", "r+ps"),
        help="After the first stage (neural): r starts the network anew at the poses found; r+ps then searches again",
    )
    grid_deg: str = setting(
        "15", choices=tuple(GRID_LEVELS), help="Spacing of the rotations that are all tried (neural)"
    )
    refinements: int = setting(4, low=0, high=10, help="How often the best rotations are divided into eight (neural)")
    keep_poses: int = setting(8, low=1, high=1024, help="Rotations of each image that are refined (neural)")
    k_min: float = setting(12.0, low=2, high=512, unit="cycles per box", help="Band of the first grid (neural)")
    k_max: float | None = setting(
        None,
        low=2,
        high=512,
        unit="cycles per box",
        help="Band of the last refinement (neural); at most 32 if not given",
    )
    shift_steps: int = setting(7, low=1, high=63, help="Shifts tried along x and along y at each step (neural)")
    search_volumes: int = setting(
        8, low=0, high=4096, help="Volumes that images are compared with when there are latents, each with that "
        "nearest to its own (neural); 0 evaluates the network for every image"
    )  # fmt: skip
    batch: int = setting(8, low=1, high=65_536, help="Images per step of the optimiser (neural)")
    learning_rate: float | None = setting(
        None, low=1e-8, high=1, help="Step size of Adam (neural); by the number of particles if not given"
    )
    beta: float | None = setting(
        None, low=0, high=1000, help="Weight of the latent prior (neural); 1 / zdim if not given"
    )
    enc_layers: int = setting(3, low=1, high=32, help="Hidden layers of the image encoder (neural)")
    enc_dim: int = setting(256, low=8, high=8192, help="Nodes per layer of the image encoder (neural)")
    dec_layers: int = setting(3, low=1, high=32, help="Hidden layers of the volume decoder (neural)")
    dec_dim: int = setting(256, low=8, high=8192, help="Nodes per layer of the volume decoder (neural)")
    features: str = setting(
        "gaussian",
        choices=("support", "gaussian", "geometric", "geometric_lowpass"),
        help="Fourier features of the coordinates (neural)",
    )
    feat_sigma: float = setting(0.5, low=0.01, high=10, help="Scale of Gaussian Fourier features (neural)")
    latents: str = setting(
        "encoder",
        choices=("encoder", "table"),
        help="Latents from an image encoder, or a table with one per image (neural)",
    )
    tilt_deg: float = setting(
        45.0, low=-90, high=90, unit="degrees", help="Tilt of the second image of each particle against the first"
    )
    tilt_axis_deg: float = setting(
        0.0, low=-360, high=360, unit="degrees", help="Direction of the tilt axis in the image, from x towards y"
    )
    precision: str = setting(
        "auto",
        choices=("auto", "float32", "bfloat16"),
        help="Arithmetic of the networks (neural); auto asks the processor",
    )


@dataclass(frozen=True)
class AbinitPlan:
    """Plan of a run: every choice made, in full.

    Attributes
    ----------
    recipe : Recipe
        Of the network.
    search_every, random_images, retrain, search_volumes
        As in :class:`NeuralAbinitSettings`.
    base_level, refinements, keep, k_min, k_max, shift_extent_px, shift_count
        As in :class:`cryodrgn_ext.pose.search.SearchSettings`.
    radius : int
        Largest |k| that is learned, in cycles per box.
    encoder_radius : int
        Largest |k| that the image encoder sees.
    block : int
        Images that are searched for in the first stage with the network as it is, before it learns from them.
    """

    recipe: Recipe
    search_every: int
    random_images: int
    retrain: str
    search_volumes: int
    base_level: int
    refinements: int
    keep: int
    k_min: float
    k_max: float
    shift_extent_px: float
    shift_count: int
    radius: int
    encoder_radius: int
    block: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def plan_abinit(
    settings: NeuralAbinitSettings,
    seed: int,
    n_images: int,
    box_size: int,
    radius: int,
    max_shift_px: float | None = None,
) -> AbinitPlan:
    """Fill in what the user left open.

    Parameters
    ----------
    settings : NeuralAbinitSettings
    seed : int
        Of everything random.
    n_images : int
        Number of particles.
    box_size : int
        Working box, pixels.
    radius : int
        Largest |k| of the images' coefficients, in cycles per box.
    max_shift_px : float, optional
        Farthest shift that is searched, along x and along y, in working pixels; 20 of 128 pixels when omitted.

    Raises
    ------
    InputError
        When options contradict each other.
    """
    k_min = min(settings.k_min, float(radius))
    k_max = min(LARGEST_BAND if settings.k_max is None else settings.k_max, float(radius))
    if k_max < settings.k_min and settings.k_max is not None:
        raise InputError(f"--k_max {k_max:g} is below --k_min {settings.k_min:g}: the band grows from k_min to k_max")
    extent = SHIFT_EXTENT * box_size if max_shift_px is None else max_shift_px
    if not 0 <= extent <= box_size / 2:
        raise InputError(
            f"shifts of up to {extent:g} px are asked for in a working box of {box_size} px: give at most half of it"
        )
    encoder_radius = radius
    while settings.zdim and encoder_radius > 6 and math.pi / 2 * encoder_radius**2 > MOST_ENCODED:
        encoder_radius -= 1
    random_images = min(RANDOM_IMAGES, 3 * n_images) if settings.random_images is None else settings.random_images
    return AbinitPlan(
        recipe=_recipe(settings, seed, max(n_images, 1)),
        search_every=settings.search_every,
        random_images=random_images,
        retrain=settings.retrain,
        search_volumes=settings.search_volumes,
        base_level=GRID_LEVELS[settings.grid_deg],
        refinements=settings.refinements,
        keep=settings.keep_poses,
        k_min=k_min,
        k_max=max(k_min, k_max),
        shift_extent_px=float(extent),
        shift_count=settings.shift_steps,
        radius=radius,
        encoder_radius=encoder_radius,
        block=max(SMALLEST_BLOCK, min(LARGEST_BLOCK, n_images // BLOCKS_PER_PASS)),
    )


def _recipe(settings: NeuralAbinitSettings, seed: int, n_images: int) -> Recipe:
    """Recipe of the network: its architecture, and how it learns."""
    passes = min(MOST_PASSES, max(FEWEST_PASSES, math.ceil(VISITS / n_images)))
    # The published 1e-4 is for about 50,000 images a pass; fewer images give fewer updates.
    rate = min(FASTEST_RATE, PUBLISHED_RATE * max(1.0, PUBLISHED_IMAGES / n_images))
    rate = rate if settings.learning_rate is None else settings.learning_rate
    return Recipe(
        preset="cryodrgn",
        architecture="vae",
        zdim=settings.zdim,
        epochs=passes if settings.epochs is None else settings.epochs,
        linear_epochs=0,
        batch=settings.batch,
        learning_rate=rate,
        final_learning_rate=rate * 0.1,
        beta=1.0 / max(settings.zdim, 1) if settings.beta is None else settings.beta,
        enc_layers=settings.enc_layers,
        enc_dim=settings.enc_dim,
        dec_layers=settings.dec_layers,
        dec_dim=settings.dec_dim,
        features=settings.features,
        feat_sigma=settings.feat_sigma,
        domain="complex",
        residual=False,
        seed=seed,
        latents=settings.latents if settings.zdim else "encoder",
        of_sums=True,
    )
