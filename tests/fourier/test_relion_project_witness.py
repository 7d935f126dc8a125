"""Our image formation against RELION's own binaries, noiseless, image by image.

``relion_project`` applies shifts and the CTF with even Zernike terms (and the magnification matrix inside the CTF
only, and no beam tilt or odd terms). ``relion_particle_subtract`` applies everything that a refinement does, so the
images that it subtracts are the witness for beam tilt, odd Zernike terms, the magnification matrix of the slice, and
optics groups of another pixel size and box.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.aberrations import (
    antisymmetric_phase,
    even_zernike_phase,
    frequencies_per_A,
    phase_factor,
)
from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from tests.fourier.specimens import blobs
from tests.patience import HANGS_S

pytestmark = pytest.mark.relion

BOX, PIXEL_A, COUNT = 64, 2.0, 12


@dataclass(frozen=True)
class Optics:
    voltage_kV: float
    cs_mm: float
    amplitude_contrast: float
    pixel_size_A: float = PIXEL_A
    box_size: int = BOX
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    mag_matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))


PLAIN = (Optics(300.0, 2.7, 0.1), Optics(200.0, 1.4, 0.2))
ODD = ((1.0, -2.0, 30.0, -20.0, 10.0, 40.0), (0.5, 0.2, -10.0, 30.0, 5.0, 0.0))
EVEN = ((0.1, 3.0, 5.0, -4.0, 50.0, -60.0, 100.0, 30.0, -70.0), (0.0, 1.0, 2.0, 3.0, 20.0, -30.0, -50.0, 80.0, 60.0))
MAG = (((1.02, 0.01), (0.005, 0.985)), ((0.97, -0.01), (-0.015, 1.01)))
TILT = ((3.0, -1.4), (-1.0, 2.4))


@dataclass(frozen=True)
class Particles:
    euler_deg: NDArray[np.float64]
    origin_A: NDArray[np.float64]  # as RELION writes it: minus the displacement
    defocus_A: NDArray[np.float64]
    defocus_angle_deg: NDArray[np.float64]
    phase_shift_deg: NDArray[np.float64]
    b_factor_A2: NDArray[np.float64]
    scale: NDArray[np.float64]
    group: NDArray[np.int64]


def _particles(seed: int = 1) -> Particles:
    rng = np.random.default_rng(seed)
    return Particles(
        euler_deg=rng.uniform([-180, 0, -180], [180, 180, 180], (COUNT, 3)).round(4),
        origin_A=rng.uniform(-9, 9, (COUNT, 2)).round(4),
        defocus_A=(rng.uniform(8000, 25000, (COUNT, 1)) + rng.uniform(-3000, 3000, (COUNT, 2))).round(2),
        defocus_angle_deg=rng.uniform(0, 180, COUNT).round(3),
        phase_shift_deg=rng.uniform(0, 120, COUNT).round(3),
        b_factor_A2=rng.uniform(0, 100, COUNT).round(3),
        scale=rng.uniform(0.5, 1.5, COUNT).round(4),
        group=np.arange(COUNT) % 2,
    )


def _vector(values: tuple[float, ...]) -> str:
    return "[" + ",".join(str(v) for v in values) + "]"


def _table(name: str, columns: dict[str, list[object]]) -> str:
    lines = ["", "# version 30001", "", f"data_{name}", "", "loop_"]
    lines += [f"_rln{label} #{i + 1}" for i, label in enumerate(columns)]
    lines += [" ".join(str(value) for value in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines) + "\n\n"


def _star(particles: Particles, optics: tuple[Optics, Optics], images: list[str]) -> str:
    table: dict[str, list[object]] = {
        "OpticsGroupName": ["first", "second"],
        "OpticsGroup": [1, 2],
        "Voltage": [o.voltage_kV for o in optics],
        "SphericalAberration": [o.cs_mm for o in optics],
        "AmplitudeContrast": [o.amplitude_contrast for o in optics],
        "ImagePixelSize": [o.pixel_size_A for o in optics],
        "ImageSize": [o.box_size for o in optics],
        "ImageDimensionality": [2, 2],
    }
    if any(any(o.beam_tilt_mrad) for o in optics):
        for axis, label in enumerate("XY"):
            table[f"BeamTilt{label}"] = [o.beam_tilt_mrad[axis] for o in optics]
    if any(o.odd_zernike for o in optics):
        table["OddZernike"] = [_vector(o.odd_zernike) for o in optics]
    if any(o.even_zernike for o in optics):
        table["EvenZernike"] = [_vector(o.even_zernike) for o in optics]
    if any(o.mag_matrix != ((1.0, 0.0), (0.0, 1.0)) for o in optics):
        for i in range(2):
            for j in range(2):
                table[f"MagMat{i}{j}"] = [o.mag_matrix[i][j] for o in optics]
    rows: dict[str, list[object]] = {
        "ImageName": list(images),
        "AngleRot": list(particles.euler_deg[:, 0]),
        "AngleTilt": list(particles.euler_deg[:, 1]),
        "AnglePsi": list(particles.euler_deg[:, 2]),
        "OriginXAngst": list(particles.origin_A[:, 0]),
        "OriginYAngst": list(particles.origin_A[:, 1]),
        "DefocusU": list(particles.defocus_A[:, 0]),
        "DefocusV": list(particles.defocus_A[:, 1]),
        "DefocusAngle": list(particles.defocus_angle_deg),
        "PhaseShift": list(particles.phase_shift_deg),
        "CtfBfactor": list(particles.b_factor_A2),
        "CtfScalefactor": list(particles.scale),
        "OpticsGroup": list(particles.group + 1),
        "RandomSubset": list(particles.group + 1),
        "MicrographName": ["m.mrc"] * COUNT,
        "GroupNumber": [1] * COUNT,
        "ClassNumber": [1] * COUNT,
    }
    return _table("optics", table) + _table("particles", rows)


def _write_mrc(path: Path, data: NDArray[np.float32], pixel_size_A: float, stack: bool = False) -> None:
    with mrcfile.new(path, overwrite=True) as handle:
        handle.set_data(data.astype(np.float32))
        handle.voxel_size = pixel_size_A
        if stack:
            handle.set_image_stack()


def _run(directory: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def _ours(
    density: torch.Tensor, particles: Particles, optics: tuple[Optics, Optics], group: int, sliced_with_matrix: bool
) -> tuple[HalfPlane, torch.Tensor]:
    """Coefficients (n, M) of the images of one optics group by the functions under test, in the group's own box."""
    lens = optics[group]
    chosen = np.flatnonzero(particles.group == group)
    plane = HalfPlane(lens.box_size, lens.box_size // 2 - 2)
    matrix = torch.tensor(lens.mag_matrix, dtype=torch.float64)
    frequency = frequencies_per_A(plane.kxy, lens.pixel_size_A, lens.box_size, matrix)
    rotation = Rotation.from_euler("ZYZ", particles.euler_deg[chosen], degrees=True).as_matrix().transpose(0, 2, 1)
    to_model = BOX * PIXEL_A / (lens.box_size * lens.pixel_size_A)
    points = slice_points(
        plane.kxy,
        torch.from_numpy(rotation.copy()),
        to_model * (matrix if sliced_with_matrix else torch.eye(2, dtype=torch.float64)),
    ).float()

    def constant(value: float) -> torch.Tensor:
        return torch.full((len(chosen),), value, dtype=torch.float64)

    parameters = CtfParameters(
        defocus_u_A=torch.from_numpy(particles.defocus_A[chosen, 0]),
        defocus_v_A=torch.from_numpy(particles.defocus_A[chosen, 1]),
        defocus_angle_rad=torch.from_numpy(np.deg2rad(particles.defocus_angle_deg[chosen])),
        voltage_kV=constant(lens.voltage_kV),
        cs_mm=constant(lens.cs_mm),
        amplitude_contrast=constant(lens.amplitude_contrast),
        phase_shift_rad=torch.from_numpy(np.deg2rad(particles.phase_shift_deg[chosen])),
        b_factor_A2=torch.from_numpy(particles.b_factor_A2[chosen]),
        scale=torch.from_numpy(particles.scale[chosen]),
    )
    ctf_values = ctf(
        parameters,
        plane.kxy,
        lens.pixel_size_A,
        lens.box_size,
        gamma_offset=even_zernike_phase(lens.even_zernike, frequency),
        mag_matrix=matrix,
    )
    tilt = antisymmetric_phase(frequency, lens.odd_zernike, lens.beam_tilt_mrad, lens.cs_mm, lens.voltage_kV)
    shift_px = torch.from_numpy(-particles.origin_A[chosen] / lens.pixel_size_A)
    slices = FourierVolume.from_map(density).slice(points)
    return plane, slices * ctf_values * shift_phases(plane.kxy, shift_px, lens.box_size) * phase_factor(tilt)


def _correlations(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
    """Per image, over all coefficients but the mean."""
    a, b = a[:, 1:].to(torch.complex128), b[:, 1:].to(torch.complex128)
    cross = (a * b.conj()).real.sum(1)
    return (cross / (a.abs().pow(2).sum(1) * b.abs().pow(2).sum(1)).sqrt()).numpy()


def _scale(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours * theirs.conj()).real.sum() / theirs.abs().pow(2).sum())


@pytest.fixture(scope="module")
def density() -> torch.Tensor:
    return blobs(11, count=30, spread_px=7.0).density(BOX).float()


@pytest.mark.parametrize("even", [False, True], ids=["plain", "even Zernike and magnification in the CTF"])
def test_relion_project(tmp_path: Path, density: torch.Tensor, even: bool) -> None:
    particles = _particles()
    optics = PLAIN
    if even:
        optics = tuple(  # type: ignore[assignment]
            replace(o, even_zernike=e, mag_matrix=m) for o, e, m in zip(PLAIN, EVEN, MAG, strict=True)
        )
    _write_mrc(tmp_path / "ref.mrc", density.numpy(), PIXEL_A)
    names = [f"{i + 1:06d}@none.mrcs" for i in range(COUNT)]
    (tmp_path / "in.star").write_text(_star(particles, optics, names))
    command = "relion_project --i ref.mrc --ang in.star --o out --ctf --angpix"
    _run(tmp_path, *command.split(), str(PIXEL_A))
    stack = torch.from_numpy(mrcfile.read(tmp_path / "out.mrcs").copy())
    for group in (0, 1):
        plane, ours = _ours(density, particles, optics, group, sliced_with_matrix=False)
        theirs = plane.from_images(stack[particles.group == group])
        found = _correlations(ours, theirs)
        assert found.min() > 0.9999, found
        assert _scale(ours, theirs) == pytest.approx(1.0, abs=1e-3)
        # the witness is sensitive: the wrong handedness, sign of shift or sign of the CTF does not pass
        for wrong in (
            replace(particles, origin_A=-particles.origin_A),
            replace(particles, euler_deg=-particles.euler_deg[:, ::-1]),
            replace(particles, defocus_angle_deg=particles.defocus_angle_deg + 90),
            replace(particles, scale=-particles.scale),
            replace(particles, phase_shift_deg=-particles.phase_shift_deg),
        ):
            _, other = _ours(density, wrong, optics, group, sliced_with_matrix=False)
            assert _correlations(other, theirs).max() < 0.9999


@dataclass(frozen=True)
class Refinement:
    """A finished (one-iteration) RELION refinement whose reference is the specimen itself."""

    directory: Path
    particles: Particles
    stacks: tuple[NDArray[np.float32], NDArray[np.float32]]

    def subtracted(self, optics: tuple[Optics, Optics], name: str) -> list[torch.Tensor]:
        """Per optics group, the images (n, D, D) that relion_particle_subtract removes from the particles."""
        (self.directory / f"{name}.star").write_text(_star(self.particles, optics, _image_names(self.particles)))
        _run(
            self.directory, "relion_particle_subtract", "--i", "run/run_it001_optimiser.star", "--o", name,
            "--mask", "empty.mrc", "--data", f"{name}.star",
        )  # fmt: skip
        out = []
        for group in (0, 1):
            left = mrcfile.read(self.directory / name / "Particles" / f"subtracted_opticsgroup{group + 1}.mrcs")
            out.append(torch.from_numpy(self.stacks[group] - left))
        return out


def _image_names(particles: Particles) -> list[str]:
    position = np.zeros(COUNT, dtype=int)
    for group in (0, 1):
        chosen = particles.group == group
        position[chosen] = np.arange(1, chosen.sum() + 1)
    return [f"{p:06d}@group{g + 1}.mrcs" for p, g in zip(position, particles.group, strict=True)]


SIZES = (PLAIN[0], replace(PLAIN[1], pixel_size_A=2.5, box_size=56))


@pytest.fixture(scope="module")
def refinement(tmp_path_factory: pytest.TempPathFactory, density: torch.Tensor) -> Refinement:
    directory = tmp_path_factory.mktemp("refinement")
    particles = _particles(seed=2)
    rng = np.random.default_rng(3)
    stacks = []
    for group, lens in enumerate(SIZES):
        shape = (int((particles.group == group).sum()), lens.box_size, lens.box_size)
        stacks.append(rng.normal(size=shape).astype(np.float32))
        _write_mrc(directory / f"group{group + 1}.mrcs", stacks[-1], lens.pixel_size_A, stack=True)
    _write_mrc(directory / "ref.mrc", density.numpy(), PIXEL_A)
    _write_mrc(directory / "empty.mrc", np.zeros((BOX,) * 3, np.float32), PIXEL_A)
    (directory / "in.star").write_text(_star(particles, SIZES, _image_names(particles)))
    (directory / "run").mkdir()
    _run(
        directory, "relion_refine", "--o", "run/run", "--i", "in.star", "--ref", "ref.mrc", "--ctf", "--iter", "1",
        "--K", "1", "--particle_diameter", "124", "--skip_align", "--oversampling", "0", "--healpix_order", "0",
        "--offset_range", "0", "--offset_step", "2", "--pad", "2", "--dont_combine_weights_via_disc",
        "--dont_check_norm", "--j", "1",
    )  # fmt: skip
    model = directory / "run" / "run_it001_model.star"
    text = model.read_text()
    start = text.index("_rlnCurrentImageSize")
    end = text.index("\n", start)
    model.write_text(text[:start] + f"_rlnCurrentImageSize {BOX}" + text[end:])  # noise has no resolution
    _write_mrc(directory / "run" / "run_it001_class001.mrc", density.numpy(), PIXEL_A)
    return Refinement(directory, particles, (stacks[0], stacks[1]))


CASES: dict[str, dict[str, tuple[object, object]]] = {
    "plain": {},
    "tilt": {"beam_tilt_mrad": TILT},
    "odd": {"odd_zernike": ODD},
    "tilt_and_odd": {"beam_tilt_mrad": TILT, "odd_zernike": ODD},
    "even": {"even_zernike": EVEN},
    "magnification": {"mag_matrix": MAG},
    "everything": {"beam_tilt_mrad": TILT, "odd_zernike": ODD, "even_zernike": EVEN, "mag_matrix": MAG},
}


@pytest.mark.parametrize("case", CASES)
def test_relion_particle_subtract(refinement: Refinement, density: torch.Tensor, case: str) -> None:
    first, second = (replace(lens, **{k: v[g] for k, v in CASES[case].items()}) for g, lens in enumerate(SIZES))  # type: ignore[arg-type]
    optics = (first, second)
    removed = refinement.subtracted(optics, case)
    for group in (0, 1):
        plane, ours = _ours(density, refinement.particles, optics, group, sliced_with_matrix=True)
        theirs = plane.from_images(removed[group])
        found = _correlations(ours, theirs)
        assert found.min() > 0.9999, found
        if case != "plain":  # the terms matter: without them the agreement is lost
            _, plain = _ours(density, refinement.particles, SIZES, group, sliced_with_matrix=True)
            assert _correlations(plain, theirs).max() < found.min()
        # RELION's transforms are divided by the number of pixels, those here are not; nothing else differs
        assert _scale(ours, theirs) == pytest.approx((BOX / optics[group].box_size) ** 2, rel=1e-3)
