"""Images to which their CTF was applied: told apart by group, and refused where a file or an engine cannot say it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import starfile

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.ctf_applied import is_premultiplied, refuse_premultiplied
from cryodrgn_ext.metadata.particle_writing import write_particles_cs
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.relion31 import as_relion31
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.results.returned_particles import returned_name
from cryodrgn_ext.workflow.given_particles import read_given_particles
from tests.metadata.conftest import StarBuilder

LABEL, FLIPPED = "rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"


@pytest.mark.parametrize("style", ["3.1", "5.0"])
def test_premultiplied_images_do_not_become_a_cs(style: str, tmp_path: Path) -> None:
    builder = StarBuilder(style, box=64)
    builder.optics[LABEL] = ["1", "0"]
    particles = read_particles(builder.write(tmp_path / "a.star"))
    assert is_premultiplied(particles)
    for make in (lambda: write_particles_cs(particles, tmp_path / "a.cs"), lambda: returned_name(particles, "cs"),
                 lambda: refuse_premultiplied(particles, "cryodrgn")):  # fmt: skip
        with pytest.raises(InputError, match=rf"premultiplied by their CTF \({LABEL} 1\), .* a second time"):
            make()
    assert not (tmp_path / "a.cs").exists()
    assert returned_name(particles) == "particles.star"
    others = particles.subset([i for i in range(8) if i % 2])  # images of the other group
    assert not is_premultiplied(others)
    assert "blob/path" in write_particles_cs(others, tmp_path / "b.cs")


def test_particles_of_relion30_say_it_themselves(tmp_path: Path) -> None:
    builder = StarBuilder("3.0")
    builder.columns[LABEL] = ["1", "1", "0", "0"] * 2
    particles = read_particles(builder.write(tmp_path / "a.star"))
    assert [particles.optics[i].ctf_premultiplied for i in particles.optics_index] == [True, True, False, False] * 2
    boxed = tuple(dataclasses.replace(group, box_size=16) for group in particles.optics)
    write_star(tmp_path / "b.star", as_relion31(dataclasses.replace(particles, optics=boxed)))
    tables = starfile.read(tmp_path / "b.star")
    flags = tables["optics"].set_index("rlnOpticsGroup")[LABEL]
    assert flags[tables["particles"]["rlnOpticsGroup"]].tolist() == [1, 1, 0, 0] * 2


@pytest.mark.parametrize("where", ["optics", "columns"])
def test_phase_flipped_images_are_refused_by_jobs_that_learn(where: str, tmp_path: Path) -> None:
    builder = StarBuilder()
    columns = getattr(builder, where)
    columns[FLIPPED] = ["0"] * len(columns["rlnOpticsGroup"])
    assert read_given_particles(builder.write(tmp_path / "a.star"), tmp_path / "out", None).n == 8
    columns[FLIPPED][-1] = "1"
    with pytest.raises(InputError, match=rf"phases of its images were flipped \({FLIPPED} 1 in data_"):
        read_given_particles(builder.write(tmp_path / "a.star"), tmp_path / "out", None)
