"""Random particle files, drawn by hypothesis and written by numpy and plain text: nothing of the package is used.

What decides which code runs (versions, columns, groups, copies, names, orders) is drawn, so that a failure shrinks to
the choice that matters; numbers come from a generator whose seed is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
# Further columns as public files have them: RELION 3.0 to 5, M, Warp, csparc2star, Scipion, cisTEM's exports.
FURTHER = {
    "rlnCtfBfactor": "float", "rlnCtfScalefactor": "positive", "rlnPhaseShift": "angle", "rlnClassNumber": "class",
    "rlnGroupNumber": "class", "rlnGroupName": "text", "rlnNormCorrection": "float",
    "rlnLogLikeliContribution": "float", "rlnMaxValueProbDistribution": "positive",
    "rlnNrOfSignificantSamples": "class", "rlnAngleTiltPrior": "angle",
    "rlnAnglePsiPrior": "angle", "rlnAutopickFigureOfMerit": "float", "rlnCtfMaxResolution": "positive",
    "rlnCtfFigureOfMerit": "float", "rlnParticleSelectZScore": "float", "rlnHelicalTubeID": "class",
    "rlnImageOriginalName": "text", "rlnBeamTiltClass": "class", "ucsfUid": "class", "ucsfImagePath": "text",
    "rlnCoordinateZ": "float", "cistemScore": "float", "scipionItemId": "class", "wrpRandomSubset": "class",
}  # fmt: skip


@dataclass
class RandomStar:
    """A STAR file: the text of every value by column, in the order of the file."""

    style: str
    columns: dict[str, list[str]]
    optics: dict[str, list[str]] = field(default_factory=dict)
    reverse: bool = False
    box: int = 16

    @property
    def n(self) -> int:
        return len(self.columns["rlnImageName"])

    def pixel_A(self) -> NDArray[np.float64]:
        if self.style == "3.0":
            detector, magnification = (np.array(self.columns[f"rln{one}"], float) for one in
                                       ("DetectorPixelSize", "Magnification"))  # fmt: skip
            return 1e4 * detector / magnification
        size = dict(zip(self.optics["rlnOpticsGroup"], map(float, self.optics["rlnImagePixelSize"]), strict=True))
        return np.array([size[group] for group in self.columns["rlnOpticsGroup"]])

    def write(self, path: Path, without: tuple[str, ...] = (), rows: NDArray[np.int64] | None = None) -> Path:
        chosen = range(self.n) if rows is None else rows.tolist()

        def loop(name: str, columns: dict[str, list[str]], which: Any) -> str:
            shown = {label: values for label, values in columns.items() if label not in without}
            labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(shown, 1))
            body = "".join(" ".join(values[row] for values in shown.values()) + "\n" for row in which)
            version = {"3.0": "", "3.1": "# version 30001\n\n", "5.0": "# version 50001\n\n"}[self.style]
            return f"\n{version}data_{name}\n\nloop_\n{labels}{body}\n"

        particles = loop("" if self.style == "3.0" else "particles", self.columns, chosen)
        if self.style == "3.0":
            path.write_text(particles)
        else:
            blocks = [loop("optics", self.optics, range(len(self.optics["rlnOpticsGroup"]))), particles]
            path.write_text("".join(blocks[::-1] if self.reverse else blocks))
        return path


def read_columns(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read loops without quoted values: {block: {label: values}}."""
    blocks: dict[str, dict[str, list[str]]] = {}
    name = ""
    labels: list[str] = []
    rows: list[list[str]] = []
    for line in [*path.read_text().splitlines(), "data_"]:
        words = line.split()
        if words[:1] and words[0].startswith("data_") and len(words) == 1:
            if labels:
                blocks[name] = {label: [row[i] for row in rows] for i, label in enumerate(labels)}
            name, labels, rows = words[0][5:], [], []
        elif words[:1] and words[0].startswith("_"):
            labels.append(words[0][1:])
        elif words and not words[0].startswith("#") and words[0] != "loop_":
            rows.append(words)
    return blocks


