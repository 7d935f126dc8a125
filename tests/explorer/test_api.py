"""What the server answers, and to whom: held against files, numpy, and other jobs of the project."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import median_abs_deviation, spearmanr

from cryodrgn_ext.cli import main
from cryodrgn_ext.metadata.particles import read_particles
from tests.explorer.conftest import OWN_COLUMN, TOKEN, Explorer, N, Project, latents

FetchMap = Callable[[str], tuple[NDArray[np.float32], str]]


def inside(corners: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By the sum of the angles under which the sides are seen: another definition than counting crossings."""
    to = corners[None] - points[:, None]
    angle = np.arctan2(to[..., 1], to[..., 0])
    turn = np.diff(np.concatenate([angle, angle[:, :1]], axis=1), axis=1)
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    return np.abs(turn.sum(axis=1)) > np.pi


def alikeness(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) correlations of pictures (n, D, D) of one kind with those of another."""
    n = len(first)
    found: NDArray[np.float64] = np.corrcoef(first.reshape(n, -1), second.reshape(n, -1))[:n, n:]
    return found


POLYGON = np.array([[-1.3, -0.4], [0.2, -1.1], [1.4, 0.3], [0.3, 0.1], [0.1, 1.3], [-0.8, 0.9]])


@pytest.fixture
def recipe() -> dict[str, object]:
    return {"by": "polygon", "x": "z1", "y": "z2", "corners": POLYGON.tolist()}


@pytest.fixture
def map_of(explorer: Explorer, tmp_path: Path) -> FetchMap:
    def fetch(name: str) -> tuple[NDArray[np.float32], str]:
        answer = explorer.get(f"api/results/0/maps/{name}")
        assert answer.status == 200
        path = tmp_path / "fetched.mrc"
        path.write_bytes(answer.body)
        with mrcfile.open(path) as file:
            return file.data.copy(), " ".join(file.get_labels())

    return fetch


@pytest.mark.parametrize(
    "path",
    ["/", "/static/explorer.js", "/api/results", f"/{TOKEN}", f"/{TOKEN}x/", f"/x{TOKEN}/api/results", "/%00/", "//"],
)
def test_nothing_without_the_secret(explorer: Explorer, path: str) -> None:
    answer = explorer.ask("GET", path)
    assert answer.status == 403
    assert b"External" not in answer.body


def test_other_hosts_are_refused(explorer: Explorer) -> None:
    for host in ("example.org", "127.0.0.1.example.org", "localhost.evil:80"):
        assert explorer.ask("GET", f"/{TOKEN}/", host=host).status == 400
    assert explorer.ask("GET", f"/{TOKEN}/", host="localhost:9999").status == 200  # the other end of a tunnel


@pytest.mark.parametrize(
    "path",
    [
        "static/../api.py", "static/%2e%2e/api.py", "static/..%2fapi.py", "static//etc/passwd",
        "api/results/0/maps/../../job.yaml", "api/results/0/maps/..%2f..%2fjob.yaml", "api/results/0/maps//etc/passwd",
        "api/results/0/maps/paths/../0", "api/results/0/maps/paths/a/..%2f..%2fjob.yaml", "api/results/7/columns/z1",
        "api/results/0/columns/..%2fz1",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(explorer: Explorer, path: str) -> None:
    answer = explorer.get(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body
    assert b"settings:" not in answer.body


def test_names_of_selections_lead_nowhere_else(explorer: Explorer, recipe: dict[str, object], project: Project) -> None:
    for name in ("../out", "a/b", "", ".hidden", "x" * 200):
        answer = explorer.post("save", name=name, recipe=recipe)
        assert answer.status == 400
        assert "cannot be the name of a selection" in answer.plain["error"]
    assert not list(project.result.parent.glob("out*"))


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], {"by": "eval"}, {"by": "polygon", "x": "z1", "y": "z2", "corners": [[0, 0]]},
        {"by": "polygon", "x": "no", "y": "z2", "corners": [[0, 0], [1, 1], [0, 1]]}, {"by": "invert", "of": []},
        {"by": "nearest", "z": [0], "count": 5}, {"by": "nearest", "z": [0, 0, 0], "count": 10**9},
        {"by": "saved", "name": "nowhere"}, {"by": "levels", "column": "state", "levels": ["x"]},
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_one_sentence(explorer: Explorer, wrong: object) -> None:
    answer = explorer.post("choose", recipe=wrong)
    assert answer.status == 400
    assert "\n" not in answer.plain["error"]


def test_columns_are_those_of_the_file(explorer: Explorer, project: Project) -> None:
    described = explorer.get("api/results").plain["results"][0]
    columns = {one["key"]: one for one in described["columns"]}
    assert f"file:{OWN_COLUMN}" not in columns  # text
    table = starfile.read(project.root / "particles.star")["particles"]
    for name in ("rlnDefocusU", "rlnCoordinateX"):
        values = np.frombuffer(explorer.get(f"api/results/0/columns/file:{name}").body, "<f4")
        np.testing.assert_allclose(values, table[name], rtol=1e-6)
    defocus = np.frombuffer(explorer.get("api/results/0/columns/defocus").body, "<f4")
    np.testing.assert_allclose(defocus, (table["rlnDefocusU"] + table["rlnDefocusV"]) / 2e4, rtol=1e-5)
    micrograph = np.frombuffer(explorer.get("api/results/0/columns/micrograph").body, "<f4")
    assert len(np.unique(micrograph)) == table["rlnMicrographName"].nunique()
    assert table.groupby(micrograph)["rlnMicrographName"].nunique().max() == 1
    view = [np.frombuffer(explorer.get(f"api/results/0/columns/view_{axis}").body, "<f4") for axis in "xy"]
    assert ((view[0] / np.sqrt(8)) ** 2 + (view[1] / np.sqrt(2)) ** 2 <= 1 + 1e-6).all()  # Mollweide's ellipse
    state = np.frombuffer(explorer.get("api/results/0/columns/state").body, "<f4")
    assert [f"{int(value):02d}" for value in np.unique(state)] == [name[-2:] for name in columns["state"]["levels"]]


def test_a_selection_is_saved_and_goes_back_with_every_column(
    explorer: Explorer, recipe: dict[str, object], project: Project
) -> None:
    wanted = np.flatnonzero(inside(POLYGON, latents(project)[:, :2].astype(float)))
    assert 20 < len(wanted) < N - 20
    chosen = explorer.post("choose", recipe=recipe).plain
    original = starfile.read(project.root / "particles.star")["particles"]
    assert chosen["n"] == len(wanted)
    assert chosen["halves"] == [int((original["rlnRandomSubset"].iloc[wanted] == half).sum()) for half in (1, 2)]
    np.testing.assert_array_equal(np.frombuffer(explorer.post("positions", recipe=recipe).body, "<u4"), wanted)
    saved = explorer.post("save", name="closed", recipe=recipe)
    assert saved.status == 200
    assert explorer.post("save", name="closed", recipe=recipe).status == 400  # not replaced unless asked for
    written = explorer.post("particles", name="closed", format="star").plain
    (path,) = written["files"]
    found = starfile.read(path)["particles"]
    assert (found[list(original.columns)] == original.iloc[wanted].reset_index(drop=True)).all(axis=None)
    assert list(found[OWN_COLUMN]) == list(original[OWN_COLUMN].iloc[wanted])
    # The line that is shown does the same.
    other = Path(path).with_name("again.star")
    (command,) = written["commands"]
    words = [str(other) if word == path else word for word in command.split()[1:]]
    main(words, standalone_mode=False)
    assert other.read_bytes() == Path(path).read_bytes()
    rest = explorer.post("choose", recipe={"by": "invert", "of": [{"by": "saved", "name": "closed"}]}).plain
    assert rest["n"] == N - len(wanted)


def test_a_selection_of_other_particles_is_refused(
    explorer: Explorer, recipe: dict[str, object], project: Project
) -> None:
    explorer.post("save", name="foreign", recipe=recipe)
    path = project.result / "selections/foreign.npz"
    with np.load(path) as table:
        arrays = dict(table)
    arrays["uid"][3] += 1
    np.savez(path, **arrays)
    answer = explorer.post("particles", name="foreign")
    path.unlink()
    assert answer.status == 400
    assert "was made of other particles" in answer.plain["error"]


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
    assert "mask painted" in label
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


@pytest.mark.relion
def test_a_relion_job_by_the_pipeliner(explorer: Explorer, project: Project, recipe: dict[str, object]) -> None:
    explorer.post("save", name="to_relion", recipe=recipe)
    made = explorer.post("relion", name="to_relion")
    assert made.status == 200, made.plain
    (path,) = made.plain["files"]
    assert path.endswith("/particles.star")
    pipeline = starfile.read(project.root / "default_pipeline.star")
    node = os.path.relpath(path, project.root.resolve())
    assert node in list(pipeline["pipeline_nodes"]["rlnPipeLineNodeName"])
    count = explorer.post("choose", recipe=recipe).plain["n"]
    assert read_particles(Path(path), project.root).n == count
    assert f"fn_img == {node}" in made.plain["further"]


def test_cryosparc_needs_numbers(explorer: Explorer, recipe: dict[str, object]) -> None:
    explorer.post("save", name="to_cryosparc", recipe=recipe)
    answer = explorer.post("cryosparc", name="to_cryosparc", project="P1; rm", workspace="W1", job="J2")
    assert answer.status == 400
    assert "the project of CryoSPARC" in answer.plain["error"]


def test_answers_are_not_kept_and_scripts_come_from_here(explorer: Explorer) -> None:
    answer = explorer.get("")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "http" not in io.TextIOWrapper(io.BytesIO(answer.body)).read().replace("http-equiv", "")
