"""Small pictures are pngs, of any number of latents and groups, from the files of a result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.report.pictures import draw_components, draw_fsc, draw_latents, draw_slices, draw_views

RNG = np.random.default_rng(0)
Z, LABEL, CENTERS = RNG.normal(size=(60, 3)), np.arange(60) % 4, np.arange(4)
CURVES = {"state 00": np.linspace(1, 0, 11), "state 01": np.linspace(1, 0.2, 11)}


@pytest.mark.parametrize(
    "draw",
    [
        partial(draw_latents, Z, LABEL, centers=CENTERS),
        partial(draw_latents, Z[:, :1], LABEL, centers=CENTERS),
        partial(draw_latents, Z, LABEL, what="group"),
        partial(draw_components, Z, LABEL, centers=CENTERS),
        partial(draw_components, Z[:, :1], LABEL, centers=CENTERS),
        partial(draw_fsc, CURVES, 3.0),
        partial(draw_views, Rotation.random(60, rng=0).as_matrix()),
    ],
)
def test_pictures_are_drawn(draw: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path / "picture.png")
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert pixels.shape[0] > 200
    assert pixels.std() > 0.01, "it is blank"


def test_groups_can_be_told_apart_by_colour(tmp_path: Path) -> None:
    """Two far groups: left and right halves of the picture have the colours of different labels."""
    z = np.concatenate([RNG.normal(-9, 1, (50, 2)), RNG.normal(9, 1, (50, 2))])
    pictures = []
    for label in (np.repeat([0, 1], 50), np.zeros(100, int)):
        draw_components(z, label, tmp_path / "one.png", centers=np.zeros(0, int))
        pictures.append(matplotlib.image.imread(tmp_path / "one.png"))
    assert np.abs(pictures[0] - pictures[1]).max() > 0.2


def test_slices_of_maps_and_a_missing_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / f"{name}.mrc", RNG.normal(size=(12, 12, 12)).astype(np.float32), 3.0, None)
    draw_slices({name: tmp_path / f"{name}.mrc" for name in ("a", "b")}, tmp_path / "both.png")
    draw_slices({"a": tmp_path / "a.mrc"}, tmp_path / "one.png")
    both, one = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("both", "one"))
    assert (both < 0.9).sum() > 1.5 * (one < 0.9).sum(), "twice the slices"
    with pytest.raises(InputError, match=r"none\.mrc"):
        draw_slices({"none": tmp_path / "none.mrc"}, tmp_path / "none.png")
