"""Images through the server: galleries, scores, and training again without junk."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import median_abs_deviation, spearmanr

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.gallery import gallery
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.scores import ImageScores, add_scores, keep_scores, kept_scores, score_images
from cryodrgn_ext.progress import SilentMonitor
from tests.explorer.conftest import Explorer, FetchMap, N, Project, latents


def alikeness(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) correlations of pictures (n, D, D) of one kind with those of another."""
    n = len(first)
    found: NDArray[np.float64] = np.corrcoef(first.reshape(n, -1), second.reshape(n, -1))[:n, n:]
    return found


def test_the_gallery_shows_the_images_of_the_stack(explorer: Explorer, project: Project) -> None:
    places = [3, 50, 120, 199]
    made = explorer.post("gallery", positions=places).plain
    box = made["box"]
    grey = np.frombuffer(base64.b64decode(made["data"]), np.uint8).reshape(len(places), 4, box, box).astype(float)
    table = starfile.read(project.root / "particles.star")["particles"].iloc[places]
    with mrcfile.open(project.root / "Particles/particles.mrcs") as file:
        stack = file.data[[int(name.split("@")[0]) - 1 for name in table["rlnImageName"]]].astype(float)
    # rlnOrigin moves the particle into the centre; pixels of 8 A.
    origins = table[["rlnOriginYAngst", "rlnOriginXAngst"]].to_numpy() / 8.0
    centred = np.stack([ndimage.shift(one, origin, mode="wrap") for one, origin in zip(stack, origins, strict=True)])
    middle = slice(box // 4, 3 * box // 4)
    alike = alikeness(grey[:, 0, middle, middle], centred[:, middle, middle])
    assert (alike.argmax(axis=1) == np.arange(len(places))).all()
    assert np.diagonal(alike).min() > 0.6
    # The model's view is what the image shows, as far as it is no noise.
    assert np.diagonal(alikeness(grey[:, 2, middle, middle], grey[:, 3, middle, middle])).mean() > 0.6
    # The low-passed image has less of what changes from pixel to pixel.
    roughness = [np.square(np.diff(grey[:, kind], axis=2)).mean() for kind in (0, 1)]
    assert roughness[1] < roughness[0]
    assert min(made["agreement"]) > 0.1
    for wrong in ([], [-1], [N], list(range(100)), "all"):
        assert explorer.post("gallery", positions=wrong).status == 400


def test_images_are_scored_and_outliers_found(explorer: Explorer, project: Project, map_of: FetchMap) -> None:
    keys = {one["key"] for one in explorer.post("score").plain["columns"]}
    assert {"image_agreement", "image_residual", "image_scale", "image_sd"} <= keys

    def column(key: str) -> NDArray[np.float32]:
        return np.frombuffer(explorer.get(f"api/results/0/columns/{key}").body, "<f4")

    # Volumes of the stand-in differ by a factor, and by their sign, which correlations take from another place.
    places = [3, 50, 120, 199]
    shown = explorer.post("gallery", positions=places).plain["agreement"]
    np.testing.assert_allclose(np.abs(column("image_agreement")[places]), np.abs(shown), atol=2e-4)
    # The noise as it was measured, and the motion, which the stand-in knows nothing of.
    assert 1 < np.mean(column("image_residual")) < 1.5
    with np.load(project.result / "image_scores.npz") as kept:
        np.testing.assert_array_equal(kept["residual"], column("image_residual"))
        assert str(kept["reference"]) == "model"
    values = column("image_peak").astype(float)
    far = np.abs(values - np.median(values)) / median_abs_deviation(values, scale="normal") > 1.5
    assert 0 < far.sum() < N
    outliers = {"by": "outliers", "column": "image_peak", "beyond": 1.5}
    np.testing.assert_array_equal(
        np.frombuffer(explorer.post("positions", recipe=outliers).body, "<u4"), np.flatnonzero(far)
    )
    # Latents of the stand-in are normal: the density falls with the square of the distance from the middle.
    density = column("latent_density")
    assert spearmanr(density, -np.square(latents(project)).sum(axis=1)).statistic > 0.9
    made = explorer.post("component", component=2).plain
    z = latents(project).astype(float)
    axes = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)[2]
    ends = z.mean(axis=0) + np.percentile((z - z.mean(axis=0)) @ axes[1], [5, 95])[:, None] * axes[1]
    volumes = [map_of(explorer.post("generated", z=end.tolist()).plain["files"]["map"])[0] for end in ends]
    change, label = map_of(made["files"]["map"])
    assert "GENERATED" in label
    difference = volumes[1] - volumes[0]
    np.testing.assert_allclose(np.abs(change), np.abs(difference), atol=1e-4 * np.abs(difference).max() + 1e-6)


