"""From a finished train job to clusters with the user's own particles, maps, components and densities."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import yaml
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.landscape import landscape
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.workflow.job_result import JobResult, OutputKind
from tests.analysis.toy_engines import LinearToy, MovingToy, Toy
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, FinishedProject, N
from tests.jobs.fake_engine import MODULE, FakeEngine
from tests.jobs.test_train import data_rows
from tests.monitors import RecordingMonitor

LAYOUT = Layout(Path("land"))
TRUTH = np.arange(N) % 3
CENTRES = np.array([[-1.0, 0.0], [1.0, 0.6], [0.4, -1.0]])


def plant(kind: type[Toy]) -> Callable[[pytest.MonkeyPatch], Toy]:
    """Latents in three groups, and an engine whose volumes follow from them."""

    def install(monkeypatch: pytest.MonkeyPatch) -> Toy:
        with np.load("out/latents.npz") as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        noise = np.random.default_rng(0).normal(size=(N, 2))
        columns["z"] = (CENTRES[TRUTH] + 0.1 * noise).astype(np.float32)
        np.savez("out/latents.npz", **columns)
        model = kind(columns["z"], BOX, PIXEL_SIZE_A)
        monkeypatch.setattr(sys.modules[MODULE], "load", lambda _: model)
        return model

    return install


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the report, which takes much of the time of a small job."""
    monkeypatch.setattr("cryodrgn_ext.jobs.landscape.write_landscape_reports", lambda *_: None)


