"""Latents of other programs: matched with their particles, and everything after training works on them."""

from __future__ import annotations

import io
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import yaml
from click.testing import CliRunner

from cryodrgn_ext.cli.main import main
from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.import_latents import import_cryodrgn, import_latents
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.import_latents import ImportCryodrgnSettings, ImportSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.explorer.conftest import running
from tests.explorer.page_in_browser import READY, SILENT, at_once, carry_back, choose, lasso, save, within
from tests.jobs.test_train import data_rows
from tests.metadata.test_cryodrgn_particles import relion_matrix
from tests.monitors import said_by
from tests.report.browser import Browser

N, BOX, PIXEL_SIZE_A = 600, 24, 10.0
SETTINGS = ImportSettings(
    in_parts=Path("particles.star"), latents=Path("z.npz"), o=Path("imported"), states=3, knots=12, volumes=3,
    device="cpu",
)  # fmt: skip
IMPORT_WITH_PARTICLES = ("import-cryodrgn", "run", "--in_parts", "particles.star", "--o", "imported", "--knots", "8",
                         "--states", "2")  # fmt: skip


@pytest.fixture(scope="session")
def hinge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles of a hinge, the true angle as their latent, by uid in an order of its own."""
    folder = tmp_path_factory.mktemp("hinge")
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=0.5,
                                   max_shift_px=1.0, seed=2)  # fmt: skip
    write_relion_project(folder, particles)
    angle = particles.coordinates[:, 0]
    z = np.stack([(angle - angle.mean()) / angle.std(), np.zeros(N)], axis=1).astype(np.float32)
    order = np.random.default_rng(0).permutation(N)
    uid = read_particles(folder / "particles.star").uid
    np.savez(folder / "z.npz", z=z[order], uid=uid[order])
    np.save(folder / "ordered.npy", z)
    return folder


@pytest.fixture(scope="session")
def imported_once(hinge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported") / "project"
    shutil.copytree(hinge, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        import_latents(SETTINGS, Monitor(io.StringIO()))
    return root


@pytest.fixture
def project(hinge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(hinge, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def imported(imported_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(imported_once, root, copy_function=shutil.copy2)
    record = root / "imported/job.yaml"
    record.write_text(record.read_text().replace(str(imported_once), str(root)))
    monkeypatch.chdir(root)
    return root


def run(settings: ImportSettings) -> str:
    return said_by(import_latents, settings)


def command(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output


def latents() -> np.ndarray:
    return np.load("ordered.npy")


def test_a_result_as_of_a_train_job(imported: Path) -> None:
    result = read_learned_result(Path("imported"))
    np.testing.assert_array_equal(result.require_latents().z, latents())
    assert [row[:-3] for row in data_rows(Path("imported/particles.star"))] == data_rows(Path("particles.star"))
    states = yaml.safe_load(Path("imported/job.yaml").read_text())["results"]["states"]
    assert len(states) == 3
    assert sum(state["particles"] for state in states) == N
    for number in range(3):
        assert read_map(Path(f"imported/states/state{number:02d}/half1.mrc")).box_size == BOX
    page = Path("imported/report.html").read_text()
    assert "cryodrgn-ext import --in_parts particles.star --latents z.npz" in page
    assert "matched with their particles by uid" in page


def test_states_of_a_true_motion_are_distinct(imported: Path) -> None:
    states = yaml.safe_load(Path("imported/job.yaml").read_text())["results"]["states"]
    assert "distinct" in {state["verdict"] for state in states}


def test_volumes_near_latents_are_those_of_the_motion(imported: Path) -> None:
    """Each volume resembles the true volume at its own angle more than those of the ends of the motion."""
    truth = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=0.5,
                               max_shift_px=1.0, seed=2)  # fmt: skip
    z = latents()
    chosen = np.argsort(z[:, 0])[[30, 300, 570]]
    found = list(load_heterogeneity(Path("imported/model")).volumes(z[chosen]))
    true = truth.volumes(truth.coordinates[chosen])
    scores = np.array([[np.corrcoef(a.ravel(), b.ravel())[0, 1] for b in true] for a in found])
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    assert np.diagonal(scores).min() > 0.8


def test_a_second_run_does_no_work_again(imported: Path) -> None:
    assert run(SETTINGS).count("done before") == 6


def test_everything_after_training_works_on_it(imported: Path) -> None:
    command("select", "imported", "--mixture", "2", "--cluster", "0", "--o", "some.star")
    np.save("few.npy", latents()[:5])
    command("volumes", "imported", "--z", "few.npy", "--o", "vols")
    command("landscape", "imported", "--o", "land", "--sketch", "20", "--clusters", "3", "--bootstrap", "3")
    command("trajectory", "imported", "--o", "path", "--frames", "4")
    command("validate", "imported", "--o", "valid", "--random_subsets", "12", "--device", "cpu")
    command("export-cryodrgn", "imported", "--o", "exported")
    command("compare", "imported", "imported", "--o", "compared")
    assert read_map(Path("path/vol_003.mrc")).box_size == BOX
    landscape = yaml.safe_load(Path("land/job.yaml").read_text())["results"]
    assert landscape["mapping"] == "exact"
    assert landscape["closed_curve"] is None  # twenty angles are too few to tell
    assert len(list(Path("vols").glob("vol_*.mrc"))) == 5
    table = starfile.read("land/particles.star")["particles"]
    assert set(table["cdxState"]) >= {0, 1, 2}  # and small groups that are set apart


def test_only_particles_with_latents_are_taken(project: Path) -> None:
    uid = read_particles("particles.star").uid
    kept = np.random.default_rng(1).permutation(N)[:200]
    np.savez("z.npz", z=latents()[kept], uid=uid[kept])
    said = run(SETTINGS)
    assert "the other 400 are left out" in said
    original = data_rows(Path("particles.star"))
    returned = [row[:-3] for row in data_rows(Path("imported/particles.star"))]
    assert returned == [original[i] for i in np.sort(kept)]
    np.testing.assert_array_equal(read_learned_result(Path("imported")).require_latents().z, latents()[np.sort(kept)])


def test_matching_in_order_is_said(project: Path) -> None:
    assert "were matched with particles.star in order" in run(replace(SETTINGS, latents=Path("ordered.npy")))


def test_latents_that_the_particles_carry(imported: Path) -> None:
    run(replace(SETTINGS, in_parts=Path("imported/particles.star"), latents=None, o=Path("again")))
    np.testing.assert_allclose(read_learned_result(Path("again")).require_latents().z, latents(), rtol=1e-5)


def dump(path: str, *values: object) -> Path:
    Path(path).parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        for value in values:
            pickle.dump(value, file)
    return Path(path)


@pytest.fixture
def cryodrgn(project: Path) -> Path:
    """A run of the public cryodrgn on some of the particles, its stack and pickles made by arithmetic of our own."""
    table = starfile.read("particles.star")
    rows, optics = table["particles"], table["optics"]
    rotation = np.array(
        [relion_matrix(*row) for row in rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()]
    )
    shift = rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() / (BOX * PIXEL_SIZE_A)
    ctf = np.zeros((N, 9), np.float32)
    ctf[:, 0], ctf[:, 1] = 2 * BOX, PIXEL_SIZE_A / 2  # of the images before they were downsampled
    ctf[:, 2:5] = rows[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]]
    ctf[:, 5:8] = optics[["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]].to_numpy()[0]
    dump("inputs/poses.pkl", (rotation, shift))
    dump("inputs/ctf.pkl", ctf)
    kept = np.arange(0, N, 2)
    dump("inputs/ind.pkl", kept)
    shutil.copy("Particles/particles.mrcs", "inputs/particles.24.mrcs")
    dump("run/z.9.pkl", latents()[kept], np.zeros((len(kept), 2), np.float32))
    dump("run/z.4.pkl", np.zeros((len(kept), 2), np.float32))
    Path("run/config.yaml").write_text(yaml.safe_dump({"dataset_args": {
        "particles": "inputs/particles.24.mrcs", "poses": "inputs/poses.pkl", "ctf": "inputs/ctf.pkl",
        "ind": "inputs/ind.pkl", "datadir": None,
    }}))  # fmt: skip
    return project


def test_a_run_of_cryodrgn_from_its_stack_and_pickles(cryodrgn: Path) -> None:
    settings = ImportCryodrgnSettings(
        in_run=Path("run"), o=Path("imported"), states=3, knots=8, volumes=2, device="cpu"
    )
    result = import_cryodrgn(settings, SilentMonitor())
    assert len(result.outputs) > 3
    found = read_learned_result(Path("imported"))
    assert found.particles.n == N // 2
    np.testing.assert_array_equal(found.require_latents().z, latents()[::2])
    covariance = found.require_latents().z_cov
    assert covariance is not None
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(2), covariance.shape))
    truth = read_map(Path("reference.mrc"))
    consensus = read_map(Path("imported/consensus/map.mrc"))
    assert consensus.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
    assert np.corrcoef(consensus.data.ravel(), truth.data.ravel())[0, 1] > 0.8  # poses, shifts, CTF and sign are right


def test_the_same_run_with_the_users_own_particles(cryodrgn: Path) -> None:
    command(
        "import-cryodrgn", "run", "--in_parts", "particles.star", "--o", "imported", "--knots", "8", "--states", "2"
    )
    original = data_rows(Path("particles.star"))
    returned = data_rows(Path("imported/particles.star"))
    names = [row[2] for row in original[::2]]
    assert [row[2] for row in returned] == names
    np.testing.assert_allclose(read_learned_result(Path("imported")).particles.rotation,
                               read_particles("particles.star").rotation[::2], atol=1e-5)  # fmt: skip


def test_poses_that_a_run_found_are_of_its_own_particles(cryodrgn: Path) -> None:
    with open("inputs/poses.pkl", "rb") as file:
        rotation, shift = pickle.load(file)
    dump("run/pose.9.pkl", (rotation[::2], shift[::2]))
    command(
        "import-cryodrgn", "run", "--in_parts", "particles.star", "--o", "imported", "--knots", "8", "--states", "2"
    )
    np.testing.assert_allclose(read_learned_result(Path("imported")).particles.rotation, rotation[::2], atol=1e-5)


def test_rows_in_an_order_of_their_own(cryodrgn: Path) -> None:
    """The latents are in the order of the rows that were trained on, whatever that is."""
    kept = np.random.default_rng(3).permutation(N)[:150]
    dump("inputs/ind.pkl", kept)
    dump("run/z.9.pkl", latents()[kept])
    command(
        "import-cryodrgn", "run", "--in_parts", "particles.star", "--o", "imported", "--knots", "8", "--states", "2"
    )
    found = read_learned_result(Path("imported"))
    place = {uid: row for row, uid in enumerate(read_particles("particles.star").uid.tolist())}
    rows = [place[uid] for uid in found.particles.uid.tolist()]
    assert rows == kept.tolist()
    np.testing.assert_array_equal(found.require_latents().z, latents()[kept])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"latents": Path("absent.npy")}, "absent.npy does not exist"),
        ({"latents": Path("few.npy")}, "has 5 latents without names"),
        ({"in_parts": Path("Particles/particles.mrcs")}, "give --poses and --ctf"),
        ({"ctf": Path("z.npz")}, "--ctf is for a stack of images"),
        ({"latents": Path("strangers.npz")}, "latents are of particles that"),
        ({"latents": Path("few.npz")}, "has 5 latents, too few"),
        ({"box": 400}, "the images have only"),
        ({"o": Path()}, "never overwritten"),
    ],
)
def test_what_is_refused_before_anything_is_written(project: Path, options: dict[str, object], says: str) -> None:
    np.save("few.npy", latents()[:5])
    uid = read_particles("particles.star").uid
    np.savez("few.npz", z=latents()[:5], uid=uid[:5])
    np.savez("strangers.npz", z=latents(), uid=uid + np.uint64(1))
    with pytest.raises(InputError, match=says):
        import_latents(replace(SETTINGS, **options), SilentMonitor())  # type: ignore[arg-type]
    assert not Path("imported").exists()


def test_a_stack_of_another_length_is_refused(cryodrgn: Path) -> None:
    with mrcfile.open("inputs/particles.24.mrcs") as file:
        shorter = file.data[:-1].copy()
    with mrcfile.new("inputs/particles.24.mrcs", overwrite=True) as file:
        file.set_data(shorter)
    settings = ImportCryodrgnSettings(in_run=Path("run"), o=Path("imported"))
    with pytest.raises(InputError, match=f"has {N} entries, but .* has {N - 1} images"):
        import_cryodrgn(settings, SilentMonitor())


def test_a_directory_without_a_configuration_needs_particles(cryodrgn: Path) -> None:
    Path("run/config.yaml").unlink()
    with pytest.raises(InputError, match="does not say which particles"):
        import_cryodrgn(ImportCryodrgnSettings(in_run=Path("run"), o=Path("imported")), SilentMonitor())


def test_the_explorer_opens_it(imported: Path) -> None:
    """Latents of which one is the same for all, volumes that come from images; and the same without these volumes."""
    z = latents()
    point = [float(z[7, 0]), 0.0]
    with running(Path("imported")) as explorer:
        (described,) = explorer.get("api/results").plain["results"]
        assert (described["job"], described["n"], described["model"]) == ("import", N, True)
        every = {one["key"]: explorer.get(f"api/results/0/columns/{one['key']}") for one in described["columns"]}
        assert {key: one.status for key, one in every.items()} == dict.fromkeys(every, 200)
        np.testing.assert_array_equal(np.frombuffer(every["z1"].body, "<f4"), z[:, 0])
        assert not np.frombuffer(every["z2"].body, "<f4").any()
        near = explorer.post("near", z=point, count=100).plain
        assert near["title"].startswith("RECONSTRUCTED from 100 particles")
        map_there = explorer.get(f"api/results/0/maps/{near['files']['map']}").body[1024:]
        made = explorer.post("generated", z=point).plain["files"]["map"]
        generated = np.frombuffer(explorer.get(f"api/results/0/maps/{made}").body[1024:], "<f4")
        assert np.corrcoef(generated, np.frombuffer(map_there, "<f4"))[0, 1] > 0.8
        low = {"by": "range", "column": "z1", "low": None, "high": 0}
        assert explorer.post("save", name="low", recipe=low).plain["selections"][0]["n"] == int((z[:, 0] <= 0).sum())
        refused = explorer.post("train_again", name="again", recipe=low)
        assert refused.status == 400
        assert refused.plain["error"] == described["why_not_again"]
        assert "imported is a result of import, so that no job" in described["why_not_again"]
        assert not Path("imported/selections/again.npz").exists()
        assert explorer.post("particles", name="low", format="star").status == 200
        path = explorer.post("path", name="along", frames=2, method="pc", component=1, count=100).plain
        assert path["maps"][0]["title"].startswith("RECONSTRUCTED from 100 particles")
    original = data_rows(Path("particles.star"))
    returned = [row[:-3] for row in data_rows(Path("imported/selections/low.star"))]
    assert returned == [original[row] for row in np.flatnonzero(z[:, 0] <= 0)]
    shutil.rmtree("imported/model")
    with running(Path("imported")) as explorer:
        again = explorer.post("near", z=point, count=100).plain
        assert explorer.get(f"api/results/0/maps/{again['files']['map']}").body[1024:] == map_there
        assert "RECONSTRUCTED from particles can" in explorer.post("generated", z=point).plain["error"]


@pytest.mark.slow
def test_modes_of_cryosparc_go_through_the_explorer_and_back(project: Path) -> None:
    """Some particles of a 3D variability job: seen, clicked, chosen in a browser, and returned as they were."""
    command("convert", "particles.star", "all.cs")
    kept = np.random.default_rng(1).permutation(N)[:300]
    kept.sort()
    z = np.column_stack([latents()[kept, 0], np.random.default_rng(2).normal(size=300)]).astype(np.float32)
    plain = np.load("all.cs")[kept]
    modes = [(f"components_mode_{mode}/value", "<f4") for mode in range(2)]
    given = np.empty(300, [*plain.dtype.descr, *modes])
    for name in plain.dtype.fields or {}:
        given[name] = plain[name]
    for (name, _), values in zip(modes, z.T, strict=True):
        given[name] = values
    with open("J5_particles.cs", "wb") as file:
        np.save(file, given)
    run(replace(SETTINGS, in_parts=Path("J5_particles.cs"), latents=None, states=2, knots=4, volumes=1))
    with running(Path("imported")) as explorer, Browser(1500, 1000, webgl=True) as browser:
        browser.go(explorer.address)
        browser.until(READY)
        at_once(browser, False)
        choose(browser, ".axis-x", "z1")
        choose(browser, ".axis-y", "z2")
        choose(browser, ".axis-c", "state")
        chosen = within(browser, lasso(browser), z)
        save(browser, "drawn")
        for button, output in ((".write-cs", "drawn.cs"), (".write-star", "drawn.star")):
            said, wrong = carry_back(browser, button)
            assert wrong == ""
            assert output in said
        browser.value("explorer.panels[0].point.take(7)")
        browser.until("[...document.querySelectorAll('.viewer')].filter(e => e.dataset.file).length === 2")
        browser.until(SILENT)
        titles = browser.value("[...document.querySelectorAll('.viewer .title')].map(e => e.textContent)")
        assert titles[1].startswith("RECONSTRUCTED from 100 particles")
        assert browser.value("document.querySelector('.point .said').textContent").startswith(
            "Row 8 of imported/particles.cs"
        )
        assert browser.value("document.querySelector('.train-again').disabled")
        assert "a result of import" in browser.value("document.querySelector('.why-not-again').textContent")
        assert browser.errors == []
    returned = np.load("imported/selections/drawn.cs")
    for name in given.dtype.fields or {}:
        np.testing.assert_array_equal(returned[name], given[name][chosen])
    tables = ("imported/selections/drawn.star", "particles.star")
    names, original = (list(starfile.read(table)["particles"]["rlnImageName"]) for table in tables)
    assert names == [original[row] for row in kept[chosen]]
