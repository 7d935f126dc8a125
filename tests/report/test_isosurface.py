"""Pictures of surfaces against geometry that is known, and their PNG files against an independent reader."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from cryodrgn_ext.report.isosurface import ViewBox, common_view_box, contour_level, surface_views
from cryodrgn_ext.report.png import grey_png, painted, shaded_png


def ball(box: int, center_zyx: tuple[float, float, float], radius: float) -> np.ndarray:
    z, y, x = np.indices((box, box, box))
    distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip((z, y, x), center_zyx, strict=True)))
    return (1 / (1 + np.exp((distance - radius) / 0.5))).astype(np.float32)


def test_a_ball_is_a_disc_of_its_radius_from_all_sides() -> None:
    views = surface_views(ball(32, (15.5, 15.5, 15.5), 8.0), 0.5, size_px=128)
    area = np.isfinite(views).sum(axis=(1, 2)) / 128**2
    np.testing.assert_allclose(area, np.pi * (8 / 32) ** 2, rtol=0.04)


def test_views_show_each_axis_where_its_label_says() -> None:
    """A ball off centre: z up in the views along y and x, y up along z; x to the right along z and y."""
    views = surface_views(ball(32, (24.0, 20.0, 10.0), 3.0), 0.5, size_px=128)
    middles = [np.argwhere(np.isfinite(view)).mean(axis=0) for view in views]
    z, y, x = 24.5 / 32 * 128, 20.5 / 32 * 128, 10.5 / 32 * 128
    for middle, (up, right) in zip(middles, ((y, x), (z, x), (z, y)), strict=True):
        np.testing.assert_allclose(middle, (127.5 - up + 0.5, right - 0.5), atol=1.5)


def test_the_nearer_of_two_balls_hides_the_other() -> None:
    """Seen along z the viewer stands at large z."""
    near, far = ball(32, (26.0, 15.5, 15.5), 3.0), ball(32, (6.0, 15.5, 15.5), 5.0)
    front = surface_views(near, 0.5, size_px=96)[0]
    both = surface_views(near + far, 0.5, size_px=96)[0]
    inside = np.isfinite(front) & (np.hypot(*(np.indices(front.shape) - 47.5)) < 6)
    # The same surface; fog is relative to what else there is, and only lightens the nearer.
    assert np.corrcoef(front[inside], both[inside])[0, 1] > 0.95


def test_light_comes_from_above_left() -> None:
    view = surface_views(ball(32, (15.5, 15.5, 15.5), 10.0), 0.5, size_px=128)[0]
    assert np.nanmean(view[:64, :64]) > np.nanmean(view[64:, 64:]) + 0.05


def test_a_view_box_fits_all_maps_but_not_specks() -> None:
    low, high = ball(40, (12.0, 20.0, 20.0), 5.0), ball(40, (28.0, 20.0, 20.0), 5.0)
    low[38, 38, 38] = 5.0
    view_box = common_view_box([low, high], 0.5)
    np.testing.assert_allclose(view_box.center, (20.5 / 40, 20.5 / 40, 20.5 / 40), atol=0.02)
    assert view_box.half_edge * 40 == pytest.approx(1.15 * 13, rel=0.1)
    whole, close = (np.isfinite(surface_views(high, 0.5, f, 96)[1]).sum() for f in (ViewBox(), view_box))
    assert close > 1.5 * whole


def test_an_empty_map_gives_an_empty_picture() -> None:
    empty = np.zeros((16, 16, 16), np.float32)
    assert np.isnan(surface_views(empty, contour_level(empty))).all()
    assert np.isnan(surface_views(empty, 1.0)).all()
    assert common_view_box([empty], 1.0) == ViewBox()


def test_large_maps_are_drawn_as_their_averages() -> None:
    views = surface_views(ball(160, (79.5, 79.5, 79.5), 40.0), 0.5, size_px=64)
    np.testing.assert_allclose(np.isfinite(views).mean(), np.pi / 16, rtol=0.06)


def test_pictures_are_what_a_reader_of_png_sees() -> None:
    lightness = np.linspace(0, 1, 12).reshape(3, 4)
    lightness[1, 2] = np.nan
    read = matplotlib.image.imread(io.BytesIO(shaded_png(lightness, (0.2, 0.5, 0.8))), format="png")
    assert read[1, 2, 3] == 0
    opaque = np.isfinite(lightness)
    np.testing.assert_allclose(read[..., :3][opaque] * 255, painted(lightness, (0.2, 0.5, 0.8))[opaque], atol=0.6)
    assert (np.diff(read[0, :, :3].sum(axis=1)) > 0).all()
    grey = matplotlib.image.imread(io.BytesIO(grey_png(np.array([[-1.0, 0.0], [1.0, 9.0]]), 0.0, 2.0)), format="png")
    np.testing.assert_allclose(grey, np.array([[0, 0], [128 / 255, 1]]), atol=0.003)
