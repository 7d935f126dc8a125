"""RELION's own binaries as witnesses: they read what is written here, and what they wrote is read without loss."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.metadata.star import new_star, new_table, read_star, star_text, write_star
from tests.patience import HANGS_S

pytestmark = pytest.mark.relion

BOX, PIXEL_SIZE_A, N = 32, 4.0, 60


def relion(program: str, *arguments: object, cwd: Path, succeeds: bool = True) -> str:
    """Run a RELION program and return what it printed."""
    done = subprocess.run(
        [f"relion_{program}", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=HANGS_S,
        check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert (done.returncode == 0 and "ERROR" not in text) == succeeds, text[-3000:]
    return text


def values_of(path: Path, block: str = "particles") -> dict[str, list[str]]:
    table = read_star(path).blocks[block]
    return {label: table.text(label).tolist() for label in table.columns}


def read_map(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as handle:
        return np.array(handle.data)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with ref.mrc and particles.star and particles.mrcs, made by relion_project; two optics groups."""
    project = tmp_path_factory.mktemp("simulated")
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    volume = np.zeros((BOX, BOX, BOX), np.float32)
    for cx, cy, cz in rng.uniform(-8, 8, (12, 3)):
        volume += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 6).astype(np.float32)
    with mrcfile.new(project / "ref.mrc") as handle:
        handle.set_data(volume)
        handle.voxel_size = PIXEL_SIZE_A
    optics: dict[str, Any] = {
        "rlnOpticsGroup": [1, 2],
        "rlnOpticsGroupName": ["opticsGroup1", "opticsGroup2"],
        "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7, 2.7],
        "rlnAmplitudeContrast": [0.1, 0.07],
        "rlnImagePixelSize": [PIXEL_SIZE_A] * 2,
        "rlnImageSize": [BOX] * 2,
        "rlnImageDimensionality": [2, 2],
    }
    angles: dict[str, Any] = {
        "rlnAngleRot": rng.uniform(-180, 180, N),
        "rlnAngleTilt": rng.uniform(0, 180, N),
        "rlnAnglePsi": rng.uniform(-180, 180, N),
        "rlnOriginXAngst": rng.uniform(-8, 8, N),
        "rlnOriginYAngst": rng.uniform(-8, 8, N),
        "rlnDefocusU": rng.uniform(8000, 20000, N),
        "rlnDefocusV": rng.uniform(8000, 20000, N),
        "rlnDefocusAngle": rng.uniform(0, 180, N),
        "rlnPhaseShift": np.zeros(N),
        "rlnOpticsGroup": np.arange(N) % 2 + 1,
    }
    write_star(project / "angles.star", new_star([new_table("optics", optics), new_table("particles", angles)]))
    options = ("--ctf", "--add_noise", "--white_noise", 1, "--angpix", PIXEL_SIZE_A)
    relion("project", "--i", "ref.mrc", "--ang", "angles.star", "--o", "particles", *options, cwd=project)
    return project


@pytest.fixture
def project(simulated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simulated, tmp_path / "project"))


def classify(project: Path, star: str) -> Path:
    """Run one iteration of 3D classification and return the particles file that relion_refine wrote."""
    (project / "Class3D").mkdir()
    options = (
        "--ini_high 20 --iter 1 --K 2 --ctf --zero_mask --particle_diameter 100 --healpix_order 1 --offset_range 3"
    )
    options += " --offset_step 2 --pad 1 --tau2_fudge 2 --norm --scale --oversampling 0 --flatten_solvent --j 1"
    options += " --dont_check_norm --firstiter_cc --random_seed 1"
    relion("refine", "--i", star, "--o", "Class3D/run", "--ref", "ref.mrc", *options.split(), cwd=project)
    return project / "Class3D/run_it001_data.star"


EXTRA: dict[str, Any] = {
    "cdxLatent1": np.random.default_rng(1).normal(size=40) * 1e-3,
    "cdxLatent2": np.random.default_rng(2).normal(size=40).astype(np.float32) * 1e9,
    "cdxState": np.arange(40) % 3,
    "cdxLabel": ["two words" if i % 2 else "O'Brien" for i in range(40)],
}


