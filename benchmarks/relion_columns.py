"""Which columns does RELION read, and where? Its maps are the judge of ours: ``python benchmarks/relion_columns.py``.

One column at a time is put into the optics table or the particles table of a simulated set, without an optics table
too, as RELION 3.0 wrote them. ``relion_reconstruct`` makes a map: the column counts where the map changes. Ours counts
where what ``read_particles`` understands changes. Needs RELION's programs on the PATH; takes about a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import starfile
from numpy.typing import NDArray

from cryodrgn_ext.jobs.simulate import simulate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.simulate import SimulateSettings
from cryodrgn_ext.progress import SilentMonitor

VALUES: dict[str, object] = {
    "rlnVoltage": 200.0, "rlnSphericalAberration": 1.0, "rlnAmplitudeContrast": 0.4, "rlnImagePixelSize": 3.5,
    "rlnMicrographPixelSize": 2.0, "rlnPixelSize": 2.0, "rlnBeamTiltX": 2.0, "rlnBeamTiltY": 1.0,
    "rlnOddZernike": "[0.5,0.3,0,0,0,0]", "rlnEvenZernike": "[0,0.8,0,0,0,0,0,0,0]", "rlnMagMat00": 1.05,
    "rlnCtfDataAreCtfPremultiplied": 1, "rlnPhaseShift": 60.0, "rlnCtfBfactor": 300.0, "rlnCtfScalefactor": 0.5,
    "rlnDefocusAngle": 33.0, "rlnAngleRot": 20.0, "rlnOriginXAngst": 7.0, "rlnOriginX": 3.0,
    "rlnMagnification": 20000.0, "rlnDetectorPixelSize": 3.0, "rlnIsFlip": 1, "rlnNormCorrection": 2.0,
}  # fmt: skip
PARTNERS: dict[str, dict[str, float]] = {
    "rlnMagMat00": {"rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0},
    "rlnBeamTiltX": {"rlnBeamTiltY": 0.0}, "rlnBeamTiltY": {"rlnBeamTiltX": 0.0},
    "rlnOriginX": {"rlnOriginY": 0.0}, "rlnOriginXAngst": {"rlnOriginYAngst": 0.0},
}  # fmt: skip
#: Read by us and not by RELION, which is said: the columns of RELION 3.0 beside a younger optics table.
SAID = {("rlnBeamTiltX", "particles"), ("rlnBeamTiltY", "particles"), ("rlnCtfDataAreCtfPremultiplied", "particles"),
        ("rlnCtfDataAreCtfPremultiplied", "RELION 3.0")}  # fmt: skip
Tables = dict[str, dict[str, object]]


def written(folder: Path, tables: Tables, place: str, label: str | None) -> Path:
    """Write the set with one column more, or replaced."""
    changed = {name: table.copy() for name, table in tables.items()}
    if label is not None:
        target = changed["optics" if place == "optics" else "particles"]
        for name, value in {**PARTNERS.get(label, {}), label: VALUES[label]}.items():
            target[name] = value
    path = folder / "x.star"
    if place == "RELION 3.0":
        starfile.write({"": changed["particles"]}, path, overwrite=True)
    else:
        starfile.write(changed, path, overwrite=True)
    return path


def relion_map(path: Path) -> NDArray[np.float32]:
    """Return the map that RELION makes of a file."""
    command = ["relion_reconstruct", "--i", path.name, "--o", "x.mrc", "--ctf"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-500:])
    with mrcfile.open(path.parent / "x.mrc") as file:
        return np.array(file.data)


def understood(path: Path) -> NDArray[np.float64]:
    """Return all that we understand of poses, CTF and optics, as one vector."""
    particles = read_particles(path)
    ctf, groups = particles.ctf, [particles.optics[index] for index in particles.optics_index]
    optics = [
        [one.pixel_size_A, one.voltage_kV, one.cs_mm, one.amplitude_contrast, *one.beam_tilt_mrad,
         one.ctf_premultiplied, *np.ravel(one.mag_matrix), *np.resize([*one.odd_zernike, *[0.0] * 9], 9),
         *np.resize([*one.even_zernike, *[0.0] * 9], 9)] for one in groups
    ]  # fmt: skip
    parts = (particles.euler_deg, particles.shift_A, ctf.defocus_u_A, ctf.defocus_v_A, ctf.defocus_angle_rad,
             ctf.phase_shift_rad, ctf.b_factor_A2, ctf.scale, optics)  # fmt: skip
    return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])


def as_relion_30(tables: Tables) -> Tables:
    """Return the tables with origins in pixels and the optics of every particle in its own row."""
    particles, optics = tables["particles"].copy(), tables["optics"]
    pixel_A = float(optics["rlnImagePixelSize"].iloc[0])  # type: ignore[attr-defined]
    for axis in "XY":
        particles[f"rlnOrigin{axis}"] = particles.pop(f"rlnOrigin{axis}Angst") / pixel_A  # type: ignore[operator]
    particles.pop("rlnOpticsGroup")
    for label in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        particles[label] = optics[label].iloc[0]  # type: ignore[attr-defined]
    particles["rlnMagnification"], particles["rlnDetectorPixelSize"] = 10000.0, pixel_A
    return {"particles": particles}


def main() -> int:
    """Print the table; the exit status is 1 where we and RELION differ without a word."""
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(SimulateSettings(o=folder, particles=24, box=32, pixel_size_A=8.0), SilentMonitor())
        young: Tables = starfile.read(folder / "particles.star")
        for place, tables in (("optics", young), ("particles", young), ("RELION 3.0", as_relion_30(young))):
            plain = written(folder, tables, place, None)
            map_before, ours_before = relion_map(plain), understood(plain)
            for label in VALUES:
                path = written(folder, tables, place, label)
                if place == "RELION 3.0" and label == "rlnOriginXAngst":
                    continue  # tests/metadata/test_relion_binaries.py
                relion = bool(np.abs(relion_map(path) - map_before).max() > 1e-4 * map_before.std())
                ours = bool(np.abs(understood(path) - ours_before).max() > 1e-9)
                agree = relion == ours or (label, place) in SAID
                differing += not agree
                print(f"{place:10} {label:30} RELION {relion!s:5} ours {ours!s:5}{'' if agree else '  differ'}")
    print(f"{differing} differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
