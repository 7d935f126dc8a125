"""Maps: what is written is a valid MRC2014 volume, what is read is checked."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map, write_map


def test_round_trip_and_validity(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    write_map(tmp_path / "map.mrc", data, 3.25, None)
    found = read_map(tmp_path / "map.mrc")
    assert np.array_equal(found.data, data)
    assert found.pixel_size_A == pytest.approx(3.25)
    assert found.box_size == 10
    assert mrcfile.validate(tmp_path / "map.mrc")
    with mrcfile.open(tmp_path / "map.mrc") as file:
        assert file.is_volume()
        assert int(file.header.ispg) == 1


def test_failed_writing_leaves_the_old_map_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    write_map(path, np.ones((4, 4, 4), np.float32), 1.0, None)
    with pytest.raises(ValueError, match="three axes"):
        write_map(path, np.ones((4, 4), np.float32), 1.0, None)
    assert read_map(path).data.sum() == 64
    assert [file.name for file in tmp_path.iterdir()] == ["map.mrc"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/map.mrc cannot be written"):
        write_map(tmp_path / "nowhere" / "map.mrc", np.ones((4, 4, 4), np.float32), 1.0, None)


def test_maps_that_are_no_cubes_are_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "map.mrc", np.ones((4, 6, 8), np.float32), 1.0, None)
    with pytest.raises(InputError, match=r"not a cubic map: its size is 8 x 6 x 4 \(x, y, z\)"):
        read_map(tmp_path / "map.mrc")


def test_maps_with_nan_are_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "map.mrc", np.ones((4, 4, 4), np.float32), 1.0, None)
    with open(tmp_path / "map.mrc", "rb+") as file:
        file.seek(1024 + 4 * 7)
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="1 voxels that are not finite"):
        read_map(tmp_path / "map.mrc")