def write_subset(project: Path) -> tuple[Path, dict[str, list[str]]]:
    """Write 40 of the particles with extra columns; return the file and the values that it must hold."""
    chosen = np.sort(np.random.default_rng(3).permutation(N)[:40])
    write_particles_star(read_particles(project / "particles.star").subset(chosen), project / "subset.star", EXTRA)
    expected = {label: [values[i] for i in chosen] for label, values in values_of(project / "particles.star").items()}
    expected["cdxLatent1"] = [f"{value:.6g}" for value in EXTRA["cdxLatent1"]]
    expected["cdxLatent2"] = [f"{value:.6g}" for value in EXTRA["cdxLatent2"]]
    expected["cdxState"] = [str(value) for value in EXTRA["cdxState"]]
    expected["cdxLabel"] = list(EXTRA["cdxLabel"])
    return project / "subset.star", expected


def test_star_handler_reads_every_value(project: Path) -> None:
    path, expected = write_subset(project)
    relion("star_handler", "--i", "subset.star", "--o", "out.star", "--remove_column", "rlnPhaseShift", cwd=project)
    assert values_of(path) == expected
    found = values_of(project / "out.star")
    assert list(found) == [label for label in expected if label != "rlnPhaseShift"]
    assert found == {label: expected[label] for label in found}
    assert values_of(project / "out.star", "optics") == values_of(project / "particles.star", "optics")


def test_star_handler_selects_and_compares(project: Path) -> None:
    write_subset(project)
    options = ("--select", "rlnOpticsGroup", "--minval", 2, "--maxval", 2)
    relion("star_handler", "--i", "subset.star", "--o", "out.star", *options, cwd=project)
    particles = read_particles(project / "subset.star")
    ours = particles.subset(particles.optics_index == 1)
    assert read_particles(project / "out.star").image_name.tolist() == ours.image_name.tolist()


def test_classification_carries_extra_columns_along(project: Path) -> None:
    _, expected = write_subset(project)
    found = values_of(classify(project, "subset.star"))
    place = {name: row for row, name in enumerate(expected["rlnImageName"])}
    rows = [place[name] for name in found["rlnImageName"]]
    assert sorted(rows) == list(range(40))
    for label in ("cdxLatent1", "cdxLatent2", "cdxState", "cdxLabel", "rlnDefocusU", "rlnOpticsGroup"):
        assert found[label] == [expected[label][row] for row in rows]


def test_a_file_that_refine_wrote_comes_back_without_loss(project: Path) -> None:
    path = classify(project, "particles.star")
    particles = read_particles(path)
    write_particles_star(particles, project / "same.star")
    assert (project / "same.star").read_bytes() == path.read_bytes()
    # Rewritten row by row, in another order, every value has the characters that RELION gave it.
    order = np.random.default_rng(0).permutation(N)
    write_particles_star(particles.subset(order), project / "shuffled.star")
    before, after = values_of(path), values_of(project / "shuffled.star")
    assert after == {label: [values[i] for i in order] for label, values in before.items()}
    restored = read_particles(project / "shuffled.star").subset(np.argsort(order))
    write_particles_star(restored, project / "restored.star")
    assert (project / "restored.star").read_bytes() == path.read_bytes()
    # Joined by identifier although the rows are in another order.
    np.testing.assert_array_equal(
        match_rows(particles, read_particles(project / "shuffled.star")).rows, np.argsort(order)
    )


def test_every_table_that_refine_wrote_comes_back_byte_for_byte(project: Path) -> None:
    classify(project, "particles.star")
    tables = sorted((project / "Class3D").glob("*.star"))
    assert len(tables) >= 4  # data, model, optimiser, sampling
    for path in tables:
        assert b"".join(star_text(read_star(path))) == path.read_bytes(), path.name


