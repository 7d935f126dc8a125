from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import find_project_directory
from cryodrgn_ext.metadata.image_names import ImageReferences, image_hashes
from cryodrgn_ext.metadata.image_sample import fingerprint_images
from cryodrgn_ext.metadata.mrc import read_mrc_header
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from tests.metadata.conftest import StarBuilder


def test_truncated_stack_is_counted(write_stack: Callable[..., Path], tmp_path: Path) -> None:
    header = read_mrc_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=1))
    assert (header.nz, header.n_complete) == (5, 4)
    assert read_mrc_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=5 * 256)).n_complete == 0


NAME = "Extract/job012/mic0.mrcs"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A project, a file in one of its jobs, and a working directory elsewhere."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    star = project / "Refine3D" / "job020" / "run_data.star"
    star.parent.mkdir(parents=True)
    star.write_text("")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return project, star, elsewhere


Places = tuple[Path, Path, Path]
Write = Callable[..., Path]


def test_nowhere_is_the_working_directory(places: Places) -> None:
    found = find_project_directory(places[1], [NAME])
    assert found.path == places[2]
    assert found.notes == ()


def test_images_belong_to_the_project_of_the_file(write_stack: Write, places: Places) -> None:
    project, star, elsewhere = places
    write_stack(project / NAME, 2)
    for named in (star, Path(os.path.relpath(star))):
        found = find_project_directory(named, [NAME])
        assert os.path.samefile(found.path, project)
        assert "images are read from" in found.notes[0]
    # Also where the working directory has a stack of that name: it is another project's, and said.
    write_stack(elsewhere / NAME, 2)
    found = find_project_directory(star, [NAME])
    assert found.path == project
    assert str(elsewhere) in found.notes[0]
    assert "--project" in found.notes[0]


