"""Replicate runs: how far they agree, and on which particles, whatever their rows and numbers."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.cli.main import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.compare import compare
from cryodrgn_ext.options.compare import CompareSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from tests.jobs.conftest import FinishedProject, N
from tests.jobs.test_train import data_rows

SETTINGS = CompareSettings(in_results=(Path("out"), Path("again")), o=Path("compared"))
SWAP = np.array([2, 0, 1])
MOVED = np.arange(0, N, 10)  # particles that the second run puts elsewhere


@pytest.fixture(autouse=True)
def runs(finished: FinishedProject) -> Path:
    """A second run: the same states by other numbers, but for some particles; latents of another basis."""
    shutil.copytree("out", "again", copy_function=shutil.copy2)
    with np.load("out/states.npz") as arrays:
        kept = dict(arrays)
    label = SWAP[kept["label"]]
    label[MOVED] = (label[MOVED] + 1) % 3
    centers = np.array([np.flatnonzero(label == number)[0] for number in range(3)])
    np.savez("again/states.npz", label=label.astype(np.int32), center_index=centers)
    with np.load("out/latents.npz") as arrays:
        latents = dict(arrays)
    turned = latents["z"] @ np.array([[0.0, 2.0], [-3.0, 1.0]], np.float32) + 4
    np.savez("again/latents.npz", **(latents | {"z": turned}))
    return finished.root


def states(run: str) -> np.ndarray:
    with np.load(f"{run}/states.npz") as arrays:
        return arrays["label"]


def test_figures_of_agreement() -> None:
    said = io.StringIO()
    compare(SETTINGS, Monitor(said))
    results = yaml.safe_load(Path("compared/job.yaml").read_text())["results"]
    assert results["adjusted_rand"][0][1] == pytest.approx(
        adjusted_rand_score(states("out"), states("again")), abs=1e-4
    )
    assert results["percentage"][1][0] == pytest.approx(100 * (1 - len(MOVED) / N), abs=0.01)
    assert results["latents_linear"][0][1] == pytest.approx(1.0)
    assert results["common_particles"] == N
    assert results["agreeing_particles"] == N - len(MOVED)
    assert f"All runs put {N - len(MOVED)} of them" in said.getvalue()
    page = Path("compared/report.html").read_text()
    assert "Adjusted Rand index" in page
    assert Path("compared/logfile.pdf").is_file()


def test_particles_on_which_all_runs_agree() -> None:
    result = compare(SETTINGS, SilentMonitor())
    original = data_rows(Path("particles.star"))
    agreeing = np.setdiff1d(np.arange(N), MOVED)
    for state in range(3):
        rows = data_rows(Path(f"compared/states/state{state:02d}/particles.star"))
        expected = [original[i] for i in agreeing if states("out")[i] == state]
        assert [row[: len(original[0])] for row in rows] == expected
    everything = data_rows(Path("compared/particles.star"))
    assert [int(row[-1]) for row in everything] == [1 if i in MOVED else 2 for i in range(N)]
    assert [int(row[-2]) for row in everything] == states("out").tolist()
    assert next(len(output.uid) for output in result.outputs) == N  # type: ignore[union-attr]


def test_runs_are_joined_by_particle_not_by_row() -> None:
    """The second run was of some of the particles, in another order."""
    order = np.random.default_rng(0).permutation(N)[:90]
    lines = Path("particles.star").read_text().splitlines()
    data = [i for i, line in enumerate(lines) if "@" in line]
    Path("some.star").write_text("\n".join([*lines[: data[0]], *(lines[data[i]] for i in order), ""]))
    shutil.copy("some.star", "again/particles.star")
    record = yaml.safe_load(Path("again/job.yaml").read_text())
    record["inputs"]["in_parts"] |= {"absolute_path": str(Path("gone.star").absolute())}
    Path("again/job.yaml").write_text(yaml.safe_dump(record))
    for name in ("latents", "states"):
        with np.load(f"again/{name}.npz") as arrays:
            kept = {key: array if key == "center_index" else array[order] for key, array in arrays.items()}
        np.savez(f"again/{name}.npz", **kept)
    compare(SETTINGS, SilentMonitor())
    results = yaml.safe_load(Path("compared/job.yaml").read_text())["results"]
    assert results["common_particles"] == 90
    assert results["agreeing_particles"] == 90 - len(np.intersect1d(order, MOVED))
    with np.load("compared/compare.npz") as arrays:
        np.testing.assert_array_equal(arrays["row"], np.sort(order))


def test_the_same_names_of_another_project_are_no_replicates() -> None:
    """What tells are the images: names, numbers and even the file of particles may be the same."""
    record = yaml.safe_load(Path("again/job.yaml").read_text())
    record["inputs"]["images"]["sha256"] = "0" * 64
    Path("again/job.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match="again has particles of the same names as out, but other images"):
        compare(SETTINGS, SilentMonitor())


def test_particles_of_a_stack_that_was_made_anew_are_found_by_position() -> None:
    """Half of the rows, with numbers that other particles had in the first run."""
    lines = Path("particles.star").read_text().splitlines()
    data = [i for i, line in enumerate(lines) if "@" in line]
    words = [lines[i].split() for i in data]
    name = next(i for i, word in enumerate(words[0]) if "@" in word)
    shifted = [[*words[i + 30][:name], words[i][name], *words[i + 30][name + 1 :]] for i in range(60)]
    Path("again/particles.star").write_text("\n".join([*lines[: data[0]], *map(" ".join, shifted), ""]))
    record = yaml.safe_load(Path("again/job.yaml").read_text())
    record["inputs"]["in_parts"] |= {"absolute_path": str(Path("gone.star").absolute())}
    Path("again/job.yaml").write_text(yaml.safe_dump(record))
    for table in ("latents", "states"):
        with np.load(f"again/{table}.npz") as arrays:
            kept = {key: array if key == "center_index" else array[:60] for key, array in arrays.items()}
        np.savez(f"again/{table}.npz", **kept)
    compare(SETTINGS, SilentMonitor())
    with np.load("compared/compare.npz") as arrays:
        np.testing.assert_array_equal(arrays["row"], np.arange(30, 90))


def test_clusters_cut_anew() -> None:
    compare(replace(SETTINGS, clusters=2), SilentMonitor())
    with np.load("compared/compare.npz") as arrays:
        assert set(np.unique(arrays["label"])) == {0, 1}


def test_unrelated_runs_are_called_so() -> None:
    rng = np.random.default_rng(1)
    np.savez("again/states.npz", label=rng.integers(0, 3, N).astype(np.int32), center_index=np.arange(3))
    said = io.StringIO()
    compare(SETTINGS, Monitor(said))
    assert "hardly agree" in said.getvalue()


def test_by_the_command_line() -> None:
    result = CliRunner().invoke(main, ["compare", "out", "again", "out", "--o", "compared"])
    assert result.exit_code == 0, result.output
    assert np.shape(yaml.safe_load(Path("compared/job.yaml").read_text())["results"]["adjusted_rand"]) == (3, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"in_results": (Path("out"),)}, "at least two"),
        ({"in_results": (Path("out"), Path("absent"))}, "absent does not exist"),
        ({"o": Path("again")}, "holds the results of a train job"),
    ],
)
def test_what_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        compare(replace(SETTINGS, **options), SilentMonitor())  # type: ignore[arg-type]
    assert not Path("compared").exists()
