"""Files with the headers of public ones, as their programs wrote them: what each says of half-sets, copies and tilts.

Columns and their order are those of files that people have published or attached to reports; the values are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from cryosparc.dataset import Dataset

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.metadata.tilt_series import find_tilt_series
from tests.metadata.cs_data import Record, particles_record, save

N = 24
OPTICS_OLD = "rlnVoltage rlnSphericalAberration rlnAmplitudeContrast rlnMagnification rlnDetectorPixelSize"
#: Program: (name of the block, RELION 3.1's optics columns or none, columns of the particles).
HEADERS: dict[str, tuple[str, str, str]] = {
    "RELION 3.0, Refine3D of a deposited set": ("images", "", (
        "rlnAnglePsi rlnAngleRot rlnAngleTilt rlnClassNumber rlnCoordinateX rlnCoordinateY rlnCtfFigureOfMerit "
        "rlnCtfMaxResolution rlnDefocusAngle rlnDefocusU rlnDefocusV rlnImageName rlnImageOriginalName "
        f"rlnMicrographName rlnOriginX rlnOriginY rlnPhaseShift rlnRandomSubset {OPTICS_OLD}"
    )),
    "RELION 3.1, run_data.star": (
        "particles", "rlnOpticsGroup rlnOpticsGroupName rlnAmplitudeContrast rlnSphericalAberration rlnVoltage "
        "rlnImagePixelSize rlnMicrographOriginalPixelSize rlnImageSize rlnImageDimensionality",
        "rlnCoordinateX rlnCoordinateY rlnImageOriginalName rlnMicrographName rlnCtfMaxResolution rlnCtfFigureOfMerit "
        "rlnDefocusU rlnDefocusV rlnDefocusAngle rlnCtfBfactor rlnCtfScalefactor rlnPhaseShift rlnAngleRot "
        "rlnAngleTilt rlnAnglePsi rlnClassNumber rlnNormCorrection rlnRandomSubset rlnLogLikeliContribution "
        "rlnMaxValueProbDistribution rlnNrOfSignificantSamples rlnImageName rlnOpticsGroup rlnOriginXAngst "
        "rlnOriginYAngst rlnGroupNumber",
    ),
    "RELION 5, after CTF refinement": (
        "particles", "rlnOpticsGroupName rlnOpticsGroup rlnMicrographOriginalPixelSize rlnVoltage "
        "rlnSphericalAberration rlnAmplitudeContrast rlnImagePixelSize rlnImageSize rlnImageDimensionality "
        "rlnCtfDataAreCtfPremultiplied rlnBeamTiltX rlnBeamTiltY",
        "rlnCoordinateX rlnCoordinateY rlnAutopickFigureOfMerit rlnClassNumber rlnAnglePsi rlnImageName "
        "rlnMicrographName rlnOpticsGroup rlnCtfMaxResolution rlnCtfFigureOfMerit rlnDefocusU rlnDefocusV "
        "rlnDefocusAngle rlnCtfBfactor rlnCtfScalefactor rlnPhaseShift rlnGroupNumber rlnAngleRot rlnAngleTilt "
        "rlnOriginXAngst rlnOriginYAngst rlnNormCorrection rlnLogLikeliContribution rlnMaxValueProbDistribution "
        "rlnNrOfSignificantSamples rlnRandomSubset",
    ),
    "csparc2star": (
        "particles", "rlnVoltage rlnSphericalAberration rlnAmplitudeContrast rlnOpticsGroup rlnImageSize "
        "rlnImagePixelSize rlnImageDimensionality",
        "rlnImageName rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginXAngst rlnOriginYAngst rlnDefocusU rlnDefocusV "
        "rlnDefocusAngle rlnPhaseShift rlnCtfBfactor rlnOpticsGroup rlnRandomSubset rlnClassNumber",
    ),
}  # fmt: skip
PLAIN = {"rlnVoltage": "300", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1", "rlnImageSize": "64",
         "rlnMagnification": "10000", "rlnDetectorPixelSize": "1.5", "rlnImagePixelSize": "1.5", "rlnOpticsGroup": "1",
         "rlnMicrographOriginalPixelSize": "0.75", "rlnImageDimensionality": "2", "rlnOpticsGroupName": "opticsGroup1",
         "rlnCtfDataAreCtfPremultiplied": "0", "rlnBeamTiltX": "0.04", "rlnBeamTiltY": "0.01", "rlnCtfBfactor": "0",
         "rlnCtfScalefactor": "1", "rlnPhaseShift": "0"}  # fmt: skip


def values(label: str, row: int, rng: np.random.Generator) -> str:
    if label in PLAIN:
        return PLAIN[label]
    if label in ("rlnImageName", "rlnImageOriginalName"):
        return f"{row + 1:06d}@{'Polish/job9' if label == 'rlnImageName' else 'Extract/job3'}/mic.mrcs"
    if label == "rlnMicrographName":
        return f"MotionCorr/job002/Micrographs/mic{row // 8}.mrc"
    if label in ("rlnClassNumber", "rlnGroupNumber"):
        return str(row % 3 + 1)
    if label == "rlnRandomSubset":
        return str(row % 2 + 1)
    low, high = {"rlnAngleTilt": (0, 180), "rlnCoordinateX": (0, 4000), "rlnCoordinateY": (0, 4000)}.get(
        label, (10_000, 20_000) if label.startswith("rlnDefocus") and label[-1] in "UV" else (-9, 9)
    )
    return f"{rng.uniform(low, high) * (10 if label[:8] == 'rlnAngle' and label != 'rlnAngleTilt' else 1):.6f}"


def write(path: Path, name: str, change: Callable[[list[dict[str, str]]], None] | None = None) -> Path:
    block, optics, columns = HEADERS[name]
    rng = np.random.default_rng(4)
    rows = [{label: values(label, row, rng) for label in columns.split()} for row in range(N)]
    if change is not None:
        change(rows)
    text = ""
    for table, labels, lines in (("optics", optics.split(), [PLAIN]), (block, list(rows[0]), rows)):
        if labels:
            text += f"\ndata_{table}\n\nloop_\n" + "".join(f"_{label} #{i}\n" for i, label in enumerate(labels, 1))
            text += "".join(" ".join(line[label] for label in labels) + "\n" for line in lines)
    path.write_text(text + "\n")
    return path


def column(path: Path, label: str) -> list[str]:
    """Read a column with gemmi."""
    found = [value for block in gemmi.cif.read_file(str(path)) for value in block.find_values(f"_{label}")]
    return [str(value) for value in found]


@pytest.mark.parametrize("name", HEADERS)
def test_rows_and_poses_go_to_cryosparc_and_come_back(name: str, tmp_path: Path) -> None:
    particles = read_particles(write(tmp_path / "a.star", name))
    if HEADERS[name][1] == "":  # RELION 3.0 does not say how large its images are
        fields: dict[str, Any] = {}
    else:
        write_particles_cs(particles, tmp_path / "a.cs")
        back = Dataset.load(tmp_path / "a.cs")
        fields = {"split": back["alignments3D/split"], "x_A": back["alignments3D/shift"][:, 0] * 1.5}
        match = match_rows(read_particles(tmp_path / "a.cs"), particles)
        assert match.rows.tolist() == list(range(N))
    chosen = [17, 3, 8]
    write_particles_star(particles.subset(chosen), tmp_path / "b.star")
    for label in HEADERS[name][2].split():
        if label not in PLAIN:
            assert column(tmp_path / "b.star", label) == [column(tmp_path / "a.star", label)[row] for row in chosen]
    if fields:
        np.testing.assert_allclose(
            fields["x_A"], np.array(column(tmp_path / "a.star", "rlnOriginXAngst"), float), rtol=1e-5
        )
        assert (fields["split"] + 1).tolist() == [int(one) for one in column(tmp_path / "a.star", "rlnRandomSubset")]


@pytest.mark.parametrize("name", HEADERS)
def test_single_particles_are_no_tilt_images_and_keep_their_halves(name: str, tmp_path: Path) -> None:
    particles = read_particles(write(tmp_path / "a.star", name))
    assert find_tilt_series(particles) is None
    assert choose_half_sets(particles, 0).from_file


@pytest.mark.parametrize("name", HEADERS)
def test_expanded_copies_are_told_apart_and_never_parted(name: str, tmp_path: Path) -> None:
    def expand(rows: list[dict[str, str]]) -> None:
        for i in range(N // 2):  # as relion_particle_symmetry_expand writes them, auto-refined since
            rows[N // 2 + i].update(
                rows[i], rlnAngleRot=f"{float(rows[i]['rlnAngleRot']) + 180:.6f}", rlnRandomSubset="2"
            )
            rows[i]["rlnRandomSubset"] = "1"

    particles = read_particles(write(tmp_path / "a.star", name, expand))
    choice = choose_half_sets(particles, 0)
    assert not choice.from_file
    assert np.array_equal(choice.half_set[: N // 2], choice.half_set[N // 2 :])
    second = list(range(N - 1, N // 2 - 1, -1))
    write_particles_star(particles.subset(second), tmp_path / "b.star")
    assert match_rows(read_particles(tmp_path / "b.star"), particles).rows.tolist() == second


@pytest.mark.parametrize("name", HEADERS)
def test_tilt_images_with_these_columns_are_recognised(name: str, tmp_path: Path) -> None:
    def tilted(rows: list[dict[str, str]]) -> None:
        for i, row in enumerate(rows):
            row["rlnCtfBfactor"] = f"{-12.0 * (i % 6 + 1):.6f}"

    series = find_tilt_series(read_particles(write(tmp_path / "a.star", name, tilted)))
    assert series is not None
    assert series.group.tolist() == [i // 6 for i in range(N)]


@pytest.mark.parametrize("name", HEADERS)
def test_a_column_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    def without(rows: list[dict[str, str]]) -> None:
        for row in rows:
            del row["rlnDefocusAngle"]

    with pytest.raises(InputError, match="has no column _rlnDefocusAngle"):
        read_particles(write(tmp_path / "a.star", name, without))


# CryoSPARC 2 to 4: a refinement without the aberrations that came later, and one with all statistics.
OLD = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag", "ctf/bfactor", "blob/import_sig")


def of_version(old: bool) -> Record:
    record = particles_record(N)
    kept = [name for name in record.dtype.names or () if not (old and name in OLD)]
    out = np.zeros(N, [(name, record.dtype[name]) for name in kept])
    for name in kept:
        out[name] = record[name]
    return out


@pytest.mark.parametrize("old", [True, False])
def test_datasets_of_cryosparc_through_relion(old: bool, tmp_path: Path) -> None:
    record = of_version(old)
    particles = read_particles(save(tmp_path / "a.cs", record))
    write_particles_star(particles, tmp_path / "a.star")
    np.testing.assert_allclose(
        np.array(column(tmp_path / "a.star", "rlnOriginYAngst"), float),
        record["alignments3D/shift"][:, 1] * 2.2,
        atol=2e-6,
    )
    write_particles_cs(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
    back = Dataset.load(tmp_path / "b.cs")
    for name in record.dtype.names or ():
        if record[name].dtype.kind == "S":
            assert [str(one) for one in back[name]] == [one.decode() for one in record[name]], name
        else:
            np.testing.assert_allclose(back[name], record[name], rtol=1e-6, atol=1e-6, err_msg=name)