def test_training_again_without_junk(explorer: Explorer, project: Project) -> None:
    kept = np.flatnonzero(latents(project)[:, 0] < 1)
    recipe = {"by": "range", "column": "z1", "low": None, "high": 0.99999}
    explorer.post("save", name="clean", recipe=recipe)
    begun = explorer.post("train_again", name="clean").plain
    assert explorer.post("train_again", name="clean").status == 400
    while (now := explorer.post("again").plain)["state"] == "running":
        time.sleep(0.05)
    assert now["state"] == "finished", now["line"]
    words = [command.split()[1] for command in begun["commands"]]
    assert words == ["select", "train", "compare"]
    assert "--zdim 3" in begun["commands"][1]
    original = starfile.read(project.root / "particles.star")["particles"]
    again = starfile.read(project.result / "again/clean/particles.star")["particles"]
    assert list(again["rlnImageName"]) == list(original["rlnImageName"].iloc[kept])
    assert ["particles", str(N), str(len(kept))] in now["rows"]
    described = explorer.get("api/results").plain["results"]
    assert described[now["opened"]]["n"] == len(kept)
    assert described[now["opened"]]["path"].endswith("again/clean")


def test_without_the_model_images_are_held_against_the_consensus(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = MapMaker(OpenedResult(project.result), tmp_path, "cpu", SilentMonitor())
    with_model = gallery(maker, [3, 50, 120])
    monkeypatch.setattr(MapMaker, "has_model", False)
    gone = MapMaker(OpenedResult(project.result), tmp_path, "cpu", SilentMonitor())
    found = gallery(gone, [3, 50, 120])
    assert with_model.plain()["kinds"][3] == "model's view"
    assert found.plain()["kinds"][3] == "consensus's view"
    np.testing.assert_array_equal(found.pictures[:, 0], with_model.pictures[:, 0])
    # The particle is in the image, whatever the model said of its latent.
    assert found.agreement.min() > 0.1
    scores = score_images(gone)
    np.testing.assert_allclose(scores.values["agreement"][[3, 50, 120]], found.agreement, atol=1e-4)
    assert {"agreement", "residual", "sd", "peak"} <= scores.values.keys()


def test_kept_scores_say_what_the_images_were_held_against(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenedResult(project.result)
    monkeypatch.setattr(OpenedResult, "home", tmp_path)
    values = {"agreement": np.linspace(0, 1, N, dtype=np.float32), "peak": np.ones(N, np.float32)}

    def listed() -> dict[str, tuple[str, str]]:
        add_scores(opened, kept_scores(opened))
        np.testing.assert_array_equal(opened.values("image_agreement"), values["agreement"])
        return {name: (opened.columns.column(f"image_{name}").label, opened.columns.column(f"image_{name}").group)
                for name in values}  # fmt: skip

    for reference, other in (("consensus", "model"), ("model", "consensus")):
        path = keep_scores(opened, ImageScores(values, reference))
        label, group = listed()["agreement"]
        assert reference in label
        assert reference in group
        assert other not in label + group
    of_the_model = listed()
    with np.load(path) as kept:
        arrays = dict(kept)
    # A file of a version that knew no other reference.
    np.savez(path, **{name: one for name, one in arrays.items() if name != "reference"})
    assert listed() == of_the_model
    for wrong in (np.array("somebody"), np.arange(3.0)):
        np.savez(path, **{**arrays, "reference": wrong})
        with pytest.raises(InputError, match="score the images again"):
            kept_scores(opened)
