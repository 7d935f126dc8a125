"""Datasets that cryosparc-tools gives, as particles: the same as what the job's files give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryosparc.dataset import Dataset

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryosparc_datasets import absolute_stacks, particles_from_datasets
from cryodrgn_ext.metadata.particle_writing import write_particles_cs
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.cs_data import Record, only, particles_record
from tests.metadata.test_csg import make_job


def dataset(record: Record) -> Dataset:
    """What the client would load: text as strings of any length, not fixed-width bytes."""
    return Dataset({name: record[name].astype(str) if record.dtype[name].kind == "S" else record[name]
                    for name in record.dtype.names or ()})  # fmt: skip


def test_live_job_is_the_same_as_its_directory(tmp_path: Path) -> None:
    make_job(tmp_path / "J9")
    files = read_particles(tmp_path / "J9", tmp_path)
    record = particles_record()
    parts = [dataset(only(record, "alignments3D", "ctf")), dataset(only(record, "blob", "location")[::-1])]
    live = particles_from_datasets(parts, tmp_path, name="P1-J9 particles")
    assert len(parts[0].fields()) == len(only(record, "alignments3D", "ctf").dtype.names or ())  # left as it was
    for name in ("uid", "euler_deg", "shift_A", "stack_index", "half_set", "image_hash", "optics_index"):
        assert np.array_equal(getattr(live, name), getattr(files, name)), name
    assert live.optics == files.optics
    assert live.stack_paths == files.stack_paths
    assert live.notes == tuple(note.replace(str(files.path), "P1-J9 particles") for note in files.notes)
    write_particles_cs(live.subset(np.array([7, 3])), tmp_path / "live.cs")
    write_particles_cs(files.subset(np.array([7, 3])), tmp_path / "files.cs")
    one, other = (np.load(tmp_path / f"{name}.cs", allow_pickle=False) for name in ("live", "files"))
    assert set(one.dtype.names) == set(other.dtype.names)
    for name in one.dtype.names:
        assert np.array_equal(one[name], other[name]), name


def test_messages_name_the_job(tmp_path: Path) -> None:
    record = particles_record()
    with pytest.raises(InputError, match=r"^P1-J9 particles: has no field blob/path; load the output with all"):
        particles_from_datasets([dataset(only(record, "alignments3D", "ctf"))], tmp_path, name="P1-J9 particles")
    with pytest.raises(InputError, match="P1-J9 particles: has no orientations"):
        particles_from_datasets([dataset(only(record, "blob", "ctf"))], tmp_path, name="P1-J9 particles")
    halves = [dataset(only(record, "alignments3D", "ctf")), dataset(only(record[:20], "blob"))]
    with pytest.raises(InputError, match=r"P1-J9 particles \(passthrough 1\): lacks 20 of 40 particles"):
        particles_from_datasets(halves, tmp_path, name="P1-J9 particles")
    record["alignments3D/pose"][4] = np.nan
    with pytest.raises(InputError, match=r"P1-J9 particles: row 5 \(uid \d+\): alignments3D/pose"):
        particles_from_datasets([dataset(record)], tmp_path, name="P1-J9 particles")
    with pytest.raises(InputError, match="is empty"):
        particles_from_datasets([dataset(record[:0])], tmp_path)
    with pytest.raises(InputError, match="no dataset"):
        particles_from_datasets([], tmp_path)


def test_whole_paths_are_found_from_anywhere(tmp_path: Path) -> None:
    record = particles_record()
    record["blob/path"] = [b">" + one for one in record["blob/path"].tolist()]
    (tmp_path / "P1").mkdir()
    live = particles_from_datasets([dataset(record)], tmp_path / "P1")
    write_particles_cs(live, tmp_path / "elsewhere.cs", absolute_stacks(live))
    again = read_particles(tmp_path / "elsewhere.cs")
    assert again.stack_paths == live.stack_paths
    assert str(again.stack_paths[0]) == f"{tmp_path}/P1/J7/extract/mic0_particles.mrc"