@pytest.fixture(params=[LinearToy, MovingToy], ids=["linear", "rendered"])
def model(
    request: pytest.FixtureRequest,
    finished: FinishedProject,
    engine: FakeEngine,
    light: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Toy:
    return plant(request.param)(monkeypatch)


@pytest.fixture
def linear(finished: FinishedProject, engine: FakeEngine, light: None, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return plant(LinearToy)(monkeypatch)


def run(monitor: Monitor | None = None, **options: object) -> JobResult:
    given: dict[str, object] = {
        "in_parts": Path("out"), "o": Path("land"), "sketch": 30, "clusters": 3, "bootstrap": 3, **options
    }  # fmt: skip
    return landscape(LandscapeSettings(**given), SilentMonitor() if monitor is None else monitor)  # type: ignore[arg-type]


def table() -> dict[str, np.ndarray]:
    with np.load("land/landscape.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_clusters_come_back_as_the_users_own_particles(model: Toy) -> None:
    result = run()
    found = table()
    assert adjusted_rand_score(TRUTH, found["cluster"]) == 1.0
    original = data_rows(Path("particles.star"))
    seen = []
    for number in range(3):
        rows = data_rows(LAYOUT.state(number) / "particles.star")
        members = np.flatnonzero(found["cluster"] == number)
        assert [row[: len(original[0])] for row in rows] == [original[i] for i in members]
        seen += members.tolist()
    assert sorted(seen) == list(range(N))
    whole = starfile.read("land/particles.star", always_dict=True)["particles"]
    assert whole["cdxState"].tolist() == found["cluster"].tolist()
    np.testing.assert_allclose(whole["cdxVolumePc1"], found["v"][:, 0], rtol=1e-4, atol=1e-4)
    assert np.array_equal(np.load("land/states.npz")["label"], found["cluster"])
    kinds = {output.path.relative_to("land").as_posix(): output.kind for output in result.files}
    assert kinds["states/state02/particles.star"] is OutputKind.PARTICLES
    assert kinds["states/state00/on_data.mrc"] is kinds["components/pc01.mrc"] is OutputKind.MAP
    assert kinds["mask.mrc"] is OutputKind.MASK


def test_maps_are_averages_and_members(model: Toy) -> None:
    run()
    with np.load("land/sketch.npz") as sketch:
        volumes = np.stack([model.volume(row) for row in sketch["z"]])
        record = yaml.safe_load(Path("land/job.yaml").read_text())
        mask = read_map("land/mask.mrc").data > 0.5
        assert np.array_equal(mask, (volumes > 0.5 * volumes.max(axis=(1, 2, 3), keepdims=True)).any(axis=0))
        for number, state in enumerate(record["results"]["states"]):
            centroid = read_map(LAYOUT.state(number) / "map.mrc")
            np.testing.assert_allclose(centroid.data, volumes[sketch["cluster"] == number].mean(axis=0), atol=1e-4)
            assert centroid.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
            on_data = read_map(LAYOUT.state(number) / "on_data.mrc").data
            np.testing.assert_allclose(on_data, model.volume(model.z[state["on_data_particle"]]), atol=1e-4)
            assert TRUTH[state["on_data_particle"]] == TRUTH[table()["cluster"] == number][0]
        eigenvolume = read_map("land/components/pc01.mrc").data
        assert np.linalg.norm(eigenvolume) == pytest.approx(1, rel=1e-3)
        assert not eigenvolume[~mask].any()
        # Every particle's component is the inner product of its volume with the eigenvolume.
        everything = np.stack([model.volume(row) for row in model.z])
        exact = ((everything - volumes.mean(axis=0)) * eigenvolume).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(table()["v"][:, 0], exact, atol=1e-3 * np.abs(exact).max())
        along = [read_map(f"land/components/pc01_{n:03d}.mrc").data - volumes.mean(axis=0) for n in range(5)]
        steps = [(volume * eigenvolume).sum() for volume in along]
    expected = np.percentile(exact, [5, 27.5, 50, 72.5, 95])
    np.testing.assert_allclose(steps, expected, atol=1e-2 * np.abs(exact).max())


def test_report_and_record(finished: FinishedProject, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything, and a mapping that is learned."""
    model = plant(MovingToy)(monkeypatch)
    stream = io.StringIO()
    result = run(Monitor(stream), mapping="learned", mapping_volumes=60)
    assert model.rendered == 30 + 30 + 60 + 30  # mask, comparison, mapping, maps
    assert result.files[-1].kind is OutputKind.PDF
    report = Path("land/report.html").read_text()
    assert report.count("data:image/png") >= 8
    assert "http" not in report.replace("http-equiv", "")
    assert Path("land/logfile.pdf").read_bytes().startswith(b"%PDF")
    assert "predicted by a map learned from volumes" in report
    assert "predicted by a map learned from volumes" in stream.getvalue()
    record = yaml.safe_load(Path("land/job.yaml").read_text())
    assert (record["job"], record["status"]) == ("landscape", "finished")
    results = record["results"]
    assert results["mapping"] == "learned"
    assert 0 < results["held_out_loss"] < 0.5
    assert 0.9 < sum(results["explained_variance"]) <= 1.001
    assert sum(state["particles"] for state in results["states"]) == N
    assert results["density_maxima"]
    with np.load("land/sketch.npz") as sketch:
        assert sketch["umap"].shape == sketch["mds"].shape == (30, 2)
    assert adjusted_rand_score(TRUTH, table()["cluster"]) == 1.0


def test_a_killed_job_goes_on_where_it_stopped(linear: Toy) -> None:
    with pytest.raises(JobAborted):
        run(RecordingMonitor(at=lambda text: text.startswith("Clustering")))
    assert yaml.safe_load(Path("land/job.yaml").read_text())["status"] == "aborted"
    rendered = linear.rendered
    stream = io.StringIO()
    run(Monitor(stream))
    assert linear.rendered == rendered
    assert stream.getvalue().count("done before") == 4
    other = table()["cluster"]
    run(Monitor(stream := io.StringIO()), clusters=2)
    assert linear.rendered == rendered  # another number of clusters needs no volume
    assert table()["cluster"].max() == 1
    assert not LAYOUT.state(2).exists()
    run(clusters=3)
    assert np.array_equal(table()["cluster"], other)
    assert (LAYOUT.state(2) / "particles.star").exists()


def test_a_region_of_the_users_own(linear: Toy) -> None:
    region = np.zeros((BOX, BOX, BOX), np.float32)
    region[: BOX // 2] = 1
    write_map("region.mrc", region, PIXEL_SIZE_A, None)
    run(in_mask=Path("region.mrc"))
    assert linear.rendered == 0  # of an engine with a linear form
    assert np.array_equal(read_map("land/mask.mrc").data, region)
    eigenvolume = read_map("land/components/pc01.mrc").data
    assert not eigenvolume[BOX // 2 :].any()
    write_map("region.mrc", region * 3, PIXEL_SIZE_A, None)
    with pytest.raises(InputError, match="is not a mask"):
        run(in_mask=Path("region.mrc"), o=Path("new"))
    write_map("region.mrc", region, 2 * PIXEL_SIZE_A, None)
    with pytest.raises(InputError, match="Å wide"):
        run(in_mask=Path("region.mrc"), o=Path("new"))


def test_some_of_the_particles(linear: Toy) -> None:
    keep = np.flatnonzero(TRUTH != 1)
    np.savetxt("keep.txt", keep, fmt="%d")
    run(indices=Path("keep.txt"), clusters=2)
    assert np.array_equal(table()["row"], keep)
    assert adjusted_rand_score(TRUTH[keep], table()["cluster"]) == 1.0
    with np.load("land/states.npz") as states:
        assert np.array_equal(np.flatnonzero(states["label"] >= 0), keep)
    original = data_rows(Path("particles.star"))
    written = data_rows(Path("land/particles.star"))
    assert [row[: len(original[0])] for row in written] == [original[i] for i in keep]


def test_its_clusters_are_states_for_other_jobs(linear: Toy) -> None:
    run()
    cluster = table()["cluster"]
    original = data_rows(Path("particles.star"))
    for given, wanted in ((Path("land"), (0, 2)), (Path("land/states/state01/particles.star"), (1,))):
        settings = SelectSettings(in_parts=given, o=Path("some.star"), overwrite=True, state=wanted, star_columns="no")
        select(settings, SilentMonitor())
        assert data_rows(Path("some.star")) == [original[i] for i in np.flatnonzero(np.isin(cluster, wanted))]
    with pytest.raises(InputError, match="belongs to another job"):
        select(replace(settings, o=Path("land/states/state01/new.star")), SilentMonitor())
    run(in_parts=Path("land/states/state01"), o=Path("inner"), sketch=8, clusters=2, min_particles=1)
    with np.load("inner/landscape.npz") as arrays:
        assert np.array_equal(arrays["row"], np.flatnonzero(cluster == 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clusters": 31}, "only 30 sketched volumes"),
        ({"o": Path("out")}, "holds the results of a train job"),
        ({"in_parts": Path("particles.star")}, "does not belong to a result directory"),
        ({"in_mask": Path("nowhere.mrc")}, "nowhere.mrc"),
        ({"indices": Path("few.txt")}, "at least 10 particles"),
    ],
)
def test_what_is_refused(linear: Toy, options: dict[str, Any], says: str) -> None:
    np.savetxt("few.txt", np.arange(4), fmt="%d")
    with pytest.raises(InputError, match=says):
        run(**options)
    assert not Path("land").exists()
