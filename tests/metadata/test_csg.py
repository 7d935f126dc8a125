"""Result groups: the .csg agrees with the .cs files that it names, or a sentence says where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.csg import read_csg, read_group_table, write_csg
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.cs_data import only, particles_record, save

SLOTS = {
    "alignments3D": "J9_005_particles.cs",
    "ctf": "J9_005_particles.cs",
    "blob": "J9_passthrough_particles.cs",
    "location": "J9_passthrough_particles.cs",
}


def make_job(directory: Path, name: str = "particles", **changed: object) -> Path:
    """A refinement's directory as CryoSPARC leaves it; the passthrough holds more fields than the group names."""
    directory.mkdir(exist_ok=True)
    record = particles_record()
    save(directory / "J9_005_particles.cs", only(record, "alignments3D", "ctf"))
    save(directory / "J9_passthrough_particles.cs", only(record, "blob", "location", "ctf")[::-1])
    results = {
        slot: {"metafile": f">{file}", "num_items": 40, "type": f"particle.{slot}"} | changed
        for slot, file in SLOTS.items()
    }
    group = {"description": "All particles", "name": name, "title": "Particles", "type": "particle"}
    content = {"created": "2026-01-02 03:04:05", "group": group, "results": results, "version": "v4.4.1"}
    path = directory / f"J9_{name}.csg"
    path.write_text(yaml.safe_dump(content))
    return path


def test_group_joins_the_slots_that_it_names(tmp_path: Path) -> None:
    record = particles_record()
    group = read_csg(make_job(tmp_path / "J9"))
    assert (group.name, group.type, group.version) == ("particles", "particle", "v4.4.1")
    table = read_group_table(group)
    assert np.array_equal(table.uid, record["uid"])
    assert set(table.columns) == set(record.dtype.names or ())
    for name, column in table.columns.items():
        assert np.array_equal(column, record[name]), name


@pytest.mark.parametrize("given", ["J9", "J9/J9_particles.csg", "J9/J9_005_particles.cs"])
def test_every_way_to_name_a_job_gives_its_particles(given: str, tmp_path: Path) -> None:
    make_job(tmp_path / "J9")
    particles = read_particles(tmp_path / given)
    record = particles_record()
    assert np.array_equal(particles.uid, record["uid"])
    assert np.array_equal(particles.stack_index, record["blob/idx"])
    np.testing.assert_allclose(particles.ctf.defocus_u_A, record["ctf/df1_A"])


def test_directory_without_group_uses_the_last_iteration(tmp_path: Path) -> None:
    make_job(tmp_path / "J9").unlink()
    save(tmp_path / "J9" / "J9_004_particles.cs", particles_record(4))
    assert read_particles(tmp_path / "J9").n == 40


def test_directory_with_several_outputs(tmp_path: Path) -> None:
    make_job(tmp_path / "J9", "particles_class_0")
    make_job(tmp_path / "J9", "particles_class_1")
    with pytest.raises(InputError, match=r"several particle outputs \(J9_particles_class_0.csg, J9_particles_class_1"):
        read_particles(tmp_path / "J9")
    make_job(tmp_path / "J9", "particles_all")
    assert read_particles(tmp_path / "J9").n == 40
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no CryoSPARC job directory"):
        read_particles(tmp_path / "empty")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"num_items": 39}, "has 39 items, but .* has 40 rows"),
        ({"num_items": "many"}, "num_items of the slot .* is 'many'"),
        ({"metafile": ">none.cs"}, "names the file >none.cs for .*, but .* does not exist"),
        ({"metafile": 3}, "names no metafile"),
    ],
)
def test_group_that_disagrees(changed: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    path = make_job(tmp_path / "J9", **changed)
    with pytest.raises(InputError, match=complaint):
        read_particles(path)


def test_groups_may_share_a_passthrough_file(tmp_path: Path) -> None:
    path = make_job(tmp_path / "J9", num_items=15)
    record = particles_record()
    save(tmp_path / "J9/J9_005_particles.cs", only(record, "alignments3D", "ctf")[5:20])
    assert np.array_equal(read_particles(path).uid, record["uid"][5:20])
    make_job(tmp_path / "J9")  # says 40
    save(tmp_path / "J9/J9_passthrough_particles.cs", only(record, "blob", "location")[:39])
    with pytest.raises(InputError, match=r"says that blob has 40 items, but .* has 39 rows"):
        read_particles(path)


def test_group_of_something_else(tmp_path: Path) -> None:
    path = make_job(tmp_path / "J9")
    path.write_text(path.read_text().replace("type: particle\n", "type: volume\n", 1))
    with pytest.raises(InputError, match="type volume, but particles are expected"):
        read_particles(path)
    for content in ("a: [", "[1, 2]", "group: {}"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"\.csg"):
            read_csg(path)
    with pytest.raises(InputError, match="does not exist"):
        read_csg(tmp_path / "none.csg")


def test_written_group_agrees_with_its_file(tmp_path: Path) -> None:
    record = particles_record()
    path = save(tmp_path / "out.cs", record)
    write_csg(tmp_path / "out.csg", path, list(record.dtype.names or ()), len(record))
    content = yaml.safe_load((tmp_path / "out.csg").read_text())
    assert set(content) == {"created", "group", "results", "version"}
    assert set(content["group"]) == {"description", "name", "title", "type"}
    assert set(content["results"]) == {"blob", "ctf", "location", "alignments3D"}
    assert content["results"]["blob"] == {"metafile": ">out.cs", "num_items": 40, "type": "particle.blob"}
    assert np.array_equal(read_group_table(read_csg(tmp_path / "out.csg")).uid, record["uid"])
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError, match="must lie beside"):
        write_csg(tmp_path / "else" / "out.csg", path, ["blob/path"], 40)
