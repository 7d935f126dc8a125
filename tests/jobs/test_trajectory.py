"""Volumes along paths: files, particles beside them, and what is refused."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
import yaml
from scipy.spatial import KDTree

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.map_origin import read_labels
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.trajectory import trajectory
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, N, latents_in

LAYOUT = Layout(Path("out"))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports take most of the time of a small job."""
    monkeypatch.setattr("cryodrgn_ext.jobs.trajectory.write_trajectory_reports", lambda *_: None)


def run(**options: object) -> tuple[np.ndarray, str]:
    """Latents of the volumes, and what the run said."""
    stream = io.StringIO()
    settings = TrajectorySettings(**{"in_parts": Path("out"), "o": Path("path"), **options})  # type: ignore[arg-type]
    trajectory(settings, Monitor(stream))
    return np.loadtxt("path/z_values.txt", ndmin=2), stream.getvalue()


def test_everything_is_written(trained: Path) -> None:
    settings = TrajectorySettings(in_parts=Path("out"), o=Path("path"), frames=6, nearest=4)
    result = trajectory(settings, SilentMonitor())
    kinds = [output.kind for output in result.files]
    assert kinds == [OutputKind.MAP] * 6 + [OutputKind.PDF]
    assert all(output.path.is_file() for output in result.files)
    z = np.loadtxt("path/z_values.txt")
    consensus = read_map(LAYOUT.consensus / "map.mrc").data
    for number, row in enumerate(z):
        volume = read_map(f"path/vol_{number:03d}.mrc")
        np.testing.assert_allclose(volume.data, consensus * (1 + row[0]), rtol=1e-4, atol=1e-5)
        assert volume.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
    record = yaml.safe_load(Path("path/job.yaml").read_text())
    assert record["job"] == "trajectory"
    assert record["results"]["volumes"] == 6
    assert Path("path/report.html").read_text().count("data:image/png") >= 2
    assert Path("path/logfile.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("no_report")
def test_nearest_particles_are_the_users_own(trained: Path) -> None:
    z, _ = run(frames=5, nearest=7)
    table = starfile.read("path/nearest_particles.star")
    original = starfile.read("particles.star")["particles"]
    distance = np.linalg.norm(latents_in(LAYOUT.root)[None] - z[:, None], axis=2)
    assert len(table) == 5 * 7
    for frame, part in table.groupby("cdxFrame"):
        expected = distance[int(str(frame))].argsort()[:7]
        assert part["cdxRow"].tolist() == expected.tolist()
        assert part["rlnImageName"].tolist() == original["rlnImageName"].iloc[expected].tolist()
        np.testing.assert_allclose(part["cdxLatentDistance"], distance[int(str(frame)), expected], rtol=1e-4)
    with np.load(LAYOUT.latents) as arrays:
        assert table["cdxUid"].astype(np.uint64).tolist() == arrays["uid"][table["cdxRow"]].tolist()


@pytest.mark.usefixtures("no_report")
def test_the_script_opens_all_volumes_at_one_level(trained: Path) -> None:
    run(frames=9)
    run(frames=4)
    assert sorted(path.name for path in Path("path").glob("vol_*.mrc")) == [f"vol_{n:03d}.mrc" for n in range(4)]
    script = Path("path/trajectory.cxc").read_text()
    assert "open vol_*.mrc vseries true" in script
    level = float(re.findall(r"level (\S+)", script)[0])
    halves = [0.5 * np.percentile(read_map(path).data, 99.99) for path in sorted(Path("path").glob("vol_*.mrc"))]
    assert level == pytest.approx(np.median(halves), rel=1e-3)


@pytest.mark.usefixtures("no_report")
def test_every_method_and_its_anchors(trained: Path) -> None:
    z = latents_in(LAYOUT.root)
    graph, _ = run(method="graph", anchor_particles=(3, 50, 90), mean_neighbors=6.0, max_neighbors=20)
    assert KDTree(z).query(graph)[0].max() < 1e-5
    assert np.abs(graph - z[50]).sum(axis=1).min() < 1e-5
    np.testing.assert_allclose(graph[[0, -1]], z[[3, 90]], rtol=1e-5)
    line, _ = run(method="line", anchor_particles=(3, 50), frames=3)
    np.testing.assert_allclose(line[1], z[[3, 50]].mean(axis=0), rtol=1e-4)
    np.savetxt("anchors.txt", [[0.0, 0.0], [1.0, 1.0]])
    line, _ = run(method="line", anchors=Path("anchors.txt"), frames=3)
    np.testing.assert_allclose(line, np.array([[0, 0], [0.5, 0.5], [1, 1]]))
    dense, _ = run(method="density", anchor_clusters=3)
    assert len(dense) == 10


def test_maps_are_reconstructed_without_a_model(trained: Path) -> None:
    """As the weighted mean of the nearest images of each half-set, computed here from what is written beside them."""
    shutil.rmtree(LAYOUT.model)
    with pytest.raises(InputError, match="out/model is not there any more: give --reconstruct_from"):
        run()
    assert not Path("path").exists()
    count, latents = 40, latents_in(LAYOUT.root)
    z, _ = run(frames=3, reconstruct_from=count)
    particles = read_learned_result(Path("out")).particles
    images = open_images(particles, Path("images"), PreprocessSettings(box_size=BOX))
    assert sorted(path.name for path in Path("path").glob("*.mrc")) == [f"reconstructed_{n:03d}.mrc" for n in range(3)]
    for number, point in enumerate(z):
        rows, weights = [], []
        for half in (1, 2):
            members = np.flatnonzero(particles.half_set == half)
            distance = np.linalg.norm(latents[members].astype(float) - point, axis=1)
            order = distance.argsort()
            rows.append(members[order[: count // 2]])
            weights.append(1 - (distance[order[: count // 2]] / distance[order[count // 2]]) ** 2)
        wanted = reconstruct_half_maps(
            images, torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(weights)),
            torch.from_numpy(read_map(LAYOUT.consensus / "mask.mrc").data),
        )  # fmt: skip
        path = Path(f"path/reconstructed_{number:03d}.mrc")
        found = read_map(path).data
        np.testing.assert_allclose(found, wanted.map, rtol=1e-3, atol=1e-3 * np.abs(wanted.map).max())
        assert any(one.startswith(f"RECONSTRUCTED from {count} particles, nearest to z") for one in read_labels(path))
    results = yaml.safe_load(Path("path/job.yaml").read_text())["results"]
    assert results["particles"] == [count] * 3
    assert len(results["resolution_A"]) == 3
    assert "open reconstructed_*.mrc vseries true" in Path("path/trajectory.cxc").read_text()
    page = Path("path/report.html").read_text()
    assert "reconstructed_NNN.mrc" in page
    assert "vol_NNN.mrc" not in page


@pytest.mark.usefixtures("no_report")
def test_particles_may_be_restricted(trained: Path) -> None:
    with np.load(LAYOUT.states_table) as arrays:
        label = arrays["label"]
    rows = np.flatnonzero(label == 1)
    run(in_parts=Path("out/states/state01"), frames=3)
    assert set(starfile.read("path/nearest_particles.star")["cdxRow"]) <= set(rows.tolist())
    np.savetxt("rows.txt", np.arange(60), fmt="%d")
    run(indices=Path("rows.txt"), frames=3)
    assert starfile.read("path/nearest_particles.star")["cdxRow"].max() < 60
    run(indices=Path("out/states/state02/particles.star"), frames=3)
    assert set(starfile.read("path/nearest_particles.star")["cdxRow"]) <= set(np.flatnonzero(label == 2).tolist())
    with pytest.raises(InputError, match="not among the 60 particles"):
        run(indices=Path("rows.txt"), method="graph", anchor_particles=(3, 80))


def test_a_jump_is_warned_of(trained: Path) -> None:
    z = latents_in(LAYOUT.root)
    lonely = int(np.linalg.norm(z, axis=1).argmax())
    close = np.linalg.norm(z, axis=1).argsort()[:2].tolist()
    _, said = run(method="graph", anchor_particles=(*close, lonely), mean_neighbors=3.0, max_neighbors=8)
    assert "Anchors 2 and 3 of the path are not connected" in said
    assert "not connected" in Path("path/report.html").read_text()
    assert yaml.safe_load(Path("path/job.yaml").read_text())["results"]["not_connected"] == [2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pc": 3}, "no principal component 3"),
        ({"percentile_low": 96.0}, "must rise"),
        ({"reconstruct_from": N + 1}, f"{N} particles are looked at: give less"),
        ({"anchor_particles": (1, 2)}, "pc has no anchors"),
        ({"method": "graph", "anchor_particles": (1,)}, "at least two anchors"),
        ({"method": "graph", "anchor_particles": (1, N)}, f"names particle {N}"),
        ({"method": "graph", "mean_neighbors": 20.0}, "not exceed the second"),
        ({"method": "line", "anchors": Path("nowhere.txt")}, "does not exist"),
        ({"o": Path("out")}, "holds the results of a train job"),
        ({"in_parts": Path("particles.star"), "o": Path("new")}, "does not belong to a result directory"),
    ],
)
def test_what_is_refused(trained: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(**options)
    assert not Path("path").exists()
