"""Maps, paths and masks through the server: held against files, numpy, and other jobs of the project."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.cli import main
from cryodrgn_ext.explorer import half_grid
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.progress import SilentMonitor
from tests.explorer.conftest import TOKEN, Explorer, FetchMap, N, Project, latents, running


def test_a_generated_map_is_that_of_volumes(
    explorer: Explorer, project: Project, map_of: FetchMap, tmp_path: Path
) -> None:
    z = latents(project)[7]
    made = explorer.post("generated", z=z.tolist()).plain
    assert made["title"].startswith("GENERATED")
    assert made["files"]["map"].startswith("generated")
    data, label = map_of(made["files"]["map"])
    assert "GENERATED" in label
    np.savetxt(tmp_path / "z.txt", z[None])
    words = ["volumes", str(project.result), "--z", str(tmp_path / "z.txt"), "--o", str(tmp_path / "volumes")]
    main(words, standalone_mode=False)
    with mrcfile.open(tmp_path / "volumes/vol_000.mrc") as file:
        np.testing.assert_array_equal(data, file.data)


def test_a_reconstructed_map_is_that_of_its_particles(explorer: Explorer, project: Project, map_of: FetchMap) -> None:
    every = explorer.post("reconstruct", recipe={"by": "all"}, name="all").plain
    assert every["title"].startswith(f"RECONSTRUCTED from {N} particles")
    assert every["facts"]["n"] == N
    assert "RECONSTRUCTED" in map_of(every["files"]["map"])[1]
    for half in ("half1", "half2"):
        data, label = map_of(every["files"][half])
        assert "RECONSTRUCTED" in label
        with mrcfile.open(project.result / f"consensus/{half}.mrc") as file:  # of the train job, in its own way
            np.testing.assert_allclose(data, file.data, rtol=1e-3, atol=1e-4 * np.abs(file.data).max())
    near = explorer.post("near", z=latents(project)[7].tolist(), count=60).plain
    assert near["facts"]["n"] == 60
    assert "60 particles" in near["title"]
    assert "60" in near["files"]["map"]
    made = explorer.post("difference", first=near["files"]["map"], second="consensus").plain
    difference, label = map_of(made["files"]["map"])
    assert "DIFFERENCE" in label
    np.testing.assert_array_equal(difference, map_of(near["files"]["map"])[0] - map_of("consensus")[0])
    assert explorer.post("difference", first="../job.yaml", second="consensus").status == 400
    assert explorer.post("near", z=[0.0] * 3, count=0).status == 400
    assert explorer.post("near", z=[0.0, float("inf"), 0.0], count=60).status == 400


def test_maps_of_the_job_say_in_their_headers_what_they_are(explorer: Explorer, map_of: FetchMap) -> None:
    stored = explorer.get("api/results").plain["results"][0]["maps"]
    said = {one["key"]: (one["kind"], map_of(one["key"])[1]) for one in stored}
    assert {"consensus", "state00", "state01", "volume000", "volume001"} <= said.keys()
    for key, (kind, label) in said.items():
        assert kind == ("GENERATED" if key.startswith("volume") else "RECONSTRUCTED")
        assert kind in label
    (count,) = re.findall(r"RECONSTRUCTED from (\d+) particles, state 01", said["state01"][1])
    (shown,) = (one["title"] for one in stored if one["key"] == "state01")
    assert f"from {count} particles" in shown


def test_a_path_is_numbered_maps_and_a_script(explorer: Explorer, project: Project, map_of: FetchMap) -> None:
    z = latents(project)[[3, 11]]
    made = explorer.post("path", name="opening", points=z.tolist(), frames=3).plain
    folder = project.result.resolve() / "paths/opening"
    assert made["folder"] == str(folder)
    assert sorted(path.name for path in folder.glob("vol_*")) == ["vol_000.mrc", "vol_001.mrc", "vol_002.mrc"]
    assert "vol_*.mrc" in (folder / "trajectory.cxc").read_text()
    first, _ = map_of(made["maps"][0]["key"])
    generated = explorer.post("generated", z=z[0].tolist()).plain
    np.testing.assert_allclose(first, map_of(generated["files"]["map"])[0], rtol=1e-5, atol=1e-6)
    assert explorer.post("path", name="opening", points=z.tolist(), frames=3).status == 400  # taken
    made = explorer.post("path", name="dense", points=z.tolist(), frames=4, method="density").plain
    assert len(made["maps"]) == len(list((folder.parent / "dense").glob("vol_*.mrc"))) == 4
    assert "--method density" in made["commands"][0]


def test_a_path_lies_beneath_the_line_that_was_drawn(explorer: Explorer, project: Project) -> None:
    z = latents(project)
    line = np.array([[-1.0, -0.5], [0.2, 0.8], [1.0, 0.0]])
    asked = {"method": "drawn", "x": "z1", "y": "z2", "corners": line.tolist()}
    made = explorer.post("path", name="drawn", frames=3, **asked).plain
    led = np.loadtxt(project.result / "paths/drawn.txt")
    # Three points at equal distances, axes in units of their ranges, by walking along the line in small steps.
    unit = np.ptp(z[:, :2], axis=0)
    steps = np.concatenate([a + np.linspace(0, 1, 5000)[:, None] * (b - a) for a, b in itertools.pairwise(line / unit)])
    walked = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(steps, axis=0), axis=1))])
    for share, point in zip((0, 0.5, 1), led, strict=True):
        at = steps[np.argmin(np.abs(walked - share * walked[-1]))]
        nearest = np.argsort(np.linalg.norm(z[:, :2] / unit - at, axis=1))[:20]
        np.testing.assert_allclose(point, z[nearest].mean(axis=0), atol=1e-4)
    assert "--method line" in made["commands"][0]
    film = explorer.get(f"api/results/0/maps/{made['files'][1]}")
    assert film.headers["content-type"] == "video/mp4"
    along = explorer.post("path", name="first", frames=2, method="pc", component=1).plain
    assert "--pc 1" in along["commands"][0]
    for wrong in ({**asked, "corners": [[0, 0], [0, 0]]}, {**asked, "x": "no"}, {"method": "pc", "component": 99}):
        assert explorer.post("path", name="wrong", frames=3, **wrong).status == 400


def test_a_mask_is_painted_and_maps_are_compared_within(explorer: Explorer, project: Project, map_of: FetchMap) -> None:
    box, pixel_A = 32, 8.0
    strokes = [[40.0, 0.0, -24.0, 36.0], [0.0, 16.0, 0.0, 20.0], [64.0, 0.0, -24.0, -14.0]]
    described = explorer.post("paint", name="arm", strokes=strokes, on="consensus").plain
    mask, label = map_of("masks/arm")
    assert "MASK painted" in label
    z, y, x = (np.mgrid[:box, :box, :box] - box // 2) * pixel_A
    balls = [np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) - abs(r) for a, b, c, r in strokes]
    inside = (np.minimum(balls[0], balls[1]) <= 0) & (balls[2] > 3 * pixel_A)
    outside = (np.minimum(balls[0], balls[1]) > 3 * pixel_A) | (balls[2] <= 0)
    assert (mask[inside] == 1).all()
    assert (mask[outside] == 0).all()
    assert ((mask > 0) & (mask < 1)).any()
    keys = {one["key"] for one in described["columns"]}
    assert {"mask:arm.mrc", "mask:arm.mrc:has"} <= keys
    # The stand-in's volumes are the consensus times 1 + the first latent: half of it is there from -1/2 on.
    has = np.frombuffer(explorer.get("api/results/0/columns/mask:arm.mrc:has").body, "<f4")
    np.testing.assert_array_equal(has, latents(project)[:, 0] >= -0.5)
    made = explorer.post("generated", z=latents(project)[7].tolist()).plain["files"]["map"]
    first, other = explorer.post("within", mask="arm", maps=["consensus", made]).plain["maps"]
    assert first["correlation"] == pytest.approx(1)
    consensus = map_of("consensus")[0]
    weighted = float((consensus * mask).sum() / mask.sum())
    dense = consensus[consensus > 0.45 * np.percentile(consensus, 99.9)].mean()
    assert first["density"] == pytest.approx(weighted / dense, rel=1e-3)
    assert first["resolution_A"] >= 2 * pixel_A
    assert other["resolution_A"] is None
    for wrong in ([], [[0, 0, 0]], [[0, 0, 0, float("nan")]], [[0, 0, 0, -50]], [[900, 0, 0, 20]], "all"):
        assert explorer.post("paint", name="none", strokes=wrong).status == 400
    assert explorer.post("paint", name="arm", strokes=strokes).status == 400  # taken
    path = f"/{TOKEN}/api/results/0/masks"
    whole = (project.result / "masks/arm.mrc").read_bytes()
    assert explorer.ask("POST", f"{path}/copy", whole).plain["masks"][-1]["name"] == "copy"
    assert explorer.ask("POST", f"{path}/bad", b"no map").status == 400
    assert explorer.ask("POST", f"{path}/map", (project.result / "consensus/map.mrc").read_bytes()).status == 400
    kept = {one.name for one in (project.result / "masks").iterdir()}  # with those of other tests
    assert {"arm.json", "arm.mrc", "copy.mrc"} <= kept
    assert not {f"{name}.mrc" for name in ("none", "bad", "map")} & kept


def test_without_the_model_particles_are_reconstructed_all_the_same(explorer: Explorer, project: Project) -> None:
    """As where the folder of the model was deleted to save room; a mask was kept while there was one."""
    z = latents(project)[7].tolist()
    wanted = explorer.post("near", z=z, count=60).plain
    whole = explorer.get(f"api/results/0/maps/{wanted['files']['half1']}").body
    result = project.root / "External/without_model"
    shutil.copytree(project.result, result, ignore=shutil.ignore_patterns("model", "paths", "again", "masks"))
    (result / "masks").mkdir()
    shutil.copy(result / "consensus/mask.mrc", result / "masks/kept.mrc")
    with running(result) as other:
        (described,) = other.get("api/results").plain["results"]
        assert described["masks"] == []
        assert not described["model"]
        made = other.post("near", z=z, count=60).plain
        assert other.get(f"api/results/0/maps/{made['files']['half1']}").body[1024:] == whole[1024:]  # but for the date
        assert made["facts"] == wanted["facts"]
        assert other.post("reconstruct", recipe={"by": "all"}, name="all").plain["facts"]["n"] == N
        assert other.post("gallery", positions=[3]).plain["kinds"][-1] == "consensus's view"
        assert "image_agreement" in {one["key"] for one in other.post("score").plain["columns"]}
        points = {"points": latents(project)[[7, 11]].tolist()}
        for what, asked in (
            ("generated", {"z": z}), ("component", {"component": 1}), ("path", {"name": "p", "frames": 2, **points}),
        ):  # fmt: skip
            refused = other.post(what, **asked)
            assert refused.status == 400
            assert "without_model/model is not there any more" in refused.plain["error"]
        _paths_are_of_particles(other, result, points)


def _paths_are_of_particles(explorer: Explorer, result: Path, points: dict[str, Any]) -> None:
    """Each place of a path has the map that a click there has; led in every way."""
    made = explorer.post("path", name="opening", frames=3, count=60, **points).plain
    assert made["kind"] == "RECONSTRUCTED"
    assert made["maps"][2]["title"] == "RECONSTRUCTED from 60 particles, path opening, 3 of 3"
    assert "--reconstruct_from 60" in made["commands"][0]
    led = np.loadtxt(result / "paths/opening/z_values.txt", dtype=np.float32)
    for number, (one, point) in enumerate(zip(made["maps"], led, strict=True)):
        near = explorer.post("near", z=point.tolist(), count=60).plain["files"]["map"]
        found, wanted = (explorer.get(f"api/results/0/maps/{name}") for name in (one["key"], near))
        assert f"reconstructed_opening_{number:03d}.mrc" in found.headers["content-disposition"]
        data, expected = (np.frombuffer(one.body[1024:], "<f4") for one in (found, wanted))
        np.testing.assert_allclose(data, expected, atol=1e-4 * np.abs(expected).max())
        assert b"RECONSTRUCTED from 60 particles, nearest to z = " in found.body[:1024]
    movie = explorer.get(f"api/results/0/maps/{made['files'][0]}")
    assert "reconstructed_opening_movie.gif" in movie.headers["content-disposition"]
    ways: dict[str, dict[str, Any]] = {
        "dense": {"method": "density", **points}, "along": {"method": "pc", "component": 1},
        "drawn": {"method": "drawn", "x": "z1", "y": "z2", "corners": [[-1, -0.5], [0.2, 0.8]]},
    }  # fmt: skip
    for name, asked in ways.items():
        assert explorer.post("path", name=name, frames=2, count=30, **asked).plain["kind"] == "RECONSTRUCTED"
        assert sorted(path.name for path in (result / "paths" / name).glob("*.mrc")) == [
            "reconstructed_000.mrc", "reconstructed_001.mrc",
        ]  # fmt: skip
    for count in (1, N + 1):
        assert explorer.post("path", name="wrong", frames=2, count=count, **points).status == 400
    images = result / "checkpoint"
    stacks = [images.rename(result / "aside"), result.parents[1] / "Particles"]
    gone = stacks[1].rename(stacks[1].with_name("gone"))
    try:
        assert explorer.post("path", name="wrong", frames=2, count=30, **points).status == 400
    finally:
        gone.rename(stacks[1])
    assert sorted(one.name for one in (result / "paths").glob("wrong*")) == []  # the name is free


def test_a_path_may_be_of_particles_where_there_is_a_model(explorer: Explorer, project: Project) -> None:
    asked = {"points": latents(project)[[3, 11]].tolist(), "frames": 2, "name": "of_particles"}
    made = explorer.post("path", **asked, count=50).plain
    assert made["maps"][0]["title"].startswith("RECONSTRUCTED from 50 particles")
    assert not list((project.result / "paths/of_particles").glob("vol_*"))


def test_a_large_map_is_made_on_half_its_grid_and_as_a_whole_when_that_is_wanted(
    project: Project, map_of: FetchMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half is the means of the whole, at its level; the whole is that of ``volumes``."""
    monkeypatch.setattr(half_grid, "LARGEST_WHOLE", 16)
    opened = OpenedResult(project.result)
    maker = MapMaker(opened, tmp_path, "cpu", SilentMonitor())
    maker.make_ready()
    name = maker.generated(opened.z[7].tolist()).files["map"]
    half = maker.half(name)
    assert half is not None
    assert not (tmp_path / name).exists()
    (expected,) = maker.model.volumes(opened.z[7:8])
    with mrcfile.open(half) as small, mrcfile.open(maker.file(name)) as whole:
        np.testing.assert_array_equal(whole.data, expected)
        assert any(label.startswith("GENERATED by the model at z =") for label in small.get_labels())
        means = expected.reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(small.data, means, atol=1e-5 * np.abs(means).max())
        assert small.voxel_size.x == 2 * whole.voxel_size.x
        assert small.header.origin.x == whole.voxel_size.x / 2
        assert float(small.header.rms) == pytest.approx(float(expected.std()), rel=1e-4)
        assert float(small.header.dmean) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_stored_maps_are_sent_on_half_their_grid_where_they_are_large(
    explorer: Explorer, map_of: FetchMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert map_of("consensus?grid=half")[0].shape == (32, 32, 32)
    monkeypatch.setattr(half_grid, "LARGEST_WHOLE", 16)
    data, label = map_of("consensus?grid=half")
    whole = map_of("consensus")[0]
    np.testing.assert_allclose(data, whole.reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5)), rtol=1e-4, atol=1e-6)
    assert f"RECONSTRUCTED from {N} particles" in label
