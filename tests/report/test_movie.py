"""The movie of a series of maps: the maps in their order, there and back, all at one level."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.report import movie
from cryodrgn_ext.report.movie import write_movie

BOX = 24


def moving_ball(folder: Path, places: list[float]) -> list[Path]:
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX / 2
    paths = []
    for number, place in enumerate(places):
        density = np.exp(-((x - place) ** 2 + y**2 + z**2) / 18.0).astype(np.float32)
        paths.append(folder / f"vol_{number:03d}.mrc")
        write_map(paths[-1], density, 3.0, None)
    return paths


def pictures(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.stack([
            np.asarray(frame.convert("L"), np.float32)[: movie.SIZE_PX] for frame in ImageSequence.Iterator(opened)
        ])  # fmt: skip


def center_along_x(picture: np.ndarray) -> float:
    """Of the first view, which looks along z with x to the right."""
    view = movie.GROUND - picture[:, : movie.SIZE_PX]
    return float((view * np.arange(movie.SIZE_PX)).sum() / view.sum())


def test_the_ball_moves_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movie, "SIZE_PX", 48)
    out = tmp_path / "movie.gif"
    film = tmp_path / "movie.mp4"
    assert write_movie(out, moving_ball(tmp_path, [-6, -2, 2, 6]), 0.4, "A ball", film)
    with av.open(str(film)) as opened:
        (stream,) = opened.streams.video
        shown = [frame.to_ndarray(format="gray") for frame in opened.decode(stream)]
        assert stream.codec_context.name == "h264"
    # H.264 loses a little; the pictures are those of the GIF.
    assert np.abs(np.stack(shown)[:, : movie.SIZE_PX].astype(float) - pictures(out)).mean() < 4
    places = [center_along_x(picture) for picture in pictures(out)]
    assert len(places) == 6  # 0 1 2 3 2 1, and again
    assert places[0] < places[1] < places[2] < places[3] > places[4] > places[5]
    assert places[1] == pytest.approx(places[5], abs=0.5)
    assert places[0] + places[3] == pytest.approx(places[1] + places[2], abs=1.0)


def test_long_series_are_thinned_and_a_broken_map_leaves_no_movie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movie, "SIZE_PX", 16)
    monkeypatch.setattr(movie, "MOST_PICTURES", 5)
    paths = moving_ball(tmp_path, np.linspace(-6, 6, 20).tolist())
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    assert not write_movie(tmp_path / "movie.gif", paths, 0.4, "A ball", tmp_path / "movie.mp4")
    assert not (tmp_path / "movie.mp4").exists()
    assert len(pictures(tmp_path / "movie.gif")) == 8
    paths[0].write_bytes(b"no map")
    with pytest.raises(InputError):
        write_movie(tmp_path / "other.gif", paths, 0.4, "A ball")
    assert not (tmp_path / "other.gif").exists()