def test_the_working_directory_comes_first_above_the_file(
    write_stack: Write, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, star, _ = places
    write_stack(project / NAME, 2)
    monkeypatch.chdir(project)
    assert find_project_directory(star, [NAME]).notes == ()
    write_stack(star.parent / NAME, 2)
    found = find_project_directory(star, [NAME])  # as RELION, which runs in the project
    assert found.path == project
    assert str(star.parent) in found.notes[0]
    monkeypatch.chdir(places[2])
    assert find_project_directory(star, [NAME]).path == star.parent  # else the nearest


def test_one_file_in_two_places_is_no_ambiguity(write_stack: Write, places: Places) -> None:
    project, star, elsewhere = places
    write_stack(project / NAME, 2)
    (elsewhere / "Extract").symlink_to(project / "Extract")
    found = find_project_directory(star, [NAME])
    assert os.path.samefile(found.path / NAME, project / NAME)
    assert not any("although" in note for note in found.notes)


def test_the_place_that_has_all_stacks_wins(write_stack: Write, places: Places, tmp_path: Path) -> None:
    project, star, _ = places
    names = [f"Extract/job012/mic{i}.mrcs" for i in range(30)]
    write_stack(project / "Refine3D" / names[0], 2)  # a remainder of something
    for name in names:
        write_stack(project / name, 2)
    assert find_project_directory(star, names).path == project


def test_a_link_to_a_file_leads_to_its_project(write_stack: Write, places: Places) -> None:
    project, star, elsewhere = places
    write_stack(project / NAME, 2)
    (elsewhere / "linked.star").symlink_to(star)
    assert find_project_directory(Path("linked.star"), [NAME]).path == project


def test_a_file_named_through_a_link_and_upward(write_stack: Write, places: Places) -> None:
    """storage/raw is reached as elsewhere/raw; elsewhere/raw/../p.star is storage/p.star, not elsewhere/p.star."""
    elsewhere = places[2]
    storage = elsewhere.parent / "storage"
    (storage / "raw").mkdir(parents=True)
    (elsewhere / "raw").symlink_to(storage / "raw")
    (storage / "p.star").write_text("")
    write_stack(storage / NAME, 2)
    write_stack(elsewhere / NAME, 3)
    found = find_project_directory(Path("raw/../p.star"), [NAME])
    assert found.path == storage
    assert str(elsewhere) in found.notes[0]


def test_what_the_user_says_comes_before_all(write_stack: Write, places: Places, tmp_path: Path) -> None:
    project, star, elsewhere = places
    write_stack(elsewhere / NAME, 2)
    found = find_project_directory(star, [NAME], project)
    assert found.path == project
    assert found.notes == ()
    with pytest.raises(InputError, match="--project must be the project directory"):
        find_project_directory(star, [NAME], tmp_path / "nothing")


def test_absolute_names_need_no_project(write_stack: Write, places: Places) -> None:
    found = find_project_directory(places[1], [str(places[0] / NAME)])
    assert found.path == places[2]
    assert found.notes == ()


def test_upward_of_a_link_is_left_to_the_system(
    write_stack: Write, star_builder: type[StarBuilder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storage" / "deep" / "raw").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "raw").symlink_to(tmp_path / "storage" / "deep" / "raw")
    write_stack(tmp_path / "storage" / "deep" / "s.mrcs", 8)
    write_stack(tmp_path / "project" / "s.mrcs", 8, box=12)
    builder = star_builder()
    builder.columns["rlnImageName"] = [f"{i + 1}@{'raw/../s' if i % 2 else './/s'}.mrcs" for i in range(8)]
    monkeypatch.chdir(tmp_path / "project")
    particles = read_particles(builder.write(tmp_path / "project" / "p.star"))
    boxes = [read_mrc_header(particles.stack_paths[stack]).nx for stack in particles.stack_id]
    assert boxes == [12, 16] * 4
    # Different files have different identities, one file however it is spelt has one.
    assert len({image_hashes(ImageReferences((name,), np.zeros(1, np.int32), np.zeros(1, np.int64)))[0]
                for name in ("raw/../s.mrcs", "s.mrcs")}) == 2  # fmt: skip
    assert len({image_hashes(ImageReferences((name,), np.zeros(1, np.int32), np.zeros(1, np.int64)))[0]
                for name in (".//s.mrcs", "s.mrcs", ">s.mrcs", "./s.mrcs:mrcs")}) == 1  # fmt: skip


# The fingerprint of the images


def images_of(folder: Path, star_builder: type[StarBuilder], write: Callable[[Path], None]) -> ParticleSet:
    builder = star_builder()
    builder.columns["rlnImageName"] = [f"{i + 1:06d}@s.mrcs" for i in range(8)]
    folder.mkdir()
    write(folder / "s.mrcs")
    return read_particles(builder.write(folder / "p.star"), folder)


def test_a_fingerprint_follows_the_pixels_not_the_file(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(-90, 90, (8, 16, 16)).astype(np.float32)

    def plain(path: Path) -> None:
        mrcfile.write(path, pixels)

    def half(path: Path) -> None:
        mrcfile.write(path, pixels.astype(np.float16))

    def large_end_first(path: Path) -> None:
        mrcfile.write(path, pixels.astype(">f4"))

    def one_other_image(path: Path) -> None:
        other = pixels.copy()
        other[3, 0, 0] += 1
        mrcfile.write(path, other)

    def other_order(path: Path) -> None:
        mrcfile.write(path, np.ascontiguousarray(pixels[::-1]))

    def other_box(path: Path) -> None:
        mrcfile.write(path, pixels.reshape(2, 32, 32).repeat(4, 0))

    writers = (plain, half, large_end_first, one_other_image, other_order, other_box)
    found = [fingerprint_images(images_of(tmp_path / one.__name__, star_builder, one)) for one in writers]
    digests = [one["sha256"] for one in found]
    assert len(set(digests[:3])) == 1
    assert len(set(digests)) == 4
    assert found[0]["directory"] == str(tmp_path / "plain")
    assert (found[0]["stacks"], found[0]["rows"]) == (1, 8)
