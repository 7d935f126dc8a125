"""Pickles for the public cryodrgn: opened as it opens them, and held against RELION's own definitions."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.export_cryodrgn import export_cryodrgn
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.options.export_cryodrgn import ExportCryodrgnSettings
from cryodrgn_ext.progress import Monitor
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, FinishedProject, N
from tests.metadata.test_cryodrgn_particles import relion_matrix
from tests.monitors import said_by

OUT = Path("exported")


def export(given: str, **options: object) -> str:
    return said_by(export_cryodrgn, ExportCryodrgnSettings(in_parts=Path(given), o=OUT, **options))  # type: ignore[arg-type]


def unpickled(name: str) -> list[Any]:
    """All pickles of a file that these tests wrote."""
    found = []
    with open(OUT / name, "rb") as handle:
        while handle.peek(1):
            found.append(pickle.load(handle))
    return found


def check_against_star(star: Path) -> None:
    """As the public parsers read a STAR file: RELION's matrix, origin / box, nine numbers of the CTF."""
    tables = starfile.read(star)
    rows, optics = tables["particles"], tables["optics"].set_index("rlnOpticsGroup")
    (poses,) = unpickled("poses.pkl")
    assert isinstance(poses, tuple)
    rotation, translation = poses
    expected = [relion_matrix(*angles) for angles in rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()]
    np.testing.assert_allclose(rotation, expected, atol=1e-6)
    np.testing.assert_allclose(
        translation, rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() / PIXEL_SIZE_A / BOX, atol=1e-6
    )
    (ctf,) = unpickled("ctf.pkl")
    assert ctf.shape == (len(rows), 9)
    assert ctf.dtype == np.float32
    columns = [rows[name] for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")]
    columns += [rows["rlnOpticsGroup"].map(optics[name])
                for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")]  # fmt: skip
    np.testing.assert_allclose(ctf[:, 2:8], np.stack(columns, axis=1), rtol=1e-6)
    np.testing.assert_allclose(ctf[:, :2], np.array([[BOX, PIXEL_SIZE_A]] * len(rows)))


def test_a_result_with_its_latents(finished: FinishedProject) -> None:
    said = export("out")
    check_against_star(Path("particles.star"))
    with np.load("out/latents.npz") as arrays:
        np.testing.assert_array_equal(unpickled("z.pkl")[0], arrays["z"])
    assert (OUT / "particles.star").read_bytes() == Path("particles.star").read_bytes()
    assert "half-sets" in said
    assert "--datadir" in said


def test_variances_are_written_as_logarithms(finished: FinishedProject) -> None:
    with np.load("out/latents.npz") as arrays:
        kept = dict(arrays)
    covariance = np.random.default_rng(0).uniform(0.1, 2, N)[:, None, None] * np.eye(2)
    np.savez("out/latents.npz", **(kept | {"z_cov": covariance.astype(np.float32)}))
    export("out")
    mean, log_variance = unpickled("z.pkl")
    np.testing.assert_array_equal(mean, kept["z"])
    np.testing.assert_allclose(log_variance, np.log(np.diagonal(covariance, axis1=1, axis2=2)), rtol=1e-5)


def test_a_state_and_rows_of_it(finished: FinishedProject) -> None:
    export("out/states/state01")
    with np.load("out/states.npz") as arrays:
        members = np.flatnonzero(arrays["label"] == 1)
    check_against_star(OUT / "particles.star")
    assert len(unpickled("z.pkl")[0]) == len(members)
    np.testing.assert_array_equal(unpickled("ind.pkl")[0], members)
    Path("rows.txt").write_text(" ".join(map(str, [members[0], members[2]])))
    export("out/states/state01", indices=Path("rows.txt"))
    with np.load("out/latents.npz") as arrays:
        np.testing.assert_array_equal(unpickled("z.pkl")[0], arrays["z"][members[[0, 2]]])


def test_particles_without_a_result(project: Path) -> None:
    export("particles.star")
    check_against_star(Path("particles.star"))
    assert not (OUT / "z.pkl").exists()
    assert not (OUT / "ind.pkl").exists()


def test_what_is_refused(finished: FinishedProject) -> None:
    with pytest.raises(InputError, match="holds the results of a train job"):
        export_cryodrgn(ExportCryodrgnSettings(in_parts=Path("out"), o=Path("out")), Monitor(io.StringIO()))
    with pytest.raises(InputError, match="where the input lies"):
        export_cryodrgn(ExportCryodrgnSettings(in_parts=Path("particles.star"), o=Path()), Monitor(io.StringIO()))
    with pytest.raises(InputError, match="does not exist"):
        export("absent.star")


def test_it_is_a_command() -> None:
    assert JOBS["export-cryodrgn"].settings_class is ExportCryodrgnSettings
    assert JOBS["export-cryodrgn"].load() is export_cryodrgn
