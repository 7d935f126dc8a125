"""Atomic models as an External job after a train job: particles of states return, structures are among its files."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from cryodrgn_ext.engines.atomic.placement import Placement
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs import atomic as job
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryosparc_jobs import atomic
from tests.analysis.toy_engines import LinearToy
from tests.cryosparc_jobs.imitated_project import BOX, Lab, QuickJob, run
from tests.jobs.fake_engine import FakeEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


def test_states_of_atoms_return_on_the_parents_particles(
    real: Lab, quick: QuickJob, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = run(real)
    z = read_latent_table(trained.result.directory / "latents.npz").z
    pixel_A = read_map(trained.result.directory / "consensus/map.mrc").pixel_size_A
    monkeypatch.setattr(job, "load_heterogeneity", lambda _: LinearToy(z, BOX, pixel_A))
    monkeypatch.setattr(job, "place_structure", lambda *_: Placement(np.eye(3), np.zeros(3), 0.9, 0.2))
    points = np.random.default_rng(0).normal(scale=20, size=(30, 3))
    rows = [f"HETATM{number:5d}  X   UNL A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C"
            for number, (x, y, z) in enumerate(points, start=1)]  # fmt: skip
    structure = tmp_path / "beads.pdb"
    structure.write_text("\n".join([*rows, "END\n"]))
    finished = atomic(real.cs, project=real.project, workspace="W1", result="J2", structure=structure,
                      method="cryofold", zdim=0, epochs=1, warmup_epochs=0, batch=100, resolution_A=30.0,
                      models=2)  # fmt: skip
    label = read_state_table(trained.result.directory / "states.npz").label
    found = real.cs.find_job(real.project, finished.uid)
    assert finished.outputs == tuple(f"particles_state_{number:02d}" for number in np.unique(label))
    for number in np.unique(label):
        returned = found.load_output(f"particles_state_{number:02d}")["uid"]
        assert returned.tolist() == real.particles["uid"][label == number].tolist()
    files = {Path(path).name for path in found.list_files()} | {path.name for path in finished.result.keep}
    assert {"ensemble.cif", "residues.star", "learned.npz"} <= files
    written = gemmi.read_structure(str(finished.result.directory / "ensemble.cif"))
    assert len(written) == 2
    assert real.state(finished.uid).history == ["building", "running", "completed"]
