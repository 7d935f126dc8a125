"""A refinement in the imitated project, the unpatched client connected to it, and a quick stand-in for training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryosparc.dataset import Dataset
from cryosparc.tools import CryoSPARC

from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs import train
from cryosparc_jobs.running import FinishedJob
from tests.cryosparc_master import EMAIL, PASSWORD, Master, ParentOutput
from tests.cryosparc_master.fields import columns_of
from tests.cryosparc_master.instance import Instance

N = 120
BOX = 20
SETTINGS: dict[str, Any] = {"zdim": 2, "states": 3, "volumes": 2, "device": "cpu"}
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


@contextmanager
def connected(root: Path) -> Iterator[tuple[Master, Any]]:
    """A master and a client that is logged in; the imitation itself must not have failed."""
    with Master(root) as master:
        cs = CryoSPARC(base_url=master.url, host=None, base_port=None, email=EMAIL, password=PASSWORD, timeout=20)
        yield master, cs
        cs.api._client.close()
    assert master.unexpected == []


def simulate_refinement(folder: Path, count: int, **options: Any) -> None:
    """Write particles.cs and its stack, as simulated."""
    particles = simulate_particles(count, motion=two_domain_protein(), max_shift_px=1.0, seed=1, **options)
    write_relion_project(folder, particles)
    convert(ConvertSettings(in_parts=folder / "particles.star", o=folder / "particles.cs"), SilentMonitor())


def fill_project(instance: Instance, refinement: Path) -> tuple[str, str, Dataset]:
    """Make a project whose job J1 is a refinement that left the particles of ``refinement``, with their images.

    Returns project, job and particles.
    """
    project = instance.add_project()
    particles = Dataset.load(refinement / "particles.cs")
    stacks = np.unique(particles["blob/path"])
    slots = {slot: slot for slot in particles.prefixes()}
    particles["blob/path"] = [f">J1/{Path(name).name}" for name in particles["blob/path"]]
    output = ParentOutput("particle", particles, slots, passthrough=("ctf",))
    parent = instance.add_finished_job(project, "homo_refine_new", {"particles": output})
    (stack,) = refinement.rglob(Path(stacks[0]).name)
    shutil.copyfile(stack, instance.project(project).directory / parent / stack.name)
    return project, parent, particles


@contextmanager
def project_with(refinement: Path, root: Path) -> Iterator[Lab]:
    """A project with a refinement, see :func:`fill_project`, and a client."""
    with connected(root) as (master, cs):
        yield Lab(master, cs, *fill_project(master.instance, refinement))


@dataclass
class QuickJob:
    """Stands for the train job: leaves what the real one left for the same particles, after ``first``."""

    result: JobResult
    first: Callable[[Monitor], None] | None = None
    settings: TrainSettings | None = None

    def __call__(self, settings: TrainSettings, monitor: Monitor) -> JobResult:
        assert read_particles(settings.in_parts).n == N
        self.settings = settings
        monitor.message("Training")
        if self.first is not None:
            self.first(monitor)
        shutil.copytree(self.result.directory, settings.o, dirs_exist_ok=True)

        def moved(path: Path) -> Path:
            return settings.o / path.relative_to(self.result.directory)

        record = settings.o / "job.yaml"
        record.write_text(record.read_text().replace(str(self.result.directory), str(settings.o)))
        return replace(self.result, directory=settings.o, keep=tuple(map(moved, self.result.keep)))


def run(lab: Lab, **settings: Any) -> FinishedJob:
    """Train on the refinement's particles; ``settings`` may say otherwise."""
    given = {"particles": (lab.parent, "particles"), **SETTINGS, **settings}
    return train(lab.cs, project=lab.project, workspace="W1", **given)


def saved_outputs(lab: Lab, uid: str) -> list[str]:
    outputs = lab.state(uid).model.spec.outputs.root
    return [name for name, output in outputs.items() if any(result.metafiles for result in output.results)]
