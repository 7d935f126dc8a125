"""A very small RELION project that is right in every respect, for cases that spoil one thing in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np

BOX = 32
PIXEL_SIZE_A = 4.0
N_PARTICLES = 24
STACK = "Particles/images.mrcs"


def tiny_images() -> np.ndarray:
    """(N, 32, 32) float32: noise with a bright spot in the middle."""
    axis = np.arange(BOX) - BOX // 2
    spot = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 18.0)
    noise = np.random.default_rng(0).normal(size=(N_PARTICLES, BOX, BOX))
    return (noise + 2.0 * spot).astype(np.float32)


def write_stack(path: Path, images: np.ndarray) -> None:
    """Write (N, y, x) images as an MRC stack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as file:
        warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile warns of NaN, which some cases want
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = PIXEL_SIZE_A


def write_volume(path: Path, volume: np.ndarray) -> None:
    """Write a (z, y, x) map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as file:
        warnings.simplefilter("ignore", RuntimeWarning)
        file.set_data(volume.astype(np.float32))
        file.voxel_size = PIXEL_SIZE_A


def ball(box: int = BOX) -> np.ndarray:
    """(D, D, D) float32 ball of half the box."""
    axis = np.arange(box) - box // 2
    squared = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    return (squared < (box / 4) ** 2).astype(np.float32)


def _optics() -> list[dict[str, str]]:
    return [
        {
            "rlnOpticsGroupName": "opticsGroup1",
            "rlnOpticsGroup": "1",
            "rlnVoltage": "300.000000",
            "rlnSphericalAberration": "2.700000",
            "rlnAmplitudeContrast": "0.100000",
            "rlnImagePixelSize": f"{PIXEL_SIZE_A:.6f}",
            "rlnImageSize": str(BOX),
            "rlnImageDimensionality": "2",
        }
    ]


def _particles() -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    return [
        {
            "rlnImageName": f"{row + 1:06d}@{STACK}",
            "rlnMicrographName": f"mic{row // 8}.mrc",
            "rlnOpticsGroup": "1",
            "rlnDefocusU": f"{rng.uniform(9000, 20000):.2f}",
            "rlnDefocusV": f"{rng.uniform(9000, 20000):.2f}",
            "rlnDefocusAngle": f"{rng.uniform(0, 180):.3f}",
            "rlnAngleRot": f"{rng.uniform(-180, 180):.4f}",
            "rlnAngleTilt": f"{rng.uniform(0, 180):.4f}",
            "rlnAnglePsi": f"{rng.uniform(-180, 180):.4f}",
            "rlnOriginXAngst": f"{rng.normal(0, 4):.4f}",
            "rlnOriginYAngst": f"{rng.normal(0, 4):.4f}",
            "rlnRandomSubset": str(row % 2 + 1),
        }
        for row in range(N_PARTICLES)
    ]


def table_text(name: str, rows: list[dict[str, str]]) -> str:
    """One STAR table as a loop; the columns are those of the first row."""
    columns = list(rows[0]) if rows else []
    header = ["", "# version 30001", "", f"data_{name}", "", "loop_"]
    header += [f"_{column} #{number}" for number, column in enumerate(columns, 1)]
    return "\n".join([*header, *(" ".join(row.values()) for row in rows), "", ""])


@dataclass
class TinyProject:
    """The project in memory (rows of text, to be spoiled) and its folder."""

    root: Path
    optics: list[dict[str, str]] = field(default_factory=_optics)
    particles: list[dict[str, str]] = field(default_factory=_particles)
    written: bool = False

    @property
    def stack(self) -> Path:
        """The image stack on disk."""
        return self.root / STACK

    @property
    def star(self) -> Path:
        """The particles STAR file."""
        return self.root / "particles.star"

    def text(self) -> str:
        """The STAR file as text."""
        return table_text("optics", self.optics) + table_text("particles", self.particles)

    def write(self) -> None:
        """Write STAR file and images, both right unless the rows were spoiled."""
        self.written = True
        self.star.write_text(self.text())
        if not self.stack.exists():
            write_stack(self.stack, tiny_images())

    def set_everywhere(self, table: str, column: str, value: str) -> None:
        """Give a column one value in all rows of ``optics`` or ``particles``."""
        for row in getattr(self, table):
            row[column] = value

    def drop(self, table: str, *columns: str) -> None:
        """Remove columns."""
        for row in getattr(self, table):
            for column in columns:
                del row[column]


Spoil = Callable[[TinyProject], "list[str] | None"]


@dataclass(frozen=True)
class Case:
    """One malformed input: how to make it, which entry point gets it, what the sentence must name."""

    name: str
    entry_point: str
    spoil: Spoil
    says: tuple[str, ...]


class Table:
    """Collects cases: ``@table.case("train", "particles.star", "rlnAngleRot")`` above the function that spoils.

    The function gets a :class:`TinyProject` that is not yet on disk. It spoils rows, or calls ``write()`` and
    spoils files; it returns the arguments of the entry point, or None for the ordinary ones.
    """

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def case(self, entry_point: str, *says: str) -> Callable[[Spoil], Spoil]:
        """Register the decorated function as a case; ``says`` are regular expressions (case does not matter)."""

        def register(spoil: Spoil) -> Spoil:
            self.cases.append(Case(spoil.__name__, entry_point, spoil, says))
            return spoil

        return register
