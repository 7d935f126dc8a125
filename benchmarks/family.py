#!/usr/bin/env python
"""A family of simulated sets of many kinds, drawn at random, in one command.

    python benchmarks/family.py --o DIR [--count 16] [--seed 0] [--size 1] [--sets N ...] [--real FILE.npz]

Each set lies in DIR/setNN as a RELION project: particles.star, Particles/particles.mrcs, truth.npz, and set.json, which
says what was drawn. Kinds of heterogeneity take their turn, everything else is drawn anew with every seed: masses of
60 kDa to 3 MDa, boxes of 48 to 192 px at 1 to 9 Å/px, SNR 0.005 to 0.1, 1,000 to 50,000 images; poses uniform, partly
in a cone, or real; defoci real or drawn; noise white or coloured; particle scale 0.5 to 1.5; pose errors of 0 to 3
degrees.

``--real`` names arrays of a refinement (quaternion_xyzw, defocus_u_A, defocus_v_A, defocus_angle_deg, voltage_kV,
cs_mm, amplitude_contrast, noise_power by shell of 256 px); without them poses are drawn from a mixture of views.
``--kind antibody``, which is never drawn, follows CryoBench's IgG-1D: a Fab turns fully, 100 conformations, 3 Å maps,
uniform poses, real CTFs where given, shifts of up to 30 Å, SNR 0.01 in images of 256 px, cropped to ``--box``.

``--size`` below 1 takes fewer images and smaller boxes: 0.05 runs in seconds. ``--kind`` makes every set of one kind,
and ``--box``, ``--pixel``, ``--images``, ``--snr``, ``--mass``, ``--plain`` fix what would be drawn.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from simulated_family.bead_images import Optics, ParticleTruth, euler_angles_deg, write_stack, write_star
from simulated_family.specimens import (
    ANTIBODY_STATES,
    DRAWN_KINDS,
    KINDS,
    RADIUS_A,
    FloatArray,
    Specimen,
    make_specimen,
)

POSES = ("uniform", "cone", "real")
ANTIBODY_EXTENT_A = 384.0  # 256 px of 1.5 Å
BOXES = (48, 64, 64, 96, 96, 128, 128, 160, 192)
LEAST_IMAGES_TIMES_SNR = 40  # below, the limit itself tells nothing


@dataclass(frozen=True)
class SetParameters:
    """Random properties of a set; set.json holds these."""

    kind: str
    mass_kDa: float
    box_size: int
    pixel_size_A: float
    images: int
    snr: float
    states: int
    poses: str
    coloured: bool
    scale_spread: float
    pose_error_deg: float
    sigma_A: float
    beads: int
    seed: int
    recorded_box: int = 0  # that images are cropped from in Fourier space, and the SNR is of; 0 where they are not
    shift_A: float = 0.0  # largest displacement along x and y; 0 where the box decides


def draw(number: int, seed: int, size: float) -> SetParameters:
    """Parameters of set ``number`` of a family."""
    rng = np.random.default_rng([seed, number, 11])
    kind = DRAWN_KINDS[number % len(DRAWN_KINDS)]
    mass = float(np.exp(rng.uniform(np.log(60), np.log(3000))))
    radius = RADIUS_A * (1000 * mass) ** (1 / 3)
    extent = 2 * radius * rng.uniform(2.1, 2.8)
    box = int(rng.choice([b for b in BOXES if 1.0 <= extent / b <= 9.0]))
    if size < 1:
        box = min(box, max(48, 2 * round(96 * size**0.5)))
    snr = float(np.exp(rng.uniform(np.log(0.005), np.log(0.1))))
    least = max(1000.0, LEAST_IMAGES_TIMES_SNR / snr)
    images = int(np.exp(rng.uniform(np.log(least), np.log(50_000))))
    pixel = extent / box
    sigma = max(2.0, pixel * rng.uniform(0.7, 1.1))
    return SetParameters(
        kind=kind, mass_kDa=round(mass, 1), box_size=box, pixel_size_A=round(pixel, 3),
        images=max(600, round(images * min(1.0, size))), snr=round(snr, 5), states=int(rng.integers(2, 31)),
        poses=POSES[(number // 2) % 3], coloured=bool(number % 2), scale_spread=0.5 if rng.random() < 0.4 else 0.0,
        pose_error_deg=round(float(rng.uniform(0, 3)), 2) if rng.random() < 0.4 else 0.0,
        sigma_A=round(float(sigma), 2), beads=int(np.clip(0.3 * (radius / sigma) ** 3, 80, 700)),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _rotations(p: SetParameters, real: dict[str, NDArray[np.float32]] | None, rows: NDArray[np.int64],
               rng: np.random.Generator) -> FloatArray:  # fmt: skip
    """(n, 3, 3) rotations of the model into the images."""
    if p.poses == "real" and real is not None:
        return np.asarray(Rotation.from_quat(real["quaternion_xyzw"][rows].astype(float)).as_matrix())
    uniform = Rotation.random(p.images, random_state=int(rng.integers(2**31)))
    if p.poses == "uniform":
        return np.asarray(uniform.as_matrix())
    # A share of the views lies within a cone about one axis, or (like real ones) about several.
    axes = 1 if p.poses == "cone" else 3
    tilt = np.arccos(rng.uniform(np.cos(np.deg2rad(35)), 1, p.images))
    spin, azimuth = rng.uniform(-np.pi, np.pi, (2, p.images))
    near = Rotation.from_euler("ZYZ", np.stack([azimuth, tilt, spin], 1)).inv()
    towards = Rotation.random(axes, random_state=int(rng.integers(2**31)))[rng.integers(axes, size=p.images)]
    chosen = (rng.random(p.images) < 0.7)[:, None, None]
    return np.asarray(np.where(chosen, (near * towards).as_matrix(), uniform.as_matrix()))


def _optics(p: SetParameters, real: dict[str, NDArray[np.float32]] | None, rows: NDArray[np.int64],
            rng: np.random.Generator) -> Optics:  # fmt: skip
    if real is not None:
        u, v, angle = (real[name][rows].astype(float) for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_deg"))
        return Optics(u, v, angle, *(float(real[name]) for name in ("voltage_kV", "cs_mm", "amplitude_contrast")))
    # Micrographs of about a hundred particles, log-normal about 1.5 micrometres.
    micrograph = rng.integers(max(1, p.images // 100), size=p.images)
    mean = np.exp(rng.normal(np.log(15_000), 0.3, micrograph.max() + 1)).clip(5_000, 35_000)
    astigmatism, angle = rng.gamma(2.0, 100.0, len(mean)), rng.uniform(-90, 90, len(mean))
    return Optics(mean[micrograph] + astigmatism[micrograph] / 2, mean[micrograph] - astigmatism[micrograph] / 2,
                  angle[micrograph])  # fmt: skip


def _noise_power(p: SetParameters, real: dict[str, NDArray[np.float32]] | None) -> FloatArray:
    """Power per shell, of mean 1 over the pixels."""
    shell = np.arange(p.box_size // 2 + 1)
    power = np.ones(len(shell))
    if p.coloured and real is not None:
        measured = real["noise_power"].astype(float)
        power = np.interp(shell / (p.box_size * p.pixel_size_A), np.arange(len(measured)) / (256 * 1.6375), measured)
        power[0] = power[1]
    elif p.coloured:
        power = 0.3 + np.exp(-shell / (0.08 * p.box_size))
    return power / np.average(power, weights=np.maximum(shell, 0.5))


def make_set(directory: Path, p: SetParameters, real: dict[str, NDArray[np.float32]] | None) -> None:
    """Write one set."""
    rng = np.random.default_rng([p.seed, 1])
    specimen = make_specimen(p.kind, p.mass_kDa, p.beads, p.sigma_A, p.states, rng)
    rows = np.arange(p.images)
    if real is not None:
        available = len(real["defocus_u_A"])
        rows = rng.choice(available, p.images, replace=p.images > available)
    rotation = _rotations(p, real, rows, rng)
    room = 0.5 * p.box_size * p.pixel_size_A - specimen.radius_A - 3 * p.sigma_A
    spread = p.shift_A or float(np.clip(0.5 * room, 0.3 * p.pixel_size_A, 15.0))
    truth = ParticleTruth(
        state=rng.choice(len(specimen.occupancy), p.images, p=specimen.occupancy),
        rotation=rotation,
        shift_A=rng.uniform(-spread, spread, (p.images, 2)),
        scale=rng.uniform(1 - p.scale_spread, 1 + p.scale_spread, p.images),
        optics=_optics(p, real, rows, rng),
        noise_power=_noise_power(p, real),
        snr=p.snr,
    )
    kick = Rotation.from_rotvec(np.deg2rad(p.pose_error_deg) / np.sqrt(3) * rng.normal(size=(p.images, 3)))
    given = np.asarray((kick * Rotation.from_matrix(rotation)).as_matrix()) if p.pose_error_deg else rotation
    directory.mkdir(parents=True, exist_ok=True)
    half_set = rng.permutation(np.arange(p.images) % 2 + 1)
    write_star(directory / "particles.star", euler_angles_deg(given), truth.shift_A, truth.optics, half_set,
               p.box_size, p.pixel_size_A)  # fmt: skip
    stack = directory / "Particles" / "particles.mrcs"
    deviation = write_stack(stack, specimen, truth, p.box_size, p.pixel_size_A, p.seed, p.recorded_box)
    save(directory / "truth.npz", specimen, truth, deviation)
    (directory / "set.json").write_text(json.dumps(asdict(p), indent=1) + "\n", encoding="utf-8")


def save(path: Path, specimen: Specimen, truth: ParticleTruth, deviation: float) -> None:
    """Write the truth as plain arrays."""
    optics = {f"optics_{name}": value for name, value in asdict(truth.optics).items()}
    particles = {name: getattr(truth, name) for name in ("state", "rotation", "shift_A", "scale", "noise_power", "snr")}
    np.savez_compressed(path, noise_deviation=deviation, **asdict(specimen), **particles, **optics)


def load(directory: Path) -> tuple[SetParameters, Specimen, ParticleTruth, float]:
    """Read a set back: parameters, specimen, truth of the particles, standard deviation of a pixel's noise."""
    parameters = SetParameters(**json.loads((directory / "set.json").read_text(encoding="utf-8")))
    with np.load(directory / "truth.npz", allow_pickle=False) as data:
        d = {name: data[name] for name in data.files}
    optics = Optics(**{  # type: ignore[arg-type]  # arrays, and plain numbers where a field has no dimension
        name: d[f"optics_{name}"] if d[f"optics_{name}"].ndim else float(d[f"optics_{name}"])
        for name in ("defocus_u_A", "defocus_v_A", "angle_deg", "voltage_kV", "cs_mm", "amplitude_contrast")
    })  # fmt: skip
    specimen = Specimen(str(d["kind"]), d["position_A"], d["weight"], d["occupancy"], d["coordinates"],
                        tuple(map(str, d["names"])), float(d["sigma_A"]))  # fmt: skip
    truth = ParticleTruth(
        d["state"], d["rotation"], d["shift_A"], d["scale"], optics, d["noise_power"], float(d["snr"])
    )
    return parameters, specimen, truth, float(d["noise_deviation"])


