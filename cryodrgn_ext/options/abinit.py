"""Settings of the job that finds poses and a map from particles without orientations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.settings import ComputeSettings, changed_options, own_options
from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS, SubspaceSettings
from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class AbinitSettings(ResultSettings, SubspaceSettings, NeuralAbinitSettings, ComputeSettings):
    """Settings of ``abinit``: inputs, how to search, the coordinates of the result, and options of the engine."""

    ALTERNATIVES = (("in_3dref", "flip_hand"),)

    in_parts: Path = setting(
        connects="particles",
        help="Particles with CTF: a STAR file of RELION 3.0 to 5; a .cs, .csg or job directory of CryoSPARC; "
        "orientations in it are ignored",
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(**shared.PROJECT)
    in_3dref: Path | None = setting(
        None, help="Map that the result is turned, shifted and mirrored onto when all is done; it has no part in the "
        "search, and may have another box and pixel size"
    )  # fmt: skip
    engine: str = setting(
        "auto", choices=("auto", "subspace", "neural"),
        help="Model that images are aligned to: auto and subspace are explicit maps, with components for --zdim; "
        "neural is the network of cryoDRGN2 (slow)",
    )  # fmt: skip
    zdim: int = setting(
        0, low=0, high=MOST_COMPONENTS,
        help="Dimensions of the heterogeneity to learn with the poses; 0 finds one structure",
    )  # fmt: skip
    first_poses: str = setting(
        "map", choices=("map", "random"),
        help="What the network starts from (neural): poses of an explicit map, or random ones as published",
    )  # fmt: skip
    tilted_parts: Path | None = setting(
        None, help="Second images of tilt pairs (neural): a particles file with the image of the tilted stage for "
        "every particle: matched by a column of names that both files have (rlnParticleName), else by order, which "
        "micrographs and positions must bear out"
    )  # fmt: skip
    search: str = setting(
        "exhaustive", choices=("exhaustive", "branch_and_bound"),
        help="How all orientations are searched against an explicit map: the whole grid, of which the best rotations "
        "are refined (cryoDRGN2), or by subdivision with bounds (branch and bound, the older algorithm)",
    )  # fmt: skip
    starts: int = setting(3, low=1, high=100, help="Random initialisations (one more while the likeliest is alone)")
    start_particles: int | None = setting(
        None, low=100, high=10_000_000, help="Particles that random initialisations are made from; chosen if not given"
    )
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box that images are Fourier-cropped to; at most 64 if not given"
    )
    mask_diameter_A: float | None = setting(**shared.MASK_DIAMETER_A)
    max_shift_A: float | None = setting(
        None, low=0, unit="Å", help="Farthest that particles lie off the centre of their images, or off the origins "
        "that are used, along x and along y; a tenth of the box if not given"
    )  # fmt: skip
    use_origins: str = setting(
        "auto", choices=("auto", "yes", "no"),
        help="Look for shifts around the origins that the file has, as from a 2D classification; auto does where the "
        "average of all images is clearer with them than without",
    )  # fmt: skip
    flip_hand: bool = setting(
        False, help="Return the other hand; images without tilts cannot tell, and --in_3dref decides it otherwise"
    )
    symmetry: str = setting(
        "C1", help="Point group that is imposed once it is found, by RELION's name, as C4, D2, T, O, I or I3; --zdim "
        "and --engine neural know C1 only"
    )  # fmt: skip
    volumes: int = setting(10, low=0, high=1000, help="Number of volumes to decode with --zdim")
    star_columns: str = setting(
        "auto", choices=("auto", "yes", "no"),
        help="Put latents into columns of the returned STAR file; auto leaves RELION 3.0 files without",
    )  # fmt: skip
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    contrast: str = setting(**shared.CONTRAST)


def network_options(settings: AbinitSettings) -> tuple[str, ...]:
    """Names of the options that only the network has and that differ from their defaults."""
    return changed_options(settings, (*own_options(NeuralAbinitSettings), "first_poses"))
