"""STAR files in the styles of RELION 3.0, 3.1 and 5, written by hand: no reader or writer of the package is used."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

VERSION_COMMENT = {"3.0": "", "3.1": "# version 30001\n", "5.0": "# version 50001\n"}


@dataclass
class StarBuilder:
    """A particles file as text; tests change the columns (label -> values as text) before they write it."""

    style: str = "3.1"
    n: int = 8
    box: int = 16
    columns: dict[str, list[str]] = field(default_factory=dict)
    optics: dict[str, list[str]] = field(default_factory=dict)
    reverse: bool = False
    tail: str = ""

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)

        def numbers(low: float, high: float) -> list[str]:
            return [f"{value:.6f}" for value in rng.uniform(low, high, self.n)]

        self.columns = {
            "rlnCoordinateX": numbers(0, 4000),
            "rlnImageName": [f"{i % 4 + 1:06d}@Extract/job012/mic{i // 4}.mrcs" for i in range(self.n)],
            "rlnMicrographName": [f"MotionCorr/job002/mic{i // 4}.mrc" for i in range(self.n)],
            "rlnAngleRot": numbers(-180, 180),
            "rlnAngleTilt": numbers(0, 180),
            "rlnAnglePsi": numbers(-180, 180),
            "rlnDefocusU": numbers(10000, 20000),
            "rlnDefocusV": numbers(10000, 20000),
            "rlnDefocusAngle": numbers(0, 180),
            "rlnRandomSubset": [str(i % 2 + 1) for i in range(self.n)],
            "rlnSomethingUnknown": [f"{i}.5e+00" for i in range(self.n)],
        }
        if self.style == "3.0":
            self.columns |= {
                "rlnOriginX": numbers(-5, 5),
                "rlnOriginY": numbers(-5, 5),
                "rlnVoltage": ["300.000000"] * self.n,
                "rlnSphericalAberration": ["2.700000"] * self.n,
                "rlnAmplitudeContrast": ["0.100000"] * self.n,
                "rlnMagnification": ["10000.000000"] * self.n,
                "rlnDetectorPixelSize": ["1.250000"] * self.n,
            }
        else:
            self.columns |= {
                "rlnOriginXAngst": numbers(-9, 9),
                "rlnOriginYAngst": numbers(-9, 9),
                "rlnOpticsGroup": [str(i % 2 + 1) for i in range(self.n)],
            }
            self.optics = {
                "rlnOpticsGroupName": ["opticsGroup1", "opticsGroup2"],
                "rlnOpticsGroup": ["1", "2"],
                "rlnVoltage": ["300.000000", "200.000000"],
                "rlnSphericalAberration": ["2.700000", "2.000000"],
                "rlnAmplitudeContrast": ["0.100000", "0.070000"],
                "rlnImagePixelSize": ["1.250000", "1.300000"],
                "rlnImageSize": [str(self.box)] * 2,
                "rlnImageDimensionality": ["2", "2"],
            }

    def _loop(self, name: str, columns: dict[str, list[str]]) -> str:
        end = "\n" if self.style == "5.0" else " \n"  # RELION 3 and 4 leave a blank behind every label
        labels = "".join(f"_{label} #{i}{end}" for i, label in enumerate(columns, 1))
        rows = "".join(" ".join(f"{value:>12}" for value in row) + " \n" for row in zip(*columns.values(), strict=True))
        return f"\n{VERSION_COMMENT[self.style]}\ndata_{name}\n\nloop_ \n{labels}{rows} \n"

    def text(self) -> str:
        if self.style == "3.0":
            return "# RELION; version 3.0.6\n" + self._loop("", self.columns) + self.tail
        blocks = [self._loop("optics", self.optics), self._loop("particles", self.columns)]
        return "".join(blocks[::-1] if self.reverse else blocks) + self.tail

    def write(self, path: Path) -> Path:
        path.write_text(self.text(), encoding="utf-8")
        return path


@pytest.fixture
def star_builder() -> type[StarBuilder]:
    return StarBuilder


@pytest.fixture
def write_stack() -> Callable[..., Path]:
    """Write an MRC stack of zeros with a header made here, byte by byte."""

    def write(
        path: Path, n_images: int, box: int = 16, *, height: int | None = None, mode: int = 2, cut: int = 0
    ) -> Path:
        height = box if height is None else height
        pixel_bytes = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}[mode]
        header = bytearray(1024)
        struct.pack_into("<4i", header, 0, box, height, n_images, mode)
        header[208:216] = b"MAP \x44\x44\0\0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(header) + bytes(n_images * box * height * pixel_bytes - cut))
        return path

    return write
