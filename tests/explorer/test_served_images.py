"""Images through the server: galleries, scores, and training again without junk."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import median_abs_deviation, spearmanr

from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.gallery import gallery
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.original_images import grey_values, original_images
from cryodrgn_ext.explorer.scores import ImageScores, add_scores, keep_scores, kept_scores, score_images
from cryodrgn_ext.metadata.particles import read_particles
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
    # What the user sees of the image are the stack's own pixels: neither moved nor scaled, every one of them.
    for one, pixels, name in zip(made["originals"], stack, table["rlnImageName"], strict=True):
        seen = np.frombuffer(base64.b64decode(one["data"]), np.uint8).reshape(one["box"], one["box"])
        low, high = np.percentile(pixels, [0.5, 99.5])
        np.testing.assert_allclose(seen, 255 * (pixels.clip(low, high) - low) / (high - low), atol=0.51)
        number, _, file = name.partition("@")
        values = f"values {np.float32(pixels.min()):.4g} to {np.float32(pixels.max()):.4g}"
        assert one["origin"] == f"{int(number)}@{file}: the stack's own pixels, {len(pixels)} px, {values}"
    # The model's view is what the image shows, as far as it is no noise.
    assert np.diagonal(alikeness(grey[:, 2, middle, middle], grey[:, 3, middle, middle])).mean() > 0.6
    # The low-passed image has less of what changes from pixel to pixel.
    roughness = [np.square(np.diff(grey[:, kind], axis=2)).mean() for kind in (0, 1)]
    assert roughness[1] < roughness[0]
    assert min(made["agreement"]) > 0.1
    for wrong in ([], [-1], [N], list(range(100)), "all"):
        assert explorer.post("gallery", positions=wrong).status == 400


def _copied(project: Project, folder: Path) -> Path:
    """The project somewhere else, where the stack may be changed."""
    shutil.copytree(project.root, folder / "mine")
    record = folder / "mine/External/train/job.yaml"
    store = folder / "mine/External/train/checkpoint"
    record.write_text(record.read_text().replace(str(project.root), str(folder / "mine")))
    shutil.rmtree(store, ignore_errors=True)
    return folder / "mine"


def test_where_the_stack_is_gone_or_another_the_gallery_says_so(project: Project, tmp_path: Path) -> None:
    """As long as the prepared images are there, everything else is shown, and maps are reconstructed."""
    root = _copied(project, tmp_path)
    opened = OpenedResult(root / "External/train", root)
    whole = gallery(MapMaker(opened, tmp_path, "cpu", SilentMonitor()), [3, 50])  # prepares the images
    assert all(one.pixels is not None for one in whole.originals)
    stack = root / "Particles/particles.mrcs"
    aside = stack.rename(tmp_path / "aside.mrcs")
    opened = OpenedResult(root / "External/train", root)
    maker = MapMaker(opened, tmp_path, "cpu", SilentMonitor())
    found = gallery(maker, [3, 50])
    np.testing.assert_array_equal(found.pictures, whole.pictures)
    assert [one["box"] for one in found.plain()["originals"]] == [0, 0]
    assert all(one.origin.endswith(": stack not there; as the job saw it") for one in found.originals)
    assert maker.near(opened.z[0].tolist(), 20).facts["n"] == 20
    particles, rows = opened.result.particles, opened.rows[[3, 199]]
    for pixels, words in (
        (np.zeros((N, 16, 16), np.float32), "stack is another one now, of 16 px, not 32; as the job saw it"),
        (np.zeros((2, 32, 32), np.float32), "stack ends after image 2; as the job saw it"),
    ):
        with mrcfile.new(stack, overwrite=True) as file:
            file.set_data(pixels)
        assert all(words in one.origin for one in original_images(particles, rows))
    stack.write_bytes(b"no images")
    assert all("cannot be read; as the job saw it" in one.origin for one in original_images(particles, rows))
    stack.unlink()
    aside.rename(stack)


@pytest.mark.parametrize(("form", "dtype"), [("star", ">f4"), ("star", "<f2"), ("cs", "<i2")])
def test_pixels_of_the_stack_are_read_as_they_are(project: Project, tmp_path: Path, form: str, dtype: str) -> None:
    """Of what kind they are, and however large the images that the job works on are."""
    root = tmp_path / "mine"
    shutil.copytree(project.root / "Particles", root / "Particles")
    shutil.copy(project.root / "particles.star", root)
    given = root / f"particles.{form}"
    with mrcfile.open(root / "Particles/particles.mrcs") as file:
        pixels = (100 * file.data).astype(np.dtype(dtype).newbyteorder("="))
    with mrcfile.new(root / "Particles/particles.mrcs", overwrite=True) as file:
        file.set_data(pixels.astype(dtype))
        file.voxel_size = 8.0
    if form == "cs":
        words = ["convert", str(root / "particles.star"), str(given), "--project", str(root)]
        main(words, standalone_mode=False)
    particles, rows = read_particles(given, root), np.array([0, 7, 150])
    for row, one in zip(rows, original_images(particles, rows), strict=True):
        assert one.pixels is not None
        np.testing.assert_array_equal(one.pixels, pixels[particles.stack_index[row]].astype(np.float32))


def test_pixels_that_are_no_numbers_are_black() -> None:
    picture = np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8)
    picture[0, :2] = np.nan, np.inf
    grey = grey_values(np.stack([picture, np.full_like(picture, np.nan), np.ones_like(picture)]))
    assert (grey[0, 0, :2] == 0).all()
    assert (grey[0, 7, 7], grey[1].max()) == (255, 0)


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