def _values(kind: str, rng: np.random.Generator, n: int) -> list[str]:
    if kind == "text":
        return [f"some/thing_{i}.mrc" for i in rng.integers(0, 5, n)]
    if kind == "class":
        return [str(i) for i in rng.integers(1, 9, n)]
    low, high = {"float": (-50, 50), "positive": (0.1, 3), "angle": (0, 180)}[kind]
    return [f"{value:.6f}" for value in rng.uniform(low, high, n)]


def _copies(
    kind: str, euler: NDArray[np.float64], origin: NDArray[np.float64], copy: NDArray[np.int64], n: int
) -> None:
    """Give the copies of an image their poses, in place."""
    if kind == "turned":
        euler[:, 0] += 360.0 / n * copy
    elif kind == "shifted":
        origin += np.outer(copy, [25.0, -40.0])


@st.composite
def star_files(draw: st.DrawFn) -> RandomStar:
    """Draw a STAR file of RELION 3.0, 3.1 or 5."""
    style = draw(st.sampled_from(["3.0", "3.1", "5.0"]))
    n_images, n_copies = draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 1, 2, 3]))
    kind = draw(st.sampled_from(["turned", "shifted", "identical"])) if n_copies > 1 else "none"
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = n_images * n_copies
    image, copy = np.divmod(np.arange(n), n_copies)
    stacks = draw(st.sampled_from([1, 2, 3]))
    folder = draw(st.sampled_from(["Extract/job007/", "Extract/job012/Movies/", "./", "/data/x/"]))
    euler = rng.uniform([-180, 0, -180], [180, 180, 180], (n_images, 3))[image]
    if draw(st.booleans()):
        euler[:, 1] = np.round(euler[:, 1] / 90) * 90  # the poles, where rot and psi are one
    origin = rng.uniform(-9, 9, (n_images, 2))[image]
    _copies(kind, euler, origin, copy, n_copies)
    shared = rng.uniform([0, 0, 9000, 9000, -90], [4000, 3000, 20000, 20000, 90], (n_images, 5))[image]
    digits = draw(st.sampled_from(["06d", "d"]))
    columns = {
        "rlnImageName": [f"{i // stacks + 1:{digits}}@{folder}mic{i % stacks}.mrcs" for i in image],
        "rlnMicrographName": [f"MotionCorr/job002/mic{i % stacks}.mrc" for i in image],
        **{label: [f"{value:.6f}" for value in shared[:, i]] for i, label in enumerate(
            ("rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))},
        **{label: [f"{value:.6f}" for value in euler[:, i]] for i, label in enumerate(ANGLES)},
    }  # fmt: skip
    if draw(st.booleans()):
        columns["rlnRandomSubset"] = [str(i % 2 + 1) for i in image]
    for label in draw(st.lists(st.sampled_from(sorted(FURTHER)), max_size=6, unique=True)):
        columns[label] = _values(FURTHER[label], rng, n) if kind != "identical" else _values(FURTHER[label], rng, 1) * n
    unit = "" if style == "3.0" else "Angst"
    columns |= {f"rlnOrigin{axis}{unit}": [f"{value:.6f}" for value in origin[:, i]] for i, axis in enumerate("XY")}
    star = _with_optics(draw, RandomStar(style, columns, reverse=draw(st.booleans())), image, rng)
    order = draw(st.permutations(sorted(star.columns)))
    star.columns = {label: star.columns[label] for label in order}
    return star


def _with_optics(draw: st.DrawFn, star: RandomStar, image: NDArray[np.int64], rng: np.random.Generator) -> RandomStar:
    groups = draw(st.integers(1, 3))
    group = image % groups
    tilted = draw(st.booleans())
    if star.style == "3.0":
        star.columns |= {
            "rlnVoltage": ["300.000000"] * len(image), "rlnSphericalAberration": ["2.700000"] * len(image),
            "rlnAmplitudeContrast": ["0.100000"] * len(image), "rlnDetectorPixelSize": ["5.000000"] * len(image),
            "rlnMagnification": [f"{38000 + 500 * i:.6f}" for i in group],
        }  # fmt: skip
        if tilted:
            star.columns |= {f"rlnBeamTilt{axis}": [f"{0.1 * i + 0.05:.6f}" for i in group] for axis in "XY"}
        return star
    numbers = draw(st.permutations(draw(st.sampled_from([[1, 2, 3], [0, 1, 2], [4, 17, 4021]]))))[:groups]
    star.columns["rlnOpticsGroup"] = [str(numbers[i]) for i in group]
    named = draw(st.booleans())
    star.optics = {
        "rlnOpticsGroupName": [f"grid_{i}" if named else f"opticsGroup{i}" for i in numbers],
        "rlnOpticsGroup": [str(i) for i in numbers],
        "rlnVoltage": [f"{200 + 100 * (i % 2)}.000000" for i in range(groups)],
        "rlnSphericalAberration": ["2.700000"] * groups, "rlnAmplitudeContrast": ["0.100000"] * groups,
        "rlnImagePixelSize": [f"{1.1 + 0.1 * i:.6f}" for i in range(groups)],
        "rlnImageSize": [str(star.box)] * groups, "rlnImageDimensionality": ["2"] * groups,
    }  # fmt: skip
    if tilted:
        star.optics |= {f"rlnBeamTilt{axis}": [f"{v:.6f}" for v in rng.uniform(-1, 1, groups)] for axis in "XY"}
    if draw(st.booleans()):
        star.optics |= {f"rlnMagMat{i}{j}": [f"{(i == j) + v:.6f}" for v in rng.uniform(-0.02, 0.02, groups)]
                        for i in (0, 1) for j in (0, 1)}  # fmt: skip
    if draw(st.booleans()):
        star.optics["rlnOddZernike"] = ["[0.1,0.2,-1.8e+00]"] * groups
    order = draw(st.permutations(sorted(star.optics)))
    star.optics = {label: star.optics[label] for label in order}
    return star


_SLOTS = ("location", "alignments3D", "alignments3D_multi", "alignments_class", "alignments2D", "sym_expand",
          "filament", "unknown")  # fmt: skip


@st.composite
def cs_records(draw: st.DrawFn) -> NDArray[Any]:
    """Draw a dataset of CryoSPARC 2 to 5 as the structured array that its .cs holds."""
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    slots = set(draw(st.lists(st.sampled_from(_SLOTS), max_size=5, unique=True)))
    stacks = draw(st.integers(1, 3))
    f = np.float32
    exposure = np.array(draw(st.sampled_from([[0, 0, 0], [0, 1, 2], [3, 17, 4021]])), np.uint32)[np.arange(n) % 3]
    prefix = draw(st.sampled_from(["", ">"]))
    columns: dict[str, NDArray[Any]] = {
        "uid": rng.integers(1, 2**63, n).astype(np.uint64) * np.uint64(2) + np.uint64(1),
        "blob/path": np.array([f"{prefix}J7/extract/mic{i % stacks}_particles.mrc".encode() for i in range(n)]),
        "blob/idx": (np.arange(n) // stacks).astype(np.uint32), "blob/shape": np.full((n, 2), 64, np.uint32),
        "blob/psize_A": np.full(n, 1.1, f), "blob/sign": np.full(n, draw(st.sampled_from([1, -1])), f),
        "ctf/type": np.full(n, b"imported"), "ctf/exp_group_id": exposure, "ctf/accel_kv": np.full(n, 300, f),
        "ctf/cs_mm": np.full(n, 2.7, f), "ctf/amp_contrast": np.full(n, 0.1, f),
        "ctf/df1_A": rng.uniform(9000, 20000, n).astype(f), "ctf/df2_A": rng.uniform(9000, 20000, n).astype(f),
        "ctf/df_angle_rad": rng.uniform(-1.5, 1.5, n).astype(f), "ctf/phase_shift_rad": rng.uniform(0, 3, n).astype(f),
        "ctf/tilt_A": np.where(exposure[:, None] > 0, 2000, 0).astype(f) * np.array([1, -0.5], f),
        "ctf/trefoil_A": np.full((n, 2), draw(st.sampled_from([0, 300])), f),
        "ctf/anisomag": np.where(exposure[:, None] > 1, 0.01, 0).astype(f) * np.array([1, 0.2, 0.2, -1], f),
    }  # fmt: skip

    def alignment(slot: str, *classes: int) -> dict[str, NDArray[Any]]:
        return {
            f"{slot}/split": (np.arange(n) % 2).astype(np.uint32), f"{slot}/psize_A": np.full(n, 2.2, f),
            f"{slot}/shift": rng.normal(size=(n, *classes, 2)).astype(f),
            f"{slot}/pose": (rng.normal(size=(n, *classes, 3)) * 2).astype(f),
            f"{slot}/error": rng.uniform(0, 900, (n, *classes)).astype(f),
            f"{slot}/class_posterior": rng.uniform(0, 1, (n, *classes)).astype(f),
        }  # fmt: skip

    makers: dict[str, Any] = {
        "location": lambda: {
            "location/micrograph_uid": rng.integers(1, 2**62, n).astype(np.uint64), "location/exp_group_id": exposure,
            "location/micrograph_path": np.array([f"J2/motion/mic{i % stacks}.mrc".encode() for i in range(n)]),
            "location/micrograph_shape": np.tile(np.array(draw(st.sampled_from([[3000, 4000], [0, 0]])), "u4"), (n, 1)),
            "location/center_x_frac": rng.uniform(0, 1, n).astype(f),
            "location/center_y_frac": rng.uniform(0, 1, n).astype(f)},
        "alignments3D": lambda: {**alignment("alignments3D"), "alignments3D/class": rng.integers(0, 4, n).astype("u4"),
                                 "alignments3D/alpha": rng.uniform(0.5, 1.5, n).astype(f)},
        "alignments3D_multi": lambda: alignment("alignments3D_multi", 3),
        "alignments_class": lambda: alignment("alignments_class_0") | alignment("alignments_class_1"),
        "alignments2D": lambda: {
            "alignments2D/class": rng.integers(0, 50, n).astype("u4"), "alignments2D/psize_A": np.full(n, 3.3, f),
            "alignments2D/shift": rng.normal(size=(n, 2)).astype(f), "alignments2D/pose": rng.normal(size=n).astype(f)},
        "sym_expand": lambda: {"sym_expand/src_uid": rng.integers(1, 2**62, n).astype(np.uint64),
                               "sym_expand/idx": (np.arange(n) % 3).astype("u4")},
        "filament": lambda: {"filament/filament_uid": rng.integers(1, 2**62, 3).astype(np.uint64)[np.arange(n) % 3],
                             "filament/position_A": (np.arange(n) * 40.0).astype(f),
                             "filament/filament_pose": rng.uniform(-3, 3, n).astype(f)},
        "unknown": lambda: {"my_slot/score": rng.normal(size=n),
                            "my_slot/flags": rng.integers(0, 255, (n, 2)).astype("u1"),
                            "my_slot/name": np.array([f"a b {i}".encode() for i in range(n)])},
    }  # fmt: skip
    for slot in _SLOTS:
        if slot in slots:
            columns |= makers[slot]()
    order = ["uid", *draw(st.permutations(sorted(set(columns) - {"uid"})))]
    record = np.empty(n, [(name, columns[name].dtype, columns[name].shape[1:]) for name in order])
    for name in order:
        record[name] = columns[name]
    return record
