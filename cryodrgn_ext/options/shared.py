"""Settings that several jobs have, each declared once: ``contrast: str = setting(**shared.CONTRAST)``."""

from __future__ import annotations

from typing import Any

Declared = dict[str, Any]

PROJECT: Declared = {
    "default": None,
    "help": "Project directory, to which the paths of images are relative; if not given, that of the result, or found "
    "upward from the file of particles and in the working directory",
}
CONTRAST: Declared = {
    "default": "auto", "choices": ("auto", "white", "black"),
    "help": "Whether particles are bright or dark; auto looks at the data",
}  # fmt: skip
MASK_DIAMETER_A: Declared = {
    "default": None, "low": 10, "unit": "Å",
    "help": "Diameter of the soft disc that is kept of each image; the whole box if not given",
}  # fmt: skip
REFINEMENT_MAP: Declared = {
    "default": None,
    "help": "Map of the refinement; compared with our consensus, to find wrong poses or a wrong pixel size",
}
PARTICLES_FORMAT: Declared = {
    "default": "auto", "choices": ("auto", "star", "cs"),
    "help": "Format of returned particles; auto is that of the input",
}  # fmt: skip
STATE_COLUMNS: Declared = {
    "default": "auto", "choices": ("auto", "yes", "no"),
    "help": "Put latents and states into columns of returned STAR files; auto leaves RELION 3.0 files as they are",
}  # fmt: skip
STATE_SYMMETRY: Declared = {
    "default": "C1",
    "help": "Point group that is imposed on consensus and states, by RELION's name, as C1, C4, D2, T, O, I or I3",
}
DEVICE: Declared = {
    "default": "auto", "choices": ("auto", "cpu", "cuda"), "help": "Where to compute; auto takes a GPU if there is",
}  # fmt: skip
USED_PARTICLES: Declared = {
    "default": None,
    "help": "Use these particles only: rows from 0 as .txt, .npy or .pkl, a selection that explore saved (.npz), or a "
    ".star or .cs of some of them",
}
OVERWRITE: Declared = {
    "default": False, "help": "Replace an output file that is there already, without keeping it as NAME.1~",
}  # fmt: skip
ANY_SEED: Declared = {"default": 0, "low": 0, "high": 2**31 - 1, "help": "Seed of everything random"}
