"""Settings of the job that re-reconstructs and tests states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class ValidateSettings(ResultSettings):
    """Settings of ``validate``."""

    ALTERNATIVES = (("state", "indices"),)

    in_parts: Path = setting(
        connects="result",
        help="Result directory of a train, abinit or landscape job, or particles.star of it or of one of its states",
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(**shared.PROJECT)
    state: tuple[int, ...] = setting((), low=0, help="States to validate, by number (from 0); all if not given")
    indices: tuple[str, ...] = setting(
        (),
        help="Your own sets of particles instead of states, one file each: a .star or .cs of some of the particles, or "
        "a selection that explore saved (.npz), or row numbers from 0 as .txt, .npy or .pkl",
    )
    in_mask: Path | None = setting(
        None, help="Solvent mask for all sets; each set gets one of its own, made from its map, if not given"
    )
    symmetry: str = setting(
        "C1", help="Point group that is imposed on all maps, by RELION's name, as C1, C4, D2, T, O, I or I3"
    )
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box of the maps; that of the images, at most 256, if not given"
    )
    mask_diameter_A: float | None = setting(
        None, low=10, unit="Å", help="Diameter of the soft disc that is kept of each image; as in training if not given"
    )
    random_subsets: int = setting(36, low=12, high=10_000, help="Random subsets that each set is compared with")
    null: int = setting(
        0,
        low=0,
        high=1000,
        help="How many times the training is repeated on images of one structure, each with the pose, CTF, scale and "
        "noise of a particle; what it claims there counts against its states. Each takes as long as the training",
    )
    power: int = setting(
        0,
        low=0,
        high=100,
        help="How many times the training is repeated on images of one structure with the states' own differences "
        "planted, at each of 25, 50 and 100 % of their strength and in 25 and 50 % of the particles: how often they "
        "are found says what these data could show. Each takes as long as the training; --null is at least as many",
    )
    independent_halves: bool = setting(
        False,
        help="Repeat the training on each half-set by itself, and say which states and components the two models, "
        "which never met, have in common",
    )
    relion_check: str = setting(
        "no",
        choices=("no", "yes", "refine"),
        help="yes: reconstruct each set and all particles in halves by relion_reconstruct, run relion_postprocess, and "
        "say whether the differences come back; refine: also after relion_refine has refined each half locally, from "
        "the map of all particles; maps go to relion/ in the folder of each state",
    )
    motion_corrected: bool = setting(
        False,
        help="Reconstruct all particles as they would look in each state, in halves that share no model: what differs "
        "between states is subtracted from each image; maps go to all_particles/ in the folder of each state",
    )
    b_factor: float | None = setting(
        None,
        low=-1000,
        high=5000,
        unit="Å²",
        help="B-factor that the sharpened maps are freed of, positive to sharpen (the other sign than RELION's and "
        "CryoSPARC's); that of each set's Guinier plot if not given",
    )
    keep_images: bool = setting(
        False, help="Keep the preprocessed images in checkpoint/, for another run in the same directory"
    )
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    device: str = setting(**shared.DEVICE)
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of the random subsets and phases")
