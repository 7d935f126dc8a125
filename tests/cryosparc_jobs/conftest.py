"""A running imitation of the master with a finished refinement in it, and the real client connected to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryosparc.dataset import Dataset
from cryosparc.tools import CryoSPARC

from tests.cryosparc_master import EMAIL, PASSWORD, Master, ParentOutput
from tests.cryosparc_master.fields import columns_of

SLOTS = {"blob": "blob", "ctf": "ctf", "alignments3D": "alignments3D", "location": "location"}


def refined_particles(count: int, seed: int = 0) -> Dataset:
    """Return particles as a refinement leaves them, with random values in every column."""
    random = np.random.default_rng(seed)
    columns = [one for slot, dtype in SLOTS.items() for one in columns_of("particle", slot, dtype)]
    particles = Dataset.allocate(count, columns)
    particles["uid"] = random.integers(1, 2**63, count, dtype=np.uint64)
    for name, kind, *_ in particles.descr(exclude_uid=True):
        if name == "blob/path":
            particles[name] = [f">J1/extract/stack_{row % 3}.mrcs" for row in range(count)]
        elif name == "location/micrograph_path":
            particles[name] = [f"J1/micrographs/{row % 5}.mrc" for row in range(count)]
        elif np.dtype(kind).kind == "f":
            particles[name] = random.normal(size=particles[name].shape).astype(np.float32)
        elif np.dtype(kind).kind == "u":
            particles[name] = random.integers(0, 7, particles[name].shape).astype(kind)
    return particles


@dataclass
class Lab:
    """A master, a client of it, and a project with a finished refinement."""

    master: Master
    cs: Any
    project: str
    parent: str
    particles: Dataset

    def state(self, job_uid: str) -> Any:
        return self.master.instance.job(self.project, job_uid)

    @property
    def directory(self) -> Path:
        return self.master.instance.project(self.project).directory


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Master(tmp_path / "projects") as master:
        project = master.instance.add_project()
        particles = refined_particles(20)
        output = ParentOutput("particle", particles, SLOTS, passthrough=("location",))
        parent = master.instance.add_finished_job(project, "nonuniform_refine_new", {"particles": output})
        cs = CryoSPARC(base_url=master.url, host=None, base_port=None, email=EMAIL, password=PASSWORD, timeout=20)
        yield Lab(master, cs, project, parent, particles)
        cs.api._client.close()
    assert master.unexpected == []