def _antibody(p: SetParameters, given: argparse.Namespace) -> SetParameters:
    """CryoBench's protocol, but for what the command line fixes: box, images, SNR, poses."""
    return replace(
        p, mass_kDa=150.0, pixel_size_A=ANTIBODY_EXTENT_A / p.box_size, snr=given.snr or 0.01, states=ANTIBODY_STATES,
        poses=given.poses or "uniform", coloured=False, scale_spread=0.0, pose_error_deg=0.0, sigma_A=2.0, beads=1200,
        recorded_box=256, shift_A=30.0,
    )  # fmt: skip


def _fixed(p: SetParameters, given: argparse.Namespace) -> SetParameters:
    """Parameters with what the command line fixes."""
    if given.plain:
        p = replace(p, scale_spread=0.0, pose_error_deg=0.0, coloured=False)
    named = {"kind": given.kind, "mass_kDa": given.mass, "box_size": given.box, "pixel_size_A": given.pixel,
             "images": given.images, "snr": given.snr, "poses": given.poses}  # fmt: skip
    p = replace(p, **{name: value for name, value in named.items() if value is not None})
    if p.kind == "antibody":
        p = _antibody(p, given)
    elif given.mass or given.pixel:
        radius = RADIUS_A * (1000 * p.mass_kDa) ** (1 / 3)
        sigma = max(2.0, 0.9 * p.pixel_size_A)
        p = replace(p, sigma_A=sigma, beads=int(np.clip(0.3 * (radius / sigma) ** 3, 80, 700)))
    return p


def main() -> None:
    """Write the family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--o", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=float, default=1.0)
    parser.add_argument("--sets", type=int, nargs="*")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--poses", choices=POSES)
    parser.add_argument("--plain", action="store_true", help="white noise, scale 1, exact poses")
    for name, kind in (("mass", float), ("box", int), ("pixel", float), ("images", int), ("snr", float)):
        parser.add_argument(f"--{name}", type=kind)
    given = parser.parse_args()
    real = None
    if given.real is not None:
        with np.load(given.real, allow_pickle=False) as data:
            real = {name: data[name] for name in data.files}
    for number in given.sets if given.sets else range(given.count):
        p = _fixed(draw(number, given.seed, given.size), given)
        directory = given.o / f"set{number:02d}"
        if not (directory / "set.json").exists():
            make_set(directory, p, real)
        print(directory, json.dumps(asdict(p)), flush=True)


if __name__ == "__main__":
    main()