def test_poses_that_were_written_again_reconstruct_the_same_map(project: Path) -> None:
    particles = read_particles(project / "particles.star")
    write_particles_star(particles.with_poses(particles.rotation, particles.shift_A), project / "again.star")
    for name in ("particles", "again"):
        relion("reconstruct", "--i", f"{name}.star", "--o", f"{name}_map.mrc", "--ctf", cwd=project)
    before, after = read_map(project / "particles_map.mrc"), read_map(project / "again_map.mrc")
    assert np.abs(after - before).max() < 1e-4 * before.std()


def test_a_file_of_relion_30_reconstructs_the_same_map(project: Path) -> None:
    # RELION converts origins in pixels and the pixel size of detector and magnification by itself.
    old = read_particles(project / "particles.star")
    group = np.array(old.optics, object)[old.optics_index]
    columns = {
        "rlnImageName": old.image_name,
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), old.euler_deg.T, strict=True)),
        "rlnOriginX": np.zeros(N),
        "rlnOriginY": np.zeros(N),
        "rlnDefocusU": old.ctf.defocus_u_A,
        "rlnDefocusV": old.ctf.defocus_v_A,
        "rlnDefocusAngle": np.degrees(old.ctf.defocus_angle_rad),
        "rlnVoltage": [one.voltage_kV for one in group],
        "rlnSphericalAberration": [one.cs_mm for one in group],
        "rlnAmplitudeContrast": [one.amplitude_contrast for one in group],
        "rlnMagnification": np.full(N, 12500.0),
        "rlnDetectorPixelSize": np.full(N, 5.0),
    }
    write_star(project / "v30.star", new_star([new_table("images", columns)], version=None))
    both = columns | {"rlnOriginX": -old.shift_A[:, 0] / PIXEL_SIZE_A, "rlnOriginY": -old.shift_A[:, 1] / PIXEL_SIZE_A}
    both |= {"rlnOriginXAngst": np.full(N, 9.0), "rlnOriginYAngst": np.full(N, -9.0)}
    write_star(project / "v30_both.star", new_star([new_table("images", both)], version=None))
    np.testing.assert_allclose(read_particles(project / "v30_both.star").shift_A, old.shift_A, atol=1e-5)
    blank = read_particles(project / "v30.star")
    assert blank.version == "3.0"
    assert blank.pixel_size_A.tolist() == [PIXEL_SIZE_A] * N
    write_particles_star(blank.with_poses(old.rotation, old.shift_A), project / "v30_moved.star")
    for name in ("particles", "v30_moved", "v30_both"):
        relion("reconstruct", "--i", f"{name}.star", "--o", f"{name}_map.mrc", "--ctf", cwd=project)
    before = read_map(project / "particles_map.mrc")
    for name in ("v30_moved", "v30_both"):
        assert np.abs(read_map(project / f"{name}_map.mrc") - before).max() < 1e-4 * before.std()


def test_ctf_parameters_of_the_optics_table_are_those_that_relion_uses(project: Path) -> None:
    """relion_reconstruct takes them for particles that have none of their own."""
    plain = read_particles(project / "particles.star")
    there = tuple(one for one in ("rlnPhaseShift", "rlnCtfBfactor") if one in plain.table)
    write_particles_star(plain, project / "without.star", dropped_columns=there)
    text = (project / "without.star").read_text().splitlines()
    end = next(i for i, line in enumerate(text) if line.startswith("data_particles"))
    last = max(i for i, line in enumerate(text[:end]) if line.startswith("_rln"))
    rows = [i for i, line in enumerate(text[:end]) if i > last and line.strip() and not line.startswith("#")]
    for row, phase in zip(rows, ("70.0 200", "20.0 0"), strict=True):
        text[row] += f" {phase}"
    text[last] += "\n_rlnPhaseShift\n_rlnCtfBfactor"
    (project / "phases.star").write_text("\n".join([*text, ""]))
    particles = read_particles(project / "phases.star")
    assert set(np.degrees(particles.ctf.phase_shift_rad).round(6)) == {70.0, 20.0}
    own = {"rlnPhaseShift": np.degrees(particles.ctf.phase_shift_rad), "rlnCtfBfactor": particles.ctf.b_factor_A2}
    write_particles_star(plain, project / "own.star", own)
    for name in ("phases", "own", "without"):
        relion("reconstruct", "--i", f"{name}.star", "--o", f"{name}_map.mrc", "--ctf", cwd=project)
    shared, per_particle, without = (read_map(project / f"{name}_map.mrc") for name in ("phases", "own", "without"))
    assert np.abs(shared - per_particle).max() < 1e-4 * shared.std()
    assert np.abs(shared - without).max() > 0.1 * shared.std()


