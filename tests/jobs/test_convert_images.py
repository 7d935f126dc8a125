"""cryodrgn-ext convert, images and micrographs that are there: held against what the metadata say of them."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from cryosparc.dataset import Dataset

from cryodrgn_ext.errors import InputError
from tests.jobs.test_convert import converted
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save


@pytest.fixture(autouse=True)
def _in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_stack(path: Path, images: int, box: int, cut: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((images, box, box), np.float32))
        file.set_image_stack()
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])


def with_stacks(images: int, box: int, cut: int = 0) -> Path:
    """Particles of two stacks; the second has so many images of such a box."""
    write_stack(Path("Extract/job012/mic0.mrcs"), 4, 16)
    write_stack(Path("Extract/job012/mic1.mrcs"), images, box, cut)
    return StarBuilder().write(Path("a.star"))


@pytest.mark.parametrize(("images", "box", "complaint"), [
    (3, 16, r"row 8 of data_particles .* asks for image 4, but .*mic1\.mrcs holds 3 images"),
    (4, 32, r"mic1\.mrcs has images of 32 pixels, but its optics group .* has 16"),
])  # fmt: skip
@pytest.mark.parametrize("output", ["b.cs", "b.star"])
def test_images_that_are_others_than_the_metadata_say_are_refused(
    output: str, images: int, box: int, complaint: str
) -> None:
    with_stacks(images, box)
    with pytest.raises(InputError, match=complaint):
        converted("a.star", output)
    assert not Path(output).exists()


def test_a_stack_that_is_still_being_copied_is_said() -> None:
    with_stacks(4, 16, cut=100)
    assert "Warning: 1 of 2 stacks cannot be read as they are" in converted("a.star", "b.cs")


def test_index_beyond_the_stack_of_a_cs_is_refused() -> None:
    save(Path("a.cs"), particles_record())
    write_stack(Path("J7/extract/mic0_particles.mrc"), 15, 64)
    with pytest.raises(InputError, match=r"row 16 .*asks for image 16, but .*mic0_particles\.mrc holds 15 images"):
        converted("a.cs", "b.star")


def test_positions_outside_of_the_micrographs_of_a_cs_are_said() -> None:
    record = particles_record()
    record["location/center_y_frac"][3] = 2.5
    save(Path("a.cs"), record)
    assert "1 of 40 positions lie outside of their micrographs, the first in row 4" in converted("a.cs", "b.star")


def test_a_micrograph_of_another_format_is_no_reason_to_convert_nothing() -> None:
    builder = StarBuilder()
    builder.columns["rlnCoordinateY"] = builder.columns["rlnCoordinateX"]
    builder.write(Path("a.star"))
    for number in (0, 1):
        write_stack(Path(f"MotionCorr/job002/mic{number}.mrc"), 1, 8)
        Path(f"MotionCorr/job002/mic{number}.mrc").write_bytes(b"II*\0" + bytes(2000))
    assert "positions on micrographs are not converted" in converted("a.star", "b.cs")
    assert len(Dataset.load("b.cs")) == 8


def test_stacks_that_are_not_found_are_counted() -> None:
    write_stack(Path("Extract/job012/mic0.mrcs"), 4, 16)
    StarBuilder().write(Path("a.star"))
    said = converted("a.star", "b.cs")
    assert f"1 of 2 stacks, such as Extract/job012/mic1.mrcs, are not found from {Path.cwd()}" in said


def test_a_coordinate_that_is_no_number_is_refused_where_it_would_be_converted() -> None:
    builder = StarBuilder()
    builder.columns["rlnCoordinateY"] = ["nan" if i == 2 else "7.5" for i in range(builder.n)]
    builder.write(Path("a.star"))
    for number in (0, 1):
        write_stack(Path(f"MotionCorr/job002/mic{number}.mrc"), 1, 64)
    with pytest.raises(InputError, match=r"row 3 of data_particles .*: _rlnCoordinateY is nan"):
        converted("a.star", "b.cs")
