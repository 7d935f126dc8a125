"""A structure moved along the latents of a finished job: what is written, read back by gemmi, continued and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import starfile
import yaml

from cryodrgn_ext.engines.atomic import atomvae_model, fit
from cryodrgn_ext.engines.atomic.placement import Placement
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs import atomic as job
from cryodrgn_ext.jobs.atomic import atomic
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.options.atomic import AtomicSettings
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.results.latent_tables import read_state_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.simulate import two_domain_protein

SETTINGS = AtomicSettings(
    in_parts=Path("out"), structure=Path("beads.pdb"), o=Path("moved"), models=4, nodes=3, features=2, rounds=0,
    resolution_A=30.0,
)  # fmt: skip


@pytest.fixture
def beads(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The simulated specimen's beads as single atoms; placed where they are, and fitted in few steps."""
    motion = two_domain_protein()
    rows = [
        f"HETATM{number % 100000:5d}  X   UNL A{number % 10000:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C"
        for number, (x, y, z) in enumerate(motion.beads(motion.state_coordinates[:1]).position_A[0], start=1)
    ]
    Path("beads.pdb").write_text("\n".join([*rows, "END\n"]))
    monkeypatch.setattr(job, "place_structure", lambda *_: Placement(np.eye(3), np.zeros(3), 0.9, 0.2))
    monkeypatch.setattr(fit, "ROUNDS", 1)
    monkeypatch.setattr(fit, "STEPS", 2)
    return trained


@pytest.mark.slow
def test_everything_is_written_and_a_continue_does_nothing_again(beads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = atomic(SETTINGS, SilentMonitor())
    assert all(output.path.is_file() for output in result.files)
    for name in ("ensemble.cif", "ensemble.pdb"):
        read = gemmi.read_structure(f"moved/{name}")
        assert len(read) == SETTINGS.models
        assert read[0].count_atom_sites() == gemmi.read_structure("beads.pdb")[0].count_atom_sites()
    residues = starfile.read("moved/residues.star")
    assert len(residues) == 600
    assert set(residues["cdxAgrees"]) <= {0, 1}
    states = read_state_table(Layout(Path("out")).states_table)
    for number in range(states.n_states):
        rows = starfile.read(f"moved/states/state{number:02d}/particles.star")["particles"]
        whole = starfile.read("particles.star")["particles"]
        assert list(rows["rlnImageName"]) == list(whole["rlnImageName"][states.label == number])
        assert len(gemmi.read_structure(f"moved/states/state{number:02d}/structure.cif")) == 1
    record = yaml.safe_load(Path("moved/job.yaml").read_text())
    assert record["results"]["residues"] == 600
    assert record["results"]["agreeing_residues"] == residues["cdxAgrees"].sum()
    assert [row[0] for row in record["results"]["stereochemistry"][:2]] == ["given structure", "ensemble, worst model"]
    assert Path("moved/logfile.pdf").read_bytes().startswith(b"%PDF")
    monkeypatch.setattr(job, "MotionLearner", None)
    before = Path("moved/ensemble.cif").read_bytes()
    atomic(SETTINGS, SilentMonitor())
    assert Path("moved/ensemble.cif").read_bytes() == before
    Path("moved/report.html").unlink()
    report(ReportSettings(in_result=Path("moved")), SilentMonitor())
    page = Path("moved/report.html").read_text()
    assert all(title in page for title in ("Atomic motion", "Stereochemistry", "Half-maps"))


LEARNED: dict[str, dict[str, Any]] = {
    "cryofold": {"epochs": 1, "warmup_epochs": 1, "batch": 32, "layers": 1, "dim": 8},
    "atomvae": {"vae_epochs": 1, "vae_pose_epochs": 1, "vae_batch": 32, "vae_zdim": 1, "vae_poses": "inferred",
                "vae_conformations": 1, "vae_pose_samples": 1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNED)
def test_learned_image_by_image_writes_the_same_and_its_latents(
    beads: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for name, value in (("ENCODER", (32, 16)), ("REPRESENTATION", 16), ("DECODER", 16), ("BLOCKS", 1)):
        monkeypatch.setattr(atomvae_model, name, value)
    settings = replace(SETTINGS, method=method, **LEARNED[method])
    result = atomic(settings, SilentMonitor())
    assert all(output.path.is_file() for output in result.files)
    assert len(gemmi.read_structure("moved/ensemble.cif")) == settings.models
    found = np.load("moved/learned.npz")
    record = yaml.safe_load(Path("moved/job.yaml").read_text())
    assert found["z"].shape == (record["results"]["particles"], 1)
    assert len(found["history"]) == 2
    assert not list(Path("moved/checkpoint").glob("atoms_*"))
    monkeypatch.setattr(job, "CryofoldLearner", None)
    monkeypatch.setattr(job, "AtomVaeLearner", None)
    before = Path("moved/ensemble.cif").read_bytes()
    atomic(settings, SilentMonitor())
    assert Path("moved/ensemble.cif").read_bytes() == before
    Path("moved/report.html").unlink()
    report(ReportSettings(in_result=Path("moved")), SilentMonitor())
    assert "Loss" in Path("moved/report.html").read_text()


def test_broken_bonds_are_a_warning_where_restraints_should_have_held_them() -> None:
    assert job.broken_sentences("fast", 0) == job.broken_sentences("cryofold", 0) == ()
    assert job.broken_sentences("fast", 25)[0].startswith("Warning: the fit broke 25 bonds")
    assert job.broken_sentences("atomvae", 25)[0].startswith("25 bonds")


@pytest.mark.parametrize("content", ["nothing of a structure\n", ""])
def test_a_file_that_is_no_structure_is_refused_before_anything_is_written(trained: Path, content: str) -> None:
    Path("beads.pdb").write_text(content)
    with pytest.raises(InputError, match=r"beads\.pdb: (no atoms|not a readable)"):
        atomic(SETTINGS, SilentMonitor())
    assert not Path("moved").exists()