def test_symmetry_expansion_by_relion(project: Path) -> None:
    half_set = np.arange(N) % 2 + 1
    write_particles_star(
        read_particles(project / "particles.star"), project / "halves.star", {"rlnRandomSubset": half_set}
    )
    relion("particle_symmetry_expand", "--i", "halves.star", "--o", "expanded.star", "--sym", "C3", cwd=project)
    expanded = read_particles(project / "expanded.star")
    assert expanded.n == 3 * N
    assert len(np.unique(expanded.uid)) == 3 * N
    assert len(np.unique(expanded.image_hash)) == N
    half_of_image = dict(zip(read_particles(project / "halves.star").image_hash.tolist(), half_set, strict=True))
    assert expanded.half_set.tolist() == [half_of_image[image] for image in expanded.image_hash.tolist()]
    # Rows of one image differ by turns of 120 degrees about the axis of the model.
    same = expanded.subset(np.flatnonzero(expanded.image_hash == expanded.image_hash[0]))
    turn = same.rotation[0].T @ same.rotation[1]
    np.testing.assert_allclose(turn[:2, 2], 0, atol=1e-6)
    np.testing.assert_allclose(np.trace(turn), 0, atol=1e-6)  # 1 + 2 cos(120 degrees)


def test_what_is_refused_here_is_misread_by_relion(project: Path) -> None:
    """Rows behind an empty line vanish in RELION; a file with Windows line ends is empty to it."""
    text = (project / "particles.star").read_text()
    lines = text.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if "000011@" in line)
    (project / "gap.star").write_text("".join([*lines[:at], "\n", *lines[at:]]))
    relion("star_handler", "--i", "gap.star", "--o", "out.star", "--remove_column", "rlnPhaseShift", cwd=project)
    assert read_particles(project / "out.star").n == 10
    (project / "crlf.star").write_text(text.replace("\n", "\r\n"))
    relion("star_handler", "--i", "crlf.star", "--o", "out.star", "--remove_column", "rlnPhaseShift", cwd=project)
    assert "data_" not in (project / "out.star").read_text()


def turned_by_deg(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (N,) angles between rotations in degrees."""
    trace = np.einsum("nij,nij->n", one, other)
    return np.asarray(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def test_local_searches_begin_at_the_new_poses(project: Path) -> None:
    """relion_refine centres them on priors where a file has these: old ones beside new poses lead it astray."""
    true = read_particles(project / "particles.star")
    old = true.euler_deg + np.array([40.0, 0.0, 0.0])
    old[:, 1] = np.clip(old[:, 1] + 25, 0, 180)
    priors = dict(zip(("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior"), old.T, strict=True))
    write_particles_star(true, project / "old.star", priors)
    found = {}
    for name, particles in {
        "stale": read_particles(project / "old.star"),
        "new": read_particles(project / "old.star").with_poses(true.rotation, true.shift_A),
    }.items():
        write_particles_star(particles, project / f"{name}.star")
        (project / name).mkdir()
        options = (
            "--ref ref.mrc --iter 1 --ctf --K 1 --particle_diameter 110 --healpix_order 3 --sigma_ang 3 "
            "--offset_range 3 --offset_step 2 --j 1 --norm --scale --dont_check_norm --pad 1 --ini_high 12 "
            "--tau2_fudge 4 --flatten_solvent --zero_mask"
        )
        relion("refine", "--i", f"{name}.star", "--o", f"{name}/run", *options.split(), cwd=project)
        refined = read_particles(project / f"{name}/run_it001_data.star", project)
        place = match_rows(refined, true).rows
        found[name] = float(np.median(turned_by_deg(refined.rotation, true.rotation[place])))
    assert found["stale"] > 25
    assert found["new"] < 12
