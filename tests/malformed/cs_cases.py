"""Files of CryoSPARC that are wrong in one way each."""

from __future__ import annotations

import os

import numpy as np

from tests.malformed.tiny_project import Table, TinyProject
from tests.metadata.cs_data import only, particles_record, save
from tests.metadata.test_csg import make_job

CS = Table()
case = CS.case
GIVEN = ["--in_parts", "particles.cs"]


@case("train", r"particles\.cs", "header|damaged|truncated")
def cs_of_random_bytes_behind_the_magic(project: TinyProject) -> list[str]:
    (project.root / "particles.cs").write_bytes(b"\x95CSDAT" + os.urandom(512))
    return GIVEN


@case("train", r"particles\.cs", "truncated", "40 rows")
def cs_cut_short(project: TinyProject) -> list[str]:
    path = save(project.root / "particles.cs", particles_record())
    path.write_bytes(path.read_bytes()[:-100])
    return GIVEN


@case("train", r"particles\.cs", "pickle", "cryosparc-tools")
def cs_with_pickled_objects(project: TinyProject) -> list[str]:
    with open(project.root / "particles.cs", "wb") as handle:
        np.save(handle, np.zeros(2, [("uid", "<u8"), ("blob/path", "O")]), allow_pickle=True)
    return GIVEN


@case("train", r"particles\.cs", "blob/path", "passthrough")
def cs_without_its_passthrough(project: TinyProject) -> list[str]:
    save(project.root / "particles.cs", only(particles_record(), "alignments3D"))
    return GIVEN


@case("train", r"particles\.cs", "row 3 ", "alignments3D/pose", "nan")
def cs_with_a_pose_of_nan(project: TinyProject) -> list[str]:
    record = particles_record()
    record["alignments3D/pose"][2] = np.nan
    save(project.root / "particles.cs", record)
    return GIVEN


@case("train", r"particles\.cs", r"row 1 \(uid \d+\)", "mic0_particles.mrc does not exist")
def cs_whose_stacks_are_missing(project: TinyProject) -> list[str]:
    save(project.root / "particles.cs", particles_record())
    return GIVEN


@case("train", r"particles\.csg", "7 items", "40 rows")
def csg_that_disagrees_with_its_file(project: TinyProject) -> list[str]:
    make_job(project.root / "J9", num_items=7)
    return ["--in_parts", "J9/J9_particles.csg"]
